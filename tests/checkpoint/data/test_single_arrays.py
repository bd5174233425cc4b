# SPDX-License-Identifier: Apache-2.0
"""Items that are one array: what goes in, what comes back, and in which files."""

import json

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import pertinax
from pertinax import checkpoint as door
from pertinax.errors import CorruptCheckpoint
from tests.checkpoint.data.twins import agree, same, sharded

orbax = pytest.importorskip("orbax.checkpoint")


def saved(path, value, save_args=None, name=None):
    with door.Checkpointer(door.ArrayCheckpointHandler(name)) as checkpointer:
        checkpointer.save(path, args=door.args.ArraySave(value, save_args))
    return path


def restored(path, restore_args=None, name=None, ocp=door):
    with ocp.Checkpointer(ocp.ArrayCheckpointHandler(name)) as checkpointer:
        return checkpointer.restore(path, args=ocp.args.ArrayRestore(restore_args=restore_args))


VALUES = {
    "jax": lambda: jnp.arange(6.0).reshape(2, 3),
    "sharded": lambda: sharded(PartitionSpec("a", "b")),
    "numpy": lambda: np.arange(5, dtype=np.int16),
    "empty": lambda: np.zeros((0, 3)),
    "int": lambda: 5,
    "float": lambda: 2.5,
    "number": lambda: np.float32(1.5),
    "flag": lambda: True,
}


@pytest.mark.row("R008")
@pytest.mark.parametrize("make", VALUES.values(), ids=VALUES)
def test_without_args_an_array_of_numpy_comes_back(tmp_path, make):
    value = make()
    found = restored(saved(tmp_path / "c", value))
    assert type(found) is np.ndarray
    assert found.dtype == np.asarray(value).dtype
    assert np.array_equal(found, value)
    assert pertinax.verify(tmp_path / "c").ok


@pytest.mark.row("R008")
def test_args_say_what_it_becomes(tmp_path):
    path = saved(tmp_path / "c", sharded(PartitionSpec("a", "b")))
    same(restored(path, door.ArrayRestoreArgs()), sharded(PartitionSpec("a", "b")))
    layout = sharded(PartitionSpec("b")).sharding
    spread = restored(path, door.ArrayRestoreArgs(sharding=layout, dtype=jnp.bfloat16))
    assert (spread.sharding, spread.dtype) == (layout, jnp.bfloat16)
    with pytest.raises(ValueError, match="not compatible with the stored shape"):
        restored(path, door.ArrayRestoreArgs(global_shape=(4, 2)))
    assert restored(path, door.ArrayRestoreArgs(global_shape=(4, 2), strict=False)).shape == (4, 2)
    number = saved(tmp_path / "n", 7)
    assert restored(number, door.RestoreArgs(restore_type=int)) == 7
    assert type(restored(number, door.RestoreArgs(restore_type=int))) is int


def test_save_args_give_dtype_and_chunks(tmp_path):
    args = door.SaveArgs(dtype=np.dtype(np.float16), chunk_byte_size=8)
    path = saved(tmp_path / "c", np.arange(12.0), args, "weights")
    text = json.loads((path / "weights" / ".zarray").read_text())
    assert (text["dtype"], text["chunks"]) == ("<f2", [4])
    assert sorted(file.name for file in (path / "weights").iterdir()) == [".zarray", "0", "1", "2"]
    assert restored(path, name="weights").tolist() == list(range(12))


@pytest.mark.parametrize("value", ["text", None, [1], {"a": 1}, b"b", 1j, object()], ids=type)
def test_only_arrays_and_numbers_are_taken(tmp_path, value):
    with pytest.raises(TypeError, match="Unsupported type"):
        saved(tmp_path / "c", value)
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_there_is_not_found(tmp_path):
    path = saved(tmp_path / "c", np.arange(3))
    with pytest.raises(FileNotFoundError):
        restored(path, name="other")
    (path / "empty").mkdir()
    with pytest.raises(FileNotFoundError):
        door.ArrayCheckpointHandler().restore(path / "empty")


def test_a_flipped_bit_is_found(tmp_path):
    path = saved(tmp_path / "c", np.arange(3))
    data = bytearray((path / "checkpoint" / "0").read_bytes())
    data[0] ^= 1
    (path / "checkpoint" / "0").write_bytes(data)
    with pytest.raises(CorruptCheckpoint, match="checkpoint/0"):
        restored(path)


@pytest.mark.interop
@pytest.mark.parametrize("name", [name for name in VALUES if name != "empty"])  # Orbax refuses it
def test_todays_orbax_reads_ours_and_we_read_its(tmp_path, name):
    value = VALUES[name]()
    with orbax.Checkpointer(orbax.ArrayCheckpointHandler()) as checkpointer:
        checkpointer.save(tmp_path / "theirs", args=orbax.args.ArraySave(value))
    ours = saved(tmp_path / "ours", value)
    same(restored(ours, ocp=orbax), restored(tmp_path / "theirs", ocp=orbax))
    same(restored(tmp_path / "theirs"), restored(ours))


@pytest.mark.interop
def test_an_item_of_a_manager(tmp_path):
    def program(ocp, root):
        with ocp.CheckpointManager(root) as manager:
            manager.save(3, args=ocp.args.Composite(mean=ocp.args.ArraySave(jnp.arange(4.0))))
            manager.wait_until_finished()
            kept = ocp.ArrayRestoreArgs()
            args = ocp.args.Composite(mean=ocp.args.ArrayRestore(restore_args=kept))
            return manager.restore(3, args=args)["mean"]

    agree(program, tmp_path)
    assert pertinax.verify(tmp_path / "mine" / "3").ok
    loaded = pertinax.load(tmp_path / "mine" / "3", item="mean")
    assert loaded["checkpoint"].tolist() == [0, 1, 2, 3]


def packed(array) -> bytes:
    payload = msgpack.packb([array.shape, array.dtype.name, array.tobytes()])
    return msgpack.packb({"ELEMENT": msgpack.ExtType(1, payload)})


def test_the_oldest_files_are_read(tmp_path):
    array = np.arange(8, dtype=np.float32)
    (tmp_path / "checkpoint").write_bytes(packed(array))
    handler = door.ArrayCheckpointHandler()
    assert handler.restore(tmp_path).tolist() == array.tolist()
    layout = sharded(PartitionSpec("a", "b")).sharding
    leaf = door.ArrayRestoreArgs(sharding=layout, global_shape=(4, 2), dtype=jnp.bfloat16)
    spread = handler.restore(tmp_path, restore_args=leaf)
    assert isinstance(spread, jax.Array)
    assert (spread.sharding, spread.dtype, spread.shape) == (layout, jnp.bfloat16, (4, 2))
    assert np.array_equal(spread, array.reshape(4, 2))
    (tmp_path / "checkpoint").write_bytes(msgpack.packb({"OTHER": 1}))
    with pytest.raises(CorruptCheckpoint, match="no array in it"):
        handler.restore(tmp_path)
