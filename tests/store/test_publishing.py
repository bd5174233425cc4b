# SPDX-License-Identifier: Apache-2.0
"""How checkpoints appear, are found and vanish where names can change."""

from typing import Any

import pytest

from pertinax._store import leftovers
from pertinax._store.contract import Traits, traits_of
from pertinax._store.leftovers import REPLACED, find_visible, hidden_name
from pertinax._store.memory import MemoryStore
from pertinax._store.owner import TMP_MARK
from pertinax._store.publishing import Hidden, publishing
from pertinax.testing import CrashingStore, read_tree
from tests.store.scenes import FINAL, OLD, disk_with, seen

DEAD = f"{FINAL}{TMP_MARK}dead"


@pytest.fixture(autouse=True)
def some_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "owner_alive", lambda token: token != "dead")


def test_what_lies_at_a_path_is_found_or_missing() -> None:
    disk = disk_with(OLD)
    how = publishing(disk)
    assert (how.look(FINAL), how.look("/runs/none")) == ("visible", "missing")
    assert (how.find_visible(FINAL), how.find_visible("/runs/none")) == (FINAL, None)
    assert [entry.name for entry in how.list_root("/runs")] == ["step"]
    assert how.view(FINAL) is disk
    assert how.times("/runs") is None
    aside = hidden_name(FINAL) + REPLACED
    disk.rename(FINAL, aside)
    assert how.find_visible(FINAL) == aside


def test_several_are_hidden_and_removed() -> None:
    disk = disk_with(OLD)
    disk.make_dir("/runs/other")
    how = publishing(disk)
    hidden, failures = how.hide_all([FINAL, "/runs/other", "/runs/none"])
    assert failures == {}
    assert [hidden[one].final for one in hidden] == [FINAL, "/runs/other", "/runs/none"]
    assert hidden["/runs/none"] == Hidden("/runs/none")
    assert seen(disk) is None
    for one in hidden.values():
        how.remove(one)
    assert disk.list_dir("/runs") == []


def test_what_was_never_published_is_removed_and_whether_it_was_there_is_told() -> None:
    disk = disk_with(OLD)
    how = publishing(disk)
    assert how.remove_unfinished(FINAL) is True
    assert disk.list_dir("/runs") == []
    assert how.remove_unfinished(FINAL) is False


def test_what_the_dead_left_goes_in_a_root_and_beside_a_checkpoint() -> None:
    disk = disk_with(OLD)
    how = publishing(disk)
    disk.make_dir(DEAD)
    assert how.clean("/runs", dry_run=True) == [DEAD]
    assert how.clean("/runs") == [DEAD]
    disk.make_dir(DEAD)
    how.clean_beside(FINAL)
    assert [entry.name for entry in disk.list_dir("/runs")] == ["step"]


def test_directories_and_small_files_are_made() -> None:
    disk = CrashingStore(MemoryStore())
    how = publishing(disk)
    how.make_dirs("/a/b")
    for content in (b"old", b"new"):
        how.replace_file("/a/f", content)
    assert read_tree(disk, "/") == {"a/": b"", "a/b/": b"", "a/f": b"new"}
    assert find_visible(disk, "/a/f") == "/a/f"


def test_a_store_that_says_nothing_of_itself_is_like_a_disk() -> None:
    told = traits_of(MemoryStore())
    assert told.keeps_times
    assert told.keeps_names
    assert told.has_room
    assert told.file_bytes is None


def test_a_store_with_ways_of_its_own_is_asked_for_them() -> None:
    class Own(MemoryStore):
        traits = Traits(keeps_names=False)

        def absolute(self, text: str) -> str:
            return text

        def publishing(self) -> Any:
            return "mine"

    store: Any = Own()
    assert traits_of(store) == Traits(keeps_names=False)
    assert publishing(store) == "mine"
