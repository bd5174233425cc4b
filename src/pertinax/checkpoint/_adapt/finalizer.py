# SPDX-License-Identifier: Apache-2.0
"""The end of a save that goes on in the background, and who hears how it went.

Knows one thread at a time, whose step it works for, and its failure. Knows nothing of files, but
asks when something moved last: no wait for the thread is endless. Who began the save is the one who
settles it: anybody else may wait and is told, but the failure stays until its owner, or the next
save, has heard of it.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final, final

from pertinax._core.pending import wait_moving
from pertinax.checkpoint._adapt.telling import teller

_LOG: Final = logging.getLogger(__name__)


@final
class Finalizer:
    """Runs one piece of work at a time, in a thread. Safe to use from several threads."""

    def __init__(self, moved_s: Callable[[], float]) -> None:
        """`moved_s`: when the work moved last, by the monotonic clock."""
        self._moved_s = moved_s
        self._lock = threading.Lock()
        self._current: _Run | None = None

    def start(self, work: Callable[[], None], step: int) -> None:
        """Do it in a thread, for `step`. The one before must have been settled."""
        run = _Run(work, step)
        with self._lock:
            if self._current is not None:
                raise RuntimeError("the save before has not been waited for")
            run.thread.start()  # before anybody can find it: who waits joins it
            self._current = run

    def wait(self, *, settle: bool = False) -> None:
        """Wait for the end and raise the failure, if it failed.

        The thread that called `start` settles it by that; with `settle`, any thread does. Raises
        `StorageStalled` when nothing has moved for half an hour; the work goes on then.
        """
        run = self._current
        if run is None:
            _LOG.info("%s[wait_until_finished] there is nothing to wait for", teller())
            return
        who = f"{teller(run.step)}[wait_until_finished]"
        if threading.current_thread() is run.thread:
            return  # a callback asks for its own end
        _LOG.info("%s waits for the save in the background", who)
        wait_moving(
            run.ended,
            lambda: max(run.began_s, self._moved_s()),
            lambda still_s: (
                f"the save of step {run.step} has not moved for {still_s:.0f} s: the disk or file "
                "system does not answer"
            ),
        )
        _LOG.info("%s has waited", who)
        if settle or threading.get_ident() == run.owner:
            with self._lock:
                if self._current is run:
                    self._current = None
                    _LOG.info("%s settles it", who)
        if run.error is not None:
            raise run.error

    def in_progress(self) -> bool:
        """Whether the work goes on. Never waits."""
        run = self._current
        return run is not None and run.thread.is_alive()

    def error(self) -> BaseException | None:
        """The failure that nobody has settled, if the work has ended in one. Never waits."""
        run = self._current
        return None if run is None or run.thread.is_alive() else run.error


class _Run:
    def __init__(self, work: Callable[[], None], step: int) -> None:
        self.step = step
        self.error: BaseException | None = None
        self.owner = threading.get_ident()
        self.began_s = time.monotonic()
        self._work = work
        # Inherits the flag of the saving thread, which is as a rule no daemon: a program that ends
        # waits for its save.
        self.thread = threading.Thread(target=self._run, name="save_finalize")

    def ended(self, timeout_s: float) -> bool:
        """Whether it has ended within so many seconds."""
        self.thread.join(timeout_s)
        return not self.thread.is_alive()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits
            self.error = error
            _LOG.exception("%s background save failed", teller(self.step))
