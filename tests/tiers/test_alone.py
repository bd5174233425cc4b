# SPDX-License-Identifier: Apache-2.0
"""Two tiers of a single process: policies, stores, and what a disk may do to them."""

import shutil
import threading
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import pertinax
from pertinax import policies
from pertinax._store.local import LocalStore
from pertinax._store.memory import MemoryStore


def state_at(step: int) -> dict[str, Any]:
    mesh = Mesh(np.array(jax.devices()).reshape(2, -1), ("replica", "data"))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    return {"w": jax.device_put(jnp.arange(8.0) + step, rows), "step": step}


def test_each_tier_goes_by_its_own_policy(tmp_path: Path) -> None:
    durable = MemoryStore()
    how: dict[str, Any] = {
        "save_local": 2,
        "save": policies.EverySteps(5) | policies.AtSteps([3]),
        "keep_local": 2,
        "keep": policies.Latest(2),
    }
    with pertinax.TieredManager(tmp_path / "near", "/run", store=durable, **how) as manager:
        assert manager.resume(state_at(0))[0] == 0
        chosen = {step: manager.save(step, state_at(step)) for step in range(1, 12)}
        assert [step for step, (near, _) in chosen.items() if near] == [2, 4, 6, 8, 10]
        assert [step for step, (_, far) in chosen.items() if far] == [3, 5, 10]
        assert manager.steps() == [5, 8, 10]
        assert not manager.busy
        assert manager.save(11, state_at(11), force=True) == (True, True)
        found = manager.restore(state_at(0))
        assert (found.step, found.tree["step"], found.durable_bytes) == (11, 11, 0)
        assert found.tree["w"].tolist() == state_at(11)["w"].tolist()
    with pytest.raises(RuntimeError, match="closed"):
        manager.save(12, state_at(12))
    shutil.rmtree(tmp_path / "near")
    with pertinax.TieredManager(tmp_path / "near", "/run", store=durable, **how) as manager:
        start, state = manager.resume(state_at(0))
        assert (start, state["step"]) == (11, 11)
        with pytest.raises(pertinax.errors.CheckpointNotFound, match="step 8"):
            manager.restore(state_at(0), 8)
        with pytest.raises(pertinax.errors.RestoreMismatch):
            manager.restore({"w": state["w"]})


def test_after_a_step_back_the_run_that_was_given_up_does_not_take_the_room(tmp_path: Path) -> None:
    where = (tmp_path / "near", tmp_path / "durable")
    with pertinax.TieredManager(*where, save_local=1, save=10, keep_local=1) as manager:
        manager.save(10, state_at(10))
        manager.save(19, state_at(19))
    with pertinax.TieredManager(*where, save_local=1, save=10, keep_local=1) as manager:
        assert manager.restore(state_at(0), 10).step == 10
        manager.save(11, state_at(11))
        assert manager.steps() == [10, 11]
        assert manager.resume(state_at(0))[0] == 11


def test_parts_of_different_saves_of_one_step_do_not_mix(tmp_path: Path) -> None:
    where = (tmp_path / "near", tmp_path / "durable")
    with pertinax.TieredManager(*where, save_local=4, save=4) as manager:
        manager.save(4, state_at(4))
    other = (tmp_path / "near2", tmp_path / "durable2")
    with pertinax.TieredManager(*other, save_local=4, save=4) as manager:
        manager.save(4, state_at(400))
    data = next(iter((tmp_path / "near" / "4" / "default" / "d").iterdir()))
    damaged = bytearray(data.read_bytes())
    damaged[0] ^= 1
    data.write_bytes(damaged)
    # The durable tier has another save of this step: its bytes are no part of ours.
    with pertinax.TieredManager(tmp_path / "near", tmp_path / "durable2") as manager:
        found = manager.restore(state_at(0))
    assert (found.tree["step"], found.own_bytes) == (400, 0)
    assert found.durable_bytes > 0


def test_a_local_disk_that_fails_is_told_and_the_older_step_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = (tmp_path / "near", tmp_path / "durable")
    with pertinax.TieredManager(*where, save_local=1, save=100) as manager:
        manager.save(1, state_at(1))
        manager.wait()

        def full(*_: Any) -> None:
            raise OSError(28, "no room")

        with monkeypatch.context() as patch:
            patch.setattr(LocalStore, "sync_dir", full)
            manager.save(2, state_at(2))
            with pytest.raises(pertinax.errors.StorageError):
                manager.wait()
        assert manager.failed_steps == (2, None)
        assert manager.steps() == [1]
        found = manager.restore(state_at(0))
        assert (found.step, found.tree["w"].tolist()) == (1, state_at(1)["w"].tolist())
        manager.raise_failure()  # it has been told
        with monkeypatch.context() as patch:
            patch.setattr(LocalStore, "sync_dir", full)
            manager.save(2, state_at(2))
            for thread in [one for one in threading.enumerate() if "pertinax" in one.name]:
                thread.join(60)
            with pytest.raises(pertinax.errors.StorageError):
                manager.raise_failure()
        manager.save(3, state_at(3))
        manager.wait()
        assert manager.failed_steps == (None, None)
        assert manager.steps() == [3]


@pytest.mark.parametrize("step", [3, 5], ids=["not due", "due in the other tier"])
def test_a_failure_is_raised_at_the_next_step_whatever_that_step_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "no room")

    where = (tmp_path / "near", tmp_path / "durable")
    with pertinax.TieredManager(*where, save_local=2, save=5) as manager:
        with monkeypatch.context() as patch:
            patch.setattr(LocalStore, "sync_dir", full)
            assert manager.save(2, state_at(2)) == (True, False)
            for thread in [one for one in threading.enumerate() if "pertinax" in one.name]:
                thread.join(60)
        with pytest.raises(pertinax.errors.StorageError):
            manager.save(step, state_at(step))
        assert manager.failed_steps == (2, None)
        assert manager.steps() == []
        assert manager.save(5, state_at(5)) == (False, True)
        assert manager.steps() == [5]


def test_options_without_a_meaning_are_refused(tmp_path: Path) -> None:
    with pytest.raises(pertinax.errors.InvalidOption, match="keep_local=0"):
        pertinax.TieredManager(tmp_path / "near", tmp_path / "durable", keep_local=0)
    with pertinax.TieredManager(tmp_path / "near", tmp_path / "durable") as manager:
        with pytest.raises(pertinax.errors.CheckpointNotFound, match="a step"):
            manager.restore(state_at(0))
        with pytest.raises(pertinax.errors.UnsupportedLeaf):
            manager.save(10, {"odd": object()})
        assert manager.steps() == []


def test_steps_go_when_asked_and_near_ones_stay_where_nothing_may_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    where = (tmp_path / "near", tmp_path / "durable")
    with pertinax.TieredManager(*where, save_local=1, save=100, keep_local=None) as manager:
        for step in (1, 2, 3):
            manager.save(step, state_at(step))
        manager.wait()
        assert manager.steps() == [1, 2, 3]
        manager.delete(2)
        assert manager.steps() == [1, 3]
        with pytest.raises(pertinax.errors.CheckpointNotFound, match="no step 2"):
            manager.delete(2)
        manager._preemption._last = (7, True)  # as if all had been told to stop
        assert manager.due(7) == (True, True)
        manager.save(7, state_at(7))
    with pertinax.TieredManager(*where, save_local=1, save=100, keep_local=1) as manager:
        manager.delete(3) if 3 in manager.steps() else None

        def broken(*_: Any) -> Any:
            raise OSError(5, "the disk does not answer")

        tier = manager._local
        with monkeypatch.context() as patch:
            patch.setattr(type(tier.root), "steps", broken)
            tier.let_go(7)
        assert "no local step was removed" in caplog.text
        assert manager.steps() == [7]


def test_a_local_step_of_another_library_is_no_part(tmp_path: Path) -> None:
    golden = Path(__file__).parents[1] / "golden" / "orbax-0.8.0" / "layouts-ocdbt-zarr3"
    shutil.copytree(golden, tmp_path / "near" / "4" / "default")
    (tmp_path / "durable").mkdir()
    with pertinax.TieredManager(tmp_path / "near", tmp_path / "durable") as manager:
        assert manager.steps() == []
