# SPDX-License-Identifier: Apache-2.0
"""Zarr v3 metadata: the text of `zarr.json`.

Knows the codec chains that Orbax writes, the plain ones, and which other features the format has.
Knows nothing of chunks.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

from pertinax._formats.manifest import Codec
from pertinax._formats.metadata.text import Json
from pertinax._formats.zarr.array import MAX_EXTENT, MAX_RANK, ArrayMetadata
from pertinax._formats.zarr.dtypes import from_v3, numpy_dtype
from pertinax._formats.zarr.fill import UNKNOWN_FILL, parse_fill, zero
from pertinax._plan.boxes import Shape

ZSTD_LEVEL = 3
"""What `zarr.json` of Orbax says; readers do not need it."""
_LITTLE: Mapping[str, Any] = {"configuration": {"endian": "little"}, "name": "bytes"}


def encode(shape: Shape, chunk_shape: Shape, dtype: str, codec: Codec) -> bytes:
    """`zarr.json` as TensorStore writes it: compact, keys in order. `dtype` is a storage dtype."""
    fields = {
        "chunk_grid": {"configuration": {"chunk_shape": chunk_shape}, "name": "regular"},
        "chunk_key_encoding": {"name": "default"},
        "codecs": _encode_codecs(chunk_shape, dtype, codec),
        "data_type": dtype,
        "fill_value": zero(dtype),
        "node_type": "array",
        "shape": shape,
        "zarr_format": 3,
    }
    return json.dumps(fields, separators=(",", ":")).encode()


def _encode_codecs(chunk_shape: Shape, dtype: str, codec: Codec) -> list[Any]:
    if codec not in ("raw", "zstd", "shard", "shard+zstd"):
        raise ValueError(f"Zarr v3 has no codec {codec!r}")
    chain: list[Any] = [_LITTLE if numpy_dtype(dtype).itemsize > 1 else {"name": "bytes"}]
    if codec.endswith("zstd"):
        chain.append({"configuration": {"checksum": False, "level": ZSTD_LEVEL}, "name": "zstd"})
    if not codec.startswith("shard"):
        return chain
    configuration = {
        "chunk_shape": chunk_shape,
        "codecs": chain,
        "index_codecs": [_LITTLE, {"name": "crc32c"}],
    }
    return [{"configuration": configuration, "name": "sharding_indexed"}]


def parse(data: bytes, file: str) -> ArrayMetadata:
    """What `zarr.json` says. `CorruptCheckpoint` if it breaks the format; codec "tensorstore" if it
    is beyond us.
    """
    top = Json.parse(data, file)
    if top.field("zarr_format").value != 3 or top.field("node_type").value != "array":
        top.corrupt("not an array of Zarr format 3")
    shape = top.field("shape").shape(0, MAX_EXTENT, MAX_RANK)
    chunks, ours = _grid(top, shape)
    data_type = top.field("data_type")
    named = from_v3(data_type.value) if isinstance(data_type.value, str) else None
    if named is None and not isinstance(data_type.value, str | dict):
        data_type.wrong("a data type")
    codec, big_endian = _codec(top.field("codecs"), chunks)
    if named is None or not ours or top.field("storage_transformers").value not in (None, []):
        return ArrayMetadata(shape, chunks, named or "", "tensorstore", "zarr3")
    fill = parse_fill(top.field("fill_value").value, named)
    if fill is None:
        top.field("fill_value").wrong("a fill value")
    if fill is UNKNOWN_FILL:
        fill, codec = None, "tensorstore"
    plain = numpy_dtype(named)
    if max(math.prod(chunks), math.prod(shape)) * plain.itemsize > MAX_EXTENT:
        top.corrupt(f"an array of shape {shape} in chunks of {chunks} is too large")
    if big_endian and plain.itemsize > 1:
        if plain.kind not in "iufc" or plain.isbuiltin != 1:
            return ArrayMetadata(shape, chunks, named, "tensorstore", "zarr3", fill)
        named = plain.newbyteorder(">").str
    return ArrayMetadata(shape, chunks, named, codec, "zarr3", fill)


def _grid(top: Json, shape: Shape) -> tuple[Shape, bool]:
    """The chunk shape, and whether chunks lie and are named as Orbax does it."""
    grid, keys = top.field("chunk_grid"), top.field("chunk_key_encoding")
    if grid.field("name").text() != "regular":
        return tuple(max(1, n) for n in shape), False
    chunks = grid.field("configuration").field("chunk_shape").shape(1, MAX_EXTENT, MAX_RANK)
    if len(shape) != len(chunks):
        top.corrupt(f"shape {shape} and chunk shape {chunks} differ in rank")
    if keys.field("name").text() != "default":
        return chunks, False
    configuration = keys.field("configuration")
    slash = configuration.value is None or configuration.field("separator").value in (None, "/")
    return chunks, slash


def _codec(codecs: Json, chunks: Shape) -> tuple[Codec, bool]:
    """The codec, and whether elements are big-endian."""
    chain = codecs.array()
    if not chain:
        codecs.wrong("at least one codec")
    if len(chain) != 1 or chain[0].field("name").text() != "sharding_indexed":
        return _chain(chain)
    configuration = chain[0].field("configuration")
    inner, big_endian = _chain(configuration.field("codecs").array())
    same = configuration.field("chunk_shape").shape(1, MAX_EXTENT, MAX_RANK) == chunks
    at_end = configuration.field("index_location").value in (None, "end")
    index = configuration.field("index_codecs").array()
    named = [codec.field("name").text() for codec in index]
    plain = named == ["bytes", "crc32c"] and not _is_big(index[0])
    if not (same and at_end and plain) or inner == "tensorstore":
        return "tensorstore", False
    return ("shard" if inner == "raw" else "shard+zstd"), big_endian


def _chain(chain: list[Json]) -> tuple[Codec, bool]:
    names = [codec.field("name").text() for codec in chain]
    if names == ["bytes"]:
        return "raw", _is_big(chain[0])
    if names == ["bytes", "zstd"]:
        return "zstd", _is_big(chain[0])
    return "tensorstore", False


def _is_big(codec: Json) -> bool:
    configuration = codec.field("configuration")
    if configuration.value is None:
        return False
    endian = configuration.field("endian")
    if endian.value not in (None, "little", "big"):
        endian.wrong("endian 'little' or 'big'")
    return endian.value == "big"
