# SPDX-License-Identifier: Apache-2.0
"""Meshes with a replica axis, and what one replica sees of an array.

Knows devices and their processes. Knows nothing of files.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pertinax.checkpoint import multihost
from pertinax.checkpoint.multihost import replicas
from pertinax.checkpoint.type_handlers import SingleReplicaArrayRestoreArgs

_AXES = ("replica", "data")


def get_fake_global_mesh_for_slices(
    slice_processes: Sequence[set[int]], replica_axis_index: int = 0
) -> Mesh:
    """A mesh of all devices in which the processes of each set make up one replica.

    The axes are `replica` and `data`, in this order unless `replica_axis_index` is 1. Raises
    `ValueError` if some process is in no set, or the replicas differ in their number of devices.
    """
    owners = [_process_of(device) for device in jax.devices()]
    if set(owners) != set[int]().union(*slice_processes):
        raise ValueError(
            f"All processes must be accounted for: {sorted(set(owners))}, not {slice_processes}"
        )
    found = [
        [device for device, owner in zip(jax.devices(), owners, strict=True) if owner in processes]
        for processes in slice_processes
    ]
    if len({len(devices) for devices in found}) > 1:
        raise ValueError(
            "all replicas must have the same number of devices: "
            f"{[len(devices) for devices in found]} for {slice_processes}"
        )
    devices = np.asarray(found, dtype=object)
    return Mesh(devices, _AXES) if replica_axis_index == 0 else Mesh(devices.T, _AXES[::-1])


def _process_of(device: Any) -> int:
    (process,) = multihost.unique_processes_from_devices(np.asarray([device]))
    return process


def select_single_replica(arrays: Sequence[jax.Array], global_mesh: Mesh) -> list[jax.Array]:
    """The same arrays, laid out over the replica of `global_mesh` that this process belongs to.

    Their own layouts are over that mesh.
    """
    axis = global_mesh.axis_names.index("replica") if "replica" in global_mesh.axis_names else 0
    return [_on_own_replica(array, global_mesh, axis) for array in arrays]


def _on_own_replica(array: Any, mesh: Mesh, axis: int) -> jax.Array:
    sharding = _own_replica_sharding(mesh, array.sharding.spec, axis)
    mine = sharding.addressable_devices
    parts = [shard.data for shard in array.addressable_shards if shard.device in mine]
    return jax.make_array_from_single_device_arrays(array.shape, sharding, parts)


def _own_replica_sharding(mesh: Mesh, spec: PartitionSpec, axis: int) -> NamedSharding:
    own = replicas.process_slice_id(multihost.process_index(), mesh, replica_axis_index=axis)
    return replicas.get_single_slice_sharding(
        NamedSharding(mesh, spec), replica_id=own, replica_axis_index=axis
    )


def create_single_replica_restore_args(
    arr: jax.Array, mesh: Mesh, pspec: PartitionSpec, replica_axis_index: int
) -> SingleReplicaArrayRestoreArgs:
    """Args that restore such an array by reading one replica and sending it to the others."""
    return SingleReplicaArrayRestoreArgs(
        sharding=NamedSharding(mesh, pspec),
        single_replica_sharding=_own_replica_sharding(mesh, pspec, replica_axis_index),
        global_shape=arr.shape,
        dtype=arr.dtype,
    )
