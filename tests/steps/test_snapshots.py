# SPDX-License-Identifier: Apache-2.0
"""A snapshot is whole or not there, and keeps its bytes whatever becomes of the step."""

import contextlib
import errno
import os
from pathlib import Path
from typing import Any

import pytest

import pertinax
from pertinax import Manager
from pertinax._steps.snapshots import release_snapshot, take_snapshot
from pertinax._store.contract import Store
from pertinax._store.local import LocalStore, link_file
from pertinax._store.memory import MemoryStore
from pertinax.errors import CheckpointNotFound, StorageError
from pertinax.testing import CrashingStore, FaultyStore, SimulatedDeath, read_tree
from tests.steps.trees import ROOT, Intercepted, fill, same, state

PLACE = f"{ROOT}/_SNAPSHOTS/1"


def test_the_bytes_outlive_the_step(tmp_path: Path) -> None:
    with Manager(tmp_path, background=False) as manager:
        manager.save(1, state(1))
        store, place = LocalStore(), f"{tmp_path}/_SNAPSHOTS/1"
        assert take_snapshot(store, f"{tmp_path}/1", place)
        manager.delete(1)
        manager.wait()
    assert same(pertinax.load(place), state(1))
    assert pertinax.verify(place).ok
    assert release_snapshot(store, place)
    assert not release_snapshot(store, place)
    assert list((tmp_path / "_SNAPSHOTS").iterdir()) == []


def test_a_snapshot_that_is_there_is_used_as_it_is() -> None:
    disk = MemoryStore()
    fill(disk, [1])
    assert take_snapshot(disk, f"{ROOT}/1", PLACE)
    before = read_tree(disk, PLACE)
    assert before == read_tree(disk, f"{ROOT}/1")
    assert not take_snapshot(disk, f"{ROOT}/1", PLACE)
    assert read_tree(disk, PLACE) == before


def test_of_two_who_take_it_at_once_one_does() -> None:
    disk = MemoryStore()
    fill(disk, [1])

    def be_faster(method: str, path: str) -> None:
        if method == "rename" and path.startswith(PLACE):
            take_snapshot(disk, f"{ROOT}/1", PLACE)

    store: Any = Intercepted(disk, be_faster)
    assert not take_snapshot(store, f"{ROOT}/1", PLACE)
    assert [entry.name for entry in disk.list_dir(f"{ROOT}/_SNAPSHOTS")] == ["1"]


def test_what_is_not_there_cannot_be_held() -> None:
    disk = MemoryStore()
    fill(disk, [1])
    with pytest.raises(CheckpointNotFound):
        take_snapshot(disk, f"{ROOT}/9", PLACE)
    assert disk.list_dir(f"{ROOT}/_SNAPSHOTS") == []


@pytest.mark.parametrize("how", ["deleted", "made anew"])
def test_a_step_that_changes_hands_meanwhile_gives_no_snapshot(how: str) -> None:
    disk = MemoryStore()
    fill(disk, [1])
    other = Manager(ROOT, store=disk)
    done: list[str] = []

    def interfere(method: str, path: str) -> None:
        if method == "open" and path.startswith(f"{ROOT}/1/default") and not done:
            done.append(path)
            other.delete(1)
            if how == "made anew":
                other.save(1, state(11))
            other.wait()

    store: Any = Intercepted(disk, interfere)
    with pytest.raises(CheckpointNotFound):
        take_snapshot(store, f"{ROOT}/1", PLACE)
    assert done
    assert disk.list_dir(f"{ROOT}/_SNAPSHOTS") == []


def test_a_step_that_is_made_anew_at_any_moment_is_held_whole_or_not_at_all() -> None:
    disk = MemoryStore()
    fill(disk, [1])
    whole = read_tree(disk, f"{ROOT}/1")
    calls: list[str] = []
    probe: Any = Intercepted(_copied(disk), lambda method, path: calls.append(method))
    take_snapshot(probe, f"{ROOT}/1", PLACE)
    held = refused = 0
    for moment in range(len(calls)):
        copy = _copied(disk)
        seen: list[str] = []

        def interfere(
            method: str, path: str, copy: Any = copy, seen: Any = seen, moment: int = moment
        ) -> None:
            seen.append(method)
            if len(seen) == moment + 1:
                with Manager(ROOT, store=copy) as other:
                    other.delete(1)
                    other.save(1, state(11))

        store: Any = Intercepted(copy, interfere)
        try:
            take_snapshot(store, f"{ROOT}/1", PLACE)
        except CheckpointNotFound:
            refused += 1
            assert copy.list_dir(f"{ROOT}/_SNAPSHOTS") == []
        else:
            held += 1
            assert read_tree(copy, PLACE) in (whole, read_tree(copy, f"{ROOT}/1")), moment
    assert held >= 3
    assert refused >= 10


def test_a_failing_disk_leaves_nothing_and_says_so() -> None:
    disk = MemoryStore()
    fill(disk, [1])
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    probe = FaultyStore(_copied(disk), fail_at=None, error=full)
    take_snapshot(probe, f"{ROOT}/1", PLACE)
    for call in range(probe.calls):
        copy = _copied(disk)
        store = FaultyStore(copy, fail_at=call, error=full)
        with pytest.raises(StorageError):
            take_snapshot(store, f"{ROOT}/1", PLACE)
        assert copy.stat(PLACE) is None, store.log[call]


@pytest.mark.wd("W-24")
def test_death_at_any_moment_leaves_a_whole_snapshot_or_none() -> None:
    disk = MemoryStore()
    fill(disk, [1])
    whole = read_tree(disk, f"{ROOT}/1")
    probe = CrashingStore(disk)
    take_snapshot(probe, f"{ROOT}/1", PLACE)
    seen = set[bool]()
    for cut in range(probe.operations + 1):
        store = CrashingStore(disk, die_at=cut)
        with contextlib.suppress(SimulatedDeath):
            take_snapshot(store, f"{ROOT}/1", PLACE)
        after = store.after_kill()  # the process dies; the machine lives
        there = after.stat(PLACE) is not None
        seen.add(there)
        assert not there or read_tree(after, PLACE) == whole
        assert read_tree(after, f"{ROOT}/1") == whole
    assert seen == {True, False}


def test_files_that_cannot_be_linked_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "another disk")

    with Manager(tmp_path, background=False) as manager:
        manager.save(1, state(1))
    monkeypatch.setattr("os.link", refuse)
    place = f"{tmp_path}/held/1"
    assert not link_file(LocalStore(), f"{tmp_path}/1/pertinax.json", f"{tmp_path}/x")
    take_snapshot(LocalStore(), f"{tmp_path}/1", place)
    assert same(pertinax.load(place), state(1))
    assert not os.path.samefile(f"{place}/pertinax.json", tmp_path / "1" / "pertinax.json")


def _copied(disk: MemoryStore) -> Any:
    from pertinax.testing._journal import copy_tree

    copy: Store = MemoryStore(copy_tree(disk.root))
    return copy
