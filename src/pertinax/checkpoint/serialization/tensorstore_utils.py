# SPDX-License-Identifier: Apache-2.0
"""TensorStore's words for checkpoints: where an array is, and how it is to be written.

Knows the JSON specs that TensorStore opens (format specification, sections 11 to 13). Imports it
only to make a context. Knows nothing of values.
"""

import dataclasses
import math
import os.path
import re
from typing import Any, cast

import numpy as np

from pertinax.checkpoint.arrays import subchunking
from pertinax.checkpoint.arrays.types import DType, Shape

JsonSpec = dict[str, Any]

DEFAULT_DRIVER = "file"
"""Driver of local paths; a program may set another before specs are built."""
PROCESS_SUBDIR_PREFIX = "ocdbt.process_"
ZARR_VER2 = "zarr"
ZARR_VER3 = "zarr3"

_GCS_PATH_RE = r"^gs://([^/]*)/(.*)$"
_OCDBT_PROCESS_ID_RE = r"[A-Za-z0-9]+"
_DEFAULT_OCDBT_TARGET_DATA_FILE_SIZE = 2**31
_FILE_READS_AT_ONCE = 128
_NODE_CACHE_BYTES = 100_000_000
_CACHE_POOL = "cache_pool#ocdbt"


@dataclasses.dataclass(frozen=True)
class ArrayMetadata:
    """How an array is stored.

    Attributes:
        shape: of the whole array.
        dtype: of the stored elements.
        write_shape: of the pieces it is written in.
        chunk_shape: of what is stored under one key.
        use_ocdbt: many arrays in one database, or one file for each key.
        use_zarr3: version 3 of Zarr, or 2.
    """

    shape: Shape
    dtype: DType
    write_shape: Shape
    chunk_shape: Shape
    use_ocdbt: bool
    use_zarr3: bool


def context_spec(*, use_ocdbt: bool) -> JsonSpec:
    """What the specs of this module expect of the context they are opened in."""
    limits: JsonSpec = {"file_io_concurrency": {"limit": _FILE_READS_AT_ONCE}}
    if use_ocdbt:
        limits[_CACHE_POOL] = {"total_bytes_limit": _NODE_CACHE_BYTES}
    return limits


def get_ts_context(*, use_ocdbt: bool = True) -> Any:
    """A new `tensorstore.Context`. One for each operation: it remembers what files held."""
    import tensorstore

    return cast("Any", tensorstore).Context(context_spec(use_ocdbt=use_ocdbt))


def build_kvstore_tspec(
    directory: str,
    name: str | None = None,
    *,
    use_ocdbt: bool = True,
    process_id: int | str | None = None,
) -> JsonSpec:
    """Where the keys of array `name` are: all keys of the directory if it is None.

    `process_id` picks the database of one process, before the databases are merged. Raises
    `ValueError` for a relative directory (OCDBT only), a process id that is no word of letters and
    digits, and a cloud path without a path inside its bucket.
    """
    directory = normalized(str(directory))
    if use_ocdbt:
        return _ocdbt_tspec(directory, name, process_id)
    path = directory if name is None else f"{directory}/{name}"
    scheme = _cloud_scheme(path)
    return _cloud_kvstore(path) if scheme else {"driver": DEFAULT_DRIVER, "path": path}


def _ocdbt_tspec(directory: str, name: str | None, process_id: int | str | None) -> JsonSpec:
    if not _cloud_scheme(directory) and not os.path.isabs(directory):
        raise ValueError(f"an OCDBT checkpoint path should be absolute: {directory!r}")
    if process_id is not None:
        if re.fullmatch(_OCDBT_PROCESS_ID_RE, str(process_id)) is None:
            raise ValueError(f"process_id must be letters and digits only: {process_id!r}")
        directory = f"{directory}/{PROCESS_SUBDIR_PREFIX}{process_id}"
    spec: JsonSpec = {
        "driver": "ocdbt",
        "base": base_of(directory),
        "experimental_read_coalescing_threshold_bytes": 1_000_000,
        "experimental_read_coalescing_merged_bytes": 500_000_000_000,
        "experimental_read_coalescing_interval": "1ms",
        "cache_pool": _CACHE_POOL,
    }
    return spec if name is None else {**spec, "path": name}


def base_of(directory: str) -> JsonSpec | str:
    """What an OCDBT database lies on: a URL, or local files."""
    return directory if _cloud_scheme(directory) else {"driver": DEFAULT_DRIVER, "path": directory}


def normalized(path: str) -> str:
    """The path without detours; the second slash of a URL, which that eats, is put back."""
    path = os.path.normpath(path)
    return re.sub(r"^(gs|s3):/(?!/)", r"\1://", path)


def _cloud_scheme(path: str) -> str | None:
    found = re.match(r"(gs|s3)://", path)
    return found.group(1) if found else None


def _cloud_kvstore(path: str) -> JsonSpec:
    found = re.fullmatch(r"(gs|s3)://([^/]+)/(.*)", path)
    if found is None:
        raise ValueError(f"a cloud path names a bucket and a path inside it: {path!r}")
    scheme, bucket, inside = found.groups()
    return {"driver": "gcs" if scheme == "gs" else "s3", "bucket": bucket, "path": inside}


def _get_kvstore_for_gcs(ckpt_path: str) -> JsonSpec:  # pyright: ignore[reportUnusedFunction]
    if re.match(_GCS_PATH_RE, ckpt_path) is None:
        raise ValueError(f"a gs:// path names a bucket and a path inside it: {ckpt_path!r}")
    return _cloud_kvstore(ckpt_path)


def add_ocdbt_write_options(
    kvstore_tspec: JsonSpec, target_data_file_size: int | None = None
) -> None:
    """Add to an OCDBT spec, in place, what a writer wants.

    `target_data_file_size` is where a data file is closed, in bytes; 0: never; None: TensorStore's
    own choice. Raises `ValueError` if it is negative.
    """
    if target_data_file_size is not None:
        if target_data_file_size < 0:
            raise ValueError(
                "OCDBT target_data_file_size must be >= 0, where 0 is without limit: "
                f"{target_data_file_size}"
            )
        kvstore_tspec["target_data_file_size"] = target_data_file_size
    kvstore_tspec["config"] = {
        "max_inline_value_bytes": 1024,
        "max_decoded_node_bytes": 100_000_000,
        "manifest_kind": "single",
    }
    # A database of which nobody else writes need not be read first.
    kvstore_tspec["assume_config"] = True


def build_zarr_shard_and_chunk_metadata(
    *, global_shape: Shape, shard_shape: Shape, use_zarr3: bool, chunk_shape: Shape
) -> JsonSpec:
    """What TensorStore is asked to write as metadata of the array.

    Each stored object holds one chunk, in version 3 of Zarr too: `shard_shape` does not show.
    """
    shape, chunk = tuple(map(int, global_shape)), tuple(map(int, chunk_shape))
    if not use_zarr3:
        return {"shape": shape, "chunks": chunk, "compressor": {"id": "zstd"}}
    endian: JsonSpec = {"name": "bytes", "configuration": {"endian": "little"}}
    codec: JsonSpec = {
        "chunk_shape": chunk,
        "codecs": [endian, {"name": "zstd"}],
        "index_codecs": [endian, {"name": "crc32c"}],
        "index_location": "end",
    }
    return {
        "shape": shape,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "codecs": [{"name": "sharding_indexed", "configuration": codec}],
    }


def calculate_chunk_byte_size(
    write_shape: Shape,
    dtype: DType,
    *,
    chunk_byte_size: int | None,
    ocdbt_target_data_file_size: int | None = None,
) -> int | None:
    """Bytes that a chunk in an OCDBT database may have; None: as many as a written piece has.

    A chunk shall fit a data file (2 GiB unless a size is given; 0: files without limit), and be as
    the user wants it.
    """
    file_size = ocdbt_target_data_file_size
    if file_size is None:
        file_size = _DEFAULT_OCDBT_TARGET_DATA_FILE_SIZE
    if file_size == 0:
        return chunk_byte_size
    if chunk_byte_size is not None:
        return min(chunk_byte_size, file_size)
    piece = math.prod(write_shape) * np.dtype(dtype).itemsize
    return file_size if piece > file_size else None


class ArrayWriteSpec:
    """How one array is to be written: the spec to open, and what it comes to."""

    def __init__(
        self,
        directory: str,
        relative_array_filename: str,
        *,
        global_shape: Shape,
        write_shape: Shape,
        dtype: DType,
        target_dtype: DType | None = None,
        chunk_byte_size: int | None = None,
        shard_axes: tuple[int, ...] = (),
        use_zarr3: bool = False,
        use_ocdbt: bool,
        ocdbt_target_data_file_size: int | None = None,
        process_id: int | str | None = None,
        metadata_key: str | None = None,
    ) -> None:
        """Values of `dtype` are stored as `target_dtype`. Raises `ValueError` as the parts do."""
        value_dtype = np.dtype(dtype)
        stored = value_dtype if target_dtype is None else np.dtype(target_dtype)
        kvstore = build_kvstore_tspec(
            directory,
            name=relative_array_filename,
            use_ocdbt=use_ocdbt,
            process_id=process_id,
        )
        if use_ocdbt:
            add_ocdbt_write_options(kvstore, ocdbt_target_data_file_size)
            chunk_byte_size = calculate_chunk_byte_size(
                write_shape,
                stored,
                chunk_byte_size=chunk_byte_size,
                ocdbt_target_data_file_size=ocdbt_target_data_file_size,
            )
        chunk_shape = subchunking.choose_chunk_shape(
            global_shape, write_shape, stored, chunk_byte_size, shard_axes=shard_axes
        )
        spec = array_tspec(kvstore, use_zarr3=use_zarr3, metadata_key=metadata_key)
        spec["metadata"] = build_zarr_shard_and_chunk_metadata(
            global_shape=global_shape,
            shard_shape=write_shape,
            use_zarr3=use_zarr3,
            chunk_shape=chunk_shape,
        )
        spec["dtype"] = stored.name
        self._json = _maybe_add_cast_to_write_spec(spec, dtype=value_dtype, target_dtype=stored)
        self._metadata = ArrayMetadata(
            shape=tuple(global_shape),
            dtype=stored,
            write_shape=tuple(write_shape),
            chunk_shape=chunk_shape,
            use_ocdbt=use_ocdbt,
            use_zarr3=use_zarr3,
        )

    @property
    def json(self) -> JsonSpec:
        """The spec that TensorStore opens."""
        return self._json

    @property
    def metadata(self) -> ArrayMetadata:
        """Shapes, dtype and layout of what will be stored."""
        return self._metadata


def array_tspec(
    kvstore: JsonSpec, *, use_zarr3: bool = False, metadata_key: str | None = None
) -> JsonSpec:
    """The spec of a Zarr array at that place, enough to read it."""
    spec: JsonSpec = {
        "driver": ZARR_VER3 if use_zarr3 else ZARR_VER2,
        "kvstore": kvstore,
        "recheck_cached_data": False,
        "recheck_cached_metadata": False,
    }
    return spec if metadata_key is None else {**spec, "metadata_key": metadata_key}


def _maybe_add_cast_to_write_spec(
    array_tspec: JsonSpec, *, dtype: DType, target_dtype: DType
) -> JsonSpec:
    """The spec that takes values of `dtype` and stores them as `target_dtype`."""
    if dtype == target_dtype:
        return array_tspec
    base = {**array_tspec, "dtype": target_dtype.name}
    return {"driver": "cast", "dtype": dtype.name, "base": base}
