# SPDX-License-Identifier: Apache-2.0
"""Holding: snapshots that several readers may share, each of which lets go when it likes.

Knows the snapshots of one directory and who holds them. Knows nothing of steps or of waiting. A
snapshot bears the plain name of its step, as the mirrored API has it, so it cannot say whose it is:
each reader leaves a mark beside it, with the token of its process. The last to let go removes the
snapshot; marks of the dead do not count. Marks are made, and looked at before something is removed,
by one process at a time.
"""

import contextlib
from collections.abc import Iterator

from pertinax._steps.index import PRIVATE_DIR
from pertinax._steps.snapshots import take_snapshot
from pertinax._store.contract import Store, traits_of
from pertinax._store.failures import storage_errors
from pertinax._store.leftovers import (
    clean_leftovers,
    hidden_name,
    hide,
    join_path,
    parent_of,
    parse_leftover,
    remove_tree,
)
from pertinax._store.turns import turn
from pertinax.checkpoint._adapt.copies import clean_copies, held_copy
from pertinax.checkpoint._adapt.holders import held_names


@contextlib.contextmanager
def held_snapshot(store: Store, source: str, place: str) -> Iterator[None]:
    """Keep the checkpoint `source` readable at `place` as long as the block runs.

    Raises `CheckpointNotFound` if it is gone, `StorageError` if nothing can be written there.
    """
    if not traits_of(store).keeps_names:
        with held_copy(store, source, place):
            yield
        return
    marks = join_path(parent_of(place), PRIVATE_DIR)
    mark = hidden_name(join_path(marks, place.rpartition("/")[2]))
    with storage_errors("hold the step", source), _turn(store, marks):
        store.make_dir(mark)
    try:
        take_snapshot(store, source, place)
        yield
    finally:
        _let_go(store, place, marks, mark)


def clean_snapshots(store: Store, parent: str) -> None:
    """Remove the snapshots in `parent` that nobody holds any more."""
    with contextlib.suppress(OSError):  # a reader without the right to delete still reads
        if store.stat(parent) is None:
            return
        if not traits_of(store).keeps_names:
            clean_copies(store, parent)
            return
        clean_leftovers(store, parent)
        marks = join_path(parent, PRIVATE_DIR)
        doomed: list[str] = []
        with _turn(store, marks):
            held = held_names(store, marks)
            for entry in store.list_dir(parent):
                path = join_path(parent, entry.name)
                if entry.name not in held | {PRIVATE_DIR} and parse_leftover(path) is None:
                    doomed += _hide(store, path)
        for path in doomed:
            remove_tree(store, path)
        _tidy(store, marks)


def _let_go(store: Store, place: str, marks: str, mark: str) -> None:
    with contextlib.suppress(OSError):  # what stays is found, and removed, by the next reader
        doomed: list[str] = []
        with _turn(store, marks):
            store.remove_dir(mark)
            if place.rpartition("/")[2] not in held_names(store, marks):
                doomed = _hide(store, place)
        for path in doomed:
            remove_tree(store, path)
        _tidy(store, marks)


def _turn(store: Store, marks: str) -> contextlib.AbstractContextManager[None]:
    """Nobody begins to hold a snapshot while another looks whether anybody does, and hides it."""
    return turn(store, join_path(marks, "turn"))


def _hide(store: Store, place: str) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return hide(store, place)
    return []


def _tidy(store: Store, marks: str) -> None:
    with contextlib.suppress(OSError):  # there are others, or none
        clean_leftovers(store, marks)
        store.remove_dir(marks)
