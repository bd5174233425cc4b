"""Removing steps: for good, or into a directory of their own.

Knows one root and where its removed steps go. Knows nothing of which steps they are. A removal that
fails is logged; it fails no save.
"""

import logging
from typing import Final, final

from etils import epath

from pertinax._core.places import locate
from pertinax._steps.deletion import Deleter
from pertinax._store.draft import make_dirs
from pertinax._store.leftovers import find_visible, join_path, parent_of
from pertinax.checkpoint._adapt.manager_options import CheckpointManagerOptions

_LOG: Final = logging.getLogger(__name__)


@final
class Removal:
    """Takes steps out of a root, as its options say."""

    def __init__(self, directory: epath.Path, options: CheckpointManagerOptions) -> None:
        self._store, root = locate(directory)
        subdir = options.todelete_subdir
        self._trash = None if subdir is None else join_path(root, subdir)
        self._background = options.enable_background_delete
        self._deleter = Deleter(self._store)

    def remove(self, path: epath.Path) -> bool:
        """Take the step at `path` away; whether it is gone.

        On return it is no longer visible, durably; its bytes are gone, too, unless deletion goes on
        in the background.
        """
        _, place = locate(path)
        if self._trash is not None:
            return self._move(place, self._trash)
        gone = self._deleter.delete(place)
        if not self._background:
            self._deleter.wait()
        return gone

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
