# SPDX-License-Identifier: Apache-2.0
"""A damaged step is passed over when asked, told of, and made anew; never in silence."""

import errno
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pertinax import Manager
from pertinax._steps.fallback import restore_newest
from pertinax._store.contract import Store
from pertinax._store.memory import FileNode, MemoryStore
from pertinax.errors import (
    CheckpointExists,
    CheckpointNotFound,
    CorruptCheckpoint,
    NewerFormat,
    NotACheckpoint,
    NoUsableStep,
    RestoreMismatch,
    StorageError,
)
from pertinax.policies import EverySeconds, Latest
from pertinax.testing import read_tree
from tests.steps.trees import ROOT, Intercepted, fill, names, same, state, told


def damage(disk: MemoryStore, step: int) -> None:
    """Turn a bit of the array bytes."""
    place = f"{ROOT}/{step}/default/d"
    (entry,) = disk.list_dir(place)
    node = disk.find(f"{place}/{entry.name}")
    assert isinstance(node, FileNode)
    node.content[0] ^= 1


def disk_with_damage(*damaged: int, steps: int = 4) -> MemoryStore:
    disk = MemoryStore()
    fill(disk, list(range(1, steps + 1)))
    for step in damaged:
        damage(disk, step)
    return disk


def test_the_newest_whole_step_is_found_and_the_others_are_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    manager = Manager(ROOT, store=disk_with_damage(3, 4))
    found = manager.restore(state(0), fallback=True)
    assert found.step == 2
    assert same(found.tree, state(2))
    assert [one.step for one in found.passed_over] == [4, 3]
    assert all(isinstance(one.error, CorruptCheckpoint) for one in found.passed_over)
    assert found.damaged == [4, 3]
    assert f"passed over step 4 at {ROOT}/4: CorruptCheckpoint" in caplog.text
    step, tree = Manager(ROOT, store=disk_with_damage(4)).resume(state(0), fallback=True)
    assert step == 3
    assert same(tree, state(3))


def test_without_damage_nothing_is_passed_over() -> None:
    found = Manager(ROOT, store=disk_with_damage()).restore(fallback=True)
    assert (found.step, found.passed_over, found.damaged) == (4, (), [])
    assert same(found.tree, state(4))


def test_without_consent_damage_is_raised() -> None:
    manager = Manager(ROOT, store=disk_with_damage(4))
    for ask in (manager.restore, manager.load, lambda: manager.resume(state(0))):
        with pytest.raises(CorruptCheckpoint) as caught:
            ask()
        (note,) = caught.value.__notes__
        assert note.startswith("step 4 is damaged. There are 1, 2, 3")
        assert "fallback=" in note


def test_if_no_step_is_whole_the_error_has_all_reasons() -> None:
    disk = disk_with_damage(1, 2, 3)
    disk.remove_file(f"{ROOT}/4/default/pertinax.json")
    with pytest.raises(NoUsableStep) as caught:
        Manager(ROOT, store=disk).resume(state(0), fallback=True)
    assert [one.step for one in caught.value.passed_over] == [4, 3, 2, 1]
    text = str(caught.value)
    assert text.startswith(f"none of the 4 steps in {ROOT} can be restored\n  step 4 at {ROOT}/4: ")
    assert text.count("CorruptCheckpoint") == 4


def test_an_empty_root_has_nothing_to_fall_back_to() -> None:
    manager = Manager(ROOT, store=MemoryStore())
    tree = state(0)
    assert manager.resume(tree, fallback=True) == (0, tree)
    with pytest.raises(CheckpointNotFound, match="no step"):
        manager.restore(fallback=True)


def test_a_target_that_does_not_fit_is_no_reason_to_go_back() -> None:
    disk = disk_with_damage()
    disk.remove_file(f"{ROOT}/4/default/pertinax.json")
    manager = Manager(ROOT, store=disk)
    with pytest.raises(RestoreMismatch) as caught:
        manager.restore({"w": np.zeros(7)}, fallback=True)
    assert caught.value.checkpoint == f"{ROOT}/3/default"
    assert "passed over step 4" in told(caught.value)


def test_a_format_that_an_update_would_read_is_no_reason_to_go_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def newer(path: str, *_: Any, **__: Any) -> None:
        raise NewerFormat(f"{path} was written by a later version")

    monkeypatch.setattr("pertinax._steps.reading.load", newer)
    with pytest.raises(NewerFormat):
        Manager(ROOT, store=disk_with_damage()).restore(fallback=True)


def breaking_step_4(disk: MemoryStore, do: Callable[[str], None]) -> Store:
    """Calls `do` when somebody opens a file of step 4's tree."""

    def before(method: str, path: str) -> None:
        if method == "open" and path.startswith(f"{ROOT}/4/default"):
            do(path)

    return Intercepted(disk, before)  # type: ignore[return-value]


def test_a_disk_that_cannot_be_read_is_passed_over_but_proves_no_damage() -> None:
    def refuse(path: str) -> None:
        raise OSError(errno.EIO, "bad sector", path)

    manager = Manager(ROOT, store=breaking_step_4(disk_with_damage(), refuse))
    found = manager.restore(fallback=True)
    assert found.step == 3
    assert isinstance(found.passed_over[0].error, StorageError)
    assert found.damaged == []
    with pytest.raises(CheckpointExists):
        manager.save(4, state(44))


def test_what_is_no_checkpoint_is_passed_over() -> None:
    disk = disk_with_damage()
    disk.make_dir(f"{ROOT}/5")
    found = Manager(ROOT, store=disk).restore(fallback=True)
    assert found.step == 4
    assert isinstance(found.passed_over[0].error, NotACheckpoint)


@pytest.mark.parametrize("fallback", [False, True])
def test_a_step_that_is_deleted_while_it_is_read_is_no_failure(fallback: bool) -> None:
    disk = disk_with_damage()
    other = Manager(ROOT, store=disk)

    def lose(path: str) -> None:
        if 4 in other.steps():
            other.save(5, state(5), metrics={"loss": 0})
            other.wait()
            other.delete(4)

    found = Manager(ROOT, store=breaking_step_4(disk, lose)).restore(fallback=fallback)
    assert found.step == 5
    assert same(found.tree, state(5))


def test_a_damaged_step_is_made_anew_when_training_comes_there() -> None:
    disk = disk_with_damage(4)
    with Manager(ROOT, store=disk, keep=Latest(2), background=False) as manager:
        step, _ = manager.resume(state(0), fallback=True)
        assert step == 3
        manager.save(4, state(44), metrics={"loss": 0.5})
        assert manager.steps() == [3, 4]
        with pytest.raises(CheckpointExists):
            manager.save(4, state(45))
    assert names(disk) == ["3", "4"]
    again = Manager(ROOT, store=disk)
    assert same(again.load(4), state(44))
    assert again.metrics(4) == {"loss": 0.5}


def test_without_a_fallback_a_damaged_step_is_not_replaced() -> None:
    disk = disk_with_damage(4)
    before = read_tree(disk, f"{ROOT}/4")
    with pytest.raises(CheckpointExists), Manager(ROOT, store=disk) as manager:
        manager.save(4, state(44))
    assert read_tree(disk, f"{ROOT}/4") == before


def test_a_step_that_somebody_else_has_mended_is_not_replaced() -> None:
    disk = disk_with_damage(4)
    with Manager(ROOT, store=disk, keep=Latest(1), background=False) as manager:
        manager.restore(fallback=True)
        with Manager(ROOT, store=disk) as other:
            other.restore(fallback=True)
            other.save(4, state(40))
        with pytest.raises(CheckpointExists):
            manager.save(4, state(41))
        assert manager.plan().deleted == [1, 2, 3]
    assert same(Manager(ROOT, store=disk).load(4), state(40))


def test_a_damaged_step_does_not_count_as_one_that_is_kept() -> None:
    disk = disk_with_damage(3, 4)
    with Manager(ROOT, store=disk, keep=Latest(2), save=EverySeconds(60)) as manager:
        manager.restore(fallback=True)
        assert manager.plan().deleted == []
        assert [one.readable for one in manager.history()] == [True, True, False, False]
        manager.save(5, state(5), force=True)
    assert manager.steps() == [2, 3, 4, 5]
    manager.delete(4)
    assert manager.steps() == [2, 3, 5]


def test_time_policies_go_on_from_the_step_that_was_restored() -> None:
    disk, now = MemoryStore(), [1000.0]
    with Manager(ROOT, store=disk, background=False, clock=lambda: now[0]) as manager:
        for step in (1, 2):
            manager.save(step, state(step))
            now[0] += 100
    damage(disk, 2)
    manager = Manager(ROOT, store=disk, save=EverySeconds(150), clock=lambda: now[0])
    assert not manager.should_save(2)
    manager.resume(state(0), fallback=True)
    assert manager.should_save(2)


def test_damage_on_a_real_disk(tmp_path: Path) -> None:
    with Manager(tmp_path, background=False) as manager:
        for step in (1, 2):
            manager.save(step, {"w": np.arange(1 << 16) + step})
    (data,) = (tmp_path / "2" / "default" / "d").iterdir()
    content = bytearray(data.read_bytes())
    content[12345] ^= 4
    data.write_bytes(content)
    found = Manager(tmp_path).restore(fallback=True)
    assert found.step == 1
    assert np.array_equal(found.tree["w"], np.arange(1 << 16) + 1)
    (passed,) = found.passed_over
    assert isinstance(passed.error, CorruptCheckpoint)
    assert passed.error.leaf == "w"


@pytest.mark.parametrize(
    ("steps", "fallback", "raised"),
    [
        ([], True, None),
        ([], False, None),
        ([1], False, CheckpointNotFound),  # as it was raised: there is no more to tell
        ([1, 2], False, NoUsableStep),
        ([1], True, NoUsableStep),
    ],
)
def test_if_all_steps_vanish_the_error_tells_as_much_as_there_is(
    steps: list[int], fallback: bool, raised: type[Exception] | None
) -> None:
    gone = {step: CheckpointNotFound(f"step {step} is gone") for step in steps}
    left = dict.fromkeys(steps, "/x")

    def read(step: int, path: str) -> None:
        del left[step]
        raise gone[step]

    if raised is None:
        assert restore_newest(ROOT, left.copy, read, fallback=fallback) is None
        return
    with pytest.raises(raised) as caught:
        restore_newest(ROOT, left.copy, read, fallback=fallback)
    if raised is CheckpointNotFound:
        assert caught.value is gone[1]
    else:
        assert [one.error for one in caught.value.passed_over] == [  # type: ignore[attr-defined]
            gone[step] for step in sorted(steps, reverse=True)
        ]
