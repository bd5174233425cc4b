# SPDX-License-Identifier: Apache-2.0
"""Another process that comes between two looks: whoever loses tries again, or says so."""

from collections.abc import Callable
from typing import Any

import pytest

from pertinax._store import leftovers
from pertinax._store.draft import make_dirs, open_draft
from pertinax._store.leftovers import REPLACED, clean_leftovers, find_visible, hidden_name
from pertinax._store.memory import MemoryStore
from pertinax._store.owner import TMP_MARK
from pertinax._store.publishing import Hidden, publishing
from pertinax._store.replacing import replace_file
from pertinax.errors import CheckpointExists
from pertinax.testing import CrashingStore, read_tree
from tests.store.scenes import FINAL, NEW, OLD, disk_with, save, seen


class Meddled:
    """A store; `meddle` comes before the calls of one method, as often as it likes."""

    def __init__(self, inner: Any, method: str, meddle: Callable[[], None]) -> None:
        self._inner, self._method, self._meddle = inner, method, meddle

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name != self._method:
            return found

        def call(*arguments: Any) -> Any:
            self._meddle()
            return found(*arguments)

        return call


def once(action: Callable[[], None]) -> Callable[[], None]:
    left = [action]
    return lambda: left.pop()() if left else None


def test_what_appears_while_we_publish_is_replaced() -> None:
    disk = disk_with(None)
    store: Any = Meddled(disk, "rename", once(lambda: save(disk, OLD, replace=False)))
    save(store, NEW, replace=True)
    assert seen(disk) == NEW
    assert [one.name for one in disk.list_dir("/runs")] == ["step"]


def test_what_vanishes_while_we_replace_is_not_missed() -> None:
    disk = disk_with(OLD)
    store: Any = Meddled(disk, "exchange", once(lambda: leftovers.discard(disk, FINAL)))
    save(store, NEW, replace=True)
    assert seen(disk) == NEW


def test_who_loses_every_race_says_so() -> None:
    disk = disk_with(None)
    turns = []

    def appear() -> None:
        turns.append(1)
        save(disk, OLD, replace=True)

    def vanish() -> None:
        leftovers.discard(disk, FINAL)

    store: Any = Meddled(Meddled(disk, "rename", appear), "exchange", vanish)
    with pytest.raises(CheckpointExists):
        save(store, NEW, replace=True)
    assert 2 <= len(turns) <= 3
    assert seen(disk) == OLD


def test_a_parent_that_somebody_else_has_just_made_is_synced_all_the_same() -> None:
    disk = CrashingStore()
    store: Any = Meddled(disk, "make_dir", once(lambda: disk.make_dir("/a")))
    make_dirs(store, "/a/b")
    assert "sync_dir /" in disk.log
    assert all(read_tree(after, "/") == {"a/": b"", "a/b/": b""} for after in disk.crash_states())


def test_a_parent_that_has_become_a_file_is_an_error() -> None:
    disk = MemoryStore()
    store: Any = Meddled(disk, "make_dir", once(lambda: disk.create("/a").close()))
    with pytest.raises(FileExistsError):
        make_dirs(store, "/a")


def test_a_draft_that_somebody_has_removed_is_abandoned_in_peace(
    caplog: pytest.LogCaptureFixture,
) -> None:
    disk = disk_with(None)
    draft = open_draft(disk, FINAL)
    leftovers.remove_tree(disk, draft.path)
    draft.abandon()
    assert caplog.text == ""


def test_without_exchange_what_was_set_aside_before_goes_first() -> None:
    disk = disk_with(OLD)
    disk.make_dir(f"{hidden_name(FINAL)}{REPLACED}")
    store = CrashingStore(disk, exchange=False)
    save(store, NEW, replace=True)
    assert seen(store) == NEW
    assert [one.name for one in store.list_dir("/runs")] == ["step"]


def test_a_dry_run_leaves_what_was_set_aside() -> None:
    disk = disk_with(OLD)
    disk.rename(FINAL, f"{FINAL}{TMP_MARK}17{REPLACED}")
    assert clean_leftovers(disk, "/runs", dry_run=True) == []
    assert disk.stat(FINAL) is None
    assert clean_leftovers(disk, "/runs") == []
    assert seen(disk) == OLD
    assert disk.stat(FINAL) is not None


def test_nothing_lies_where_there_is_no_parent() -> None:
    assert find_visible(MemoryStore(), "/no/where") is None


def test_what_was_hidden_can_be_shown_again_and_its_remains_go() -> None:
    disk = disk_with(OLD)
    how = publishing(disk)
    assert how.replaces
    hidden = how.hide(FINAL)
    assert seen(disk) is None
    older = hidden_name(FINAL)
    disk.make_dir(older)
    how.restore(Hidden(FINAL, (older, *hidden.names)))
    assert seen(disk) == OLD
    assert [one.name for one in disk.list_dir("/runs")] == ["step"]
    how.remove(hidden)  # which is not there any more
    how.restore(Hidden(FINAL, ()))
    assert seen(disk) == OLD


def test_what_is_shown_again_is_so_after_a_power_cut() -> None:
    store = CrashingStore(disk_with(OLD))
    how = publishing(store)
    how.restore(how.hide(FINAL))
    assert all(seen(after) == OLD and after.stat(FINAL) for after in store.crash_states())


def test_a_draft_of_another_process_is_joined_and_committed() -> None:
    disk = disk_with(None)
    how = publishing(disk)
    ours = how.open_draft(FINAL)
    how.join_draft(FINAL, ours.path).write_file("f", b"theirs")
    ours.commit(replace=False)
    assert seen(disk) == {"f": b"theirs"}


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("there", [True, False])
def test_a_small_file_takes_the_place_of_another(exchange: bool, there: bool) -> None:
    store = CrashingStore(exchange=exchange)
    if there:
        store.create("/f").close()
    replace_file(store, "/f", b"new", "/g")
    assert read_tree(store, "/") == {"f": b"new"}


def test_a_small_file_that_cannot_be_put_in_place_leaves_nothing() -> None:
    def refuse() -> None:
        raise OSError(5, "no")

    store = MemoryStore()
    broken: Any = Meddled(store, "rename", refuse)
    with pytest.raises(OSError, match="no"):
        replace_file(broken, "/f", b"new", "/g")
    assert store.list_dir("/") == []
