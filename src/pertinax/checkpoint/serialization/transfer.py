# SPDX-License-Identifier: Apache-2.0
"""From devices to the host: the shards of arrays become fragments.

Knows shards, replicas and host memory. Knows nothing of files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from pertinax._device.transfer import lies_on_host, start_transfer
from pertinax.checkpoint.arrays.fragments import Fragment, Fragments
from pertinax.checkpoint.arrays.numpy_utils import resolve_slice
from pertinax.checkpoint.arrays.types import DType, Index, Shape


@dataclass(frozen=True, slots=True)
class _Shard:
    """A shard whose data is on its way to the host."""

    index: Index
    data: Any


def get_unique_shards(arr: jax.Array, replica_id: int | None) -> list[Any]:
    """The shards of this process that belong to one replica, so that no element comes twice.

    None: the replica of the first shard here.
    """
    shards: list[Any] = list(arr.addressable_shards)
    if replica_id is None and shards:
        replica_id = shards[0].replica_id
    return [shard for shard in shards if shard.replica_id == replica_id]


def transfer_arrays_to_host(
    arrays: Sequence[jax.Array],
    replica_id: int | None,
    *,
    enable_pinned_host_transfer: bool = True,
) -> Sequence[Fragments]:
    """One replica of each array, in host memory. All copies are started before one is awaited.

    `enable_pinned_host_transfer`: go through page-locked memory where the device has it, which the
    device can write to faster. An array on the CPU is in host memory already: its fragments are
    views.
    """
    moving = [
        [
            _start_transfer(shard, enable_pinned_host_transfer)
            for shard in get_unique_shards(array, replica_id)
        ]
        for array in arrays
    ]
    return [
        shards_to_fragments(shards, array.shape, np.dtype(array.dtype))
        for shards, array in zip(moving, arrays, strict=True)
    ]


def _start_transfer(shard: Any, pinned: bool) -> _Shard:
    data, device = shard.data, shard.device
    if not _lies_on_the_host(device):
        data = start_transfer(data, pinned=pinned)
    return _Shard(shard.index, data)


def _lies_on_the_host(device: Any) -> bool:
    return lies_on_host(device.platform)


def shards_to_fragments(shards: Sequence[Any], global_shape: Shape, dtype: DType) -> Fragments:
    """The shards of an array of `global_shape` as fragments; waits for those on their way."""
    pieces = [
        Fragment(index=resolve_slice(shard.index, global_shape), value=np.asarray(shard.data))
        for shard in shards
    ]
    return Fragments(tuple(global_shape), dtype, pieces)
