# SPDX-License-Identifier: Apache-2.0
"""Type handlers of numpy arrays and of numbers, on TensorStore.

Knows Zarr arrays of one chunk. Trees of plain leaves do not come here: the engine stores them; this
is for programs that call a handler themselves, give it options, or build on it.
"""

import asyncio
import sys
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from pertinax.checkpoint import multihost
from pertinax.checkpoint._adapt.threads import start
from pertinax.checkpoint.arrays.fragments import Fragment, Fragments
from pertinax.checkpoint.future import Future
from pertinax.checkpoint.metadata.value import ArrayMetadata, Metadata, ScalarMetadata
from pertinax.checkpoint.serialization.tensorstore_utils import JsonSpec
from pertinax.checkpoint.type_handlers.array_writes import ArrayWrite, write_arrays
from pertinax.checkpoint.type_handlers.contract import (
    ParamInfo,
    TypeHandler,
    check_input_arguments,
)
from pertinax.checkpoint.type_handlers.leaf_args import RestoreArgs, SaveArgs
from pertinax.checkpoint.type_handlers.specs import (
    array_write_spec,
    get_cast_tspec_deserialize,
    get_json_tspec_read,
    get_process_index_for_subdir,
)
from pertinax.checkpoint.type_handlers.stored_arrays import (
    all_of,
    describe_array,
    log_tensorstore,
    open_stored,
    read_array,
)


class NumpyHandler(TypeHandler):
    """Stores numpy arrays; the primary host of their infos writes them.

    `metadata_key` is the name of the key with the array's metadata, if not the usual one.
    """

    def __init__(self, metadata_key: str | None = None) -> None:
        self._metadata_key = metadata_key
        self._override_ocdbt_process_id: str | None = None

    def typestr(self) -> str:
        """`np.ndarray`."""
        return "np.ndarray"

    def is_plain(self) -> bool:
        """Whether the engine stores leaves just as this handler would."""
        return self._metadata_key is None and self._override_ocdbt_process_id is None

    async def metadata(self, infos: Sequence[ParamInfo]) -> Sequence[Metadata]:
        """Shape, dtype and chunks of each array."""
        return await all_of(self._describe, infos)

    async def serialize(
        self,
        values: Sequence[Any],
        infos: Sequence[ParamInfo],
        args: Sequence[SaveArgs] | None = None,
    ) -> Sequence[Future]:
        """Copy the arrays and begin to write them."""
        args = args or [SaveArgs()] * len(values)
        check_input_arguments(values, infos, args)
        own = [
            (np.array(value, copy=True, order="C"), info, arg)
            for value, info, arg in zip(values, infos, args, strict=True)
            if info.is_written_here
        ]
        if not own:
            return []
        log_tensorstore(self._metadata_key, infos)
        writes = [self._prepare(*one) for one in own]
        return [start(lambda: asyncio.run(write_arrays(writes, None)), "pertinax-numpy-handler")]

    async def deserialize(
        self, infos: Sequence[ParamInfo], args: Sequence[RestoreArgs] | None = None
    ) -> Sequence[Any]:
        """The arrays, each in the dtype that its args ask for."""
        args = args or [RestoreArgs()] * len(infos)
        check_input_arguments(infos, args)
        values = await all_of(self._read, infos, args)
        log_tensorstore(self._metadata_key, infos)
        return values

    def memory_size(self, values: Sequence[Any]) -> Sequence[tuple[int, int]]:
        """The bytes of each array; process 0 writes them, as far as is known without infos."""
        writes = multihost.leads(0)
        return [(value.nbytes if writes else 0, value.nbytes) for value in values]

    async def _describe(self, info: ParamInfo) -> ArrayMetadata:
        spec = self._get_json_tspec_read(info, use_ocdbt=bool(info.is_ocdbt_checkpoint))
        return describe_array(await open_stored(spec, info, self._metadata_key), info)

    def _prepare(self, value: Any, info: ParamInfo, arg: SaveArgs) -> ArrayWrite:
        use_ocdbt = bool(info.is_ocdbt_checkpoint)
        owner = get_process_index_for_subdir(use_ocdbt, self._override_ocdbt_process_id)
        spec = self._get_json_tspec_write(info, value, use_ocdbt, process_index=owner, arg=arg)
        whole = tuple(slice(0, n, 1) for n in value.shape)
        fragments = Fragments(value.shape, value.dtype, [Fragment(index=whole, value=value)])
        return ArrayWrite(fragments, spec, info)

    async def _read(self, info: ParamInfo, arg: RestoreArgs) -> Any:
        spec = self._get_json_tspec_read(info, use_ocdbt=bool(info.is_ocdbt_checkpoint))
        array = await open_stored(get_cast_tspec_deserialize(spec, arg), info, self._metadata_key)
        return await read_array(array, info)

    def _get_json_tspec_write(
        self,
        info: ParamInfo,
        value: Any,
        use_ocdbt: bool,
        process_index: int | str | None = None,
        arg: SaveArgs | None = None,
    ) -> JsonSpec:
        return array_write_spec(
            info,
            arg,
            global_shape=value.shape,
            local_shape=value.shape,
            dtype=value.dtype,
            use_ocdbt=use_ocdbt,
            process_index=process_index,
            metadata_key=self._metadata_key,
        ).json

    def _get_json_tspec_read(self, info: ParamInfo, use_ocdbt: bool) -> JsonSpec:
        return get_json_tspec_read(info, use_ocdbt, self._metadata_key)


class ScalarHandler(NumpyHandler):
    """Stores numbers, of Python and of numpy, as arrays without dimensions."""

    def typestr(self) -> str:
        """`scalar`."""
        return "scalar"

    async def metadata(self, infos: Sequence[ParamInfo]) -> Sequence[Metadata]:
        """The dtype of each number."""
        found = cast("Sequence[ArrayMetadata]", await super().metadata(infos))
        return [
            ScalarMetadata(one.name, one.directory, dtype=one.dtype, storage=one.storage)
            for one in found
        ]

    async def serialize(
        self,
        values: Sequence[Any],
        infos: Sequence[ParamInfo],
        args: Sequence[SaveArgs] | None = None,
    ) -> Sequence[Future]:
        """Begin to write the numbers."""
        return await super().serialize([np.asarray(value) for value in values], infos, args)

    async def deserialize(
        self, infos: Sequence[ParamInfo], args: Sequence[RestoreArgs] | None = None
    ) -> Sequence[Any]:
        """Python's numbers. Raises `ValueError` for an array with dimensions."""
        found = await super().deserialize(infos, args)
        for info, value in zip(infos, found, strict=True):
            if np.ndim(value):
                raise ValueError(
                    f"{info.name!r} has the shape {np.shape(value)}, so it is not a scalar"
                )
        return [value.item() for value in found]

    def memory_size(self, values: Sequence[Any]) -> Sequence[tuple[int, int]]:
        """What Python keeps for each number; written as those of arrays are."""
        writes = multihost.leads(0)
        sizes = [sys.getsizeof(value) for value in values]
        return [(size if writes else 0, size) for size in sizes]
