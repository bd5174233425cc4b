"""Waiting with a limit of time: it ends, and says so."""

import threading
import time
from typing import Any

import pytest

from pertinax.checkpoint import future


class Recorded:
    """A future that is done at once, and notes how long it might have taken."""

    def __init__(self, spend_s: float = 0.0) -> None:
        self.timeouts: list[float | None] = []
        self.spend_s = spend_s

    def result(self, timeout: float | None = None) -> None:
        self.timeouts.append(timeout)
        end = time.monotonic() + self.spend_s
        while time.monotonic() < end:
            pass


@pytest.mark.wd("WD-22")
def test_a_thread_that_is_not_over_in_time_says_so():
    go = threading.Event()
    thread = future.ThreadRaisingException(target=go.wait, args=(60,), daemon=True)
    thread.start()
    with pytest.raises(TimeoutError):
        thread.result(timeout=0.01)
    go.set()
    thread.result(timeout=60)


@pytest.mark.wd("WD-22")
def test_a_chain_takes_its_time_once():
    parts = [Recorded(0.02) for _ in range(5)]
    called: list[Any] = []
    future.ChainedFuture(parts, lambda: called.append(1)).result(timeout=60)
    given = [part.timeouts[0] for part in parts]
    assert given == sorted(given, reverse=True)
    assert 59.8 < given[-1] <= given[0] - 0.08  # what is left after 0.08 s, not after their sums
    assert called == [1]


@pytest.mark.wd("WD-22")
def test_a_chain_that_is_not_over_in_time_says_so_and_calls_nothing():
    called: list[Any] = []
    chain = future.ChainedFuture([Recorded(0.05), Recorded()], lambda: called.append(1))
    with pytest.raises(TimeoutError, match="of 2 futures"):
        chain.result(timeout=0.01)
    assert called == []


@pytest.mark.wd("WD-22")
def test_the_failure_of_a_thread_reaches_whoever_waits():
    def fail() -> None:
        raise OSError("no ink")

    thread = future.ThreadRaisingException(target=fail)
    thread.start()
    with pytest.raises(OSError, match="no ink"):
        future.ChainedFuture([thread], lambda: None).result(timeout=60)
    with pytest.raises(OSError, match="no ink"):
        thread.join()
    assert future.NoopFuture().result(timeout=0) is None
