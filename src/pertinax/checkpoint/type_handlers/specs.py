# SPDX-License-Identifier: Apache-2.0
"""What TensorStore is asked for, leaf by leaf.

Knows how a `ParamInfo` and a leaf's args become specs; how specs are spelled is the business of
`serialization.tensorstore_utils`. Opens nothing.
"""

import base64
import logging
import os
from typing import Any, Final

import jax.numpy as jnp
import numpy as np
from etils import epath

from pertinax._formats.ocdbt import MANIFEST_FILE
from pertinax._formats.zarr.array import METADATA_KEY
from pertinax.checkpoint import multihost
from pertinax.checkpoint._adapt import files
from pertinax.checkpoint.serialization import tensorstore_utils
from pertinax.checkpoint.serialization.tensorstore_utils import ArrayWriteSpec, JsonSpec
from pertinax.checkpoint.type_handlers.contract import ParamInfo
from pertinax.checkpoint.type_handlers.leaf_args import RestoreArgs, SaveArgs

_LOG: Final = logging.getLogger(__name__)
SHARDING_FILENAME: Final = "_sharding"


def is_ocdbt_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Whether the item at `path` has one database that holds its arrays."""
    return files.exists(epath.Path(path) / MANIFEST_FILE)


def get_process_index_for_subdir(
    use_ocdbt: bool, override_ocdbt_process_id: str | None = None
) -> int | str | None:
    """Whose database a process writes into; None if there are no databases."""
    if not use_ocdbt:
        return None
    if override_ocdbt_process_id is not None:
        return override_ocdbt_process_id
    return multihost.process_index()


def get_ts_context(use_ocdbt: bool = True) -> Any:
    """A new TensorStore context. Deprecated: `serialization.tensorstore_utils` has the function."""
    _LOG.error(
        "type_handlers.get_ts_context is deprecated: use "
        "serialization.tensorstore_utils.get_ts_context"
    )
    return tensorstore_utils.get_ts_context(use_ocdbt=use_ocdbt)


def get_json_tspec_read(
    info: ParamInfo, use_ocdbt: bool, metadata_key: str | None = None
) -> JsonSpec:
    """What to open for reading the leaf. Raises `ValueError` if it is not said where it lies."""
    return _place(info, use_ocdbt, None, metadata_key)


def get_json_tspec_write(
    info: ParamInfo,
    use_ocdbt: bool,
    global_shape: tuple[int, ...],
    local_shape: tuple[int, ...],
    dtype: Any,
    process_index: int | str | None = None,
    metadata_key: str | None = None,
    arg: SaveArgs | None = None,
) -> JsonSpec:
    """What to open for writing an array of `dtype` in pieces of `local_shape`.

    Chunks are measured in `dtype`, whatever `arg` says of another; `get_cast_tspec_serialize` adds
    both. Raises `ValueError` as `get_json_tspec_read` does.
    """
    limit = None if arg is None else SaveArgs(chunk_byte_size=arg.chunk_byte_size)
    spec = array_write_spec(
        info,
        limit,
        global_shape=global_shape,
        local_shape=local_shape,
        dtype=dtype,
        use_ocdbt=use_ocdbt,
        process_index=process_index,
        metadata_key=metadata_key,
    ).json
    return {key: value for key, value in spec.items() if key != "dtype"}


def array_write_spec(
    info: ParamInfo,
    arg: SaveArgs | None,
    *,
    global_shape: tuple[int, ...],
    local_shape: tuple[int, ...],
    dtype: Any,
    use_ocdbt: bool,
    process_index: int | str | None = None,
    metadata_key: str | None = None,
) -> ArrayWriteSpec:
    """How an array of `dtype` is to be written in pieces of `local_shape`."""
    directory, name = _directory_and_name(info)
    target = None if arg is None or arg.dtype is None else jnp.dtype(arg.dtype)
    return ArrayWriteSpec(
        directory,
        name,
        global_shape=global_shape,
        write_shape=local_shape,
        dtype=jnp.dtype(dtype),
        target_dtype=target,
        chunk_byte_size=None if arg is None else arg.chunk_byte_size,
        use_zarr3=bool(info.use_zarr3),
        use_ocdbt=use_ocdbt,
        ocdbt_target_data_file_size=info.ocdbt_target_data_file_size,
        process_id=process_index,
        metadata_key=metadata_key,
    )


def get_cast_tspec_serialize(tspec: JsonSpec, value: Any, args: SaveArgs) -> JsonSpec:
    """The spec that takes `value` and stores it in the dtype that `args` say."""
    own = np.dtype(value.dtype).name
    stored = own if args.dtype is None else jnp.dtype(args.dtype).name
    return {"driver": "cast", "dtype": own, "base": {**tspec, "dtype": stored}}


def get_cast_tspec_deserialize(tspec: JsonSpec, args: RestoreArgs) -> JsonSpec:
    """The spec that gives what is stored in the dtype that `args` ask for."""
    if args.dtype is None:
        return tspec
    return {"driver": "cast", "dtype": jnp.dtype(args.dtype).name, "base": tspec}


def get_sharding_tensorstore_spec(directory: str, param_name: str) -> JsonSpec:
    """Where the layout of one array is written down."""
    key = base64.urlsafe_b64encode(param_name.encode()).decode()
    return json_tspec(directory, SHARDING_FILENAME, key)


def json_tspec(directory: str, filename: str, pointer: str) -> JsonSpec:
    """One value of a JSON file."""
    return {
        "driver": "json",
        "kvstore": tensorstore_utils.build_kvstore_tspec(directory, filename, use_ocdbt=False),
        "json_pointer": f"/{pointer}",
    }


def check_files_of(info: ParamInfo, metadata_key: str | None = None) -> None:
    """Raise `FileNotFoundError` if an array that has files of its own lacks its directory, or the
    metadata in it.
    """
    directory = epath.Path(os.path.join(*_directory_and_name(info)))
    if not files.exists(directory):
        raise FileNotFoundError(f"{info.name!r} is not stored: there is no directory {directory}")
    key = metadata_key or METADATA_KEY["zarr3" if info.use_zarr3 else "zarr"]
    if not files.exists(directory / key):
        raise FileNotFoundError(
            f"{directory} has no {key}, so it cannot be read. If the checkpoint was copied with "
            "gsutil or cp, were files that begin with a dot left out? (cp -a copies them)"
        )


def _place(
    info: ParamInfo, use_ocdbt: bool, process_id: int | str | None, metadata_key: str | None
) -> JsonSpec:
    directory, name = _directory_and_name(info)
    kvstore = tensorstore_utils.build_kvstore_tspec(
        directory, name, use_ocdbt=use_ocdbt, process_id=process_id
    )
    return tensorstore_utils.array_tspec(
        kvstore, use_zarr3=bool(info.use_zarr3), metadata_key=metadata_key
    )


def _directory_and_name(info: ParamInfo) -> tuple[str, str]:
    directory = info.parent_dir if info.parent_dir is not None else info.path and info.path.parent
    name = info.name if info.name is not None else info.path and info.path.name
    if directory is None or name is None:
        raise ValueError(
            f"cannot tell where a leaf lies: it needs parent_dir and name, or path; got {info}"
        )
    return os.fspath(directory), str(name)
