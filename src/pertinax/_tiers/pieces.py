# SPDX-License-Identifier: Apache-2.0
"""Pieces: the chunks of one save, numbered, and who has which of them.

Knows chunk tables and their grids. Knows nothing of processes, files or of how pieces travel. The
numbers are the same on every process, for they follow from the leaves of the save alone.
"""

import base64
import math
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from pertinax._formats.ledger import block_counts
from pertinax._formats.manifest import ChunkTable, Manifest, StoredLeaf
from pertinax._formats.zarr.dtypes import numpy_dtype
from pertinax._plan.boxes import Box
from pertinax._plan.chunks import (
    chunk_box,
    chunks_touching,
    grid_shape,
    grid_size,
    index_of,
    ordinal_of,
)
from pertinax._plan.exchange import Bits

_MOST: Final = 1 << 31


@final
class Pieces:
    """The numbers of the chunks of `leaves`: leaf by leaf, in grid order."""

    def __init__(self, leaves: Sequence[StoredLeaf]) -> None:
        self.leaves: Final = leaves
        counts = [
            0 if one.codec == "none" else grid_size(one.shape, one.chunk_shape) for one in leaves
        ]
        self._first = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.array(counts, np.int64))])
        self.total = int(self._first[-1])

    def numbers(self, chunks: ChunkTable) -> NDArray[np.int64]:
        """The number of each row of a table, -1 for rows of no leaf."""
        known = chunks.leaf >= 0
        return np.where(known, self._first[np.where(known, chunks.leaf, 0)] + chunks.ordinal, -1)

    def held(self, chunks: ChunkTable) -> Bits:
        """Which pieces a table has."""
        numbers = self.numbers(chunks)
        bits = np.zeros(self.total, np.bool_)
        bits[numbers[numbers >= 0]] = True
        return bits

    def touched(self, boxes: Iterable[tuple[int, Box]]) -> Bits:
        """Which pieces have elements of these boxes, each of a leaf given by its position."""
        bits = np.zeros(self.total, np.bool_)
        for leaf, box in boxes:
            one = self.leaves[leaf]
            grid = grid_shape(one.shape, one.chunk_shape)
            for index in chunks_touching(box, one.chunk_shape):
                bits[int(self._first[leaf]) + ordinal_of(index, grid)] = True
        return bits

    def place(self, number: int) -> tuple[int, int]:
        """Leaf and ordinal of a piece."""
        leaf = int(np.searchsorted(self._first, number, side="right")) - 1
        return leaf, number - int(self._first[leaf])

    def box(self, number: int) -> tuple[int, Box]:
        """The leaf of a piece, and the elements that it has."""
        leaf, ordinal = self.place(number)
        one = self.leaves[leaf]
        index = index_of(ordinal, grid_shape(one.shape, one.chunk_shape))
        return leaf, chunk_box(index, one.chunk_shape, one.shape)

    def nbytes(self, number: int) -> int:
        """Bytes of a piece, none of which is ever compressed."""
        one = self.leaves[self.place(number)[0]]
        return math.prod(one.chunk_shape) * numpy_dtype(one.storage_dtype).itemsize

    def sizes(self) -> list[int]:
        """Bytes of all pieces."""
        out: list[int] = []
        for one, first, end in zip(self.leaves, self._first, self._first[1:], strict=False):
            if end > first:
                size = math.prod(one.chunk_shape) * numpy_dtype(one.storage_dtype).itemsize
                out += [size] * int(end - first)
        return out


def table_of(pieces: Pieces, numbers: Sequence[int]) -> ChunkTable:
    """A chunk table with these pieces, in order; their bytes are elsewhere than in files."""
    places = [pieces.place(number) for number in numbers]
    none = np.zeros(len(numbers), np.int64)
    return ChunkTable(
        ("pieces",) if numbers else (),
        np.array([leaf for leaf, _ in places], np.int64),
        np.array([ordinal for _, ordinal in places], np.int64),
        none,
        none,
        np.array([pieces.nbytes(number) for number in numbers], np.int64),
        None,
    )


def checksums(manifest: Manifest) -> list[NDArray[np.uint32]]:
    """The checksums of each row of the chunk table, one for each block."""
    chunks = manifest.chunks
    crc = chunks.crc if chunks.crc is not None else np.zeros(0, np.uint32)
    return np.split(crc, np.cumsum(block_counts(chunks.length))[:-1]) if len(chunks) else []


def encode_bits(bits: Bits) -> str:
    """Bits as a short text: most are regular."""
    return base64.b64encode(zlib.compress(np.packbits(bits).tobytes(), 6)).decode()


def decode_bits(text: Any, total: int) -> Bits:
    """The inverse of `encode_bits`."""
    if not 0 <= total < _MOST:
        raise ValueError(f"{total} pieces")
    data = zlib.decompress(base64.b64decode(text))
    return np.unpackbits(np.frombuffer(data, np.uint8), count=total).astype(np.bool_)
