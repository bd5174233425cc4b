# SPDX-License-Identifier: Apache-2.0
"""Stored arrays as handlers see them: open one, read it, say what it is.

Knows TensorStore's open arrays. Knows nothing of values that are being saved.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar, cast

import numpy as np

from pertinax.checkpoint import serialization
from pertinax.checkpoint.metadata.value import ArrayMetadata, StorageMetadata
from pertinax.checkpoint.serialization import tensorstore_utils
from pertinax.checkpoint.type_handlers.contract import ParamInfo
from pertinax.checkpoint.type_handlers.specs import check_files_of

T = TypeVar("T")
_LOG: Final = logging.getLogger(__name__)
_METRIC_PREFIXES: Final = ("/tensorstore", "/mallocz", "/tcmalloc/")


def context_of(info: ParamInfo) -> Any:
    """The TensorStore context that a leaf came with, or a new one."""
    if info.ts_context is not None:
        return info.ts_context
    return tensorstore_utils.get_ts_context(use_ocdbt=bool(info.is_ocdbt_checkpoint))


async def open_array(spec: Any, info: ParamInfo) -> Any:
    """An existing array."""
    import tensorstore

    ts = cast("Any", tensorstore)
    return await ts.open(ts.Spec(spec), open=True, context=context_of(info))


async def open_stored(spec: Any, info: ParamInfo, metadata_key: str | None) -> Any:
    """An array that was saved. Raises `FileNotFoundError` if files of it are missing."""
    if not info.is_ocdbt_checkpoint:
        await asyncio.to_thread(check_files_of, info, metadata_key)
    return await open_array(spec, info)


def describe_array(array: Any, info: ParamInfo, sharding: Any = None) -> ArrayMetadata:
    """What an open array is."""
    chunk = tuple(array.chunk_layout.read_chunk.shape or ())
    return ArrayMetadata(
        info.name or "",
        info.parent_dir,
        tuple(array.shape),
        sharding,
        np.dtype(array.dtype.numpy_dtype),
        StorageMetadata(chunk_shape=chunk),
    )


async def read_array(array: Any, info: ParamInfo) -> Any:
    """All elements, once the limiter lets them be read."""
    limiter = info.byte_limiter or serialization.UnlimitedInFlightBytes()
    needed = serialization.estimate_read_memory_footprint(array, array.domain)
    async with serialization.reserved_bytes(limiter, needed):
        return await array.read()


async def all_of(call: Callable[..., Awaitable[T]], *columns: Sequence[Any]) -> list[T]:
    """`call` for each row, all at once; the first failure is raised when all have ended.

    Nobody writes any more into a save that is given up.
    """
    found = await asyncio.gather(
        *(call(*row) for row in zip(*columns, strict=True)), return_exceptions=True
    )
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return cast("list[T]", found)


def log_tensorstore(metadata_key: str | None, infos: Sequence[ParamInfo]) -> None:
    """At debug level, what TensorStore has counted so far, and for which leaves it is used now."""
    if not _LOG.isEnabledFor(logging.DEBUG):
        return
    import tensorstore

    ts = cast("Any", tensorstore)
    for prefix in _METRIC_PREFIXES:
        for metric in ts.experimental_collect_matching_metrics(prefix):
            _LOG.debug("ts_metric: %s", metric)
    _LOG.debug("metadata_key: %s", metadata_key)
    _LOG.debug("parameters: %s", [info.name for info in infos])
