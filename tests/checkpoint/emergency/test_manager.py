# SPDX-License-Identifier: Apache-2.0
"""The emergency manager of Orbax's API on four real processes, each with a directory of its own."""

import json
import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import pertinax
from pertinax import checkpoint as ocp
from pertinax._store.local import LocalStore
from pertinax.checkpoint.experimental.emergency import checkpoint_manager as emergency
from pertinax.checkpoint.experimental.emergency import multihost as emergency_multihost
from tests.hosts import processes

pytestmark = pytest.mark.slow

SAME = (0, 1, 2, 3)
SPECS = {
    "w": ((8, 4), "float32", ("data",)),
    "b": ((4,), "bfloat16", ()),
    "m": ((16,), "int8", ("data",)),
}


def mesh_of() -> Mesh:
    return Mesh(np.array(jax.devices()).reshape(2, -1), ("replica", "data"))


def values(name: str, step: int) -> Any:
    shape, dtype, _ = SPECS[name]
    return (
        ((np.arange(int(np.prod(shape))) * 3 + step) % 17 - 5)
        .astype(jnp.dtype(dtype))
        .reshape(shape)
    )


def layout(name: str) -> NamedSharding:
    return NamedSharding(mesh_of(), PartitionSpec(*SPECS[name][2]))


def state_at(step: int) -> dict[str, Any]:
    return {
        name: jax.make_array_from_callback(
            shape, layout(name), lambda index, name=name: values(name, step)[index]
        )
        for name, (shape, _, _) in SPECS.items()
    }


def abstract() -> dict[str, Any]:
    return {
        name: jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=layout(name))
        for name, (shape, dtype, _) in SPECS.items()
    }


def exact(state: dict[str, Any], step: int) -> bool:
    """Every shard of this process, bit for bit, in the layout of the abstract state."""
    return all(
        array.sharding == layout(name)
        and array.dtype == values(name, step).dtype
        and all(
            np.array_equal(np.asarray(shard.data), values(name, step)[shard.index])
            for shard in array.addressable_shards
        )
        for name, array in state.items()
    )


def options_of(**kwargs: Any) -> emergency.CheckpointManagerOptions:
    return emergency.CheckpointManagerOptions(
        local=emergency.LocalCheckpointOptions(save_interval_steps=2, max_to_keep=2),
        persistent=emergency.PersistentCheckpointOptions(save_interval_steps=6, max_to_keep=2),
        **kwargs,
    )


def manager_of(folder: str, places: Sequence[int], **kwargs: Any) -> emergency.CheckpointManager:
    local = f"{folder}/local/{places[jax.process_index()]}"
    os.makedirs(local, exist_ok=True)
    os.makedirs(f"{folder}/persistent", exist_ok=True)
    return emergency.CheckpointManager(
        local, f"{folder}/persistent", mesh_of(), abstract(), options=options_of(**kwargs)
    )


def heard() -> list[str]:
    """The names of the durations that JAX is told from now on."""
    names: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: names.append(name))
    return names


def begin(folder: str) -> Any:
    with manager_of(folder, SAME) as manager:
        empty = (manager.all_steps(), manager.latest_step(), manager.in_primary_slice)
        wanted = [manager.should_save(step) for step in (0, 1)]  # each tier begins with what comes
        saved = [
            step for step in range(10) if manager.save(step, ocp.args.PyTreeSave(state_at(step)))
        ]
        again = manager.should_save(8), manager.should_save(9), manager.should_save(10)
        with pytest.raises(ValueError, match="saved already"):
            manager.save(8, ocp.args.PyTreeSave(state_at(8)), force=True)
        manager.wait_until_finished()
        manager.check_for_errors()
        known = manager.all_steps(), manager.latest_step(), manager.all_steps(read=True)
        busy = manager.is_saving_in_progress()
        assert manager.global_mesh == mesh_of()
        assert not manager.reached_preemption(9)
        for call in (
            lambda: manager.directory,
            manager.best_step,
            manager.metadata,
            lambda: manager.delete(8),
            lambda: manager.metrics(8),
            lambda: manager.item_metadata(8),
        ):
            with pytest.raises(NotImplementedError):
                call()
        with pytest.raises(ValueError, match="step"):
            manager.restore(None)
        with pytest.raises(FileNotFoundError, match="neither"):
            manager.restore(7)
        with pytest.raises(ValueError, match="args"):
            manager.save(12)
    return empty, wanted, saved, again, known, busy


def restart(folder: str, places: Sequence[int], stop: int) -> Any:
    """Restore the newest step, say how, and go on to `stop`."""
    names = heard()
    entries: list[Any] = []

    class Logger(ocp.logging.AbstractLogger):
        def log_entry(self, msg: Any, *args: Any, **kwargs: Any) -> None:
            entries.append(msg)

    with manager_of(folder, places) as manager:
        manager._logger = Logger()
        latest = manager.latest_step()
        state = manager.restore(latest)
        told = [name for name in names if name.startswith("/orbax/emergency")]
        for step in range(latest + 1, stop + 1):
            manager.save(step, ocp.args.StandardSave(state_at(step)))
        manager.wait_until_finished()
        (entry,) = entries
        facts = entry["event_type"], entry["step"], entry["is_restoring_slice"]
        return latest, exact(state, latest), [name.split("/")[-1] for name in told], facts


def run(folder: Path, name: str, work: Any, *args: Any) -> list[Any]:
    return processes.run(work, 4, str(folder), *args, folder=folder / f"job-{name}")


@pytest.mark.row("R165", "R174", "R197", "R218", "R247", "R286")
def test_a_run_that_is_restarted_in_many_ways(tmp_path: Path) -> None:
    local, persistent = tmp_path / "local", tmp_path / "persistent"
    answers = run(tmp_path, "begin", begin)
    for process, (empty, wanted, saved, again, known, busy) in enumerate(answers):
        assert empty == ([], None, process < 2)
        assert wanted == [True, True]
        assert saved == [0, 2, 4, 6, 8]
        assert again == (False, False, True)
        assert known == ([0, 6, 8], 8, [0, 6, 8])
        assert not busy
    for process in SAME:
        assert sorted(os.listdir(local / str(process))) == ["6", "8"]
        assert pertinax.verify(local / str(process) / "8").ok
    assert sorted(os.listdir(persistent)) == ["0", "6", "process_metadata"]
    assert pertinax.verify(persistent / "6").ok
    notes = persistent / "process_metadata"
    assert json.loads((notes / "global_process_metadata.json").read_text()) == [0, 1, 2, 3]
    assert len(json.loads((notes / "mesh_metadata.json").read_text())) == 4

    broadcast = "broadcast_duration_secs"
    answers = run(tmp_path, "all-there", restart, SAME, 10)
    assert answers == [(8, True, [broadcast], ("emergency_restore", 8, True))] * 4
    shutil.rmtree(local / "2")  # a host of one replica, and then one of the other
    answers = run(tmp_path, "one-lost", restart, SAME, 12)
    assert [one[:2] for one in answers] == [(10, True)] * 4
    assert [one[3][2] for one in answers] == [True, True, False, True]
    shutil.rmtree(local / "1")
    answers = run(tmp_path, "other-lost-and-permuted", restart, (1, 2, 3, 0), 16)
    assert [one[:2] for one in answers] == [(12, True)] * 4
    assert [broadcast, "transfer_global_shard_duration_secs"] in [one[2] for one in answers]
    answers = run(tmp_path, "permuted-again", restart, (3, 1, 0, 2), 18)
    assert [one[:2] for one in answers] == [(16, True)] * 4
    shutil.rmtree(local / "0")
    shutil.rmtree(local / "2")  # where the second replica was
    assert [one[:2] for one in run(tmp_path, "replica-lost", restart, SAME, 19)] == [(18, True)] * 4
    shutil.rmtree(local)
    answers = run(tmp_path, "all-lost", restart, SAME, 18)
    assert answers == [(18, True, [], ("emergency_restore", 18, False))] * 4


def crash_between(folder: str) -> Any:
    with manager_of(folder, SAME) as manager:
        for step in (2, 4):
            manager.save(step, ocp.args.PyTreeSave(state_at(step)))
        manager.wait_until_finished()


def look(folder: str) -> Any:
    with manager_of(folder, SAME) as manager:
        first = manager.all_steps(), exact(manager.restore(2), 2)
    with manager_of(folder, SAME) as manager:  # nobody has let go what others need
        return *first, manager.all_steps(), exact(manager.restore(2), 2)


def test_a_step_that_not_all_have_costs_nobody_the_one_before(tmp_path: Path) -> None:
    """A crash in the middle of a local save: some have the new step, one replica lacks a host."""
    run(tmp_path, "begin", crash_between)
    shutil.rmtree(tmp_path / "persistent" / "2")
    for process in (1, 3):  # the two that hold the same shards
        shutil.rmtree(tmp_path / "local" / str(process) / "4")
    assert run(tmp_path, "look", look) == [([2], True, [2], True)] * 4


def choose(folder: str) -> Any:
    """Options and args: functions that decide, dtypes, other directories, names, no threads."""
    local = f"{folder}/local/{jax.process_index()}"
    os.makedirs(local)
    os.makedirs(f"{folder}/persistent", exist_ok=True)
    seen: list[Any] = []

    def ask(step: int, latest: int | None) -> bool:
        seen.append((step, latest))
        return jax.process_index() == 0 and step in (3, 5)  # the primary's answer counts

    options = emergency.CheckpointManagerOptions(
        local=emergency.LocalCheckpointOptions(should_save_fn=ask, max_to_keep=1),
        persistent=emergency.PersistentCheckpointOptions(should_save_fn=lambda step, _: step == 5),
        step_name_format=ocp.path.step.standard_name_format(
            step_prefix="at", step_format_fixed_length=4
        ),
        enable_async_checkpointing=False,
        cleanup_tmp_directories=True,
        multiprocessing_options=emergency.MultiprocessingOptions(coordination_timeout_secs=60),
    )
    where = (local, f"{folder}/persistent", mesh_of(), abstract())
    with emergency.CheckpointManager(*where, options=options) as manager:
        args = ocp.args.PyTreeSave(
            state_at(5), save_args={name: ocp.SaveArgs(dtype=jnp.float32) for name in SPECS}
        )
        saved = [step for step in range(7) if manager.save(step, args)]
        wishes = ocp.checkpoint_utils.construct_restore_args(abstract())
        wishes["b"].dtype = jnp.float16
        wishes["m"].dtype = jnp.int8
        found = manager.restore(5, args=ocp.args.PyTreeRestore(restore_args=wishes))
        other = manager.restore(5, directory=f"{folder}/persistent")
    right = all(
        np.array_equal(
            np.asarray(found[name].addressable_data(0), np.float32),
            np.asarray(other[name].addressable_data(0), np.float32),
        )
        for name in SPECS
    )
    return (
        saved,
        os.listdir(local),
        str(found["b"].dtype),
        right,
        bool(seen) == (jax.process_index() == 0),
    )


@pytest.mark.interop
def test_options_and_args_and_orbax_reads_the_persistent_tier(tmp_path: Path) -> None:
    assert run(tmp_path, "choose", choose) == [([3, 5], ["at_0005"], "float16", True, True)] * 4
    assert sorted(os.listdir(tmp_path / "persistent")) == ["at_0005", "process_metadata"]
    from orbax import checkpoint as theirs

    with theirs.Checkpointer(theirs.PyTreeCheckpointHandler()) as checkpointer:
        whole = {name: theirs.RestoreArgs(restore_type=np.ndarray) for name in SPECS}
        found = checkpointer.restore(
            tmp_path / "persistent" / "at_0005" / "default",
            args=theirs.args.PyTreeRestore(restore_args=whole),
        )
    for name in SPECS:
        assert np.array_equal(found[name], values(name, 5).astype(np.float32))


def one_mesh(*shape: int) -> Mesh:
    return Mesh(np.array(jax.devices()).reshape(shape), ("replica", "data"))


def test_meshes_and_directories_are_looked_at_before_anything_is_written(tmp_path: Path) -> None:
    local, persistent = tmp_path / "l", tmp_path / "p"
    local.mkdir()
    for mesh, axis in ((one_mesh(1, 8), 0), (one_mesh(2, 4), 2)):
        with pytest.raises(AssertionError, match="replica"):
            emergency.CheckpointManager(
                local, persistent, mesh, {}, options=options_of(replica_axis_index=axis)
            )
    with pytest.raises(ValueError, match="does not exist"):
        emergency.CheckpointManager(local, persistent, one_mesh(2, 4), {})
    assert os.listdir(tmp_path) == ["l"]
    assert os.listdir(local) == []


def test_one_process_has_two_tiers_as_well(tmp_path: Path) -> None:
    for name in ("l", "p"):
        (tmp_path / name).mkdir()
    mesh = one_mesh(2, 4)
    w = jax.device_put(jnp.arange(8.0), NamedSharding(mesh, PartitionSpec("data")))
    where = (tmp_path / "l", tmp_path / "p", mesh, {"w": w})
    with emergency.CheckpointManager(*where) as manager:
        assert manager.save(0, ocp.args.StandardSave({"w": w}))
        assert not manager.save(1, ocp.args.StandardSave({"w": w}))
        assert manager.save(10, ocp.args.StandardSave({"w": w + 1}))
        assert manager.restore(10)["w"].tolist() == (np.arange(8) + 1).tolist()
    with emergency.CheckpointManager(*where, options=options_of()) as manager:
        assert manager.all_steps() == [0, 10]
        shutil.rmtree(tmp_path / "l" / "10")
        with pytest.raises(FileNotFoundError, match="step 10"):
            manager.restore(10)
        manager.reload()
        assert manager.all_steps() == [0]


def test_nothing_is_written_to_a_local_tier_that_may_only_be_read(tmp_path: Path) -> None:
    for name in ("l", "p"):
        (tmp_path / name).mkdir()
    mesh = one_mesh(2, 4)
    state = {"w": jax.device_put(jnp.arange(8.0), NamedSharding(mesh, PartitionSpec("data")))}
    where = (tmp_path / "l", tmp_path / "p", mesh, state)
    with emergency.CheckpointManager(*where, options=options_of()) as manager:
        assert manager.save(2, ocp.args.StandardSave(state))
    before = sorted(tmp_path.glob("l/**/*"))
    options = emergency.CheckpointManagerOptions(
        local=emergency.LocalCheckpointOptions(
            save_interval_steps=1, max_to_keep=1, read_only=True
        ),
        persistent=emergency.PersistentCheckpointOptions(save_interval_steps=6, max_to_keep=2),
    )
    with emergency.CheckpointManager(*where, options=options) as manager:
        assert manager.restore(2)["w"].tolist() == list(range(8))
        saved = [step for step in range(4, 14) if manager.save(step, ocp.args.StandardSave(state))]
        assert saved == [6, 12]
        assert manager.save(13, ocp.args.StandardSave(state), force=True)
        assert manager.all_steps() == [2, 12, 13]
    assert sorted(tmp_path.glob("l/**/*")) == before


def test_a_handler_for_local_storage_has_no_primary_host() -> None:
    with pytest.raises(ValueError, match="primary_host"):
        emergency.local_checkpoint_handler(ocp.options.MultiprocessingOptions(primary_host=0))
    assert isinstance(emergency.local_checkpoint_handler(), ocp.PyTreeCheckpointHandler)


def test_a_mesh_with_the_same_hosts_in_the_same_places() -> None:
    mesh = one_mesh(2, 4)
    ids = [device.id for device in mesh.devices.flat]
    again = emergency_multihost.consistent_restore_mesh(mesh, list(reversed(ids)), [0])
    assert [device.id for device in again.devices.flat] == list(reversed(ids))
    assert again.axis_names == mesh.axis_names
    assert emergency_multihost.runtime_to_distributed_ids() == [0]
    with pytest.raises(ValueError, match="no device"):
        emergency_multihost.process_index_from_device_id(10**9)


def be_killed(folder: str, job: str) -> Any:
    """Process 1 dies in the middle of a local save; the others hear of it in seconds."""
    with manager_of(folder, SAME) as manager:
        manager.save(2, ocp.args.PyTreeSave(state_at(2)))
        manager.wait_until_finished()
        if jax.process_index() == 1:
            # The next directory that it syncs is the last thing that it does.
            LocalStore.sync_dir = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
        manager.save(4, ocp.args.PyTreeSave(state_at(4)))
        try:
            manager.wait_until_finished()
        except pertinax.errors.PeerFailed as error:
            heard = [error.process, 4 in manager.all_steps()]
            Path(job, f"heard-{jax.process_index()}").write_text(json.dumps(heard))
            # The first process keeps the service of the others: it must not leave before them.
            ocp.multihost.sync_global_processes("all have heard", processes={0, 2, 3})
    return None


@pytest.mark.crash
def test_a_host_that_dies_while_it_saves_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    job = processes.start(
        be_killed, 4, str(tmp_path), str(folder), folder=folder, recoverable=True, limit_s=90
    )
    assert job.end()[1].code == -9
    heard = [json.loads((folder / f"heard-{process}").read_text()) for process in (0, 2, 3)]
    assert heard == [[1, False]] * 3
    # What it had of step 4 another host has as well, so that step is whole.
    answers = run(tmp_path, "after", restart, SAME, 6)
    assert [one[:2] for one in answers] == [(4, True)] * 4


def along_the_other_axis(folder: str) -> Any:
    """Two processes of four devices; the replicas lie along the second axis of the mesh."""
    me = jax.process_index()
    devices = np.array(jax.devices()).reshape(2, 4).T.copy()  # each replica is one process
    mesh = Mesh(devices, ("data", "replica"))
    w = spread_over(mesh, 7)
    local, persistent = f"{folder}/local/{me}", f"{folder}/persistent"
    for path in (local, persistent):
        os.makedirs(path, exist_ok=True)
    options = options_of(replica_axis_index=1)
    with emergency.CheckpointManager(local, persistent, mesh, {"w": w}, options=options) as manager:
        manager.save(2, ocp.args.StandardSave({"w": w}))
        manager.wait_until_finished()
        if me == 0:
            shutil.rmtree(local)
        found = manager.restore(2)["w"]
        inside = manager.in_primary_slice
    same = all(
        np.array_equal(a.data, b.data)
        for a, b in zip(found.addressable_shards, w.addressable_shards, strict=True)
    )
    return inside, same, found.sharding == w.sharding


def spread_over(mesh: Mesh, seed: int) -> jax.Array:
    host = np.random.default_rng(seed).normal(size=(8, 3)).astype(np.float32)
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def test_replicas_along_another_axis_and_hosts_of_several_devices(tmp_path: Path) -> None:
    answers = processes.run(
        along_the_other_axis, 2, str(tmp_path), folder=tmp_path / "job", devices=4
    )
    assert answers == [(True, True, True), (False, True, True)]
