# SPDX-License-Identifier: Apache-2.0
"""Writing arrays through TensorStore.

Knows how an array is opened for several writers, and when its bytes may go. Knows nothing of trees.
"""

import asyncio
from typing import Any, cast

import jax
import numpy as np

from pertinax.checkpoint import multihost
from pertinax.checkpoint.arrays.fragments import Fragment, Fragments
from pertinax.checkpoint.serialization import tensorstore_utils
from pertinax.checkpoint.serialization.limits import (
    ByteLimiter,
    limiter_or_none,
    reserved_bytes,
)
from pertinax.checkpoint.serialization.tensorstore_utils import JsonSpec
from pertinax.checkpoint.serialization.transfer import transfer_arrays_to_host


async def async_serialize(
    arr_inp: jax.Array,
    tensorstore_spec: JsonSpec,
    context: Any = None,
    primary_host: int | None = 0,
    replica_id: int = 0,
    transaction: Any = None,
    byte_limiter: ByteLimiter | None = None,
) -> None:
    """Write what this process has of one replica of the array.

    Every process that has a shard calls it; `primary_host` (None: each process) creates the array.
    A spec without metadata or dtype gets that of the array: a chunk for each shard, compressed
    with zstd. With a `transaction`, it is durable once that is committed.
    """
    if primary_host is not None and jax.process_count() > 1 and arr_inp.is_fully_addressable:
        raise ValueError(
            "host local arrays cannot be written by several processes: each would write its own "
            "version of all of it; make one global array of them first"
        )
    (fragments,) = transfer_arrays_to_host([arr_inp], replica_id)
    await async_serialize_fragments(
        fragments,
        _completed(tensorstore_spec, arr_inp),
        context=context,
        primary_host=primary_host,
        transaction=transaction,
        byte_limiter=byte_limiter,
    )


async def async_serialize_fragments(
    shards: Fragments,
    tensorstore_spec: JsonSpec,
    *,
    context: Any = None,
    primary_host: int | None = 0,
    transaction: Any = None,
    byte_limiter: ByteLimiter | None = None,
) -> None:
    """Write the fragments of one array; their values must stay as they are until then.

    Raises `KeyError` for a spec without metadata or dtype, and what TensorStore raises; all writes
    have ended by then.
    """
    if not _has_metadata(tensorstore_spec):
        raise KeyError("`metadata` is missing in the spec: TensorStore cannot make the array")
    if "dtype" not in tensorstore_spec:
        raise KeyError("`dtype` is missing in the spec: TensorStore cannot make the array")
    limiter = limiter_or_none(byte_limiter)
    array = await _open(
        tensorstore_spec,
        tensorstore_utils.get_ts_context() if context is None else context,
        transaction,
        create=multihost.is_primary_host(primary_host),
    )
    # All writes end before the first failure is told: nobody writes into a save given up.
    writes = (_write_fragment(fragment, array, limiter) for fragment in shards.fragments)
    for outcome in await asyncio.gather(*writes, return_exceptions=True):
        if outcome is not None:
            raise outcome


async def _open(spec: JsonSpec, context: Any, transaction: Any, *, create: bool) -> Any:
    """The creator makes the metadata; the others take the spec's word for it, without looking."""
    import tensorstore

    ts = cast("Any", tensorstore)
    how = {"create": True} if create else {"assume_metadata": True}
    return await ts.open(ts.Spec(spec), open=True, context=context, transaction=transaction, **how)


async def _write_fragment(fragment: Fragment, array: Any, limiter: ByteLimiter) -> None:
    async with reserved_bytes(limiter, estimate_write_memory_footprint(np.asarray(fragment))):
        await array[fragment.index].write(
            np.asarray(fragment), can_reference_source_data_indefinitely=True
        )


def estimate_write_memory_footprint(arr: Any) -> int:
    """Bytes that writing the array keeps in memory: its own."""
    return int(arr.size) * int(arr.dtype.itemsize)


def _has_metadata(spec: JsonSpec) -> bool:
    if "metadata" in spec:
        return True
    base = spec.get("base")
    return isinstance(base, dict) and _has_metadata(cast("JsonSpec", base))


def _completed(spec: JsonSpec, array: jax.Array) -> JsonSpec:
    """A copy of the spec with what it lacks, taken from the array."""
    spec = {"dtype": np.dtype(array.dtype).name, **spec}
    if _has_metadata(spec):
        return spec
    if isinstance(spec.get("base"), dict):
        return {**spec, "base": _completed(spec["base"], array)}
    shard = array.sharding.shard_shape(array.shape)
    spec["metadata"] = tensorstore_utils.build_zarr_shard_and_chunk_metadata(
        global_shape=array.shape,
        shard_shape=shard,
        use_zarr3=spec.get("driver") == tensorstore_utils.ZARR_VER3,
        chunk_shape=tuple(max(1, n) for n in shard),
    )
    return spec
