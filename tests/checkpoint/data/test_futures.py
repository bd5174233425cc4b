# SPDX-License-Identifier: Apache-2.0
"""Futures: waiting never starts work, and a wait that is not over in time says so."""

import concurrent.futures
import threading
from typing import Any

import pytest

from pertinax.checkpoint import Future
from pertinax.checkpoint import future as futures


class Told:
    """A future that notes how long it may take, and may fail or return silently too late."""

    def __init__(self, error: Exception | None = None, *, silent: bool = False) -> None:
        self.error = error
        self.silent = silent
        self.timeouts: list[float | None] = []

    def result(self, timeout: float | None = None) -> Any:
        self.timeouts.append(timeout)
        if self.silent:
            threading.Event().wait(timeout)
        if self.error is not None:
            raise self.error


def test_nothing_to_wait_for():
    assert futures.NoopFuture().result() is None
    assert futures.NoopFuture().result(timeout=0) is None
    assert isinstance(futures.NoopFuture(), Future)
    assert isinstance(concurrent.futures.Future(), Future)
    assert futures.Future is Future


def test_a_chain_waits_for_each_and_calls_once():
    chain, calls = [Told(), Told(), Told()], []
    chained = futures.ChainedFuture(chain, lambda: calls.append(1))
    assert calls == []
    for _ in range(3):
        chained.result()
    assert calls == [1]
    assert [one.timeouts for one in chain] == [[None] * 3] * 3


@pytest.mark.wd("WD-22", "Kw-15")
def test_the_time_is_for_the_whole_chain():
    chain = [Told(), Told(), Told()]
    futures.ChainedFuture(chain, lambda: None).result(timeout=10)
    limits = [one.timeouts[0] for one in chain]
    assert limits == sorted(limits, reverse=True)
    assert all(9 < limit <= 10 for limit in limits)


@pytest.mark.wd("WD-22", "Kw-15")
@pytest.mark.parametrize("silent_at", [0, 1])
def test_a_future_that_returns_silently_too_late_is_noticed(silent_at: int):
    chain = [Told(), Told()]
    chain[silent_at].silent = True
    calls: list[int] = []
    chained = futures.ChainedFuture(chain, lambda: calls.append(1))
    with pytest.raises(TimeoutError, match=f"completed {silent_at} of 2 futures"):
        chained.result(timeout=0.01)
    assert calls == []
    if silent_at == 0:
        assert chain[1].timeouts == []
    chain[silent_at].silent = False
    chained.result()
    assert calls == [1]


def test_what_is_done_needs_no_time():
    calls: list[int] = []
    futures.ChainedFuture([Told(), Told()], lambda: calls.append(1)).result(timeout=0)
    assert calls == [1]


def test_an_honest_future_that_is_late_ends_the_wait():
    late: concurrent.futures.Future[None] = concurrent.futures.Future()
    with pytest.raises(TimeoutError):
        futures.ChainedFuture([Told(), late], lambda: None).result(timeout=0.01)
    late.set_result(None)


def test_a_failure_ends_the_wait_and_nothing_is_called():
    chain, calls = [Told(ValueError("no")), Told()], []
    chained = futures.ChainedFuture(chain, lambda: calls.append(1))
    with pytest.raises(ValueError, match="no"):
        chained.result(timeout=5)
    assert calls == []
    assert chain[1].timeouts == []


def test_a_thread_raises_what_its_target_raised_whenever_it_is_joined():
    def target(text: str, *, more: str) -> None:
        raise OSError(text + more)

    thread = futures.ThreadRaisingException(
        name="mine", target=target, args=("a",), kwargs={"more": "b"}
    )
    thread.start()
    for _ in range(2):
        with pytest.raises(OSError, match="ab"):
            thread.join()
    with pytest.raises(OSError, match="ab"):
        thread.result(timeout=1)
    assert thread.name == "mine"


@pytest.mark.wd("WD-22", "Kw-15")
def test_a_thread_that_is_late_is_told_from_one_that_is_done():
    go = threading.Event()
    thread = futures.ThreadRaisingException(target=go.wait)
    thread.start()
    thread.join(timeout=0.01)  # as of any thread
    assert thread.is_alive()
    with pytest.raises(TimeoutError, match="still at work"):
        thread.result(timeout=0.01)
    go.set()
    thread.result(timeout=60)
    assert not thread.is_alive()
