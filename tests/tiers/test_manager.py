# SPDX-License-Identifier: Apache-2.0
"""A job with two tiers that is told to stop, deletes, keeps the best, and looks elsewhere."""

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import pertinax
from pertinax import checkpoint as ocp
from pertinax.checkpoint.experimental.emergency import checkpoint_manager as emergency
from tests.hosts import processes

LAST = 3000


def state_at(step: int) -> dict[str, Any]:
    mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(2, -1), ("replica", "data"))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    big = np.full((8, 4), step, np.float32)
    return {"w": jax.make_array_from_callback(big.shape, spread, lambda index: big[index])}


def value_of(state: dict[str, Any]) -> float:
    return float(state["w"].addressable_data(0)[0, 0])


def both_doors(folder: str) -> tuple[pertinax.TieredManager, emergency.CheckpointManager]:
    """The same job through the front door and through Orbax's."""
    me = jax.process_index()
    where = [f"{folder}/near-door/{me}", f"{folder}/durable-door"]
    for path in where:
        os.makedirs(path, exist_ok=True)
    mesh = state_at(0)["w"].sharding.mesh
    options = emergency.CheckpointManagerOptions(
        local=emergency.LocalCheckpointOptions(save_interval_steps=LAST, max_to_keep=9)
    )
    return (
        pertinax.TieredManager(
            f"{folder}/near/{me}", f"{folder}/durable", save_local=LAST, keep_local=9
        ),
        emergency.CheckpointManager(*where, mesh, state_at(0), options=options),
    )


def train(folder: str) -> Any:
    me = jax.process_index()
    front, door = both_doors(folder)
    saved: list[tuple[int, Any, bool]] = []
    with front, door:
        for step in range(1, LAST):
            time.sleep(0.01 * (1 + me))  # they do not run at one speed
            by_front = front.save(step, state_at(step))
            by_door = door.save(step, ocp.args.PyTreeSave(state_at(step)))
            if any(by_front) or by_door:
                saved.append((step, by_front, by_door))
            if step == 4:
                processes.tell(Path(folder) / "job", f"running-{me}")
            assert front.preempted == door.reached_preemption(step)
            if front.preempted:
                break
        door.wait_until_finished()
        return saved, front.steps(), door.all_steps(), front.restorer.tiers()


@pytest.mark.slow
def test_a_job_that_is_told_to_stop_saves_one_more_step_in_both_tiers(tmp_path: Path) -> None:
    job = processes.start(train, 2, str(tmp_path), folder=tmp_path / "job")
    for process in (0, 1):
        job.wait_for(f"running-{process}")
    job.signal(1, signal.SIGTERM)
    ended = job.end()
    assert [one.error for one in ended] == ["", ""]
    assert ended[0].value == ended[1].value
    saved, front, door, tiers = ended[0].value
    # The door begins with a step in each tier; the policies of the front door want none.
    (first, nothing, begun), (stop, both, also) = saved
    assert (first, nothing, begun) == (1, (False, False), True)
    assert (both, also) == ((True, True), True)
    assert 4 < stop < LAST
    assert (front, door, tiers) == ([stop], [1, stop], ([stop], [stop]))


def delete_and_look_elsewhere(folder: str) -> Any:
    me = jax.process_index()
    front, door = both_doors(folder)
    refused: list[str] = []
    with front, door:
        for step in (1, 2, 3):
            front.save(step, state_at(step), tiers=(True, step != 3))
        pertinax.Manager(f"{folder}/durable").pin(1) if me == 0 else None
        front.wait()
        for step in (2, 9, 1):
            try:
                front.delete(step)
            except pertinax.errors.PertinaxError as error:
                refused.append(type(error).__name__)
        kept = front.steps(), sorted(os.listdir(f"{folder}/near/{me}"))
        # A copy of its near storage, on each process under another name; and one of the durable.
        door.save(5, ocp.args.PyTreeSave(state_at(5)), force=True)
        door.wait_until_finished()
        shutil.copytree(f"{folder}/near-door/{me}", f"{folder}/copy/{me}")
        copied = value_of(door.restore(5, directory=f"{folder}/copy/{me}"))
        shared = value_of(door.restore(5, directory=f"{folder}/durable-door"))
        if me == 0:  # what one has is enough: it is a replica
            shutil.rmtree(f"{folder}/copy/0/5")
        partly = value_of(door.restore(5, directory=f"{folder}/copy/{me}"))
        try:
            door.restore(6, directory=f"{folder}/copy/{me}")
        except FileNotFoundError as error:
            refused.append(str(error).rpartition(" does ")[2])
    return refused, kept, copied, shared, partly


@pytest.mark.slow
def test_steps_are_deleted_in_both_tiers_and_other_directories_are_searched(tmp_path: Path) -> None:
    told = processes.run(delete_and_look_elsewhere, 2, str(tmp_path), folder=tmp_path / "job")
    refused = ["CheckpointNotFound", "InvalidOption", "not have step 6 whole"]
    assert told == [(refused, ([1, 3], ["1", "3"]), 5.0, 5.0, 5.0)] * 2
    assert [name for name in os.listdir(tmp_path / "durable") if name.isdigit()] == ["1"]


def test_the_durable_tier_keeps_the_best(tmp_path: Path) -> None:
    tree = {"n": np.arange(3)}
    near, durable = tmp_path / "near", tmp_path / "durable"
    best = pertinax.policies.Best(1, "loss", mode="min")
    with pertinax.TieredManager(near, durable, save_local=2, save=1, keep=best) as manager:
        for step, loss in enumerate((3.0, 1.0, 2.0, 5.0)):
            manager.save(step, tree, metrics={"loss": loss})
        manager.wait()
        assert manager.steps() == [1, 2, 3]  # 3 because it is the newest
        manager.delete(3)
        assert manager.steps() == [1, 2]
        with pytest.raises(pertinax.errors.CheckpointNotFound, match="no step 3"):
            manager.delete(3)
    assert pertinax.Manager(durable).metrics(1) == {"loss": 1.0}
