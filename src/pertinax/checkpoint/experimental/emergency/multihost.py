# SPDX-License-Identifier: Apache-2.0
"""A mesh whose places belong to the same hosts as those of a mesh before a restart.

Knows devices, processes and the numbers that processes were given at the start. Restoring does not
need it: parts say themselves what they hold. It is here for programs that lay out data of their
own.
"""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from pertinax.checkpoint import multihost


def process_index_from_device_id(device_id: int) -> int:
    """The process that a device belongs to. Raises `ValueError` if there is no such device."""
    for device in jax.devices():
        if device.id == device_id:
            return int(device.process_index)
    raise ValueError(f"no device of this job has the id {device_id}")


def runtime_to_distributed_ids() -> list[int]:
    """For each process the number that it was started with; its own, unless that was looked up
    with `multihost.initialize_runtime_to_distributed_ids`.
    """
    if multihost.is_runtime_to_distributed_ids_initialized():
        return list(multihost.runtime_to_distributed_ids())
    return list(range(jax.process_count()))


def consistent_restore_mesh(
    user_mesh: Mesh,
    previous_flattened_mesh_device_ids: Sequence[int],
    previous_runtime_to_dist_id: Sequence[int],
) -> Mesh:
    """The user's mesh with its devices in the order in which the same hosts stood before.

    `previous_flattened_mesh_device_ids` are those of the mesh before, and
    `previous_runtime_to_dist_id` the numbers that its processes were started with. Raises
    `ValueError` if a host or a device of then is not here.
    """
    places: dict[int, list[int]] = {}
    for device in jax.devices():
        places.setdefault(int(device.process_index), []).append(int(device.id))
    now = {number: process for process, number in enumerate(runtime_to_distributed_ids())}
    by_id = {device.id: device for device in jax.devices()}
    devices: list[object] = []
    for device_id in previous_flattened_mesh_device_ids:
        before = process_index_from_device_id(device_id)
        number = previous_runtime_to_dist_id[before]
        if number not in now:
            raise ValueError(f"process {number} of the mesh before is not in this job")
        own = places[now[number]]
        devices.append(by_id[own[places[before].index(device_id)]])
    shaped = np.array(devices, dtype=object).reshape(user_mesh.devices.shape)
    return Mesh(shaped, user_mesh.axis_names, axis_types=user_mesh.axis_types)
