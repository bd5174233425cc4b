# SPDX-License-Identifier: Apache-2.0
"""Replicas of a mesh: what one of them has, on its way to all others.

Knows meshes, the memory of devices, and how one computation moves bytes between replicas. Knows
nothing of files.
"""

import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pertinax.checkpoint.multihost.replicas import (
    get_primary_replica_ids_and_pids,
    get_single_slice_sharding,
    in_slice,
    local_slice_devices,
    primary_process_in_slice,
    process_slice_id,
    slice_count,
    slice_devices,
)

__all__ = [
    "broadcast_one_replica_to_all",
    "get_available_memory",
    "get_device_memory",
    "get_leaf_memory_per_device",
    "get_primary_replica_ids_and_pids",
    "get_single_slice_sharding",
    "in_slice",
    "local_slice_devices",
    "primary_process_in_slice",
    "process_slice_id",
    "slice_count",
    "slice_devices",
    "tree_memory_per_device",
]

_LOG: Final = logging.getLogger(__name__)
_COPIES: Final = 3  # of the data that a device holds during a broadcast: its own, stacked, and sent
_MEMORY_BYTES: Final[Mapping[str, int]] = {
    "TPU v3": 16_000_000_000,
    "TPU v4": 32_000_000_000,
    "TPU v5 lite": 16_000_000_000,
    "TPU v5": 96_000_000_000,
    "TPU v6 lite": 32_000_000_000,
}


def get_device_memory() -> int:
    """Bytes of memory that one device of this process has. Raises `ValueError` if it cannot tell.

    What the device itself says counts more than what is known of its kind.
    """
    device: Any = jax.local_devices()[0]
    stats = cast("Mapping[str, int]", device.memory_stats() or {})
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    if device.device_kind in _MEMORY_BYTES:
        return _MEMORY_BYTES[device.device_kind]
    raise ValueError(
        f"it is not known how much memory a device of kind {device.device_kind!r} has: pass a limit"
    )


def get_leaf_memory_per_device(arr: jax.Array) -> int:
    """Bytes that an array takes on one device."""
    return arr.addressable_shards[0].data.nbytes


def tree_memory_per_device(tree: Any) -> int:
    """Bytes that all arrays of a tree take on one device."""
    return sum(get_leaf_memory_per_device(leaf) for leaf in jax.tree.leaves(tree))


def get_available_memory(in_tree: Any, scaling_factor: float) -> int:
    """Bytes that a broadcast may take on one device beside `in_tree`.

    Raises `ValueError` for a factor above 1, or if the device cannot tell.
    """
    if scaling_factor > 1:
        raise ValueError(f"a device cannot use {scaling_factor} times its memory: at most 1")
    free = get_device_memory() - tree_memory_per_device(in_tree)
    return int(free * scaling_factor / _COPIES)


def broadcast_one_replica_to_all(
    in_tree: tuple[jax.Array, ...],
    global_mesh: Mesh,
    replica_axis_index: int,
    is_source: bool,
    memory_limit_bytes: int | None = None,
    memory_scaling_factor: float = 0.75,
) -> tuple[tuple[jax.Array, ...], int]:
    """Give every replica the bits that the source replica has.

    All processes call it with equal shapes, dtypes and limits. What is passed in is deleted.

    Args:
        in_tree: arrays over the devices of the caller's own replica, each with a `NamedSharding`.
        global_mesh: all replicas.
        replica_axis_index: the axis of the mesh that tells them apart.
        is_source: whether the caller has the data; what others pass in does not count.
        memory_limit_bytes: how many bytes of arrays a device may be sent at once; an array that is
            larger goes alone. None: what `get_available_memory` says, or no limit if it cannot.
        memory_scaling_factor: the share of its free memory that a device may use.

    Returns:
        The arrays, each with its spec over the whole mesh; and how many broadcasts that took.

    Raises:
        ValueError: an array has another kind of sharding, or does not lie as one replica does.
    """
    for leaf in in_tree:
        if not isinstance(leaf.sharding, NamedSharding):
            raise ValueError(
                f"arrays need a NamedSharding to be broadcast, not {type(leaf.sharding).__name__}"
            )
    limit = memory_limit_bytes
    if limit is None:
        limit = _own_limit(in_tree, memory_scaling_factor)
    out: list[jax.Array] = []
    count = 0
    for group in _groups(in_tree, limit):
        out += _broadcast(group, global_mesh, replica_axis_index, is_source)
        count += 1
    return tuple(out), count


def _own_limit(in_tree: tuple[jax.Array, ...], scaling_factor: float) -> int | None:
    try:
        return get_available_memory(in_tree, scaling_factor)
    except ValueError:
        if scaling_factor > 1:
            raise
        return None


def _groups(leaves: Sequence[jax.Array], limit: int | None) -> Iterator[list[jax.Array]]:
    group: list[jax.Array] = []
    weight = 0
    for leaf in leaves:
        size = get_leaf_memory_per_device(leaf)
        if limit is not None and size > limit:
            _LOG.warning("array above the limit is broadcast alone bytes=%d limit=%d", size, limit)
        if group and limit is not None and weight + size > limit:
            yield group
            group, weight = [], 0
        group.append(leaf)
        weight += size
    if group:
        yield group


def _broadcast(
    group: Sequence[jax.Array], mesh: Mesh, axis: int, is_source: bool
) -> list[jax.Array]:
    """One computation; it has ended when this returns, so that its memory is free again."""
    kinds = [_key_kind(leaf) for leaf in group]
    plain = [
        leaf if kind is None else jax.random.key_data(leaf)
        for leaf, kind in zip(group, kinds, strict=True)
    ]
    specs = [PartitionSpec(*cast("NamedSharding", leaf.sharding).spec) for leaf in plain]
    stacked = [_stack(leaf, mesh, axis, is_source) for leaf in plain]
    for leaf in {id(leaf): leaf for leaf in (*group, *plain)}.values():
        leaf.delete()
    shardings = [NamedSharding(mesh, spec) for spec in specs]
    merged = jax.jit(_merge_all, out_shardings=shardings)(stacked)
    jax.block_until_ready(merged)
    return [
        array if kind is None else jax.random.wrap_key_data(array, impl=kind)
        for array, kind in zip(merged, kinds, strict=True)
    ]


def _key_kind(leaf: jax.Array) -> Any:
    if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return None
    return jax.random.key_impl(leaf)


def _stack(leaf: jax.Array, mesh: Mesh, axis: int, is_source: bool) -> jax.Array:
    """All replicas' arrays behind one another: one of them is the source's, the others zeros."""
    spec = PartitionSpec(mesh.axis_names[axis], *cast("NamedSharding", leaf.sharding).spec)
    sharding = NamedSharding(mesh, spec)
    shape = (mesh.devices.shape[axis], *leaf.shape)
    own = {shard.device: shard for shard in leaf.addressable_shards}
    here = sharding.addressable_devices_indices_map(shape)
    piece = sharding.shard_shape(shape)
    pieces: list[jax.Array] = []
    for device, index in here.items():
        shard = own.get(device)
        if shard is not None and cast("Any", index)[1:] != shard.index:
            raise ValueError(
                f"an array over {leaf.sharding} does not lie as one replica of {mesh.shape} does"
            )
        if shard is None or not is_source:
            pieces.append(_zeros(piece, leaf.dtype, device))
        else:
            pieces.append(jnp.expand_dims(shard.data, 0))
    return jax.make_array_from_single_device_arrays(shape, sharding, pieces)


def _zeros(shape: tuple[int, ...], dtype: Any, device: Any) -> jax.Array:
    with jax.default_device(device):
        return jax.device_put(jnp.zeros(shape, dtype), device)


def _merge_all(stacked: Sequence[jax.Array]) -> list[jax.Array]:
    return [_merge(array) for array in stacked]


def _merge(stacked: jax.Array) -> jax.Array:
    """The one that is not zero. Bits are added, not numbers: -0.0 and each NaN stay themselves."""
    dtype = stacked.dtype
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return jax.lax.complex(_merge(jnp.real(stacked)), _merge(jnp.imag(stacked)))
    if dtype == jnp.bool_:
        return jnp.any(stacked, axis=0)
    if jnp.issubdtype(dtype, jnp.integer):
        add = functools.partial(jnp.sum, axis=0)
        wide = jnp.int8 if np.dtype(dtype).itemsize == 1 else dtype
        return add(stacked.astype(wide), dtype=wide).astype(dtype)
    bits = jnp.dtype(f"uint{8 * np.dtype(dtype).itemsize}")
    total = jnp.sum(jax.lax.bitcast_convert_type(stacked, bits), axis=0, dtype=bits)
    return jax.lax.bitcast_convert_type(total, dtype)
