# SPDX-License-Identifier: Apache-2.0
"""Pending: the handle of a save in flight.

Knows one thread, its end and its failure. Knows nothing of what is saved. The thread is no daemon:
a program that ends waits for its saves.
"""

import errno
import logging
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, final

from pertinax.errors import StorageStalled

STILL_S: Final = 1800.0
"""No wait is endless: who gives no limit gives up once nothing has moved for so many seconds."""

_LOG: Final = logging.getLogger(__name__)
Work = Callable[[Callable[[int, int], None]], None]
"""What the thread does; it is given a function to report bytes written and bytes in all."""


def wait_moving(
    ended: Callable[[float], bool],
    moved_s: Callable[[], float],
    tell: Callable[[float], str],
    *,
    path: str | None = None,
) -> None:
    """Wait until `ended`, which is given the seconds to wait at most, says that it is over.

    `moved_s`: when something moved last, by the monotonic clock. Raises `StorageStalled` with what
    `tell` says of the seconds since then, once there are `STILL_S` of them.
    """
    least_s = min(1.0, STILL_S)  # it may have begun to move again just now
    while not ended(max(least_s, moved_s() + STILL_S - time.monotonic())):
        still_s = time.monotonic() - moved_s()
        if still_s >= STILL_S:
            raise StorageStalled(errno.ETIMEDOUT, tell(still_s), path)


@dataclass(frozen=True, slots=True)
class Statistics:
    """How a save went so far. `blocked_s`: until `save_async` returned; `wrote_s`: since then."""

    total_bytes: int
    written_bytes: int
    blocked_s: float
    wrote_s: float


@final
class Pending:
    """A save in flight. Nothing is visible until it is done; then the whole checkpoint is.

    Ask `result()` when you need the checkpoint to be there. A failure that nobody has asked for
    when the handle goes away is written to the log and to stderr.
    """

    def __init__(
        self,
        path: str,
        work: Work,
        *,
        begun_s: float,
        total_bytes: int,
        on_done: "Callable[[Pending], None] | None" = None,
        moved_s: Callable[[], float] | None = None,
    ) -> None:
        """`moved_s`: when something moved that `work` does not report."""
        self.path = path
        self._moved_s = moved_s or (lambda: 0.0)
        self._state = _State(path, total_bytes)
        self._begun_s = begun_s
        self._blocked_s = 0.0
        notify = None if on_done is None else lambda: on_done(self)
        self._thread = threading.Thread(
            target=_run, args=(work, self._state, notify), name="pertinax-save", daemon=False
        )
        self._thread.start()
        self._blocked_s = time.monotonic() - begun_s
        weakref.finalize(self, self._state.handle_gone)

    def done(self) -> bool:
        """Whether the save has ended, one way or the other. Never waits."""
        return self._state.finished.is_set()

    @property
    def asked(self) -> bool:
        """Whether the save has ended and somebody was told how."""
        return self._state.asked

    @property
    def failed(self) -> bool:
        """Whether the save has ended in vain and nobody was told so far."""
        return self.done() and self._state.error is not None and not self.asked

    def result(self, timeout_s: float | None = None) -> str:
        """Wait for the end; the path of the checkpoint, or the failure is raised.

        Raises `TimeoutError` if it takes longer than `timeout_s` seconds. Without a limit it raises
        `StorageStalled`, which is a `TimeoutError` too, when no byte has been written for half an
        hour. The save goes on.
        """
        error = self.exception(timeout_s)
        if error is not None:
            raise error
        return self.path

    def exception(self, timeout_s: float | None = None) -> BaseException | None:
        """Wait for the end; the failure, or None. Raises `TimeoutError` as `result` does."""
        if timeout_s is None:
            self._wait_moving()
        elif not self._state.finished.wait(timeout_s):
            raise TimeoutError(f"the save to {self.path} is not done after {timeout_s} s")
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._state.asked = True
        return self._state.error

    def _wait_moving(self) -> None:
        state = self._state

        def tell(still_s: float) -> str:
            done, total = state.written_bytes, state.total_bytes
            after = f", after {done:,} of {total:,} bytes" if total else ""
            return (
                f"the save has not moved for {still_s:.0f} s{after}: the disk or file system does "
                "not answer"
            )

        wait_moving(
            state.finished.wait,
            lambda: max(state.moved_s, self._moved_s()),
            tell,
            path=self.path,
        )

    def statistics(self) -> Statistics:
        """Bytes and times so far; final once `done`."""
        state = self._state
        end = state.ended_s or time.monotonic()
        return Statistics(
            state.total_bytes,
            state.written_bytes,
            self._blocked_s or end - self._begun_s,
            max(0.0, end - state.began_s),
        )

    def __repr__(self) -> str:
        state = "failed" if self._state.error else "done" if self.done() else "writing"
        return f"<Pending {state} {self.path}>"


class _State:
    """What thread and handle share; the thread must not keep the handle alive."""

    def __init__(self, path: str, total_bytes: int) -> None:
        self.path = path
        self.total_bytes = total_bytes
        self.written_bytes = 0
        self.finished = threading.Event()
        self.error: BaseException | None = None
        self.asked = False
        self.orphaned = False
        self.began_s = self.moved_s = time.monotonic()
        self.ended_s = 0.0

    def progress(self, done: int, _total: int) -> None:
        self.written_bytes = done
        self.moved_s = time.monotonic()

    def finish(self) -> None:
        self.ended_s = time.monotonic()
        self.finished.set()
        if self.orphaned:
            self._report()

    def handle_gone(self) -> None:
        """Nobody will ask any more. Never waits: the garbage collector calls this on any thread."""
        self.orphaned = True
        if self.finished.is_set():
            self._report()

    def _report(self) -> None:
        if self.error is None or self.asked:
            return
        self.asked = True
        print(  # noqa: T201 - the last chance to be heard, whatever logging does
            f"pertinax: the save to {self.path} FAILED and nobody asked for its result: "
            f"{type(self.error).__name__}: {self.error}",
            file=sys.stderr,
        )


def _run(work: Work, state: _State, notify: Callable[[], None] | None) -> None:
    try:
        work(state.progress)
    except BaseException as error:  # noqa: BLE001 - it belongs to whoever asks for the result
        # The frames hold the bytes of the whole tree, and by way of a callback the handle itself.
        traceback.clear_frames(error.__traceback__)
        state.error = error
        _LOG.error("save failed path=%s error=%s: %s", state.path, type(error).__name__, error)
    finally:
        state.finish()
        del work
    try:
        if notify is not None:
            notify()
    finally:
        del notify
