# SPDX-License-Identifier: Apache-2.0
"""Names beside a checkpoint: who is found, what is renamed and synced, what others may do."""

import errno
from typing import Any

import pytest

from pertinax._store import leftovers
from pertinax._store.contract import Store
from pertinax._store.leftovers import (
    REPLACED,
    clean_leftovers,
    discard,
    displaced,
    find_visible,
    hidden_name,
    hide,
    hide_all,
    parent_of,
    parse_leftover,
    restore_displaced,
    retire_displaced,
)
from pertinax._store.memory import MemoryStore
from pertinax._store.owner import TMP_MARK
from pertinax._store.replacing import replace_file
from pertinax.testing import CrashingStore
from tests.store.scenes import FINAL, OLD, disk_with, seen
from tests.store.test_races import Meddled, once
from tests.store.test_when_it_fails import Failing

DEAD = f"{FINAL}{TMP_MARK}dead{REPLACED}"


@pytest.fixture(autouse=True)
def some_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    real = leftovers.owner_alive
    monkeypatch.setattr(leftovers, "owner_alive", lambda one: False if one == "dead" else real(one))


def with_aside(*, final: bool = False) -> CrashingStore:
    """OLD is set aside by a dead process; perhaps there is another checkpoint."""
    disk = disk_with(OLD)
    disk.rename(FINAL, DEAD)
    if final:
        disk.make_dir(FINAL)
    return CrashingStore(disk)


def names(store: Store) -> list[str]:
    return sorted(entry.name for entry in store.list_dir("/runs"))


def test_a_replacement_that_ends_between_two_looks_is_seen() -> None:
    disk = with_aside()
    store: Any = Meddled(disk, "list_dir", once(lambda: disk.rename(DEAD, FINAL)))
    assert find_visible(store, FINAL) == FINAL


def test_what_is_set_aside_beside_a_checkpoint_is_not_one() -> None:
    disk = with_aside(final=True)
    assert displaced(disk, FINAL) is None
    assert find_visible(disk, FINAL) == FINAL
    restore_displaced(disk, FINAL)
    assert disk.log == []


def test_what_was_set_aside_gets_its_name_back_once() -> None:
    disk = with_aside()
    restore_displaced(disk, FINAL)
    assert seen(disk) == OLD
    assert disk.stat(FINAL) is not None
    assert disk.operations == 2
    restore_displaced(disk, FINAL)
    assert disk.operations == 2


def test_where_there_is_no_directory_nothing_is_set_aside() -> None:
    disk = CrashingStore()
    restore_displaced(disk, "/no/where")
    assert retire_displaced(disk, "/no/where") == []
    assert disk.log == []


def test_two_may_give_the_name_back_at_once() -> None:
    disk = with_aside()
    store: Any = Meddled(disk, "rename", once(lambda: disk.rename(DEAD, FINAL)))
    restore_displaced(store, FINAL)
    assert names(disk) == ["step"]


def test_two_may_retire_at_once() -> None:
    disk = with_aside()
    store: Any = Meddled(disk, "rename", once(lambda: disk.rename(DEAD, "/elsewhere")))
    assert retire_displaced(store, FINAL) == []
    assert names(disk) == []


def test_hiding_takes_the_checkpoint_and_what_is_set_aside_for_it() -> None:
    disk = with_aside(final=True)
    assert len(hide(disk, FINAL)) == 2
    assert find_visible(disk, FINAL) is None
    assert all(find_visible(after, FINAL) is None for after in disk.crash_states())


def test_hiding_takes_what_is_set_aside_alone() -> None:
    disk = with_aside()
    (hidden,) = hide(disk, FINAL)
    assert find_visible(disk, FINAL) is None
    assert disk.stat(hidden) is not None
    with pytest.raises(FileNotFoundError):
        hide(disk, FINAL)


def test_hiding_costs_one_sync() -> None:
    for act in (hide, discard):
        disk = CrashingStore(disk_with(OLD))
        act(disk, FINAL)
        assert sum(words.startswith("sync_dir") for words in disk.log) == 1


def test_hiding_several_costs_one_sync_and_hiding_none_costs_nothing() -> None:
    disk = CrashingStore(disk_with(OLD))
    disk.make_dir("/runs/other")
    disk.log.clear()
    hidden, failures = hide_all(disk, [FINAL, "/runs/other", "/runs/none"])
    assert [len(hidden[one]) for one in (FINAL, "/runs/other", "/runs/none")] == [1, 1, 0]
    assert failures == {}
    assert sum(words.startswith("sync_dir") for words in disk.log) == 1
    operations = disk.operations
    assert hide_all(disk, []) == ({}, {})
    assert disk.operations == operations


def test_hiding_several_takes_what_is_set_aside_for_them() -> None:
    for final in (True, False):
        disk = with_aside(final=final)
        hidden, failures = hide_all(disk, [FINAL])
        assert failures == {}
        assert len(hidden[FINAL]) == 1 + final
        assert all(find_visible(after, FINAL) is None for after in disk.crash_states())


def test_drafts_beside_them_do_not_make_hiding_slower() -> None:
    disk = CrashingStore(disk_with(OLD))
    disk.make_dir(hidden_name(FINAL))
    hide_all(disk, [FINAL])
    assert sum(words.startswith("sync_dir") for words in disk.log) == 1


def test_why_one_of_several_stays_is_told_and_the_others_go() -> None:
    disk = disk_with(OLD)
    disk.make_dir("/runs/other")
    store: Any = Failing(disk, "rename", errno.EACCES)
    hidden, failures = hide_all(store, [FINAL, "/runs/other"])
    assert list(hidden) == ["/runs/other"]
    assert [(path, error.errno) for path, error in failures.items()] == [(FINAL, errno.EACCES)]


def test_a_dead_draft_is_removed_without_another_name_first() -> None:
    disk = CrashingStore(disk_with(OLD))
    disk.make_dir(f"{FINAL}{TMP_MARK}dead")
    assert clean_leftovers(disk, "/runs") == [f"{FINAL}{TMP_MARK}dead"]
    assert not any(words.startswith("rename") for words in disk.log)
    assert names(disk) == ["step"]


def test_two_may_clean_at_once() -> None:
    disk = disk_with(OLD)
    disk.make_dir(f"{FINAL}{TMP_MARK}dead")
    gone = once(lambda: disk.remove_dir(f"{FINAL}{TMP_MARK}dead"))
    store: Any = Meddled(disk, "remove_file", gone)
    assert clean_leftovers(store, "/runs") == [f"{FINAL}{TMP_MARK}dead"]
    assert names(disk) == ["step"]


def test_parents_and_temporary_names_are_told_from_paths() -> None:
    assert [parent_of(one) for one in ("/a/b", "/a/b/", "/a", "/")] == ["/a", "/a", "/", "/"]
    found = parse_leftover(f"/a/b{TMP_MARK}t{REPLACED}/")
    assert found is not None
    assert (found.final, found.token, found.replaced) == ("/a/b", "t", True)
    for none in ("/a/b", f"/a/{TMP_MARK}t", "/"):
        assert parse_leftover(none) is None
    mine = parse_leftover(hidden_name("/a/b"))
    assert mine is not None
    assert not mine.replaced


def test_why_a_small_file_could_not_be_written_is_told() -> None:
    store: Any = Failing(MemoryStore(), "create", errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        replace_file(store, "/f", b"new", "/g")
