# SPDX-License-Identifier: Apache-2.0
"""The type handler of `jax.Array`, on TensorStore.

Knows shards, layouts and where they are written down. Trees of plain leaves do not come here: the
engine stores them; this is for programs that call the handler themselves, give it options, or build
on it.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import jax
import jax.numpy as jnp
from etils import epath
from jax.sharding import NamedSharding, Sharding

from pertinax._formats.metadata.sharding import decode_sharding
from pertinax.checkpoint import multihost, serialization
from pertinax.checkpoint._adapt import files
from pertinax.checkpoint._adapt.threads import start
from pertinax.checkpoint.future import Future
from pertinax.checkpoint.metadata.sharding import (
    ShardingMetadata,
    from_jax_sharding,
    from_serialized_string,
)
from pertinax.checkpoint.metadata.value import ArrayMetadata, Metadata
from pertinax.checkpoint.serialization.tensorstore_utils import JsonSpec
from pertinax.checkpoint.type_handlers.array_writes import ArrayWrite, write_arrays
from pertinax.checkpoint.type_handlers.contract import (
    ParamInfo,
    TypeHandler,
    check_input_arguments,
)
from pertinax.checkpoint.type_handlers.leaf_args import ArrayRestoreArgs, RestoreArgs, SaveArgs
from pertinax.checkpoint.type_handlers.specs import (
    SHARDING_FILENAME,
    array_write_spec,
    check_files_of,
    get_cast_tspec_deserialize,
    get_json_tspec_read,
    get_process_index_for_subdir,
    get_sharding_tensorstore_spec,
)
from pertinax.checkpoint.type_handlers.stored_arrays import (
    all_of,
    context_of,
    describe_array,
    log_tensorstore,
    open_stored,
)

_LOG: Final = logging.getLogger(__name__)


class ArrayHandler(TypeHandler):
    """Stores `jax.Array`s; each process writes the shards that it has of one replica.

    Args:
        metadata_key: name of the key with an array's metadata, if not the usual one.
        primary_host: the process that writes metadata and layouts; None: each process its own, for
            disks that processes do not share.
        replica_id: which replica is written; None: the one that a process has first.
        enable_write_sharding_file: whether layouts are written down, so that arrays can be restored
            without naming one.
    """

    def __init__(
        self,
        metadata_key: str | None = None,
        primary_host: int | None = 0,
        replica_id: int | None = 0,
        enable_write_sharding_file: bool = True,
    ) -> None:
        self._metadata_key = metadata_key
        self._primary_host = primary_host
        self._replica_id = replica_id
        self._enable_write_sharding_file = enable_write_sharding_file

    def typestr(self) -> str:
        """`jax.Array`."""
        return "jax.Array"

    def is_plain(self) -> bool:
        """Whether the engine stores leaves just as this handler would."""
        # Who writes which shard is said by the options of the checkpointer, too.
        who = (self._primary_host, self._replica_id)
        stock = self._metadata_key is None and self._enable_write_sharding_file
        return stock and who in ((0, 0), (None, None))

    async def metadata(self, infos: Sequence[ParamInfo]) -> Sequence[Metadata]:
        """Shape, dtype and chunks of each array, and its layout if that was written down."""
        layouts = await _layouts_of(infos)

        async def describe(info: ParamInfo) -> ArrayMetadata:
            spec = get_json_tspec_read(info, bool(info.is_ocdbt_checkpoint), self._metadata_key)
            array = await open_stored(spec, info, self._metadata_key)
            return describe_array(array, info, _known_layout(layouts, info))

        return await all_of(describe, infos)

    async def serialize(
        self,
        values: Sequence[Any],
        infos: Sequence[ParamInfo],
        args: Sequence[SaveArgs] | None = None,
    ) -> Sequence[Future]:
        """Copy the shards to the host and begin to write them.

        Raises `ValueError` for arrays of one process in a job of several.
        """
        args = args or [SaveArgs()] * len(values)
        check_input_arguments(values, infos, args)
        for value, info in zip(values, infos, strict=True):
            _check_savable(value, info)
        pinned = {info.enable_pinned_host_transfer for info in infos}
        assert len(pinned) == 1, "enable_pinned_host_transfer differs within one batch"  # noqa: S101 - callers rely on this kind of error
        copies = await asyncio.to_thread(
            serialization.transfer_arrays_to_host,
            values,
            self._replica_id,
            enable_pinned_host_transfer=pinned.pop(),
        )
        writes = [
            ArrayWrite(fragments, self._spec(value, info, arg), info)
            for value, fragments, info, arg in zip(values, copies, infos, args, strict=True)
        ]
        layouts = [value.sharding for value in values]
        return [start(lambda: asyncio.run(self._write(writes, layouts)), "pertinax-array-handler")]

    async def deserialize(
        self, infos: Sequence[ParamInfo], args: Sequence[RestoreArgs] | None = None
    ) -> Sequence[Any]:
        """The arrays, laid out as their args ask, or else as they were saved.

        Raises `ValueError` without args, for an array without any layout, and for a shape that does
        not fit.
        """
        if args is None:
            raise ValueError("arrays need args to be restored: ArrayRestoreArgs with a sharding")
        check_input_arguments(infos, args)
        layouts = await _layouts_to_restore(infos, args)

        async def read(info: ParamInfo, arg: RestoreArgs, sharding: Sharding) -> jax.Array:
            return await self._read(info, arg, sharding)

        values = await all_of(read, infos, args, layouts)
        log_tensorstore(self._metadata_key, infos)
        return values

    def memory_size(self, values: Sequence[Any]) -> Sequence[tuple[int, int]]:
        """Bytes of the shards that this process writes, and of all that it holds."""
        return [
            (
                sum(s.data.nbytes for s in serialization.get_unique_shards(v, self._replica_id)),
                sum(shard.data.nbytes for shard in v.addressable_shards),
            )
            for v in values
        ]

    async def _read(self, info: ParamInfo, arg: RestoreArgs, sharding: Sharding) -> jax.Array:
        use_ocdbt = bool(info.is_ocdbt_checkpoint)
        if not use_ocdbt:
            await asyncio.to_thread(check_files_of, info, self._metadata_key)
        spec = get_json_tspec_read(info, use_ocdbt, self._metadata_key)
        shape = getattr(arg, "global_shape", None)
        return await serialization.async_deserialize(
            sharding,
            get_cast_tspec_deserialize(spec, arg),
            global_shape=None if shape is None else tuple(shape),
            dtype=None if arg.dtype is None else jnp.dtype(arg.dtype),
            byte_limiter=info.byte_limiter,
            context=context_of(info),
            strict=getattr(arg, "strict", True),
        )

    def _spec(self, value: jax.Array, info: ParamInfo, arg: SaveArgs) -> JsonSpec:
        use_ocdbt = bool(info.is_ocdbt_checkpoint)
        return array_write_spec(
            info,
            arg,
            global_shape=value.shape,
            local_shape=value.sharding.shard_shape(value.shape),
            dtype=value.dtype,
            use_ocdbt=use_ocdbt,
            process_index=get_process_index_for_subdir(use_ocdbt),
            metadata_key=self._metadata_key,
        ).json

    async def _write(self, writes: Sequence[ArrayWrite], layouts: Sequence[Sharding]) -> None:
        log_tensorstore(self._metadata_key, [one.info for one in writes])
        if self._enable_write_sharding_file and multihost.leads(self._primary_host):
            await _write_layouts(layouts, [one.info for one in writes])
        await write_arrays(writes, self._primary_host)


def _check_savable(value: Any, info: ParamInfo) -> None:
    if jax.process_count() > 1 and value.is_fully_addressable:
        raise ValueError(
            f"{info.name!r}: host local arrays cannot be saved by a job of several processes; make "
            "global arrays of them first"
        )
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        raise ValueError(
            f"{info.name!r} holds random keys, whose kind a type handler cannot write down: pass "
            "jax.random.key_data of them, or leave jax.Array to the stock handler"
        )


# --- Layouts.


async def _write_layouts(layouts: Sequence[Sharding], infos: Sequence[ParamInfo]) -> None:
    import tensorstore

    transaction = cast("Any", tensorstore).Transaction()

    async def write(layout: Sharding, info: ParamInfo) -> None:
        found = from_jax_sharding(layout)
        if found is None or info.parent_dir is None or info.name is None:
            return
        spec = get_sharding_tensorstore_spec(info.parent_dir.as_posix(), info.name)
        ts = cast("Any", tensorstore)
        array = await ts.open(
            ts.Spec(spec), open=True, context=context_of(info), transaction=transaction
        )
        await array.write(found.to_serialized_string())

    try:
        await all_of(write, layouts, infos)
    except BaseException:
        transaction.abort()
        raise
    await transaction.commit_async()


async def _layouts_of(infos: Sequence[ParamInfo]) -> Mapping[epath.Path, Mapping[str, str]]:
    """What is written down of the layouts, by item and name; each file is read once."""
    directories = {info.parent_dir for info in infos if info.parent_dir is not None}
    return {
        directory: await asyncio.to_thread(_read_layouts, directory) for directory in directories
    }


def _read_layouts(directory: epath.Path) -> Mapping[str, str]:
    try:
        return decode_sharding(files.read_bytes(directory / SHARDING_FILENAME))
    except FileNotFoundError:
        return {}


def _known_layout(
    layouts: Mapping[epath.Path, Mapping[str, str]], info: ParamInfo
) -> ShardingMetadata | None:
    """None for layouts that are unknown: one of them must not hide what is known of the others."""
    if info.parent_dir is None or info.name is None:
        return None
    text = layouts[info.parent_dir].get(info.name)
    try:
        return None if text is None else from_serialized_string(text)
    except (ValueError, NotImplementedError):
        return None


async def _layouts_to_restore(
    infos: Sequence[ParamInfo], args: Sequence[RestoreArgs]
) -> list[Sharding]:
    given = [_given_layout(arg) for arg in args]
    unsaid = [info for info, one in zip(infos, given, strict=True) if one is None]
    if not unsaid:
        return cast("list[Sharding]", given)
    for info in unsaid:
        if info.name is None:
            raise ValueError(
                f"Unable to deserialize sharding: a leaf without a name has none stored: {info}"
            )
    _LOG.warning(
        "arrays are laid out as they were saved leaves=%d reason='no sharding was given; that is "
        "slower, and depends on having the same devices'",
        len(unsaid),
    )
    stored = await _layouts_of(unsaid)
    return [
        one if one is not None else _stored_layout(stored, info)
        for one, info in zip(given, infos, strict=True)
    ]


def _given_layout(arg: RestoreArgs) -> Sharding | None:
    if not isinstance(arg, ArrayRestoreArgs):
        return None
    if arg.mesh is not None and arg.mesh_axes is not None:
        return NamedSharding(arg.mesh, arg.mesh_axes)
    if isinstance(arg.sharding, ShardingMetadata):
        return arg.sharding.to_jax_sharding()
    return arg.sharding


def _stored_layout(layouts: Mapping[epath.Path, Mapping[str, str]], info: ParamInfo) -> Sharding:
    """Raises `ValueError`, with the cause, if there is none or its devices are not here."""
    text = None if info.parent_dir is None else layouts[info.parent_dir].get(info.name or "")
    way_out = "pass ArrayRestoreArgs with a sharding, or with mesh and mesh_axes"
    if text is None:
        raise ValueError(
            f"the sharding of {info.name!r} cannot be None, and none is written down: {way_out}"
        )
    try:
        return from_serialized_string(text).to_jax_sharding()
    except (ValueError, NotImplementedError) as error:
        raise ValueError(
            f"the sharding of {info.name!r} cannot be None, and the one that is written down "
            f"cannot be rebuilt here ({error}): {way_out}"
        ) from error
