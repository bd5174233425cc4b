# SPDX-License-Identifier: Apache-2.0
"""Removing steps: for good, or into a directory of their own.

Knows one root and where its removed steps go. Knows nothing of which steps they are. A removal that
fails is logged; it fails no save.
"""

import contextlib
import logging
import shutil
import time
from typing import Final, final

import jax
from etils import epath

from pertinax._core.places import locate
from pertinax._steps.deletion import Deleter
from pertinax._store.contract import Store
from pertinax._store.draft import make_dirs
from pertinax._store.leftovers import find_visible, join_path, parent_of
from pertinax.checkpoint import multihost
from pertinax.checkpoint._adapt import files
from pertinax.checkpoint._adapt.marker import in_object_store
from pertinax.checkpoint._adapt.telling import teller

# A step may be larger than the one before, and others write to the disk, too.
_SPARE: Final = 3
_LOG: Final = logging.getLogger(__name__)

STANDARD_DURATION: Final = "/jax/orbax/checkpoint_manager/standard_checkpoint_deleter/duration"
THREADED_DURATION: Final = "/jax/orbax/checkpoint_manager/threaded_checkpoint_deleter/duration"
_THREADED_INIT: Final = "/jax/orbax/checkpoint_manager/threaded_checkpoint_deleter/init"


@final
class Removal:
    """Takes steps out of a root: deletes them, or moves them into its directory `subdir`.

    With `background` their bytes go in a thread. Only the process `primary_host` does anything;
    None means each, in a root of its own.
    """

    def __init__(
        self,
        directory: epath.PathLike,
        *,
        subdir: str | None = None,
        background: bool = False,
        primary_host: int | None = 0,
        duration: str | None = None,
    ) -> None:
        self._directory = directory
        self._bytes = 0  # of the step that went last
        self._store, root = locate(directory)
        moves = subdir is not None and not in_object_store(directory)
        self._trash = join_path(root, subdir) if moves and subdir is not None else None
        self._background = background
        self._primary_host = primary_host
        self._deleter = Deleter(self._store)
        self._duration = duration or (THREADED_DURATION if background else STANDARD_DURATION)
        if background:
            jax.monitoring.record_event(_THREADED_INIT)

    def remove(self, path: epath.Path, *, later: bool = False) -> bool:
        """Take the step at `path` away; whether it is gone, or somebody else's to remove.

        On return it is no longer visible, durably; its bytes are gone, too, unless deletion goes on
        in the background or may go on `later`: then `settle` waits for it.
        """
        if not multihost.leads(self._primary_host):
            _LOG.info("%s the primary host removes path=%s", teller(), path)
            return True
        begun_s = time.monotonic()
        if later:
            self._bytes = _bytes_below(self._store, locate(path)[1])
        try:
            gone = self._remove(locate(path)[1])
            if not later:
                self.settle()
            return gone
        finally:
            jax.monitoring.record_event_duration_secs(self._duration, time.monotonic() - begun_s)

    def _remove(self, place: str) -> bool:
        if self._trash is not None:
            return self._move(place, self._trash)
        gone = self._deleter.delete(place)
        if gone:
            _LOG.info("%s deleted step path=%s", teller(), place)
        return gone

    @property
    def moved_s(self) -> float:
        """When the last bytes went that went in the background, by the monotonic clock."""
        return self._deleter.moved_s

    def make_room(self) -> None:
        """Before a save: where another such step hardly fits, wait for the bytes of the last ones.

        Else a disk with room for one step more than are kept would be full.
        """
        if not self._deleter.busy or files.is_remote(self._directory):
            return
        with contextlib.suppress(OSError):
            if shutil.disk_usage(self._directory).free < _SPARE * self._bytes:
                _LOG.info("%s waits until old steps have made room", teller())
                self._deleter.close()

    def settle(self) -> None:
        """Wait until nothing is left to remove, unless deletion goes on in the background."""
        if not self._background:
            self._deleter.close()

    def close(self) -> None:
        """Wait for what goes on in the background. May be called twice."""
        self._deleter.close()

    def _move(self, place: str, trash: str) -> bool:
        name = place.rpartition("/")[2]
        try:
            found = find_visible(self._store, place)
            if found is None:
                return True
            if self._store.stat(trash) is None:
                make_dirs(self._store, trash)
            self._store.rename(found, self._free_name(trash, name))
            self._store.sync_dir(trash)
            self._store.sync_dir(parent_of(place))
        except OSError as error:
            _LOG.warning("removed step stays path=%s error=%s", place, error)
            return False
        _LOG.info("moved step path=%s to=%s", place, trash)
        return True

    def _free_name(self, trash: str, name: str) -> str:
        """A step that was saved, removed and saved again is removed once more."""
        number = 0
        path = join_path(trash, name)
        while self._store.stat(path) is not None:
            number += 1
            path = join_path(trash, f"{name}.{number}")
        return path


def _bytes_below(store: Store, path: str) -> int:
    """About how much room a step takes; 0 if it is gone."""
    try:
        entries = store.list_dir(path)
    except OSError:
        return 0
    total = 0
    for entry in entries:
        below = f"{path}/{entry.name}"
        if entry.is_dir:
            total += _bytes_below(store, below)
            continue
        with contextlib.suppress(OSError):
            found = store.stat(below)
            total += 0 if found is None else found.length
    return total
