# SPDX-License-Identifier: Apache-2.0
"""Deletion: checkpoints go, invisible first, while training goes on.

Knows directories, and one thread. Knows nothing of steps or policies. The thread lives as long as
there is something to remove and is no daemon: a program that ends finishes its removals. If it is
killed, what is left is invisible and bears its name, and the next `open_root` removes it.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Final, final

from pertinax._core.pending import wait_moving
from pertinax._store.contract import Store
from pertinax._store.failures import storage_errors
from pertinax._store.publishing import Hidden, publishing
from pertinax.errors import CheckpointNotFound

_LOG: Final = logging.getLogger(__name__)
# An error carries its traceback, and a broken disk has no end of them.
_REMEMBERED: Final = 100


@final
class Deleter:
    """Removes checkpoints, first come, first gone. Safe to use from several threads."""

    def __init__(self, store: Store) -> None:
        self._publishing = publishing(store)
        self._hidden: deque[Hidden] = deque()
        self._failures: deque[BaseException] = deque(maxlen=_REMEMBERED)
        self._idle = threading.Condition()
        self._thread: threading.Thread | None = None
        self.moved_s = 0.0  # when the thread last began, or ended, with something

    @property
    def failures(self) -> list[BaseException]:
        """What went wrong so far, the last hundred of it. All of it is in the log, too."""
        return list(self._failures)

    @property
    def can_replace(self) -> bool:
        """Whether a checkpoint can be replaced in one step; else it is deleted first."""
        return self._publishing.replaces

    @property
    def busy(self) -> bool:
        """Whether something that is out of sight still takes room."""
        return self._thread is not None

    def hide(self, directories: Sequence[str]) -> dict[str, Hidden]:
        """Make checkpoints of one root invisible, durably, at the price of one sync.

        Returns, for each that is invisible now, what `remove` must be given. What could not be
        hidden stays; that is logged and remembered, not raised: no save must fail because an old
        checkpoint cannot go.
        """
        try:
            hidden, failures = self._publishing.hide_all(directories)
        except OSError as error:
            # What was not synced may come back: its bytes stay until a process after us has synced.
            self._remember("checkpoints stay", ", ".join(directories[:3]), error)
            return {}
        for path, error in failures.items():
            self._remember("a checkpoint stays", path, error)
        return hidden

    def delete(self, directory: str) -> bool:
        """Make a checkpoint invisible, durably, and have its bytes removed later.

        True if it is no longer visible. A failure is logged and remembered, as `hide` does.
        """
        hidden = self.hide([directory])
        self.remove([hidden[directory]] if directory in hidden else [])
        return directory in hidden

    def delete_or_raise(self, directory: str) -> None:
        """As `delete`, for somebody who wants to know. Raises `CheckpointNotFound`, `StorageError`.

        When it returns the checkpoint is invisible, durably.
        """
        try:
            with storage_errors("delete the checkpoint", directory):
                hidden = self._publishing.hide(directory)
        except FileNotFoundError as error:
            raise CheckpointNotFound(f"there is no checkpoint to delete at {directory}") from error
        self.remove([hidden])

    def restore(self, hidden: Hidden) -> None:
        """Make visible again what was hidden and not given to `remove`. Raises `OSError`."""
        self._publishing.restore(hidden)

    def remove(self, hidden: Sequence[Hidden]) -> None:
        """Have what was hidden removed by the thread, after all that came before."""
        doomed = [one for one in hidden if one.names]
        if not doomed:
            return
        with self._idle:
            self._hidden += doomed
            if self._thread is not None:
                return
            self.moved_s = time.monotonic()
            self._thread = threading.Thread(
                target=self._remove_all, name="pertinax-delete", daemon=False
            )
            try:
                self._thread.start()
            except RuntimeError:  # too late for a new thread: the interpreter is going down
                self._thread = None
        if self._thread is None:
            self._remove_all()

    def wait(self, timeout_s: float) -> bool:
        """Wait until nothing is left to remove; False if that takes longer than `timeout_s`."""
        with self._idle:
            return self._idle.wait_for(lambda: self._thread is None, timeout_s)

    def close(self) -> None:
        """Wait until nothing is left to remove. May be called twice.

        Raises `StorageStalled` when nothing has been removed for half an hour.
        """
        wait_moving(
            self.wait,
            lambda: self.moved_s,
            lambda still_s: f"nothing was removed for {still_s:.0f} s: the disk does not answer",
        )

    def _remove_all(self) -> None:
        while True:
            with self._idle:
                if not self._hidden:
                    self._thread = None
                    self._idle.notify_all()
                    return
                doomed = self._hidden.popleft()
            try:
                self._publishing.remove(doomed)
            except BaseException as error:  # noqa: BLE001 - one failure must not end the others
                self._remember("a deleted checkpoint still takes room", doomed.final, error)
            self.moved_s = time.monotonic()

    def _remember(self, what: str, path: str, error: BaseException) -> None:
        self._failures.append(error)
        _LOG.warning("%s path=%s error=%s: %s", what, path, type(error).__name__, error)
