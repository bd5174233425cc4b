# SPDX-License-Identifier: Apache-2.0
"""What `test_utils` gives to the tests of programs."""

import asyncio
import itertools
import logging
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pertinax import checkpoint as ocp
from pertinax.checkpoint import multihost, test_utils, type_handlers
from pertinax.checkpoint.metadata import checkpoint_metadata_store
from pertinax.checkpoint.multihost import counters
from pertinax.checkpoint.path import step as steps
from pertinax.checkpoint.serialization import tensorstore_utils
from tests.checkpoint.data.twins import same

P = PartitionSpec
case = unittest.TestCase()


def names(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*"))


# -------------------------------------------------------------------------------------- directories


@pytest.mark.row("R163")
def test_a_directory_is_erased_and_made_anew(tmp_path: Path):
    for given in (
        tmp_path / "a" / "b",
        str(tmp_path / "a" / "b"),
        epath.Path(tmp_path / "a" / "b"),
    ):
        made = test_utils.erase_and_create_empty(given)
        assert isinstance(made, epath.Path)
        assert names(tmp_path / "a") == ["b"]
        (made / "deep").mkdir()
        (made / "deep" / "file").write_text("x")
    assert not hasattr(test_utils, "create_empty")


def test_a_directory_is_emptied_if_it_is_there(tmp_path: Path):
    (tmp_path / "d" / "deep").mkdir(parents=True)
    (tmp_path / "d" / "deep" / "file").write_text("x")
    (tmp_path / "d" / "file").write_text("x")
    assert test_utils.empty_directory(tmp_path / "d")
    assert names(tmp_path) == ["d"]
    assert not test_utils.empty_directory(tmp_path / "nothing")


def test_a_directory_is_logged_as_a_tree(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_text("x")
    with caplog.at_level(logging.INFO):
        test_utils.print_directory(tmp_path)
    assert [record.getMessage() for record in caplog.records][1:] == ["..d/", "....f"]


def test_an_unfinished_directory_is_made_and_committed(tmp_path: Path):
    final = epath.Path(tmp_path / "it")
    unfinished = epath.Path(tmp_path / "it.orbax-checkpoint-tmp-7")
    store = checkpoint_metadata_store(enable_write=True, blocking_write=True)
    for _ in range(2):  # what was left over the first time is removed the second
        made = test_utils.create_tmp_directory(
            unfinished, final, path_permission_mode=0o750, checkpoint_metadata_store=store
        )
        assert names(tmp_path) == [unfinished.name, f"{unfinished.name}/_CHECKPOINT_METADATA"]
    assert made == unfinished
    assert (tmp_path / unfinished.name).stat().st_mode & 0o777 == 0o750
    test_utils.ensure_atomic_save(unfinished, final, checkpoint_metadata_store=store)
    assert names(tmp_path) == ["it", "it/_CHECKPOINT_METADATA"]
    note = store.read(final)
    assert note is not None
    assert 0 < note.init_timestamp_nsecs <= note.commit_timestamp_nsecs
    with pytest.raises(FileExistsError):
        test_utils.create_tmp_directory(final, final)
    with pytest.raises(FileExistsError):
        test_utils.ensure_atomic_save(test_utils.create_tmp_directory(unfinished, final), final)


def test_a_directory_that_has_its_final_name_gets_the_marker(tmp_path: Path):
    final = epath.Path(tmp_path / "it")
    test_utils.create_tmp_directory(final, final)
    test_utils.ensure_atomic_save(final, final)
    assert (final / steps._COMMIT_SUCCESS_FILE).read_text().endswith(str(final))


@pytest.mark.parametrize(("prefix", "name"), [(None, "5"), ("run", "run_5")])
def test_a_fake_of_an_interrupted_save_is_no_step_and_is_cleaned(
    prefix: str | None, name: str, tmp_path: Path
):
    root = epath.Path(tmp_path)
    options = ocp.CheckpointManagerOptions(step_prefix=prefix)
    with ocp.CheckpointManager(root, options=options) as manager:
        manager.save(4, args=ocp.args.StandardSave({"a": 1}))
        manager.wait_until_finished()
        fake = test_utils.save_fake_tmp_dir(
            root, 5, "params", subdirs=["x", "y/z"], step_prefix=prefix
        )
        assert steps.is_tmp_checkpoint(fake)
        assert steps.is_tmp_checkpoint(fake.parent)
        assert fake.parent.name.startswith(f"{name}.orbax-checkpoint-tmp-")
        assert names(Path(fake)) == ["x", "y", "y/z"]
        assert manager.all_steps(read=True) == [4]
    options = ocp.CheckpointManagerOptions(step_prefix=prefix, cleanup_tmp_directories=True)
    with ocp.CheckpointManager(root, options=options) as manager:
        assert not fake.parent.exists()
        assert manager.save(5, args=ocp.args.StandardSave({"a": 2}))


# --------------------------------------------------------------------------------- trees and arrays


def test_the_trees_are_those_that_tests_know():
    tree = test_utils.setup_pytree(add=2)
    assert tree["a"].tolist() == list(range(2, 10))
    assert tree["b"].tolist() == list(range(2, 34, 2))
    assert tree["c"]["a"].tolist() == [[2, 5, 8, 11], [14, 17, 20, 23]]
    assert tree["c"]["e"][1].tolist() == [18, 22, 26, 30]


@pytest.mark.parametrize("reverse", [False, True])
def test_the_sharded_tree_comes_with_its_meshes_and_axes(reverse: bool):
    tree, meshes, axes = test_utils.setup_sharded_pytree(reverse_devices=reverse)
    same(jax.tree.map(np.asarray, tree), jax.tree.map(np.int32, test_utils.setup_pytree()))
    shardings = jax.tree.map(NamedSharding, meshes, axes, is_leaf=test_utils.is_leaf)
    assert jax.tree.map(lambda x: x.sharding, tree) == shardings
    assert meshes["a"].devices[0] == jax.devices()[-1 if reverse else 0]
    assert tree["a"].sharding.is_fully_replicated
    assert tree["c"]["e"].sharding.shard_shape((4, 4)) == (2, 1)
    other, _, _ = test_utils.setup_sharded_pytree(test_utils.setup_pytree(add=1))
    test_utils.assert_tree_equal(case, test_utils.apply_function(tree, lambda x: x + 1), other)


def test_functions_keep_the_layout_and_arrays_can_be_replicated():
    tree, _, _ = test_utils.setup_sharded_pytree()
    doubled = test_utils.apply_function(tree, lambda x: x * 2)
    assert doubled["b"].sharding == tree["b"].sharding
    everywhere = test_utils.replicate_sharded_array(tree["c"]["a"])
    assert everywhere.sharding.is_fully_replicated
    assert len(everywhere.addressable_shards) == 8
    assert everywhere.tolist() == tree["c"]["a"].tolist()
    mixed = test_utils.apply_function({"n": np.arange(2), "none": None}, lambda x: x + 1)
    same(jax.tree.map(np.asarray, mixed), {"n": np.arange(1, 3, dtype=np.int32), "none": None})


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ({"a": 1}, {"a": 2}),
        ({"a": 1}, {"b": 1}),
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"a": 1}, {"a": 1.0}),
        ([1, 2], (1, 2)),
        ({"a": {}}, {"a": None}),
        (np.arange(2), np.arange(2) + 1),
        (np.arange(2), jnp.arange(2)),
        (jnp.arange(2), np.arange(2)),
        (jnp.zeros((2, 1)), jnp.zeros(2)),
        (test_utils.MuNu(1, 2), test_utils.MuNu(1, 3)),
        (test_utils.EmptyNamedTuple(), ()),
    ],
)
def test_trees_that_differ_are_told_apart(expected: Any, actual: Any):
    with pytest.raises(AssertionError):
        test_utils.assert_tree_equal(case, expected, actual)
    for tree in (expected, actual):
        test_utils.assert_tree_equal(case, tree, tree)


def test_the_shards_of_arrays_are_compared():
    tree, _, _ = test_utils.setup_sharded_pytree()
    test_utils.assert_array_equal(case, tree["b"], tree["b"] + 0)
    changed = tree["b"].at[15].set(0)
    with pytest.raises(AssertionError):
        test_utils.assert_array_equal(case, tree["b"], changed)


@pytest.mark.row("R013")
def test_nothing_strips_empty_nodes_because_they_are_saved(tmp_path: Path):
    import optax

    absent = ("preprocess_flax_pytree", "postprocess_flax_pytree")
    assert not [name for name in absent if hasattr(test_utils, name)]
    nested = test_utils.NamedTupleWithNestedAttributes(
        nested_mu_nu=test_utils.MuNu(jnp.ones(2), None),
        nested_empty_named_tuple=test_utils.EmptyNamedTuple(),
        nested_dict={},
    )
    tx = optax.chain(optax.clip(1.0), optax.masked(optax.adam(0.1), {"w": True, "b": False}))
    tree = {"nested": nested, "optax": tx.init({"w": jnp.ones(3), "b": jnp.zeros(2)})}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "it", tree)
        checkpointer.wait_until_finished()
        found = checkpointer.restore(tmp_path / "it", tree)
    test_utils.assert_tree_equal(case, tree, found)


# ------------------------------------------------------------------------------------------- meshes


def test_a_mesh_of_replicas_needs_all_processes_in_equal_numbers():
    mesh = test_utils.get_fake_global_mesh_for_slices([{0}])
    assert (mesh.axis_names, mesh.devices.shape) == (("replica", "data"), (1, 8))
    turned = test_utils.get_fake_global_mesh_for_slices([{0}], replica_axis_index=1)
    assert (turned.axis_names, turned.devices.shape) == (("data", "replica"), (8, 1))
    for processes in ([], [{1}], [{0}, {1}]):
        with pytest.raises(ValueError, match="All processes must be accounted for"):
            test_utils.get_fake_global_mesh_for_slices(processes)
    with pytest.raises(ValueError, match="the same number of devices"):
        test_utils.get_fake_global_mesh_for_slices([{0}, set()])


@pytest.mark.parametrize("axis", [0, 1])
def test_one_replica_of_an_array_and_args_to_restore_it_alone(axis: int):
    devices = np.array(jax.devices()).reshape(2, 4)
    axes = ("replica", "data") if axis == 0 else ("data", "replica")
    mesh = Mesh(devices if axis == 0 else devices.T, axes)
    array = jax.device_put(jnp.arange(8.0), NamedSharding(mesh, P("data")))
    (alone,) = test_utils.select_single_replica([array], mesh)
    assert alone.sharding.device_set == set(jax.devices()[:4])
    assert alone.tolist() == array.tolist()
    args = test_utils.create_single_replica_restore_args(array, mesh, P("data"), axis)
    assert isinstance(args, type_handlers.SingleReplicaArrayRestoreArgs)
    assert (args.global_shape, args.dtype) == ((8,), np.dtype("f4"))
    assert args.sharding == array.sharding
    assert args.single_replica_sharding == alone.sharding
    assert args.single_replica_sharding.mesh.shape == {"replica": 1, "data": 4}


# ----------------------------------------------------------------------------------- running tests


def test_each_test_has_names_and_counters_of_its_own():
    seen: dict[str, Any] = {}

    @test_utils.barrier_compatible_test
    class Tests(unittest.TestCase):
        def test_one(self) -> None:
            key = multihost._unique_barrier_key("key")
            seen["one"] = (key, [counters.async_save_counter() for _ in range(2)])

        def test_two(self) -> None:
            seen["two"] = (multihost._unique_barrier_key("key"), [counters.async_save_counter()])

        def helper(self) -> str:
            return counters.async_save_counter()

    before = int(counters.async_save_counter())
    for order in (("test_two", "test_one"), ("test_one", "test_two")):
        for name in order:
            result = unittest.TestResult()
            Tests(name).run(result)
            assert result.wasSuccessful()
        (one_key, one), (two_key, two) = seen["one"], seen["two"]
        assert (one_key != two_key, one_key.startswith("key")) == (True, True)
        assert [text.rpartition("_")[2] for text in (*one, *two)] == ["0", "1", "0"]
        assert len({*one, *two}) == 3
    assert multihost._unique_barrier_key("key") == "key"
    assert int(Tests("test_one").helper()) == before + 1
    test_utils.sync_global_processes("alone")


def test_the_driver_of_local_paths_is_the_ordinary_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tensorstore_utils, "DEFAULT_DRIVER", "memory")
    test_utils.set_tensorstore_driver_for_test()
    assert tensorstore_utils.build_kvstore_tspec("/x")["base"]["driver"] == "file"


def test_registered_handlers_are_registered_for_the_block_only():
    class Mine(type_handlers.NumpyHandler):
        pass

    class Special:
        pass

    registry: Any = type_handlers.GLOBAL_TYPE_HANDLER_REGISTRY
    before = list(registry._type_registry)
    with test_utils.register_type_handler(np.ndarray, Mine(), None):
        assert isinstance(type_handlers.get_type_handler(np.ndarray), Mine)
        with test_utils.register_type_handler(Special, Mine(), lambda ty: ty is Special):
            assert isinstance(type_handlers.get_type_handler(Special), Mine)
        assert not type_handlers.has_type_handler(Special)
    with test_utils.ocdbt_checkpoint_context(True, None):
        assert registry._type_registry != before
    assert registry._type_registry == before
    with pytest.raises(KeyError), test_utils.register_type_handler(np.ndarray, Mine(), None):
        raise KeyError
    assert registry._type_registry == before
    assert type(type_handlers.get_type_handler("np.ndarray")) is type_handlers.NumpyHandler


def test_the_handler_finalizes_what_it_saves(tmp_path: Path):
    directory = test_utils.erase_and_create_empty(tmp_path / "it")
    handler = test_utils.PyTreeCheckpointHandler()
    handler.save(directory, test_utils.setup_pytree())
    assert (directory / "manifest.ocdbt").exists()
    same(handler.restore(directory), test_utils.setup_pytree())


def test_the_failing_handler_fails_in_the_background(tmp_path: Path):
    with ThreadPoolExecutor(1) as executor:
        handler = test_utils.ErrorCheckpointHandler(
            ocp.PyTreeCheckpointHandler(), executor, fails_after_s=0
        )
        checkpointer = ocp.AsyncCheckpointer(handler)
        checkpointer.save(tmp_path / "bad", args=test_utils.ErrorSaveArgs({"a": 1}))
        with pytest.raises(SystemError, match="fails in the background"):
            checkpointer.wait_until_finished()
        assert not (tmp_path / "bad").exists()
        with ocp.Checkpointer(handler) as synchronous:
            synchronous.save(tmp_path / "good", args=test_utils.ErrorSaveArgs({"a": 1}))
            found = synchronous.restore(tmp_path / "good", args=test_utils.ErrorRestoreArgs(None))
        assert found == {"a": 1}


def test_the_slow_limiter_lets_groups_through_one_after_another():
    limiter = test_utils.get_byte_limiter(9, 0.02)
    assert isinstance(limiter, test_utils.TestLimitInFlightBytes)

    async def one() -> None:
        await limiter.wait_for_bytes(4)
        await limiter.release_bytes(4)

    async def main() -> None:
        await asyncio.gather(*(one() for _ in range(4)))

    asyncio.run(main())
    assert len(limiter.completion_times) == 4
    test_utils.assert_every_n_is_x_apart(case, limiter.completion_times, 2, 0.02)


def test_values_come_in_groups():
    check = test_utils.assert_every_n_is_x_apart
    check(case, [], 2, 1)
    check(case, [0, 0.1, 1.2, 1.3], 2, 1)
    for values in ([0, 0, 1, 1, 1.5, 2], [0, 0, 1], [0, 0, 0.5, 0.6]):
        with pytest.raises(AssertionError):
            check(case, values, 2, 1)


def test_the_setup_for_limits_saves_and_restores(tmp_path: Path):
    handler, tree, restore_args = test_utils.concurrent_gb_test_setup()
    assert {leaf.nbytes for leaf in tree.values()} == {4}
    directory = test_utils.erase_and_create_empty(tmp_path / "it")
    handler.save(directory, tree)
    found = handler.restore(directory, restore_args=restore_args)
    test_utils.assert_tree_equal(case, tree, found)
    assert set(itertools.chain(tree, restore_args)) == set("abcd")
