# SPDX-License-Identifier: Apache-2.0
"""Restores in which one replica reads and the others are sent what it has read."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

import pertinax
from pertinax import checkpoint as ocp
from pertinax.checkpoint import type_handlers as th
from pertinax.checkpoint.multihost import multislice
from tests.checkpoint.type_handlers.leaves import with_stock
from tests.hosts import processes


def replicas(axis: int = 0) -> Mesh:
    """Two replicas of half of all devices, along one axis of the mesh or the other."""
    devices = np.array(jax.devices()).reshape(2, -1)
    return Mesh(devices if axis == 0 else devices.T, ("r", "d") if axis == 0 else ("d", "r"))


def args_for(sharding: NamedSharding, axis: int = 0, primary: int = 0, **more: Any) -> Any:
    own = multislice.get_single_slice_sharding(
        sharding, replica_id=primary, replica_axis_index=axis
    )
    return th.SingleReplicaArrayRestoreArgs(sharding=sharding, single_replica_sharding=own, **more)


VALUES: dict[str, Any] = {
    "bool": np.array([True, False, True, True]),
    "int8": np.array([-128, -1, 0, 127], np.int8),
    "int4": np.array([-8, -1, 0, 7], ml_dtypes.int4),
    "uint4": np.array([0, 1, 8, 15], ml_dtypes.uint4),
    "int32": np.array([-(2**31), -1, 0, 2**31 - 1], np.int32),
    "float8": np.array([-0.0, 1.5, np.nan, 448], ml_dtypes.float8_e4m3fn),
    "bfloat16": np.array([-0.0, np.nan, 1e-40, -np.inf], ml_dtypes.bfloat16),
    "float32": np.array([0x80000000, 0x7FC00123, 0xFF800000, 1], np.uint32).view(np.float32),
    "complex64": np.array([complex(-0.0, 1), complex(np.nan, -0.0), 1j, -1], np.complex64),
    "matrix": np.arange(8.0, dtype=np.float32).reshape(4, 2),
    "scalar": np.array(-0.0, np.float32),
}


def spec_of(value: Any) -> PartitionSpec:
    return PartitionSpec("d") if value.ndim else PartitionSpec()


def source_arrays(axis: int, primary: int) -> tuple[jax.Array, ...]:
    shardings = [NamedSharding(replicas(axis), spec_of(value)) for value in VALUES.values()]
    return tuple(
        jax.device_put(
            jnp.asarray(value),
            multislice.get_single_slice_sharding(
                sharding, replica_id=primary, replica_axis_index=axis
            ),
        )
        for value, sharding in zip(VALUES.values(), shardings, strict=True)
    )


@pytest.mark.wd("Kw-07", "Kw-09")
@pytest.mark.row("R195")
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("primary", [0, 1])
def test_every_replica_gets_the_very_bits(axis: int, primary: int):
    given = source_arrays(axis, primary)
    mesh = replicas(axis)
    sent, count = multislice.broadcast_one_replica_to_all(given, mesh, axis, is_source=True)
    assert count == 1
    assert all(array.is_deleted() for array in given), "memory is free early"
    for array, (name, value) in zip(sent, VALUES.items(), strict=True):
        assert array.sharding == NamedSharding(mesh, spec_of(value)), name
        assert array.dtype == value.dtype, name
        for shard in array.addressable_shards:
            assert np.asarray(shard.data).tobytes() == value[shard.index].tobytes(), name


def test_random_keys_can_be_sent():
    sharding = multislice.get_single_slice_sharding(
        NamedSharding(replicas(), PartitionSpec("d")), replica_id=0, replica_axis_index=0
    )
    keys = jax.device_put(jax.random.split(jax.random.key(3), 4), sharding)
    expected = np.asarray(jax.random.key_data(keys))
    ((found,), _) = multislice.broadcast_one_replica_to_all((keys,), replicas(), 0, is_source=True)
    assert found.dtype == jax.random.key(0).dtype
    assert np.array_equal(jax.random.key_data(found), expected)
    assert len(found.sharding.device_set) == len(jax.devices())


@pytest.mark.row("R236")
def test_a_limit_of_memory_makes_several_broadcasts(caplog: pytest.LogCaptureFixture):
    expected = [np.asarray(array).tobytes() for array in source_arrays(0, 0)]
    counts = []
    for limit in (10**6, 16, 1):
        caplog.clear()
        sent, count = multislice.broadcast_one_replica_to_all(
            source_arrays(0, 0), replicas(), 0, is_source=True, memory_limit_bytes=limit
        )
        assert [np.asarray(array).tobytes() for array in sent] == expected
        counts.append(count)
        large = [r for r in caplog.records if "above the limit" in r.getMessage()]
        per_device = [a.addressable_shards[0].data.nbytes for a in source_arrays(0, 0)]
        assert len(large) == sum(size > limit for size in per_device)
    assert counts[0] == 1 < counts[1] < counts[2] == len(VALUES)


def test_what_cannot_be_sent_is_refused():
    one = jax.device_put(jnp.ones(4), SingleDeviceSharding(jax.devices()[0]))
    with pytest.raises(ValueError, match="SingleDeviceSharding"):
        multislice.broadcast_one_replica_to_all((one,), replicas(), 0, is_source=True)
    other = Mesh(np.array(jax.devices())[::-1].reshape(2, -1)[1:], ("r", "d"))
    turned = jax.device_put(jnp.ones(4), NamedSharding(other, PartitionSpec("d")))
    with pytest.raises(ValueError, match="does not lie as one replica"):
        multislice.broadcast_one_replica_to_all((turned,), replicas(), 0, is_source=True)
    with pytest.raises(ValueError, match="at most 1"):
        multislice.broadcast_one_replica_to_all(
            source_arrays(0, 0), replicas(), 0, is_source=True, memory_scaling_factor=2
        )


def save(directory: Path, values: dict[str, Any]) -> None:
    """As the engine saves it: the handler saves like the stock one."""
    handler = th.SingleReplicaArrayHandler()
    registry = with_stock(ocp, (jax.Array, handler))
    ocp.PyTreeCheckpointHandler(type_handler_registry=registry).save(directory, values)
    assert not list(directory.glob("ocdbt.process_*"))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("primary", [0, 1])
@pytest.mark.parametrize("shape", [None, (6, 2)])
def test_a_tree_is_read_by_one_replica(
    tmp_path: Path, axis: int, primary: int, shape: Any, monkeypatch: pytest.MonkeyPatch
):
    save(tmp_path / "a", {"m": jnp.arange(8.0).reshape(4, 2), "s": "text"})
    read: list[Any] = []
    original = multislice.broadcast_one_replica_to_all

    def note(in_tree: Any, *args: Any, **kwargs: Any) -> Any:
        read.extend(array.sharding.device_set for array in in_tree)
        return original(in_tree, *args, **kwargs)

    monkeypatch.setattr(multislice, "broadcast_one_replica_to_all", note)
    handler = th.SingleReplicaArrayHandler(axis, primary, broadcast_memory_limit_bytes=100)
    registry = with_stock(ocp, (jax.Array, handler))
    reader = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    sharding = NamedSharding(replicas(axis), PartitionSpec(None if shape else "d"))
    args = args_for(sharding, axis, primary, global_shape=shape, strict=shape is None)
    found = reader.restore(tmp_path / "a", restore_args={"m": args, "s": ocp.RestoreArgs()})
    assert found["s"] == "text"
    assert found["m"].sharding == sharding
    expected = np.zeros(shape or (4, 2), np.float32)
    expected[:4] = np.arange(8.0).reshape(4, 2)
    assert np.array_equal(found["m"], expected)
    assert read == [set(np.take(replicas(axis).devices, primary, axis).tolist())]


def test_damage_is_found_before_a_replica_reads(tmp_path: Path):
    save(tmp_path / "a", {"m": jnp.arange(8000.0)})
    (file,) = (tmp_path / "a" / "d").iterdir()
    good = file.read_bytes()
    file.write_bytes(good[:100] + b"!" + good[101:])
    registry = with_stock(ocp, (jax.Array, th.SingleReplicaArrayHandler()))
    reader = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    args = args_for(NamedSharding(replicas(), PartitionSpec("d")))
    with pytest.raises(pertinax.errors.CorruptCheckpoint):
        reader.restore(tmp_path / "a", restore_args={"m": args})


def deserialize(handler: Any, args: Any) -> Any:
    infos = [th.ParamInfo(name="m", parent_dir=epath.Path("/nowhere"), is_ocdbt_checkpoint=True)]
    return asyncio.run(handler.deserialize(infos, args))


def test_args_that_say_too_little_are_refused():
    handler = th.SingleReplicaArrayHandler()
    sharding = NamedSharding(replicas(), PartitionSpec("d"))
    with pytest.raises(ValueError, match="SingleReplicaArrayRestoreArgs"):
        deserialize(handler, None)
    with pytest.raises(ValueError, match="not ArrayRestoreArgs"):
        deserialize(handler, [th.ArrayRestoreArgs(sharding=sharding)])
    with pytest.raises(ValueError, match="need a sharding"):
        deserialize(handler, [th.SingleReplicaArrayRestoreArgs()])
    with pytest.raises(ValueError, match="single_replica_sharding"):
        deserialize(handler, [th.SingleReplicaArrayRestoreArgs(sharding=sharding)])


def test_replicas_must_be_told_apart():
    single = SingleDeviceSharding(jax.devices()[0])
    flat = NamedSharding(
        Mesh(np.array(jax.devices()).reshape(1, -1), ("r", "d")), PartitionSpec("d")
    )
    both = NamedSharding(replicas(), PartitionSpec("d"))
    for sharding, handler, why in (
        (single, th.SingleReplicaArrayHandler(), "NamedSharding"),
        (flat, th.SingleReplicaArrayHandler(), "all devices"),
        (both, th.SingleReplicaArrayHandler(primary_replica_id=2), "replica 2"),
        (both, th.SingleReplicaArrayHandler(replica_axis_index=2), "axis 2"),
    ):
        args = th.SingleReplicaArrayRestoreArgs(
            sharding=sharding,
            single_replica_sharding=both,  # type: ignore[arg-type]
        )
        with pytest.raises(th.InvalidShardingError, match=why):
            deserialize(handler, [args])
    assert issubclass(th.InvalidShardingError, ValueError)


# --- Four processes of one device each.


def work(directory: str, axis: int, primary: int) -> Any:
    """In each process: restore, and tell how often it has read and what it has now."""
    logging.disable()
    reads = 0
    original = ocp.serialization.async_deserialize

    async def count(*args: Any, **kwargs: Any) -> Any:
        nonlocal reads
        reads += 1
        return await original(*args, **kwargs)

    ocp.serialization.async_deserialize = count  # type: ignore[assignment]
    mesh = replicas(axis)
    sharding = NamedSharding(mesh, PartitionSpec("d"))
    handler = th.SingleReplicaArrayHandler(axis, primary)
    mine = next(
        i for i in range(2) if jax.local_devices()[0] in np.take(mesh.devices, i, axis).tolist()
    )
    args = args_for(sharding, axis, mine)  # shape and dtype are those that are stored
    place = epath.Path(directory)
    infos = [th.ParamInfo(name=n, parent_dir=place, is_ocdbt_checkpoint=True) for n in ("a", "b")]
    found = asyncio.run(handler.deserialize(infos, [args, args]))
    own = [(str(a.dtype), np.asarray(a.addressable_shards[0].data).tolist()) for a in found]
    return reads, mine, own


def torn(_: str) -> str:
    """Each process has a device in both replicas."""
    devices = np.array(jax.devices()).reshape(-1, 2).T
    sharding = NamedSharding(Mesh(devices, ("r", "d")), PartitionSpec("d"))
    try:
        th.SingleReplicaArrayHandler()._validate_sharding_and_get_primary_replica_processes(
            sharding
        )
    except th.InvalidShardingError as error:
        return str(error)
    return "no error"


@pytest.mark.wd("Kw-10")
@pytest.mark.slow
@pytest.mark.row("R164")
@pytest.mark.row("R179")
@pytest.mark.row("R274")
@pytest.mark.parametrize(("axis", "primary"), [(0, 0), (1, 1)])
def test_only_processes_of_the_primary_replica_read(tmp_path: Path, axis: int, primary: int):
    a = np.arange(4, dtype=np.int8)
    b = np.arange(8.0, dtype=np.float32).reshape(4, 2)
    save(tmp_path / "item", {"a": jnp.asarray(a), "b": jnp.asarray(b)})
    told = processes.run(work, 4, str(tmp_path / "item"), axis, primary, folder=tmp_path / "job")
    assert [reads for reads, _, _ in told] == [2 if mine == primary else 0 for _, mine, _ in told]
    places = sorted((mine, own[0][1]) for _, mine, own in told)
    assert places == [(0, [0, 1]), (0, [2, 3]), (1, [0, 1]), (1, [2, 3])]
    for _, _, ((kind, first), (other, second)) in told:
        assert (kind, other) == ("int8", "float32")
        assert second == b[first[0] : first[0] + 2].tolist()


@pytest.mark.slow
def test_replicas_must_consist_of_whole_processes(tmp_path: Path):
    told = processes.run(torn, 2, "", folder=tmp_path / "job", devices=2)
    assert all("whole processes" in text for text in told)
