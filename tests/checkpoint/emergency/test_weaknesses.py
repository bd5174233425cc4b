# SPDX-License-Identifier: Apache-2.0
"""What Orbax's emergency manager does badly, and this one does not."""

import os
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src import distributed
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import pertinax
from pertinax import checkpoint as ocp
from pertinax._hosts.cluster import Cluster
from pertinax.checkpoint.experimental.emergency import checkpoint_manager as emergency
from tests.hosts import processes

pytestmark = pytest.mark.slow


def mesh_of() -> Mesh:
    return Mesh(np.array(jax.devices()).reshape(2, -1), ("replica", "data"))


def state_at(step: int) -> dict[str, Any]:
    spread = NamedSharding(mesh_of(), PartitionSpec("data"))
    big = np.arange(8, dtype=np.float32) + step
    w = jax.make_array_from_callback(big.shape, spread, lambda index: big[index])
    return {"w": w, "table": np.arange(3) + step, "step": step, "run": f"at {step}"}


def right(found: dict[str, Any], step: int) -> bool:
    want = state_at(step)
    return (
        np.asarray(found["w"].addressable_data(0)).tobytes()
        == np.asarray(want["w"].addressable_data(0)).tobytes()
        and found["table"].tolist() == want["table"].tolist()
        and (found["step"], found["run"]) == (step, f"at {step}")
    )


def manager_of(folder: str, **local: Any) -> emergency.CheckpointManager:
    near = f"{folder}/near/{jax.process_index()}"
    os.makedirs(near, exist_ok=True)
    os.makedirs(f"{folder}/durable", exist_ok=True)
    options = emergency.CheckpointManagerOptions(
        local=emergency.LocalCheckpointOptions(**local),
        persistent=emergency.PersistentCheckpointOptions(save_interval_steps=50, max_to_keep=2),
    )
    return emergency.CheckpointManager(
        near, f"{folder}/durable", mesh_of(), state_at(0), options=options
    )


def words() -> int:
    """How many entries this library has in the coordination service, but for who is alive."""
    pairs = distributed.global_state.client.key_value_dir_get("pertinax/")
    return sum("/calls/" not in key and "alive" not in key for key, _ in pairs)


def watched(folder: str) -> Any:
    begun: list[str] = []
    begin = Cluster.begin

    def count(self: Cluster, kind: str, subject: str, **how: Any) -> Any:
        begun.append(kind)
        return begin(self, kind, subject, **how)

    Cluster.begin = count  # type: ignore[method-assign] - this process ends with the job
    with manager_of(folder, save_interval_steps=10, max_to_keep=2) as manager:
        manager.save(0, ocp.args.PyTreeSave(state_at(0)))
        manager.wait_until_finished()
        begun.clear()
        unsaved = [step for step in range(1, 10) if manager.save(step, ocp.args.PyTreeSave({}))]
        idle = list(begun)
        left: list[int] = []
        for step in range(10, 60, 10):
            manager.save(step, ocp.args.PyTreeSave(state_at(step)))
            manager.wait_until_finished()
            multihost_utils.sync_global_devices(f"all are through with {step}")
            left.append(words())
            multihost_utils.sync_global_devices(f"all have counted after {step}")
        manager.save(45, ocp.args.PyTreeSave(state_at(45)), force=True)  # after a step back
        manager.wait_until_finished()
        told, listed = manager.all_steps(), manager.all_steps(read=True)
        held = sorted(map(int, os.listdir(f"{folder}/near/{jax.process_index()}")))
        exact = [right(manager.restore(step), step) for step in told]
        target = state_at(0) | {"w": jax.ShapeDtypeStruct((8,), jnp.bfloat16)}
        args = ocp.args.PyTreeRestore(
            restore_args=target
            | {name: ocp.RestoreArgs() for name in ("table", "step", "run")}
            | {"w": ocp.ArrayRestoreArgs(dtype=jnp.bfloat16, sharding=state_at(0)["w"].sharding)}
        )
        dtype = str(manager.restore(told[-1], args=args)["w"].dtype)
    return unsaved, idle, left, told, listed, held, exact, dtype


@pytest.mark.wd("Kw-13")
def test_words_are_few_and_do_not_stay_and_lists_are_what_the_disks_have(tmp_path: Path) -> None:
    first, second = processes.run(watched, 2, str(tmp_path), folder=tmp_path / "job")
    assert first[3:] == second[3:]
    for unsaved, idle, left, told, listed, held, exact, dtype in (first, second):
        assert (unsaved, idle) == ([], []), "nothing is said at steps that nobody saves"
        assert max(left) == min(left), "what was said in a save is removed after it"
        assert told == listed == [45, 50]
        assert held == [45, 50], "all processes keep a copy, those of the first replica too"
        assert all(exact), "numpy arrays, numbers and text as well"
        assert dtype == "bfloat16"
    # One look for all at the durable tier: it holds steps only, and whoever asks hears the same.
    assert sorted(os.listdir(tmp_path / "durable")) == ["45", "50", "process_metadata"]


def save_on(folder: str, order: tuple[int, ...]) -> Any:
    near = f"{folder}/near/{order[jax.process_index()]}"
    os.makedirs(near, exist_ok=True)
    os.makedirs(f"{folder}/durable", exist_ok=True)
    # As if the scheduler had given the hosts other numbers, and the devices another order.
    devices = np.array(jax.devices())[::-1] if order[0] else np.array(jax.devices())
    mesh = Mesh(devices.reshape(2, 2).T, ("replica", "data"))  # each has half, twice
    spread = NamedSharding(mesh, PartitionSpec("data"))

    def at(step: int) -> jax.Array:
        big = np.arange(16, dtype=np.int16) * (step + 1)
        return jax.make_array_from_callback(big.shape, spread, lambda index: big[index])

    options = emergency.CheckpointManagerOptions(
        local=emergency.LocalCheckpointOptions(save_interval_steps=1),
        persistent=emergency.PersistentCheckpointOptions(save_interval_steps=1000),
    )
    where = (near, f"{folder}/durable", mesh, {"w": at(0)})
    with emergency.CheckpointManager(*where, options=options) as manager:
        latest = manager.latest_step()
        exact = latest is None or all(
            np.asarray(one.data).tobytes() == np.asarray(other.data).tobytes()
            for one, other in zip(
                manager.restore(latest)["w"].addressable_shards,
                at(latest).addressable_shards,
                strict=True,
            )
        )
        step = 0 if latest is None else latest + 1
        manager.save(step, ocp.args.PyTreeSave({"w": at(step)}))
    return latest, exact


@pytest.mark.wd("Kw-11", "Kw-12")
def test_no_note_on_the_mesh_is_believed_and_no_number_of_a_device_is_computed_with(
    tmp_path: Path,
) -> None:
    """Two restarts in other places, hosts of several devices, no call at the start, and the notes
    beside the durable tier are those of the first run; then they are nonsense; then they are gone.
    """
    notes = tmp_path / "durable" / "process_metadata"
    for number, order in enumerate([(0, 1), (1, 0), (0, 1), (1, 0)]):
        answers = processes.run(
            save_on, 2, str(tmp_path), order, folder=tmp_path / f"job-{number}", devices=2
        )
        assert answers == [(number - 1 if number else None, True)] * 2
        if number == 1:
            (notes / "mesh_metadata.json").write_text("[7, 7, 7, 7]")
            (notes / "global_process_metadata.json").write_text("[9, 9]")
        if number == 2:
            shutil.rmtree(notes)
    assert pertinax.describe(tmp_path / "near" / "0" / "3").partial
