# SPDX-License-Identifier: Apache-2.0
"""Reading arrays through TensorStore, straight to the devices that want them.

Knows index domains, shardings and padding. Knows nothing of trees.

What several devices want alike is read once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding, SingleDeviceSharding
from numpy.typing import NDArray

from pertinax._device.shardings import box_of
from pertinax._plan.boxes import Box
from pertinax.checkpoint.arrays.types import DType, Index, Shape
from pertinax.checkpoint.serialization import tensorstore_utils
from pertinax.checkpoint.serialization.limits import (
    ByteLimiter,
    UnlimitedInFlightBytes,
    limiter_or_none,
    reserved_bytes,
)


async def async_deserialize(
    user_in_sharding: Sharding,
    tensorstore_spec: Any,
    global_shape: Sequence[int] | None = None,
    dtype: Any = None,
    byte_limiter: ByteLimiter | None = None,
    context: Any = None,
    assume_metadata: bool = False,
    strict: bool = True,
) -> jax.Array:
    """The stored array, laid out as `user_in_sharding` says.

    Args:
        user_in_sharding: a sharding on real devices.
        tensorstore_spec: of the stored array.
        global_shape: the shape to give it; None: the stored one.
        dtype: convert to it on the host; None: the stored one.
        byte_limiter: asked for the bytes of the chunks of each region before it is read.
        context: of TensorStore; None: a new one, so that what is read is what is there now.
        assume_metadata: take the metadata from the spec instead of from the store.
        strict: whether another `global_shape` than the stored one is an error; if not, elements
            are dropped at the end of each dimension, or zeros added.

    Raises `ValueError` for a sharding that is not on devices or does not divide the shape, for a
    shape that strictness forbids or of another rank, and what TensorStore raises.
    """
    _require_concrete(user_in_sharding)
    stored = await _open(tensorstore_spec, context, assume_metadata)
    shape = tuple(stored.shape if global_shape is None else global_shape)
    _require_compatible(shape, tuple(stored.shape), strict)
    user_in_sharding.shard_shape(shape)  # refuses a shape that it cannot divide
    wanted: dict[Box, list[Any]] = {}
    for device, index in user_in_sharding.addressable_devices_indices_map(shape).items():
        wanted.setdefault(box_of(index or (), shape), []).append(device)
    region = _Region(
        stored,
        dtype=None if dtype is None else np.dtype(dtype),
        limiter=limiter_or_none(byte_limiter),
        memory_kind=user_in_sharding.memory_kind,
    )
    reads = (region.to_devices(box, devices) for box, devices in wanted.items())
    # All reads end before the first failure is told.
    placed: list[jax.Array] = []
    for outcome in await asyncio.gather(*reads, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
        placed += outcome
    return jax.make_array_from_single_device_arrays(shape, user_in_sharding, placed)


def _require_concrete(sharding: Any) -> None:
    try:
        concrete = isinstance(sharding, Sharding) and bool(sharding.device_set)
    except ValueError:  # the mesh is abstract
        concrete = False
    if not concrete:
        raise ValueError(
            f"a concrete `jax.sharding.Sharding` is needed to place an array, not {sharding!r}"
        )


def _require_compatible(shape: Shape, stored: Shape, strict: bool) -> None:
    if shape != stored and (strict or len(shape) != len(stored)):
        way_out = (
            "strict=False (of ArrayRestoreArgs, or of StandardRestore) cuts and pads with zeros"
            if len(shape) == len(stored)
            else "no array can be read with another number of dimensions"
        )
        raise ValueError(
            f"the requested shape {shape} is not compatible with the stored shape: {stored}; "
            f"{way_out}"
        )


async def _open(spec: Any, context: Any, assume_metadata: bool) -> Any:
    import tensorstore

    ts = cast("Any", tensorstore)
    if context is None:
        context = tensorstore_utils.get_ts_context()
    spec = ts.Spec(spec) if isinstance(spec, dict) else spec
    return await ts.open(spec, open=True, assume_metadata=assume_metadata, context=context)


class _Region:
    """Reads parts of one stored array to devices."""

    def __init__(
        self, stored: Any, *, dtype: DType | None, limiter: ByteLimiter, memory_kind: str | None
    ) -> None:
        self._stored = stored
        self._dtype = dtype
        self._limiter = limiter
        self._memory_kind = memory_kind

    async def to_devices(self, box: Box, devices: Sequence[Any]) -> list[jax.Array]:
        """The elements in `box`, once on each device."""
        common = box.intersect(Box.whole(tuple(self._stored.shape)))
        needed = 0
        if common is not None:
            domain = self._stored[common.slices].domain
            needed = estimate_read_memory_footprint(self._stored, domain)
        async with reserved_bytes(self._limiter, needed):
            host = await self._read(box, common)
            arrays = [self._place(host, device) for device in devices]
            if not isinstance(self._limiter, UnlimitedInFlightBytes):
                # The host buffer is in use until the devices have it.
                await asyncio.to_thread(jax.block_until_ready, arrays)
        return arrays

    async def _read(self, box: Box, common: Box | None) -> NDArray[Any]:
        """Elements outside of the stored array are zeros; nothing else is set to zero first."""
        import tensorstore

        make = np.empty if common == box else np.zeros
        host = make(box.shape, dtype=self._stored.dtype.numpy_dtype)
        if common is not None:
            # `...` first: without it, the part of a scalar would be a copy.
            inside = host[(..., *common.relative_to(box.start).slices)]
            part = cast("Any", tensorstore).array(inside)
            await part.write(self._stored[common.slices])
        return host if self._dtype is None else host.astype(self._dtype, copy=False)

    def _place(self, host: NDArray[Any], device: Any) -> jax.Array:
        value: Any = host
        if host.dtype == jnp.int4:
            value = jnp.asarray(host)  # `device_put` of some versions refuses NumPy's int4
        return jax.device_put(value, SingleDeviceSharding(device, memory_kind=self._memory_kind))


def estimate_read_memory_footprint(t: Any, domain: Any) -> int:
    """Bytes that reading `domain` of an open array keeps in memory: those of all chunks it touches.

    An array without chunks keeps all of itself.
    """
    itemsize = int(t.dtype.numpy_dtype.itemsize)
    template = t.chunk_layout.read_chunk_template
    if not all(template[i].finite for i in range(t.rank)):
        return int(domain.size) * itemsize
    size = itemsize
    for i in range(t.rank):
        chunk, origin = int(template.shape[i]), int(template.origin[i])
        first = int(domain.origin[i]) - origin
        end = first + int(domain.shape[i])
        size *= (-(-end // chunk) - first // chunk) * chunk
    return size


async def create_async_array_from_callback(
    global_shape: Shape,
    inp_sharding: Sharding,
    data_callback: Callable[[Index, Any], Awaitable[jax.Array]],
) -> jax.Array:
    """The array of which `data_callback(index, device)` makes the part on each device here."""
    indices = inp_sharding.addressable_devices_indices_map(tuple(global_shape))
    parts = [data_callback(cast("Index", index), device) for device, index in indices.items()]
    arrays = await asyncio.gather(*parts)
    return jax.make_array_from_single_device_arrays(tuple(global_shape), inp_sharding, arrays)
