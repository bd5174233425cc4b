# SPDX-License-Identifier: Apache-2.0
"""Small saves, and what a reader makes of the disk afterwards."""

from collections.abc import Callable

import pytest

from pertinax._store.contract import Store
from pertinax._store.draft import open_draft
from pertinax._store.leftovers import find_visible
from pertinax._store.memory import MemoryStore
from pertinax.testing import CrashingStore, SimulatedDeath, read_tree

FINAL = "/runs/step"
Content = dict[str, bytes]


def content(mark: int) -> Content:
    return {
        "array": bytes([mark]) * 9000,
        "d/": b"",
        "d/meta": b"meta %d" % mark,
        "e/": b"",
        "e/f/": b"",
        "e/f/deep": bytes([mark, 0, mark]) * 400,
    }


OLD, NEW = content(1), content(2)


def save(store: Store, tree: Content, *, replace: bool, final: str = FINAL) -> None:
    with open_draft(store, final) as draft:
        for name, body in tree.items():
            if name.endswith("/"):
                draft.make_dir(name[:-1])
            else:
                draft.write_file(name, body)
        draft.commit(replace=replace)


def seen(store: Store, final: str = FINAL) -> Content | None:
    """What a reader finds: a whole tree, a broken one, or None."""
    path = find_visible(store, final)
    return None if path is None else read_tree(store, path)


def disk_with(tree: Content | None) -> MemoryStore:
    disk = MemoryStore()
    disk.make_dir("/runs")
    if tree is not None:
        save(disk, tree, replace=False)
    return disk


def count_operations(disk: MemoryStore, program: Callable[[Store], None], exchange: bool) -> int:
    store = CrashingStore(disk, exchange=exchange)
    program(store)
    return store.operations


def crashes(
    disk: MemoryStore, program: Callable[[Store], None], *, exchange: bool = True, limit: int = 40
) -> list[tuple[int, str, MemoryStore]]:
    """All disks after a power cut at each operation of `program`, and one right after its end."""
    found: list[tuple[int, str, MemoryStore]] = []
    for cut in range(count_operations(disk, program, exchange)):
        store = CrashingStore(disk, die_at=cut, exchange=exchange)
        with pytest.raises(SimulatedDeath):
            program(store)
        found += [(cut, store.log[-1], after) for after in store.crash_states(limit, seed=cut)]
    return found


def after_return(
    disk: MemoryStore, program: Callable[[Store], None], *, exchange: bool = True
) -> list[MemoryStore]:
    """All disks after a power cut right after `program` has returned."""
    store = CrashingStore(disk, exchange=exchange)
    program(store)
    return list(store.crash_states(200))
