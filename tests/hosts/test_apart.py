# SPDX-License-Identifier: Apache-2.0
"""Each process saves what it holds in a directory of its own, which says what that is."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import pertinax
from pertinax import checkpoint as ocp
from pertinax._core.open import open_checkpoint
from tests.hosts import processes, states

pytestmark = pytest.mark.slow

ALONE = ocp.options.MultiprocessingOptions(primary_host=None)


def _registry() -> Any:
    return ocp.type_handlers.create_type_handler_registry(
        (jax.Array, ocp.type_handlers.ArrayHandler(primary_host=None, replica_id=None))
    )


def _save(folder: str, kind: str) -> Any:
    path = f"{folder}/{jax.process_index()}/state"
    state = states.state_on(states.mesh_of())
    if kind == "registered":
        handler = ocp.PyTreeCheckpointHandler(
            multiprocessing_options=ALONE, type_handler_registry=_registry()
        )
        with ocp.Checkpointer(handler, multiprocessing_options=ALONE) as checkpointer:
            checkpointer.save(path, args=ocp.args.PyTreeSave(state["arrays"]))
        return None
    handler = ocp.PyTreeCheckpointHandler(
        use_ocdbt=kind != "files", use_zarr3=kind == "zarr3", multiprocessing_options=ALONE
    )
    with ocp.AsyncCheckpointer(handler, multiprocessing_options=ALONE) as checkpointer:
        checkpointer.save(path, args=ocp.args.PyTreeSave(state))
        checkpointer.wait_until_finished()
        target = states.target_on(states.mesh_of())
        args = ocp.args.PyTreeRestore(
            target, restore_args=ocp.checkpoint_utils.construct_restore_args(target)
        )
        return states.differences(checkpointer.restore(path, args=args))


def _load_again(folder: str) -> Any:
    """In another job: first with the same places in the mesh, and then with others."""
    path = f"{folder}/{jax.process_index()}/state"
    wrong = states.differences(pertinax.load(path, states.target_on(states.mesh_of())))
    try:
        pertinax.load(path, states.target_on(states.mesh_of(turned=True)))
    except pertinax.errors.PartAbsent as error:
        return wrong, error.leaf, str(error)
    return None


def _boxes(item: Path) -> dict[str, list[int]]:
    """The chunks of each array that the item's ledger has."""
    manifest = open_checkpoint(item).manifest
    found: dict[str, list[int]] = {leaf.name: [] for leaf in manifest.leaves}
    for leaf, ordinal in zip(
        manifest.chunks.leaf.tolist(), manifest.chunks.ordinal.tolist(), strict=True
    ):
        if leaf >= 0:
            found[manifest.leaves[leaf].name].append(ordinal)
    return found


def _save_all(folder: str) -> Any:
    return [_save(f"{folder}/{kind}", kind) for kind in ("ocdbt", "zarr3", "files")]


def test_each_process_keeps_what_it_holds_and_reads_it_again(tmp_path: Path) -> None:
    folder = tmp_path / "local"
    answers = processes.run(_save_all, 4, str(folder), folder=tmp_path / "job", devices=1)
    assert answers == [[[]] * 3] * 4
    for item in sorted(folder.glob("*/*/state")):
        process = int(item.parent.name)
        assert pertinax.verify(item).ok
        boxes = _boxes(item)
        assert boxes["arrays.replicated"] == [0]  # of what all hold, each has its own
        assert boxes["arrays.rows"] == [process // 2]
        assert boxes["arrays.partly"] == [process % 2]
        assert boxes["arrays.both"] == [process]
        description = pertinax.describe(item)
        assert description.partial
        assert "the part of one process" in str(description)
        assert description.held_bytes < description.nbytes
        assert pertinax.load(item, select="host/**")["host"]["name"] == "run"
        with pytest.raises(pertinax.errors.PartAbsent, match="arrays/") as caught:
            pertinax.load(item)
        again = pickle.loads(pickle.dumps(caught.value))
        assert (again.start, again.held) == (caught.value.start, caught.value.held)
        assert json.loads((item / "pertinax.json").read_text())["pertinax"] == 2
    answers = processes.run(_load_again, 4, str(folder / "ocdbt"), folder=tmp_path / "job2")
    for process, (wrong, leaf, text) in enumerate(answers):
        assert wrong == []
        assert leaf.startswith("arrays/")
        assert f"ocdbt/{process}/state holds the part of one process" in text


@pytest.mark.interop
def test_the_handler_for_such_storage_and_orbax_itself(tmp_path: Path) -> None:
    """What Orbax's own rules give back of such an item: each process the shards that it holds."""
    folder = tmp_path / "local"
    processes.run(_save, 2, str(folder), "registered", folder=tmp_path / "job", devices=2)
    for process in range(2):
        assert _boxes(folder / str(process) / "state")["both"] == [2 * process, 2 * process + 1]
        assert pertinax.verify(folder / str(process) / "state").ok
    answers = processes.run(_orbax_works, 2, str(folder), folder=tmp_path / "job2", devices=2)
    assert answers == [([], [])] * 2
    with pytest.raises(pertinax.errors.CorruptCheckpoint, match="chunks are missing"):
        pertinax.load(folder / "0" / "theirs")


def _orbax_works(folder: str) -> Any:
    return _orbax_reads(folder), _orbax_writes(folder)


def _orbax_reads(folder: str) -> Any:
    from orbax import checkpoint as theirs

    target = states.target_on(states.mesh_of())["arrays"]
    me = jax.process_index()
    options = theirs.options.MultiprocessingOptions(
        primary_host=None, active_processes={me}, barrier_sync_key_prefix=str(me)
    )
    handler = theirs.PyTreeCheckpointHandler(multiprocessing_options=options)
    with theirs.Checkpointer(handler, multiprocessing_options=options) as checkpointer:
        args = theirs.args.PyTreeRestore(
            target,
            restore_args=theirs.checkpoint_utils.construct_restore_args(target),
        )
        found = checkpointer.restore(f"{folder}/{me}/state", args=args)
    return [name for name in target if not states.same(name, found[name], 0)]


def _orbax_writes(folder: str) -> Any:
    """An item of Orbax's own, which we read as far as it goes."""
    from orbax import checkpoint as theirs

    me = jax.process_index()
    options = theirs.options.MultiprocessingOptions(
        primary_host=None, active_processes={me}, barrier_sync_key_prefix=f"w{me}"
    )
    registry = theirs.type_handlers.create_type_handler_registry(
        (
            jax.Array,
            theirs.type_handlers.ArrayHandler(
                primary_host=None, replica_id=None, use_replica_parallel=False
            ),
        )
    )
    handler = theirs.PyTreeCheckpointHandler(
        multiprocessing_options=options, type_handler_registry=registry
    )
    arrays = states.state_on(states.mesh_of())["arrays"]
    del arrays["empty"]  # it refuses these
    with theirs.Checkpointer(handler, multiprocessing_options=options) as checkpointer:
        checkpointer.save(f"{folder}/{me}/theirs", args=theirs.args.PyTreeSave(arrays))
    target = states.target_on(states.mesh_of())["arrays"]
    del target["empty"]
    found = pertinax.load(f"{folder}/{me}/theirs", target)
    return [name for name in target if not states.same(name, found[name], 0)]


def _manage(folder: str) -> Any:
    """A manager of Orbax's API in a root of this process's own, as Orbax's local tier is one."""
    me = jax.process_index()
    options = ocp.CheckpointManagerOptions(
        max_to_keep=2, multiprocessing_options=ALONE, step_prefix="own"
    )
    handler = ocp.PyTreeCheckpointHandler(
        multiprocessing_options=ALONE, type_handler_registry=_registry()
    )
    mesh = states.mesh_of()
    target = states.target_on(mesh)["arrays"]
    with ocp.CheckpointManager(f"{folder}/{me}", options=options, item_handlers=handler) as manager:
        for step in range(4):
            arrays = states.state_on(mesh, step)["arrays"]
            manager.save(step, args=ocp.args.PyTreeSave(arrays))
        manager.wait_until_finished()
        wishes = ocp.checkpoint_utils.construct_restore_args(target)
        args = ocp.args.PyTreeRestore(target, restore_args=wishes)
        found = manager.restore(3, args=args)
        by_notes = manager.restore(3)  # in the layouts that are written down
        steps = manager.all_steps()
    wrong = [name for name in target if not states.same(name, found[name], 3)]
    wrong += [name for name in target if not states.same(name, by_notes[name], 3)]
    return steps, wrong, sorted(os.listdir(f"{folder}/{me}"))


def test_a_manager_for_each_process(tmp_path: Path) -> None:
    folder = tmp_path / "local"
    answers = processes.run(_manage, 2, str(folder), folder=tmp_path / "job", devices=2)
    assert answers == [([2, 3], [], ["own_2", "own_3"])] * 2
    assert pertinax.describe(folder / "1" / "own_3").partial
    assert pertinax.verify(folder / "1" / "own_3").ok


def _save_odd(folder: str) -> Any:
    me = jax.process_index()
    first = Mesh(np.array(jax.devices()[:2]), ("x",))  # of process 0 alone
    everywhere = Mesh(np.array(jax.devices()), ("x",))
    rows = NamedSharding(everywhere, PartitionSpec("x"))
    keys = jax.jit(lambda: jax.random.split(jax.random.key(7), 4), out_shardings=rows)()
    tree = {
        "keys": keys,
        "elsewhere": jax.make_array_from_callback(
            (4,),
            NamedSharding(first, PartitionSpec("x")),
            lambda index: np.arange(4.0, dtype=np.float32)[index],
            dtype=np.float32,
        ),
        "mine": jnp.full(3, me),
        "who": np.array(me),
    }
    path = f"{folder}/{me}/state"
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=ALONE)
    with ocp.Checkpointer(handler, multiprocessing_options=ALONE) as checkpointer:
        checkpointer.save(path, args=ocp.args.PyTreeSave(tree))
    found = pertinax.load(path, {"keys": keys, "mine": ..., "who": ...}, extra="ignore")
    same = jax.random.key_data(found["keys"]).addressable_shards[0].data
    wanted = jax.random.key_data(keys).addressable_shards[0].data
    return (
        bool((same == wanted).all()),
        found["mine"].tolist(),
        int(found["who"]),
        _boxes(Path(path))["elsewhere"],
    )


def test_keys_and_arrays_that_live_elsewhere_or_nowhere_else(tmp_path: Path) -> None:
    folder = tmp_path / "local"
    answers = processes.run(_save_odd, 2, str(folder), folder=tmp_path / "job", devices=2)
    assert answers == [(True, [0] * 3, 0, [0, 1]), (True, [1] * 3, 1, [])]
    assert sorted(os.listdir(folder)) == ["0", "1"]


def test_one_process_by_itself_saves_whole_items(tmp_path: Path) -> None:
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=ALONE)
    with ocp.Checkpointer(handler, multiprocessing_options=ALONE) as checkpointer:
        checkpointer.save(tmp_path / "s", args=ocp.args.PyTreeSave({"w": jnp.arange(4.0)}))
    assert not pertinax.describe(tmp_path / "s").partial
    assert pertinax.load(tmp_path / "s")["w"].tolist() == [0, 1, 2, 3]
