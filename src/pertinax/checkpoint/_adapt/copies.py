# SPDX-License-Identifier: Apache-2.0
"""Holding where files have one name each: a snapshot in an object store is a copy.

Knows how a checkpoint is copied and appears, who holds the copy, and when it goes. Knows nothing of
steps or of waiting. Whoever wants to hold leaves a mark first and looks then; whoever removes hides
the copy first and looks for marks again, so that of the two one gives way.
"""

import contextlib
import time
from collections.abc import Iterator
from typing import Final

from pertinax._steps.index import PRIVATE_DIR
from pertinax._store.contract import Store
from pertinax._store.failures import storage_errors
from pertinax._store.leftovers import hidden_name, join_path, parent_of
from pertinax._store.publishing import publishing
from pertinax._store.workers import Workers
from pertinax.checkpoint._adapt.holders import forget_dead, held_names
from pertinax.errors import CheckpointExists, CheckpointNotFound, WriterConflict

_PIECE_BYTES: Final = 16 << 20
_THREADS: Final = 8
_PAUSE_S: Final = 0.25
# Another reader may be copying the same step: that takes as long as it takes, but not for ever.
_PATIENCE_S: Final = 1800.0


@contextlib.contextmanager
def held_copy(store: Store, source: str, place: str) -> Iterator[None]:
    """Keep a copy of the checkpoint `source` at `place` as long as the block runs; several readers
    share it.

    Raises `CheckpointNotFound` if `source` is gone, `StorageError` if nothing can be written there.
    """
    marks = join_path(parent_of(place), PRIVATE_DIR)
    mark = hidden_name(join_path(marks, place.rpartition("/")[2]))
    with storage_errors("hold the step", source), store.create(mark) as writer:
        writer.sync()
    try:
        copy_checkpoint(store, source, place)
        yield
    finally:
        with contextlib.suppress(OSError):  # what stays is found, and removed, by the next reader
            store.remove_file(mark)
            remove_unheld(store, place)


def copy_checkpoint(store: Store, source: str, place: str) -> bool:
    """Make a copy of `source` visible at `place`, whole or not at all; False if there is one.

    Waits for another process that is about to make it, or to remove it. Raises as `held_copy`.
    """
    publish = publishing(store)
    end_s = time.monotonic() + _PATIENCE_S
    while publish.find_visible(place) is None:
        try:
            with storage_errors("take a snapshot", place), publish.open_draft(place) as draft:
                _copy_all(store, source, draft.store, place)
                draft.commit(replace=False)
                return True
        except CheckpointExists:
            continue
        except WriterConflict:
            if time.monotonic() > end_s:
                raise
            time.sleep(_PAUSE_S)
    return False


def remove_unheld(store: Store, place: str) -> bool:
    """Remove the copy at `place`, unless somebody holds it; whether it is gone by us."""
    publish = publishing(store)
    marks, name = join_path(parent_of(place), PRIVATE_DIR), place.rpartition("/")[2]
    if name in held_names(store, marks):
        return False
    try:
        hidden = publish.hide(place)
    except FileNotFoundError:
        return False
    if name in held_names(store, marks):  # somebody came who may have seen it
        publish.restore(hidden)
        return False
    publish.remove(hidden)
    return True


def clean_copies(store: Store, parent: str) -> None:
    """Remove the copies in `parent` that nobody holds any more, and what is unfinished of them."""
    forget_dead(store, join_path(parent, PRIVATE_DIR))
    publish = publishing(store)
    for entry in publish.list_root(parent):
        remove_unheld(store, join_path(parent, entry.name))
    publish.clean(parent)


def _copy_all(store: Store, source: str, target: Store, place: str) -> None:
    """A visible checkpoint never changes: if it is there before and after, it was so in between."""
    publish = publishing(store)
    try:
        files = list(_files(store, source))
        with Workers(_THREADS, "pertinax-copy") as workers:
            workers.run_all(
                [
                    lambda name=name: _copy(store, f"{source}/{name}", target, f"{place}/{name}")
                    for name in files
                ]
            )
        if publish.find_visible(source) is None:
            raise FileNotFoundError(source)
    except FileNotFoundError as error:
        raise CheckpointNotFound(f"the checkpoint at {source} is gone") from error


def _files(store: Store, directory: str, front: str = "") -> Iterator[str]:
    for entry in store.list_dir(directory):
        name = f"{front}{entry.name}"
        if entry.is_dir:
            yield from _files(store, f"{directory}/{entry.name}", f"{name}/")
        else:
            yield name


def _copy(store: Store, source: str, target: Store, place: str) -> None:
    with store.open(source) as reader, target.create(place, reader.length) as writer:
        for start in range(0, reader.length, _PIECE_BYTES):
            length = min(_PIECE_BYTES, reader.length - start)
            writer.write_at(start, [reader.read(start, length)])
        writer.sync()
