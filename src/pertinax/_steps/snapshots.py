# SPDX-License-Identifier: Apache-2.0
"""Snapshots: a second set of names for a step, so that it can be read while it is deleted.

Knows directories, hard links and copies. Knows nothing of steps or who reads. A visible step never
changes, so its files may be shared: a snapshot takes no room and no time as long as the step lives,
and keeps the bytes when it goes. Where a file system has no links, files are copied.
"""

import contextlib
from collections.abc import Iterator
from typing import Final

from pertinax._steps.index import PRIVATE_DIR
from pertinax._steps.pins import held_by_pin
from pertinax._store.contract import Store, traits_of
from pertinax._store.draft import make_dirs
from pertinax._store.failures import storage_errors
from pertinax._store.leftovers import (
    clean_leftovers,
    discard,
    hidden_name,
    join_path,
    parent_of,
    remove_tree,
)
from pertinax._store.local import link_file
from pertinax._store.publishing import publishing
from pertinax.errors import CheckpointNotFound

_COPY_BYTES: Final = 1 << 22


def take_snapshot(store: Store, source: str, place: str) -> bool:
    """Make the checkpoint `source` readable at `place`, too, whole or not at all; False if there is
    a snapshot at `place` already, which is left as it is.

    Raises `CheckpointNotFound` if `source` is not there, or goes before the snapshot is whole;
    `StorageError`. Whoever takes it calls `release_snapshot`.
    """
    with storage_errors("take a snapshot", place):
        make_dirs(store, parent_of(place))
        if store.stat(place) is not None:
            return False
        new = hidden_name(place)
        try:
            _link_whole(store, source, new)
            store.rename(new, place)
        except BaseException as error:
            _forget(store, new)
            if isinstance(error, FileExistsError):
                return False
            raise
    return True


def release_snapshot(store: Store, place: str) -> bool:
    """Remove the snapshot at `place`; False if somebody has done so. Raises `StorageError`."""
    with storage_errors("release the snapshot", place):
        try:
            discard(store, place)
        except FileNotFoundError:
            return False
    return True


@contextlib.contextmanager
def held_step(store: Store, root: str, directory: str, step: int) -> Iterator[str]:
    """Hold `step`, in `directory`, as long as the block runs; gives the path to read it from.

    The names are this process's own and invisible; if it dies, the next that opens or watches the
    root removes them. Where there are no second names, a pin holds it. Raises as `take_snapshot`
    does.
    """
    if not traits_of(store).keeps_names:
        with held_by_pin(store, root, step):
            if publishing(store).find_visible(directory) is None:
                raise CheckpointNotFound(f"the checkpoint at {directory} is gone")
            yield directory
        return
    private = join_path(root, PRIVATE_DIR)
    name = directory.rpartition("/")[2]
    own = hidden_name(join_path(private, name))
    with storage_errors("hold the step", directory):
        make_dirs(store, private)
        with contextlib.suppress(OSError):
            clean_leftovers(store, private)
        store.make_dir(own)
    try:
        with storage_errors("hold the step", directory):
            _link_whole(store, directory, join_path(own, name))
        yield join_path(own, name)
    finally:
        _forget(store, own)


def _link_whole(store: Store, source: str, target: str) -> None:
    """Link all files. Deleting a step begins by taking its name away: if that is there before and
    after, and its directory has not changed, everything was there in between.
    """
    before = store.stat(source)
    try:
        if before is None:
            raise FileNotFoundError(source)
        _link_tree(store, source, target)
        after = store.stat(source)
        if after is None or after.mtime_ns != before.mtime_ns:
            raise FileNotFoundError(source)
    except FileNotFoundError as error:
        raise CheckpointNotFound(f"the checkpoint at {source} is gone") from error


def _link_tree(store: Store, source: str, target: str) -> None:
    store.make_dir(target)
    for entry in store.list_dir(source):
        old, new = join_path(source, entry.name), join_path(target, entry.name)
        if entry.is_dir:
            _link_tree(store, old, new)
        elif not link_file(store, old, new):
            _copy(store, old, new)


def _copy(store: Store, source: str, target: str) -> None:
    with store.open(source) as reader, store.create(target, reader.length) as writer:
        for start in range(0, reader.length, _COPY_BYTES):
            length = min(_COPY_BYTES, reader.length - start)
            writer.write_at(start, [reader.read(start, length)])


def _forget(store: Store, path: str) -> None:
    with contextlib.suppress(OSError):  # invisible, and cleaned when we are gone
        remove_tree(store, path)
