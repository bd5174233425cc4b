# SPDX-License-Identifier: Apache-2.0
"""Replicas of a mesh. The answers are those of Orbax 0.8.0 where it gives any on CPU."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from pertinax.checkpoint import multihost
from pertinax.checkpoint.multihost import multislice, replicas


def mesh() -> Mesh:
    return Mesh(np.array(jax.devices()).reshape(2, 4), ("replica", "data"))


def ids(devices: Any) -> list[int]:
    return [device.id for device in np.asarray(devices).flat]


def test_devices_of_a_replica():
    assert replicas.slice_count(mesh()) == 2
    assert replicas.slice_count(mesh(), replica_axis_index=1) == 4
    assert ids(replicas.slice_devices(mesh())) == [0, 1, 2, 3]
    assert ids(replicas.slice_devices(mesh(), replica_id=1)) == [4, 5, 6, 7]
    assert ids(replicas.slice_devices(mesh(), replica_id=2, replica_axis_index=1)) == [2, 6]
    with pytest.raises(ValueError, match="no replica 2"):
        replicas.slice_devices(mesh(), replica_id=2)


def test_a_single_process_is_in_every_replica():
    assert replicas.process_slice_id(0, mesh()) == 0
    assert replicas.process_slice_id(5, mesh()) == -1
    assert replicas.in_slice(0, mesh(), replica_id=1)
    assert not replicas.in_slice(5, mesh())
    assert ids(replicas.local_slice_devices(mesh())) == [0, 1, 2, 3]
    assert replicas.primary_process_in_slice(mesh(), replica_id=1) == 0


def test_ids_and_processes_of_a_replica():
    assert replicas.get_primary_replica_ids_and_pids(0, mesh(), 1) == ({4, 5, 6, 7}, {0})
    assert replicas.get_primary_replica_ids_and_pids(1, mesh(), 1) == ({1, 5}, {0})


@dataclass(frozen=True)
class Far:
    """A device of another process; it has a slice of its own, which does not count."""

    id: int
    process_index: int
    slice_index: int = 0


class FarMesh:
    """As much of a mesh as replicas ask for, over devices that are not here."""

    def __init__(self, shape: tuple[int, ...], per_process: int) -> None:
        count = int(np.prod(shape))
        devices = [Far(i + 100, i // per_process) for i in range(count)]
        self.devices = np.array(devices, dtype=object).reshape(shape)
        self.shape = dict(zip(("replica", "data"), shape, strict=True))


@pytest.mark.wd("Kw-08")
@pytest.mark.parametrize("own", range(4))
def test_replicas_of_several_processes_come_from_the_mesh_alone(own, monkeypatch):
    monkeypatch.setattr(multihost, "process_index", lambda: own)
    far: Any = FarMesh((2, 4), per_process=2)
    assert replicas.process_slice_id(own, far) == own // 2
    assert replicas.process_slice_id(own, far, replica_axis_index=1) == 2 * (own % 2)
    assert [replicas.in_slice(own, far, replica_id=i) for i in range(2)] == [own < 2, own > 1]
    assert len(ids(replicas.local_slice_devices(far))) == 4
    assert [replicas.primary_process_in_slice(far, replica_id=i) for i in range(2)] == [0, 2]
    monkeypatch.setattr(multihost, "process_index", lambda: 9)
    with pytest.raises(ValueError, match="process 9 has no device"):
        replicas.local_slice_devices(far)


@pytest.mark.parametrize("axis", [0, 1])
def test_the_layout_of_one_replica(axis):
    sharding = NamedSharding(mesh(), PartitionSpec("data"))
    one = replicas.get_single_slice_sharding(sharding, replica_id=1, replica_axis_index=axis)
    assert one.spec == sharding.spec
    assert one.mesh.axis_names == ("replica", "data")
    assert one.mesh.devices.shape == ((1, 4) if axis == 0 else (2, 1))
    assert ids(one.mesh.devices) == ([4, 5, 6, 7] if axis == 0 else [1, 5])
    with pytest.raises(ValueError, match="NamedSharding"):
        replicas.get_single_slice_sharding(
            SingleDeviceSharding(jax.devices()[0]), replica_id=0, replica_axis_index=0
        )


def test_all_of_it_is_found_where_orbax_has_it():
    names = (
        *("slice_count", "slice_devices", "process_slice_id", "in_slice", "local_slice_devices"),
        *("primary_process_in_slice", "get_primary_replica_ids_and_pids"),
        *("get_single_slice_sharding", "get_device_memory", "get_leaf_memory_per_device"),
        *("tree_memory_per_device", "get_available_memory", "broadcast_one_replica_to_all"),
    )
    assert [name for name in names if not hasattr(multislice, name)] == []
