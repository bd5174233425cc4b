# SPDX-License-Identifier: Apache-2.0
"""Padding: the bytes of a data file that belong to no chunk, and are zero.

Knows where they are by way of the chunk table. Knows nothing of files: it is given their bytes.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pertinax._formats.manifest import ChunkTable
from pertinax.errors import CorruptCheckpoint

_TOGETHER_BYTES = 1 << 20
"""How much padding is looked at in one go."""
_NARROW_BYTES = 1 << 16
"""What is no wider is read with the chunk before it. We never leave more than a page."""


class Span(NamedTuple):
    """Chunks of one file, by row, whose bytes are in `data`; its first byte is byte `origin` of the
    file.
    """

    rows: list[int]
    data: NDArray[np.uint8]
    origin: int


class Padding:
    """What the chunks of an item have between them.

    Attributes:
        after: for each row the bytes from its end to the next chunk of its file; 0 where they are
            in `wide`, and for the last.
        wide: what is too much to be read with a chunk, and what stands before the first one: file,
            start and stop of each. A hole in a file costs nothing, so there may be terabytes.
    """

    def __init__(self, chunks: ChunkTable) -> None:
        self._chunks = chunks
        rows = np.lexsort((chunks.offset, chunks.file))
        file, begin = chunks.file[rows], chunks.offset[rows]
        ends = begin + chunks.length[rows]
        is_first = np.diff(file, prepend=-1) != 0
        starts = np.where(is_first, 0, np.roll(ends, 1))
        gaps = begin - starts  # a ledger whose chunks overlap was refused before
        is_wide = (gaps > _NARROW_BYTES) | (is_first & (gaps > 0))
        self.wide: list[tuple[int, int, int]] = list(
            zip(
                file[is_wide].tolist(),
                starts[is_wide].tolist(),
                begin[is_wide].tolist(),
                strict=True,
            )
        )
        self._after = np.zeros(len(chunks), np.int64)
        self._after[rows[:-1]] = np.where(is_wide, 0, gaps)[1:]
        # A list, too: numpy is slow at giving out single numbers.
        self.after: list[int] = self._after.tolist()

    def check(self, span: Span) -> None:
        """What follows each chunk of the span, up to the next one, is zero.

        Raises `CorruptCheckpoint`, which names the first byte that is not.
        """
        rows = np.asarray(span.rows, np.int64)
        rows = rows[self._after[rows] > 0]
        starts = self._chunks.offset[rows] + self._chunks.length[rows] - span.origin
        lengths = self._after[rows]
        for some in _by_weight(lengths):
            before = np.cumsum(lengths[some]) - lengths[some]
            total = int(lengths[some].sum())
            where = np.repeat(starts[some] - before, lengths[some]) + np.arange(total)
            bad = where[span.data[where] != 0]
            if bad.size:
                file = int(self._chunks.file[rows[0]])
                raise not_zero(self._chunks.files[file], int(bad[0]) + span.origin)

    def ends(self) -> list[int]:
        """For each file where its last chunk ends."""
        chunks = self._chunks
        last = np.zeros(len(chunks.files), np.int64)
        np.maximum.at(last, chunks.file, chunks.offset + chunks.length)
        return last.tolist()


def not_zero(file: str, at: int) -> CorruptCheckpoint:
    """The error for a byte of padding."""
    return CorruptCheckpoint("padding is not zero", file=file, start=at, stop=at + 1)


def _by_weight(lengths: NDArray[np.int64]) -> Iterator[slice]:
    """Slices of a list of lengths, about a megabyte each unless one alone has more."""
    number = np.cumsum(lengths) // _TOGETHER_BYTES
    edges = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(lengths)]
    for start, stop in pairwise(edges):
        if stop > start:
            yield slice(start, stop)
