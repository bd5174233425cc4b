# SPDX-License-Identifier: Apache-2.0
"""A pinned step lives, whoever pinned it and whenever."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pertinax import Manager
from pertinax._steps.index import PRIVATE_DIR
from pertinax._steps.pins import add_pin, held_by_pin, read_pins, remove_pin
from pertinax._store.local import LocalStore
from pertinax._store.memory import MemoryStore
from pertinax.errors import CheckpointNotFound, InvalidOption, StorageError
from pertinax.policies import Latest
from pertinax.testing import CrashingStore
from tests.steps.trees import ROOT, Intercepted, fill, names, same, state

PINS = f"{ROOT}/{PRIVATE_DIR}/pins"


def test_a_pinned_step_outlives_the_policy_until_it_is_unpinned() -> None:
    disk = MemoryStore()
    with Manager(ROOT, store=disk, keep=1, background=False) as manager:
        manager.save(1, state(1))
        manager.pin(1, "paper")
        manager.pin(1, "best.of-all")
        manager.pin(1, "paper")
        for step in (2, 3):
            manager.save(step, state(step))
        assert manager.steps() == [1, 3]
        assert [one.pins for one in manager.history()] == [("best.of-all", "paper"), ()]
        assert str(manager.plan().verdicts[0]) == (
            "1: kept: pinned as 'best.of-all', pinned as 'paper'"
        )
        manager.unpin(1, "paper")
        manager.save(4, state(4))
        assert manager.steps() == [1, 4]
        manager.unpin(1, "best.of-all")
        manager.unpin(1, "best.of-all")
        manager.save(5, state(5))
        assert manager.steps() == [5]
    assert names(disk, PINS) == []


def test_a_pinned_step_is_never_out_of_sight() -> None:
    """Not even until it is found that it was pinned."""
    disk = MemoryStore()
    store: Any = Renames(disk)
    with Manager(ROOT, store=store, keep=1, background=False) as manager:
        manager.save(1, state(1))
        manager.pin(1)
        for step in (2, 3):
            manager.save(step, state(step))
        assert manager.steps() == [1, 3]
    assert f"{ROOT}/2" in store.renamed
    assert f"{ROOT}/1" not in store.renamed


class Renames:
    """A store that remembers whose names were taken away."""

    def __init__(self, inner: MemoryStore) -> None:
        self._inner = inner
        self.renamed: list[str] = []

    def rename(self, source: str, target: str) -> None:
        self.renamed.append(source)
        self._inner.rename(source, target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def test_pins_hold_in_every_process(tmp_path: Path) -> None:
    trainer = Manager(tmp_path, keep=1, background=False)
    trainer.save(1, state(1))
    Manager(tmp_path).pin(1)
    trainer.save(2, state(2))
    trainer.close()
    assert Manager(tmp_path).steps() == [1, 2]
    assert Manager(tmp_path).history()[0].pins == ("pinned",)


def test_a_pinned_step_is_not_deleted_by_hand() -> None:
    disk = MemoryStore()
    fill(disk, [1, 2])
    manager = Manager(ROOT, store=disk)
    manager.pin(1, "paper")
    with pytest.raises(InvalidOption, match="step 1 is pinned as paper: unpin it first"):
        manager.delete(1)
    manager.unpin(1, "paper")
    manager.delete(1)
    manager.close()
    assert manager.steps() == [2]


def test_what_is_not_there_cannot_be_pinned() -> None:
    disk = MemoryStore()
    fill(disk, [1])
    with pytest.raises(CheckpointNotFound, match="no step 2"):
        Manager(ROOT, store=disk).pin(2)
    assert read_pins(disk, ROOT) == {}


@pytest.mark.parametrize("label", ["", "a/b", "..", "-a", "a b", "ä", "x" * 101, None, 3])
def test_labels_are_names(label: Any) -> None:
    disk = MemoryStore()
    fill(disk, [1])
    with pytest.raises(InvalidOption, match="label"):
        Manager(ROOT, store=disk).pin(1, label)


def test_foreign_files_among_the_pins_are_ignored() -> None:
    disk = MemoryStore()
    fill(disk, [1, 2])
    manager = Manager(ROOT, store=disk)
    manager.pin(1, "paper")
    for name in ("notes.txt", "x-1", "2", "2-", "²-a"):
        with disk.create(f"{PINS}/{name}"):
            pass
    assert read_pins(disk, ROOT) == {1: ("paper",)}


@pytest.mark.parametrize("moment", ["list_dir", "rename", "sync_dir"])
def test_a_pin_that_comes_while_the_step_is_being_deleted_still_holds(moment: str) -> None:
    """Whoever pins is told that the step is gone, or it is there for good."""
    disk = MemoryStore()
    fill(disk, [1])
    outcome: list[str] = []
    other = Manager(ROOT, store=disk)

    def pin(method: str, path: str) -> None:
        place = {"rename": f"{ROOT}/1", "sync_dir": ROOT, "list_dir": PINS}[moment]
        if method == moment and path == place and 2 in other.steps() and not outcome:
            outcome.append("")
            try:
                other.pin(1, "paper")
                outcome[0] = "pinned"
            except CheckpointNotFound:
                outcome[0] = "gone"

    trainer = Manager(ROOT, store=Intercepted(disk, pin), keep=Latest(1))  # type: ignore[arg-type]
    trainer.save(2, state(2))
    trainer.close()
    assert outcome[0] in ("pinned", "gone")
    assert (outcome[0] == "pinned") <= (1 in other.steps())
    assert moment != "rename" or outcome == ["pinned"]
    if outcome == ["pinned"]:
        assert same(other.load(1), state(1))


def hold_and_die(root: Path, step: int) -> None:
    """Another process holds a step, and ends before it lets go."""
    pid = os.fork()
    if not pid:
        try:
            with held_by_pin(LocalStore(), str(root), step):
                os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_pin_that_held_a_step_for_a_dead_process_counts_no_more(tmp_path: Path) -> None:
    with Manager(tmp_path, keep=1, background=False) as manager:
        manager.save(1, state(1))
        with held_by_pin(LocalStore(), str(tmp_path), 1):
            manager.save(2, state(2))
            assert manager.steps() == [1, 2]
        hold_and_die(tmp_path, 1)
        assert len(os.listdir(tmp_path / PRIVATE_DIR / "pins")) == 1
        manager.save(3, state(3))
        assert manager.steps() == [3]
    assert os.listdir(tmp_path / PRIVATE_DIR / "pins") == []


@pytest.mark.parametrize(("age_h", "held"), [(23.9, True), (24 + 1e-4, False)])
def test_a_pin_of_a_process_elsewhere_holds_a_step_for_a_day(
    tmp_path: Path, age_h: float, held: bool
) -> None:
    elsewhere = "held-deadbeef-deadbeef-deadbeef-42-42-00000000"
    with Manager(tmp_path, keep=1, background=False) as manager:
        manager.save(1, state(1))
        manager.pin(1, elsewhere)
        pin = tmp_path / PRIVATE_DIR / "pins" / f"1-{elsewhere}"
        then_s = pin.stat().st_mtime - age_h * 3600
        os.utime(pin, (then_s, then_s))
        manager.save(2, state(2))
        assert manager.steps() == ([1, 2] if held else [2])
    assert pin.exists() == held


def test_a_pin_survives_a_power_cut_once_it_is_told() -> None:
    disk = MemoryStore()
    fill(disk, [1])
    store = CrashingStore(disk)
    Manager(ROOT, store=store).pin(1, "paper")
    for after in store.crash_states(32):
        assert read_pins(after, ROOT) == {1: ("paper",)}


def test_a_pin_that_was_taken_away_does_not_come_back_with_the_power() -> None:
    disk = MemoryStore()
    fill(disk, [1])
    Manager(ROOT, store=disk).pin(1, "paper")
    store = CrashingStore(disk)
    Manager(ROOT, store=store).unpin(1, "paper")
    for after in store.crash_states(32):
        assert read_pins(after, ROOT) == {}


def test_who_cannot_let_go_of_a_pin_is_not_stopped_by_that() -> None:
    """It counts no more once this process is dead."""

    def away(method: str, path: str) -> None:
        if method == "remove_file":
            raise OSError(5, "the disk is away", path)

    disk = MemoryStore()
    fill(disk, [1])
    done = []
    store: Any = Intercepted(disk, away)
    with held_by_pin(store, ROOT, 1):
        done.append("read")
    assert done == ["read"]
    assert len(names(disk, PINS)) == 1


ELSEWHERE = "held-deadbeef-deadbeef-deadbeef-42-42-00000000"


@pytest.mark.parametrize(
    ("method", "ask", "told"),
    [
        ("list_dir", lambda store: read_pins(store, ROOT), "could not read the pins"),
        ("stat", lambda store: read_pins(store, ROOT), "could not look at a pin"),
        ("create", lambda store: add_pin(store, ROOT, 1, "x"), "could not pin the step"),
        ("sync_dir", lambda store: add_pin(store, ROOT, 1, "x"), "could not pin the step"),
        ("remove_file", lambda store: remove_pin(store, ROOT, 1, ELSEWHERE), "could not unpin"),
    ],
)
def test_a_disk_that_does_not_answer_is_told(
    method: str, ask: Callable[[Any], None], told: str
) -> None:
    disk = MemoryStore()
    add_pin(disk, ROOT, 1, ELSEWHERE)

    def refuse(called: str, path: str) -> None:
        if called == method:
            raise OSError(errno.EIO, "broken", path)

    with pytest.raises(StorageError, match=f"{told}.*: broken"):
        ask(Intercepted(disk, refuse))


def test_where_a_file_lies_in_the_place_of_the_pins_there_are_none() -> None:
    disk = MemoryStore()
    fill(disk, [1])
    with disk.create(f"{ROOT}/{PRIVATE_DIR}"):
        pass
    assert read_pins(disk, ROOT) == {}


def test_a_pin_that_is_let_go_of_while_we_look_does_not_count() -> None:
    disk = MemoryStore()
    add_pin(disk, ROOT, 1, "paper")
    add_pin(disk, ROOT, 1, ELSEWHERE)

    def let_go(method: str, path: str) -> None:
        if method == "stat" and path.endswith(ELSEWHERE):
            disk.remove_file(path)

    store: Any = Intercepted(disk, let_go)
    assert read_pins(store, ROOT) == {1: ("paper",)}
    assert names(disk, PINS) == ["1-paper"]


def test_a_pin_of_the_dead_that_cannot_be_removed_does_not_count_either(tmp_path: Path) -> None:
    with Manager(tmp_path, background=False) as manager:
        manager.save(1, state(1))
    hold_and_die(tmp_path, 1)

    def refuse(method: str, path: str) -> None:
        if method == "remove_file":
            raise PermissionError(errno.EACCES, "read-only", path)

    store: Any = Intercepted(LocalStore(), refuse)
    assert read_pins(store, str(tmp_path)) == {}
    assert len(os.listdir(tmp_path / PRIVATE_DIR / "pins")) == 1


def test_a_pin_with_a_name_of_somebodys_own_holds_however_old_it_is(tmp_path: Path) -> None:
    with Manager(tmp_path, keep=1, background=False) as manager:
        manager.save(1, state(1))
        manager.pin(1, "paper")
        os.utime(tmp_path / PRIVATE_DIR / "pins" / "1-paper", (0, 0))
        manager.save(2, state(2))
        assert manager.steps() == [1, 2]
