# SPDX-License-Identifier: Apache-2.0
"""Zarr arrays: what their metadata says, and how chunks are named.

Knows the chunk keys of both versions; `_plan.chunks` knows grids. Knows nothing of the metadata's
text (`v2`, `v3`), of chunk contents (`codecs`), nor of where keys are kept.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pertinax._formats.manifest import Codec
from pertinax._formats.zarr.dtypes import numpy_dtype
from pertinax._plan.boxes import Shape
from pertinax._plan.chunks import grid_shape

Driver = Literal["zarr", "zarr3"]
METADATA_KEY: Mapping[Driver, str] = {"zarr": ".zarray", "zarr3": "zarr.json"}
MAX_RANK = 64
"""numpy's own limit."""
MAX_EXTENT = 2**62
"""Bound of every extent and of the bytes of a chunk: sums and offsets stay within 64 bits."""


@dataclass(frozen=True, slots=True)
class ArrayMetadata:
    """What `.zarray` or `zarr.json` says of one array.

    Attributes:
        shape: elements along each dimension.
        chunk_shape: elements of one stored chunk along each dimension; edge chunks are stored
            whole.
        dtype: name of the stored dtype, `>f4` and the like if big-endian; empty if only TensorStore
            knows it.
        codec: how chunks are encoded.
        driver: TensorStore's name of the Zarr version.
        fill: the element that absent chunks stand for, or None if it is not said.
    """

    shape: Shape
    chunk_shape: Shape
    dtype: str
    codec: Codec
    driver: Driver = "zarr"
    fill: Any = None

    @property
    def grid(self) -> Shape:
        """Number of chunks along each dimension."""
        return grid_shape(self.shape, self.chunk_shape)

    @property
    def chunk_bytes(self) -> int:
        """Bytes of one decoded chunk."""
        return math.prod(self.chunk_shape) * numpy_dtype(self.dtype).itemsize


def key_prefix(name: str) -> str:
    """What all keys of the array `name` begin with. The root leaf has no name and no prefix."""
    return name + "/" if name else ""


def metadata_key(driver: Driver, name: str) -> str:
    """The key of the array's metadata."""
    return key_prefix(name) + METADATA_KEY[driver]


def chunk_suffix(driver: Driver, index: Shape) -> str:
    """The part of a chunk's key that follows the array's prefix."""
    if driver == "zarr":
        return ".".join(map(str, index)) or "0"
    return "/".join(("c", *map(str, index)))


def chunk_key(driver: Driver, name: str, index: Shape) -> str:
    """The key of one chunk."""
    return key_prefix(name) + chunk_suffix(driver, index)


def split_chunk_key(driver: Driver, key: str) -> tuple[str, str] | None:
    """`(name, suffix)` of a chunk's key, or None if `key` names no chunk."""
    if driver == "zarr":
        name, _, suffix = key.rpartition("/")
        return (name, suffix) if _is_digits(suffix.replace(".", "")) else None
    parts = key.split("/")
    cut = len(parts)
    while cut > 1 and _is_digits(parts[cut - 1]):
        cut -= 1
    if parts[cut - 1] != "c":
        return None
    return "/".join(parts[: cut - 1]), "/".join(parts[cut - 1 :])


def parse_chunk_suffix(driver: Driver, suffix: str, grid: Shape) -> int | None:
    """The ordinal of the chunk that `suffix` names, or None if the grid has no such chunk."""
    if not grid:
        return 0 if suffix == chunk_suffix(driver, ()) else None
    parts = suffix.split(".") if driver == "zarr" else suffix.split("/")[1:]
    if len(parts) != len(grid):
        return None
    ordinal = 0
    for part, n in zip(parts, grid, strict=True):
        if len(part) > 19 or not _is_digits(part) or (part[0] == "0" and len(part) > 1):
            return None
        i = int(part)
        if i >= n:
            return None
        ordinal = ordinal * n + i
    return ordinal


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit()
