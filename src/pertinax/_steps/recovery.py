# SPDX-License-Identifier: Apache-2.0
"""Recovery: a root is put in order before anybody uses it.

Knows roots and what dead processes leave in them. Knows nothing of steps. What a living process is
writing, and what cannot be judged from here, is left alone.
"""

import logging
from typing import Final

from pertinax._steps.index import PRIVATE_DIR
from pertinax._store.contract import Store
from pertinax._store.failures import storage_errors
from pertinax._store.leftovers import join_path, parent_of
from pertinax._store.publishing import publishing
from pertinax.errors import CheckpointNotFound, StorageError

_LOG: Final = logging.getLogger(__name__)


def open_root(
    store: Store, root: str, *, create: bool = True, mode: int | None = None
) -> list[str]:
    """Make the directory `root` if need be, durably, and clean it; returns what was removed.

    Unfinished saves and half-finished deletions of dead processes are removed; a checkpoint that
    an interrupted replacement set aside gets its name back. A root that cannot be written to (a
    read-only mount) is no error: what is visible in it is whole anyway. `mode` is that of a new
    directory, before the umask.

    Raises `CheckpointNotFound` if there is no root and `create` is false, `StorageError` if it is
    not a directory or cannot be made.
    """
    with storage_errors("look at the directory", root):
        found = store.stat(root)
    if found is None and not create:
        raise CheckpointNotFound(f"there is no directory {root}")
    if found is None:
        with storage_errors("make the directory", root):
            if mode is None:
                publishing(store).make_dirs(root)
            else:
                publishing(store).make_dirs(parent_of(root))
                store.make_dir(root, mode)
                store.sync_dir(parent_of(root))
        return []
    if not found.is_dir:
        raise StorageError(20, "a root of steps is a directory; this is a file", root)
    removed: list[str] = []
    for place in (root, join_path(root, PRIVATE_DIR)):
        try:
            removed += publishing(store).clean(place)
        except FileNotFoundError:  # most roots have no private directory
            continue
        except OSError as error:
            _LOG.warning("leftovers stay root=%s error=%s", place, error)
            break
    if removed:
        _LOG.info("removed leftovers of dead processes root=%s count=%d", root, len(removed))
    return removed
