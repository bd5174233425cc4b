# SPDX-License-Identifier: Apache-2.0
"""The replicas of a mesh: which devices and processes belong to which.

Knows meshes of which one axis runs over replicas that all hold the same data. Asks the mesh alone:
what devices say of themselves (`slice_index`) does not tell replicas apart on most hardware. Knows
nothing of arrays.
"""

from typing import Any

import numpy as np
from jax.sharding import Mesh, NamedSharding

from pertinax.checkpoint import multihost


def slice_count(global_mesh: Mesh, *, replica_axis_index: int = 0) -> int:
    """The number of replicas."""
    return int(global_mesh.devices.shape[replica_axis_index])


def slice_devices(global_mesh: Mesh, *, replica_id: int = 0, replica_axis_index: int = 0) -> Any:
    """The devices of one replica, an array with one axis less than the mesh.

    Raises `ValueError` if there is no such replica.
    """
    count = slice_count(global_mesh, replica_axis_index=replica_axis_index)
    if not 0 <= replica_id < count:
        raise ValueError(f"there is no replica {replica_id}: {dict(global_mesh.shape)} has {count}")
    return np.take(global_mesh.devices, replica_id, axis=replica_axis_index)


def process_slice_id(process_index: int, global_mesh: Mesh, *, replica_axis_index: int = 0) -> int:
    """The first replica that has devices of a process, -1 if none has."""
    for replica in range(slice_count(global_mesh, replica_axis_index=replica_axis_index)):
        if in_slice(
            process_index, global_mesh, replica_id=replica, replica_axis_index=replica_axis_index
        ):
            return replica
    return -1


def in_slice(
    process_index: int, global_mesh: Mesh, *, replica_id: int = 0, replica_axis_index: int = 0
) -> bool:
    """Whether a process has devices in a replica."""
    devices = slice_devices(
        global_mesh, replica_id=replica_id, replica_axis_index=replica_axis_index
    )
    return process_index in multihost.unique_processes_from_devices(devices)


def local_slice_devices(global_mesh: Mesh, *, replica_axis_index: int = 0) -> Any:
    """The devices of the replica that this process belongs to.

    Raises `ValueError` if it belongs to none.
    """
    own = multihost.process_index()
    replica = process_slice_id(own, global_mesh, replica_axis_index=replica_axis_index)
    if replica < 0:
        raise ValueError(f"process {own} has no device in {global_mesh}")
    return slice_devices(global_mesh, replica_id=replica, replica_axis_index=replica_axis_index)


def primary_process_in_slice(
    global_mesh: Mesh, *, replica_id: int = 0, replica_axis_index: int = 0
) -> int:
    """The lowest process of a replica: the same answer everywhere."""
    devices = slice_devices(
        global_mesh, replica_id=replica_id, replica_axis_index=replica_axis_index
    )
    return min(multihost.unique_processes_from_devices(devices))


def get_primary_replica_ids_and_pids(
    replica_axis_idx: int, mesh: Mesh, primary_replica_id: int
) -> tuple[set[int], set[int]]:
    """The ids of the devices of one replica, and JAX's numbers of its processes."""
    devices = slice_devices(
        mesh, replica_id=primary_replica_id, replica_axis_index=replica_axis_idx
    ).flat
    found = [(int(device.id), int(device.process_index)) for device in devices]
    return {device for device, _ in found}, {process for _, process in found}


def get_single_slice_sharding(
    global_sharding: NamedSharding, *, replica_id: int, replica_axis_index: int
) -> NamedSharding:
    """The same layout over one replica: its axis stays, with length 1.

    Raises `ValueError` for a layout of another kind.
    """
    mesh = getattr(global_sharding, "mesh", None)
    if not isinstance(mesh, Mesh):
        raise ValueError(f"replicas are told apart in a NamedSharding, not {global_sharding}")
    devices = slice_devices(mesh, replica_id=replica_id, replica_axis_index=replica_axis_index)
    one = Mesh(
        np.expand_dims(devices, replica_axis_index), mesh.axis_names, axis_types=mesh.axis_types
    )
    return NamedSharding(one, global_sharding.spec, memory_kind=global_sharding.memory_kind)
