# SPDX-License-Identifier: Apache-2.0
"""What processes must have in common, and what happens to steps in both tiers: a job of threads."""

import logging
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import pertinax
from pertinax._hosts import Topology
from pertinax._steps.deletion import Deleter
from pertinax._store.local import LocalStore
from pertinax._tiers import local
from pertinax._tiers import manager as managers
from pertinax._tiers.manager import TieredManager
from pertinax._tiers.sameness import refuse_differences
from pertinax.errors import CheckpointNotFound, PertinaxError, UnsupportedLeaf
from tests.tiers.test_gathering import _ME, Job, job

__all__ = ["job"]  # a fixture

STATE = {"small": np.arange(3), "large": np.arange(300_000.0), "text": "a", "n": 2**80}


def each(job: Job, monkeypatch: pytest.MonkeyPatch, work: Callable[[TieredManager], Any]) -> Any:
    """What `work` does with the manager of each process."""
    monkeypatch.setattr(managers, "this_job", lambda: job.hosts[_ME.process])

    def run(_: object) -> Any:
        with TieredManager(job.near[_ME.process], job.durable, save_local=1, save=100) as one:
            return work(one)

    return job.together(run)


CHANGES = {
    "small": np.arange(3) + 1,
    "large": np.arange(300_000.0) + 1,
    "text": "b",
    "n": 2**80 + 1,
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_differs_between_processes_is_not_saved(job, monkeypatch, name) -> None:
    def work(one: TieredManager) -> Any:
        one.save(1, STATE)
        one.wait()
        state = STATE | ({name: CHANGES[name]} if _ME.process else {})
        told: list[str] = []
        try:
            one.save(3, state)
            one.wait()
        except UnsupportedLeaf as error:
            told.append(str(error))
        return told, one.steps()

    for told, steps in each(job, monkeypatch, work):
        assert f"leaf '{name}' is another on process 1 than on process 0:" in told[0]
        assert steps == [1]


def test_trees_that_differ_are_told_and_how_much_else_does(job, monkeypatch) -> None:
    def work(one: TieredManager) -> Any:
        told: list[str] = []
        for extra in ({"small": np.arange(4)}, {"more": 1}):
            try:
                one.save(len(told) + 1, STATE | (extra if _ME.process else {}))
                one.wait()
            except PertinaxError as error:
                told.append(str(error))
        return told

    first, second = each(job, monkeypatch, work)
    assert first == second
    assert "leaf 'small' is another" in first[0]
    assert "(and 1 more like this)" in first[0]
    assert "leaf 'more' is another" in first[1]
    assert "(and 1 more like this)" in first[1]


def test_trees_that_differ_without_a_leaf_are_told(job, monkeypatch) -> None:
    def work(one: TieredManager) -> Any:
        one.save(1, STATE | ({"none": None} if _ME.process else {"none": {}}))
        with pytest.raises(UnsupportedLeaf, match="leaves, dtypes or shapes are others"):
            one.wait()

    assert each(job, monkeypatch, work) == [None, None]


class Twin:
    """A round in which another process says what this one says."""

    topology = Topology(0, (0, 1), 0)

    def __init__(self) -> None:
        self.told: list[Any] = []

    def collect(self, phase: str, value: Any, decide: Callable[[Any], Any]) -> Any:
        self.told.append(value)
        return decide({0: value, 1: value})


def test_shards_are_not_compared_but_numbers_and_files_are(tmp_path, monkeypatch) -> None:
    twins: list[Twin] = []

    def refuse(_: Any, contents: Any) -> None:
        twins.append(Twin())
        notes = {"notes": b"other" if len(twins) == 4 else b"same"}
        items = {**contents.items, "files": notes}
        refuse_differences(twins[-1], replace(contents, items=items))

    monkeypatch.setattr(local, "refuse_differences", refuse)
    with pertinax.TieredManager(tmp_path / "near", tmp_path / "far", save_local=1) as one:
        for step, (w, n) in enumerate([(0, 1), (1, 1), (0, 2), (0, 1)]):
            one.save(step, {"w": jnp.arange(4) + w, "n": n}, tiers=(True, False))
        one.wait()
    first, other_shard, other_number, other_file = (one.told[0] for one in twins)
    assert first == other_shard
    assert len({first, other_number, other_file}) == 3


def test_a_step_is_deleted_in_both_tiers_wherever_it_is(tmp_path: Path) -> None:
    with pertinax.TieredManager(tmp_path / "near", tmp_path / "far", keep_local=None) as one:
        for step, tiers in ((1, (True, True)), (2, (True, False)), (3, (False, True))):
            one.save(step, {"n": step}, tiers=tiers)
        one.wait()
        assert not one.preempted
        assert one.steps() == [1, 2, 3]
        for step in (1, 2, 3):
            one.delete(step)
            assert step not in one.steps()
        with pytest.raises(CheckpointNotFound, match="no step 3 to delete in either tier"):
            one.delete(3)
    with pertinax.TieredManager(tmp_path / "near", tmp_path / "far", keep_local=None) as one:
        assert one.steps() == []


def test_a_job_that_will_be_stopped_saves_in_both_tiers(tmp_path, monkeypatch) -> None:
    with pertinax.TieredManager(tmp_path / "near", tmp_path / "far") as one:
        monkeypatch.setattr(one._preemption, "_ask", lambda step: step == 7)
        assert [step for step in range(1, 9) if one.save(step, {"n": step}) == (True, True)] == [7]
        assert one.preempted


def test_waiting_for_old_steps_has_an_end(tmp_path, monkeypatch) -> None:
    with pertinax.TieredManager(tmp_path / "near", tmp_path / "far") as one:
        with monkeypatch.context() as patch:
            patch.setattr(Deleter, "wait", lambda *_: False)
            with pytest.raises(TimeoutError, match="old steps are not gone after 3 s"):
                one.wait(3)
        one.wait(60)


def test_a_near_disk_that_cannot_be_listed_keeps_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The save has been made all the same."""
    near = tmp_path / "near"
    with pertinax.TieredManager(near, tmp_path / "far", save_local=1) as one:
        one.save(1, {"n": 1})
        one.wait()
        real = LocalStore.list_dir
        renamed = threading.Event()

        def list_dir(store: LocalStore, path: str) -> Any:
            if renamed.is_set() and path == str(near):
                raise OSError(5, "the disk is bad", path)
            return real(store, path)

        def let_go(newest: int) -> None:
            renamed.set()
            original(newest)

        original = one._local.let_go
        monkeypatch.setattr(LocalStore, "list_dir", list_dir)
        monkeypatch.setattr(type(one._local), "let_go", lambda _, newest: let_go(newest))
        with caplog.at_level(logging.WARNING):
            one.save(2, {"n": 2})
            one.wait()
        renamed.clear()
        assert "no local step was removed" in caplog.text
        assert one.steps() == [1, 2]


def test_steps_of_others_are_no_parts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A part in the durable root is no durable step; a step of Orbax alone is no part."""
    near, far = tmp_path / "near", tmp_path / "far"
    with pertinax.TieredManager(near, far) as one:
        one.save(1, {"n": 1}, tiers=(True, True))
        one.save(2, {"n": 2}, tiers=(True, True))
    shutil.copytree(Path("tests/golden/pertinax-2/0"), near / "5")
    (near / "5" / "part").rename(near / "5" / "default")
    shutil.copytree(near / "5", far / "5")
    shutil.copytree(Path("tests/golden/orbax-0.8.0/dtypes-ocdbt-zarr2"), near / "4" / "default")
    with caplog.at_level(logging.INFO), pertinax.TieredManager(near, far) as one:
        assert one.steps() == [1, 2]
    assert "no part step=4" in caplog.text
