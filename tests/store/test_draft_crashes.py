# SPDX-License-Identifier: Apache-2.0
"""A power cut at each operation of a save: the old checkpoint or the new one, whole."""

import pytest

from pertinax._store import owner
from pertinax._store.contract import Store
from pertinax._store.draft import open_draft
from pertinax._store.leftovers import REPLACED, clean_leftovers, discard, hidden_name
from pertinax._store.owner import TMP_MARK
from pertinax.testing import CrashingStore, SimulatedDeath, read_tree
from tests.store.scenes import (
    FINAL,
    NEW,
    OLD,
    after_return,
    content,
    crashes,
    disk_with,
    save,
    seen,
)

pytestmark = pytest.mark.crash


def save_new(store: Store) -> None:
    save(store, NEW, replace=False)


def replace_by_new(store: Store) -> None:
    save(store, NEW, replace=True)


def discard_it(store: Store) -> None:
    discard(store, FINAL)


@pytest.fixture
def dead_owners(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the reboot nobody who wrote tokens lives."""

    def dead(token: str) -> bool:
        return False

    monkeypatch.setattr("pertinax._store.leftovers.owner_alive", dead)


def test_a_first_save_appears_whole_or_not_at_all() -> None:
    cases = crashes(disk_with(None), save_new)
    for cut, words, after in cases:
        assert seen(after) in (None, NEW), (cut, words)
    assert any(seen(after) == NEW for *_, after in cases)
    assert any(seen(after) is None for *_, after in cases)


def test_a_first_save_that_returned_survives() -> None:
    assert all(seen(after) == NEW for after in after_return(disk_with(None), save_new))


def test_missing_parents_are_as_durable_as_the_save() -> None:
    final = "/a/b/c/step"
    store = CrashingStore()
    save(store, NEW, replace=False, final=final)
    assert all(seen(after, final) == NEW for after in store.crash_states(200))


@pytest.mark.parametrize("exchange", [True, False])
def test_a_replacement_shows_the_old_or_the_new(exchange: bool) -> None:
    cases = crashes(disk_with(OLD), replace_by_new, exchange=exchange)
    for cut, words, after in cases:
        assert seen(after) in (OLD, NEW), (cut, words)
    assert any(seen(after) == NEW for *_, after in cases)
    assert any(seen(after) == OLD for *_, after in cases)


@pytest.mark.parametrize("exchange", [True, False])
def test_a_replacement_that_returned_survives(exchange: bool) -> None:
    for after in after_return(disk_with(OLD), replace_by_new, exchange=exchange):
        assert seen(after) == NEW


@pytest.mark.parametrize("exchange", [True, False])
def test_a_reader_at_any_instant_sees_the_old_or_the_new(exchange: bool) -> None:
    """Without a power cut: what another process sees between any two operations."""

    class Watched:
        def __init__(self) -> None:
            self.inner = CrashingStore(disk_with(OLD), exchange=exchange)

        def __getattr__(self, name: str) -> object:
            assert seen(self.inner) in (OLD, NEW)
            return getattr(self.inner, name)

    watched = Watched()
    replace_by_new(watched)  # type: ignore[arg-type]
    assert seen(watched.inner) == NEW


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.usefixtures("dead_owners")
def test_cleaning_after_any_crash_leaves_one_whole_checkpoint_and_nothing_else(
    exchange: bool,
) -> None:
    for cut, words, after in crashes(disk_with(OLD), replace_by_new, exchange=exchange, limit=12):
        before = seen(after)
        clean_leftovers(after, "/runs")
        assert seen(after) == before, (cut, words)
        assert [entry.name for entry in after.list_dir("/runs")] == ["step"]


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.usefixtures("dead_owners")
def test_a_second_crash_in_the_recovery_loses_nothing(exchange: bool) -> None:
    third = content(3)

    def recover_and_save(store: Store) -> None:
        clean_leftovers(store, "/runs")
        save(store, third, replace=True)

    firsts = crashes(disk_with(OLD), replace_by_new, exchange=exchange, limit=2)
    # Only those that left something to recover.
    unclean = [disk for *_, disk in firsts if len(disk.list_dir("/runs")) > 1][-24:]
    assert unclean
    for disk in unclean:
        for cut, words, after in crashes(disk, recover_and_save, exchange=exchange, limit=4):
            assert seen(after) in (OLD, NEW, third), (cut, words)


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.usefixtures("dead_owners")
def test_a_kill_then_a_cleaning_then_a_power_cut_loses_nothing(exchange: bool) -> None:
    """The killed process never synced its last step; the cleaner must not build on it."""
    whole = CrashingStore(disk_with(OLD), exchange=exchange)
    replace_by_new(whole)
    for kill in range(whole.operations):
        killed = CrashingStore(disk_with(OLD), die_at=kill, exchange=exchange)
        with pytest.raises(SimulatedDeath):
            replace_by_new(killed)
        cleaned = killed.after_kill()
        clean_leftovers(cleaned, "/runs")
        for after in cleaned.crash_states(24, seed=kill):
            assert seen(after) in (OLD, NEW), killed.log[-1]


@pytest.mark.usefixtures("dead_owners")
def test_what_is_set_aside_is_never_a_part() -> None:
    """Whoever removes `final` with other tools must not uncover a half-deleted checkpoint."""

    def clean(store: Store) -> None:
        clean_leftovers(store, "/runs")

    disk = disk_with(OLD)
    disk.rename(FINAL, hidden_name(FINAL) + REPLACED)
    aside = disk.list_dir("/runs")[0].name
    save(disk, NEW, replace=False, final="/runs/new")
    disk.rename("/runs/new", FINAL)
    for cut, words, after in crashes(disk, clean):
        if after.stat(f"/runs/{aside}") is not None:
            assert read_tree(after, f"/runs/{aside}") == OLD, (cut, words)


def test_a_deleted_checkpoint_is_whole_or_gone() -> None:
    for cut, words, after in crashes(disk_with(OLD), discard_it):
        assert seen(after) in (None, OLD), (cut, words)
    assert all(seen(after) is None for after in after_return(disk_with(OLD), discard_it))


@pytest.mark.usefixtures("dead_owners")
def test_a_deleted_checkpoint_never_gives_way_to_the_one_it_had_replaced() -> None:
    firsts = crashes(disk_with(OLD), replace_by_new, exchange=False, limit=4)
    both = [d for *_, d in firsts if d.stat(FINAL) is not None and seen(d) == NEW]
    both = [d for d in both if any(TMP_MARK in e.name for e in d.list_dir("/runs"))]
    assert both
    for disk in both:
        for cut, words, after in crashes(disk, discard_it, exchange=False, limit=8):
            assert seen(after) in (None, NEW), (cut, words)


def test_a_dead_disk_takes_no_cleaning() -> None:
    store = CrashingStore(disk_with(None), die_at=5)
    with pytest.raises(SimulatedDeath):
        save_new(store)
    with pytest.raises(SimulatedDeath):
        store.list_dir("/")
    with pytest.raises(SimulatedDeath):
        store.make_dir("/x")
    assert store.operations == 6


def test_a_living_owner_keeps_its_draft() -> None:
    disk = disk_with(None)
    draft = open_draft(disk, FINAL)
    assert clean_leftovers(disk, "/runs") == []
    assert owner.owner_alive(draft.path.rpartition(TMP_MARK)[2]) is True
    draft.abandon()
    assert disk.list_dir("/runs") == []
