# SPDX-License-Identifier: Apache-2.0
"""The write plan: which chunks this process writes, and where in its data files each one goes.

Knows shapes, owned boxes, alignment and how much a file may hold. Knows nothing of live arrays or
of files. Every process can compute the plan of every other one from what all know.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pertinax._plan.boxes import Box, Shape
from pertinax._plan.chunks import chunk_box, chunks_touching, grid_shape, ordinal_of

SMALL_BYTES = 1 << 16
"""Chunks below this are packed: copied side by side into one buffer and written together."""
SMALL_ALIGNMENT = 64
"""JAX takes a host buffer without a copy if it starts at a multiple of this."""
LARGE_ALIGNMENT = 4096
"""A memory page: such chunks can be mapped, and read past the page cache."""


class ArrayPieces(NamedTuple):
    """The part of one array that this process writes: `boxes` of it, cut into chunks of
    `chunk_shape`.

    `encoded`: its chunks are compressed, so that nobody knows their stored lengths yet.
    """

    leaf: int
    shape: Shape
    chunk_shape: Shape
    itemsize: int
    boxes: tuple[Box, ...]
    encoded: bool = False


class Piece(NamedTuple):
    """One chunk to write: `box` of a leaf, from its `source`-th owned box, `length` raw bytes."""

    leaf: int
    source: int
    ordinal: int
    box: Box
    length: int


@dataclass(frozen=True, slots=True)
class WritePlan:
    """Pieces in three runs: `packed` small ones, laid out one after the other; `placed` large ones;
    the rest appended.

    `offsets` has the place of each packed and placed piece in one image of all data files, end to
    end. The packed ones fill the first `packed_bytes` of it, all that have a place the first
    `placed_bytes`; `total_bytes` counts the raw bytes of the others as well. `cuts` says where in
    the image each file begins, always at a page; `file_bytes` is what a file must exceed to be
    closed, 0 if there is only one.
    """

    pieces: tuple[Piece, ...]
    offsets: NDArray[np.int64]
    packed: int
    placed: int
    packed_bytes: int
    placed_bytes: int
    total_bytes: int
    cuts: tuple[int, ...] = (0,)
    file_bytes: int = 0


def plan_write(arrays: Sequence[ArrayPieces], *, file_bytes: int = 0) -> WritePlan:
    """Lay out all chunks: small ones packed first, then large ones on whole pages.

    They lie in one file, or in several: a file that has come to exceed `file_bytes` is closed.
    """
    known: _Known = {}
    pieces = [piece for array in arrays if not array.encoded for piece in _pieces(array, known)]
    small = [p for p in pieces if p.length < SMALL_BYTES]
    large = [p for p in pieces if p.length >= SMALL_BYTES]
    appended = [piece for array in arrays if array.encoded for piece in _pieces(array, known)]
    cuts = (0,)
    if file_bytes:
        offsets, packed_bytes, placed_bytes, cuts = _cut_offsets(small, large, file_bytes)
    else:
        small_offsets, packed_bytes = _offsets(small, 0, SMALL_ALIGNMENT)
        large_offsets, placed_bytes = _offsets(
            large, align(packed_bytes, LARGE_ALIGNMENT), LARGE_ALIGNMENT
        )
        offsets = np.concatenate([small_offsets, large_offsets])
    if not large:
        placed_bytes = packed_bytes
    return WritePlan(
        (*small, *large, *appended),
        offsets,
        len(small),
        len(large),
        packed_bytes,
        placed_bytes,
        placed_bytes + sum(p.length for p in appended),
        cuts,
        file_bytes,
    )


def align(offset: int, alignment: int) -> int:
    """The first multiple of `alignment` from `offset` on."""
    return -(-offset // alignment) * alignment


def _offsets(pieces: Sequence[Piece], start: int, alignment: int) -> tuple[NDArray[np.int64], int]:
    """Offset of each piece, and the end of the last one, rounded up to the alignment."""
    lengths = np.fromiter((p.length for p in pieces), np.int64, len(pieces))
    ends = np.cumsum(-(-lengths // alignment) * alignment)
    offsets = start + np.concatenate([np.zeros(1, np.int64), ends])[:-1] if len(pieces) else ends
    return offsets, start + (int(ends[-1]) if len(pieces) else 0)


def _cut_offsets(
    small: Sequence[Piece], large: Sequence[Piece], file_bytes: int
) -> tuple[NDArray[np.int64], int, int, tuple[int, ...]]:
    """Offsets in the image of several files, the ends of both runs, and where the files begin."""
    cuts, offsets, ends = [0], list[int](), [0, 0]
    end = 0
    for run, (pieces, alignment) in enumerate(((small, SMALL_ALIGNMENT), (large, LARGE_ALIGNMENT))):
        for piece in pieces:
            offset = align(end, alignment)
            if end - cuts[-1] > file_bytes:
                offset = align(end, LARGE_ALIGNMENT)
                cuts.append(offset)
            offsets.append(offset)
            end = offset + piece.length
        ends[run] = align(end, alignment)
    return np.array(offsets, np.int64), ends[0], ends[1], tuple(cuts)


_Cut = tuple[int, int, Box, int]
"""A piece of whatever leaf: source, ordinal, box and length."""
_Known = dict[tuple[int, Shape, Shape, int], list[_Cut]]


def _pieces(array: ArrayPieces, known: _Known) -> list[Piece]:
    """The pieces of one array; `known` remembers how arrays with the very same boxes are cut."""
    key = (id(array.boxes), array.shape, array.chunk_shape, array.itemsize)
    cuts = known.get(key)
    if cuts is None:
        cuts = known[key] = list(_cuts(array))
    leaf = array.leaf
    return [Piece(leaf, *cut) for cut in cuts]


def _cuts(array: ArrayPieces) -> Iterator[_Cut]:
    grid = grid_shape(array.shape, array.chunk_shape)
    for source, box in enumerate(array.boxes):
        for index in chunks_touching(box, array.chunk_shape):
            chunk = chunk_box(index, array.chunk_shape, array.shape)
            if not box.contains(chunk):
                raise ValueError(
                    f"chunk {chunk} of leaf {array.leaf} reaches out of the owned box {box}"
                )
            yield source, ordinal_of(index, grid), chunk, chunk.size * array.itemsize
