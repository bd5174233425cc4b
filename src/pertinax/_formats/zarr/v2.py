# SPDX-License-Identifier: Apache-2.0
"""Zarr v2 metadata: the text of `.zarray`.

Knows what TensorStore and Orbax write there, and which other features the format has. Knows nothing
of chunks.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

from pertinax._formats.manifest import Codec
from pertinax._formats.metadata.text import Json
from pertinax._formats.zarr.array import MAX_EXTENT, MAX_RANK, ArrayMetadata
from pertinax._formats.zarr.dtypes import from_v2, numpy_dtype, to_v2
from pertinax._formats.zarr.fill import UNKNOWN_FILL, parse_fill
from pertinax._plan.boxes import Shape

_COMPRESSORS: Mapping[Codec, Any] = {"raw": None, "zstd": {"id": "zstd", "level": 1}}


def encode(shape: Shape, chunk_shape: Shape, dtype: str, codec: Codec) -> bytes:
    """`.zarray` as TensorStore writes it: compact, keys in order. `dtype` is a storage dtype."""
    if codec not in _COMPRESSORS:
        raise ValueError(f"Zarr v2 has no codec {codec!r}; it has {sorted(_COMPRESSORS)}")
    fields = {
        "chunks": chunk_shape,
        "compressor": _COMPRESSORS[codec],
        "dimension_separator": ".",
        "dtype": to_v2(dtype),
        "fill_value": None,
        "filters": None,
        "order": "C",
        "shape": shape,
        "zarr_format": 2,
    }
    return json.dumps(fields, separators=(",", ":")).encode()


def parse(data: bytes, file: str) -> ArrayMetadata:
    """What `.zarray` says. `CorruptCheckpoint` if it breaks the format; codec "tensorstore" if it
    is beyond us.
    """
    top = Json.parse(data, file)
    if top.field("zarr_format").value != 2:
        top.field("zarr_format").wrong("Zarr format 2")
    shape = top.field("shape").shape(0, MAX_EXTENT, MAX_RANK)
    chunks = top.field("chunks").shape(1, MAX_EXTENT, MAX_RANK)
    if len(shape) != len(chunks):
        top.corrupt(f"shape {shape} and chunks {chunks} differ in rank")
    text = top.field("dtype")
    dtype = from_v2(text.value) if isinstance(text.value, str) else None
    codec = _codec(top)
    fill = None
    if dtype is None:
        if not isinstance(text.value, str | list):
            text.wrong("a data type")
        codec = "tensorstore"
    else:
        fill = parse_fill(top.field("fill_value").value, dtype)
        if fill is UNKNOWN_FILL:
            fill, codec = None, "tensorstore"
        if max(math.prod(chunks), math.prod(shape)) * numpy_dtype(dtype).itemsize > MAX_EXTENT:
            top.corrupt(f"an array of shape {shape} in chunks of {chunks} is too large")
    return ArrayMetadata(shape, chunks, dtype or "", codec, "zarr", fill)


def _codec(top: Json) -> Codec:
    order, separator = top.field("order"), top.field("dimension_separator")
    if order.value not in ("C", "F"):
        order.wrong("order 'C' or 'F'")
    if separator.value not in (None, ".", "/"):
        separator.wrong("separator '.' or '/'")
    if order.value == "F" or separator.value == "/" or top.field("filters").value not in (None, []):
        return "tensorstore"
    compressor = top.field("compressor")
    if compressor.value is None:
        return "raw"
    return "zstd" if compressor.field("id").text() == "zstd" else "tensorstore"
