# SPDX-License-Identifier: Apache-2.0
"""Bytes that a process moves: counted at the store, and by the kernel.

Knows how to count, and states whose bytes can be worked out anywhere. Functions here run inside the
processes of a job; `bench/hosts_bytes.py` prints what they say.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import pertinax
from pertinax import checkpoint as ocp
from pertinax._core.chunk_bytes import ChunkBytes
from pertinax._store.local import LocalStore
from pertinax.checkpoint import type_handlers as th

MIB = 1 << 20
Layout = tuple[tuple[int, ...], str, tuple[Any, ...]]
LAYOUTS: Mapping[str, Mapping[str, Layout]] = {
    "replicated": {"w": ((4096, 1024), "float32", ())},
    "sharded": {
        "w": ((4096, 1024), "float32", ("data",)),
        "v": ((4096, 512), "float32", ("model",)),
    },
    "two replicas": {
        "w": ((4096, 1024), "float32", ("model",)),
        "v": ((512, 4096), "bfloat16", (None, "model")),
    },
    "many small": {
        f"layer{i}/{name}": (shape, "float32", ())
        for i in range(48)
        for name, shape in (("kernel", (64, 256)), ("bias", (64,)))
    },
}
"""States by name; axes are those of `mesh_of`."""


def mesh_of() -> Mesh:
    """All devices of the job: as many replicas as there are pairs of processes, at least two."""
    devices = np.array(jax.devices())
    return Mesh(devices.reshape(2, -1), ("data", "model"))


def host_of(shape: tuple[int, ...], dtype: str) -> np.ndarray[Any, Any]:
    """Elements that are all different, in so far as the dtype allows it."""
    count = math.prod(shape)
    return (
        (np.arange(count, dtype=np.int64) * 2654435761 % 65521)
        .astype(jnp.dtype(dtype))
        .reshape(shape)
    )


def state_of(name: str) -> dict[str, jax.Array]:
    mesh = mesh_of()
    return {
        key: jax.make_array_from_callback(
            shape,
            NamedSharding(mesh, PartitionSpec(*spec)),
            lambda index, shape=shape, dtype=dtype: host_of(shape, dtype)[index],
        )
        for key, (shape, dtype, spec) in LAYOUTS[name].items()
    }


def right(state: Mapping[str, jax.Array], name: str) -> bool:
    """Whether this process has the bits that it should have."""
    return all(
        np.asarray(shard.data).tobytes()
        == np.ascontiguousarray(host_of(*LAYOUTS[name][key][:2])[shard.index]).tobytes()
        for key, array in state.items()
        for shard in array.addressable_shards
    )


def held(state: Mapping[str, jax.Array]) -> int:
    """Bytes that the devices of this process need, each distinct one once."""
    return sum(
        shard.data.nbytes
        for array in state.values()
        for shard in {str(shard.index): shard for shard in array.addressable_shards}.values()
    )


class CountingStore:
    """This machine's files, and how many bytes of array data went each way.

    Files are never mapped, so that what is read can be counted.
    """

    def __init__(self) -> None:
        self.written = self.read = 0
        self._inner = LocalStore()

    def create(self, path: str, length: int = 0) -> Any:
        return _Counted(self._inner.create(path, length), self, array_data="/d/" in path)

    def open(self, path: str) -> Any:
        return _Counted(self._inner.open(path), self, array_data="/d/" in path)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _Counted:
    def __init__(self, inner: Any, store: CountingStore, *, array_data: bool) -> None:
        self._inner = inner
        self._store = store
        self._array_data = array_data

    def write_at(self, offset: int, buffers: Any) -> None:
        if self._array_data:
            self._store.written += sum(memoryview(one).nbytes for one in buffers)
        self._inner.write_at(offset, buffers)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        if self._array_data:
            self._store.read += len(buffer)
        self._inner.read_into(offset, buffer)

    def map(self, *, populate: bool = True) -> None:
        return None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *error: object) -> None:
        self._inner.__exit__(*error)


def save_and_load(path: str, name: str) -> tuple[int, int, int, bool]:
    """By the front door: bytes written, bytes read into the same layout, bytes that it needs."""
    state = state_of(name)
    writing, reading = CountingStore(), CountingStore()
    pertinax.save(path, state, store=writing)
    target = {
        key: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)
        for key, array in state.items()
    }
    loaded = pertinax.load(path, target, store=reading)
    return writing.written, reading.read, held(state), right(loaded, name)


def save_by_orbax_door(path: str, name: str) -> int:
    """Bytes that the kernel was given to write during the save."""
    state = state_of(name)
    with ocp.StandardCheckpointer() as checkpointer:
        before = moved("wchar")
        checkpointer.save(path, state)
        checkpointer.wait_until_finished()
        return moved("wchar") - before


def moved(what: str) -> int:
    """`rchar` or `wchar`: bytes that this process has read or written by system calls."""
    with open("/proc/self/io") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:"))


_ODD_BITS: Mapping[str, tuple[int, ...]] = {
    "float32": (0x80000000, 0x7FC00001, 0xFFC12345, 0x00000001),
    "bfloat16": (0x8000, 0x7FC1, 0xFF81, 1),
    "float16": (0x8000, 0x7E01, 0xFD05, 1),
    "float8_e4m3fn": (0x80, 0x7F, 0xFF, 1),
    "float8_e5m2": (0x80, 0x7D, 0xFE, 1),
    "int8": (0x80, 0x7F, 0xFF, 1),
    "uint32": (0x80000000, 0x7FFFFFFF, 0xFFFFFFFF, 1),
    "int32": (0x80000000, 0x7FFFFFFF, 0xFFFFFFFF, 1),
    "bool": (0, 1, 1, 0),
}


def odd_of(dtype: str) -> np.ndarray[Any, Any]:
    """-0.0, NaNs with a payload, the least number above zero: whatever `dtype` has of them."""
    itemsize = jnp.dtype(dtype).itemsize
    bits = np.array(_ODD_BITS[dtype] * 16, f"u{itemsize}")
    return bits.view(jnp.dtype(dtype)).reshape(8, 8)


def odd_state(axis: int) -> dict[str, np.ndarray[Any, Any]]:
    del axis
    return {"large": host_of((4096, 1024), "float32")} | {
        dtype: odd_of(dtype) for dtype in _ODD_BITS
    }


def replicas_of(axis: int) -> Mesh:
    """Two replicas, each of whole processes, told apart by axis 0 or 1."""
    devices = np.array(jax.devices()).reshape(2, -1)
    return (
        Mesh(devices, ("replica", "model")) if axis == 0 else Mesh(devices.T, ("model", "replica"))
    )


def restore_by_one_replica(path: str, axis: int) -> tuple[int, int, list[str]]:
    """Bytes read, mapped files included, by a restore through one replica; bytes that this process
    needs; and which arrays are not, bit for bit, what was saved.
    """
    mesh = replicas_of(axis)
    sharding = NamedSharding(mesh, PartitionSpec("model"))
    own = ocp.multihost.multislice.local_slice_devices(mesh, replica_axis_index=axis)
    single = NamedSharding(Mesh(np.expand_dims(own, axis), mesh.axis_names), PartitionSpec("model"))
    handler = th.SingleReplicaArrayHandler(axis, broadcast_memory_limit_bytes=1 * MIB)
    registry = th.create_type_handler_registry(
        (int, th.ScalarHandler()), (np.ndarray, th.NumpyHandler()), (jax.Array, handler)
    )
    whole = odd_state(axis)
    args = {
        key: th.SingleReplicaArrayRestoreArgs(
            sharding=sharding,
            single_replica_sharding=single,
            global_shape=value.shape,
            dtype=value.dtype,
        )
        for key, value in whole.items()
    }
    target = {
        key: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=sharding)
        for key, value in whole.items()
    }
    reader = ocp.Checkpointer(ocp.PyTreeCheckpointHandler(type_handler_registry=registry))
    read = 0
    load = ChunkBytes.load

    def count(self: ChunkBytes, rows: Any, wanted: Any = None) -> Any:
        nonlocal read
        lengths = {row: ((0, self._length[row]),) for row in rows} | dict(wanted or {})
        read += sum(stop - start for parts in lengths.values() for start, stop in parts)
        return load(self, rows, wanted)

    ChunkBytes.load = count  # type: ignore[method-assign]
    before = moved("rchar")
    found = reader.restore(path, args=ocp.args.PyTreeRestore(target, restore_args=args))
    assert moved("rchar") - before < read + 2 * MIB  # nobody reads in another way
    wrong = [
        key
        for key, array in found.items()
        if array.sharding != sharding
        or any(
            np.asarray(shard.data).tobytes()
            != np.ascontiguousarray(whole[key][shard.index]).tobytes()
            for shard in array.addressable_shards
        )
    ]
    reader.close()
    return read, held(found), wrong


def save_sharded(path: str) -> None:
    """The state of `odd_state`, laid out over the devices of the job."""
    sharding = NamedSharding(replicas_of(0), PartitionSpec("model"))
    pertinax.save(
        path,
        {
            key: jax.make_array_from_callback(
                value.shape, sharding, lambda index, v=value: v[index]
            )
            for key, value in odd_state(0).items()
        },
    )
