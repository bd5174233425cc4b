# SPDX-License-Identifier: Apache-2.0
"""Futures: the end of work that is going on elsewhere.

Knows how to wait, with a limit of time or without. Knows nothing of the work. Waiting never starts
anything, and a wait that is not over in time says so.
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Future(Protocol):
    """Something that will be done."""

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the end. Raises what went wrong, or `TimeoutError` after `timeout` seconds."""
        ...


class NoopFuture:
    """Has always been done."""

    def result(self, timeout: float | None = None) -> Any:
        """Nothing, at once."""
        return None


class ChainedFuture:
    """Several futures, one after the other, and then a call."""

    def __init__(self, futures: Sequence[Future], cb: Callable[[], Any]) -> None:
        self._futures = tuple(futures)
        self._cb = cb
        self._lock = threading.Lock()
        self._called = False

    def result(self, timeout: float | None = None) -> None:
        """Wait for all, at most `timeout` seconds in all, then make the call, the first time.

        Raises what went wrong with the first future that failed, or `TimeoutError`.
        """
        end = None if timeout is None else time.monotonic() + timeout
        for done, future in enumerate(self._futures):
            future.result(timeout=None if end is None else max(0.0, end - time.monotonic()))
            # There are futures that return silently when their time is up.
            if timeout and end is not None and time.monotonic() >= end:
                raise TimeoutError(
                    f"completed {done} of {len(self._futures)} futures, but not all in {timeout} s"
                )
        with self._lock:
            if not self._called:
                self._cb()
                self._called = True


class ThreadRaisingException(threading.Thread):
    """A thread whose `join` raises what its target raised."""

    _exception: BaseException | None = None

    def run(self) -> None:
        """Run the target and keep its failure."""
        try:
            super().run()
        except BaseException as error:  # noqa: BLE001 - it is raised again by whoever joins
            self._exception = error

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end, at most `timeout` seconds, as any thread does: `is_alive` tells.

        Raises the target's failure.
        """
        super().join(timeout)
        if self._exception is not None:
            raise self._exception

    def result(self, timeout: float | None = None) -> None:
        """Wait for the end, so that a thread can be one of a save's futures.

        Raises the target's failure, or `TimeoutError` if it is not over in time.
        """
        self.join(timeout)
        if self.is_alive():
            raise TimeoutError(f"thread {self.name} is still at work after {timeout} s")
