# SPDX-License-Identifier: Apache-2.0
"""Chunks: how a stored array is cut, and which chunks a region touches.

Knows grids of equal chunks and the rule that picks their shape. Knows nothing of codecs, keys or
files.
"""

import math
from collections.abc import Iterator, Sequence

from pertinax._plan.boxes import Box, Shape


def grid_shape(shape: Shape, chunk_shape: Shape) -> Shape:
    """Chunks along each dimension; the last one of a dimension may reach beyond the array."""
    return tuple(-(-n // c) for n, c in zip(shape, chunk_shape, strict=True))


def grid_size(shape: Shape, chunk_shape: Shape) -> int:
    """Number of chunks; 0 if the array has no elements, 1 for a scalar."""
    return math.prod(grid_shape(shape, chunk_shape))


def index_of(ordinal: int, grid: Shape) -> Shape:
    """Grid index of the chunk that is `ordinal`-th in C order."""
    index: list[int] = []
    for n in reversed(grid):
        ordinal, i = divmod(ordinal, n)
        index.append(i)
    return tuple(reversed(index))


def ordinal_of(index: Shape, grid: Shape) -> int:
    """Position in C order of the chunk at `index`."""
    ordinal = 0
    for i, n in zip(index, grid, strict=True):
        ordinal = ordinal * n + i
    return ordinal


def chunk_box(index: Shape, chunk_shape: Shape, shape: Shape) -> Box:
    """The elements of the array that the chunk holds (a chunk at the edge is cut off)."""
    start = tuple(i * c for i, c in zip(index, chunk_shape, strict=True))
    stop = tuple(min(s + c, n) for s, c, n in zip(start, chunk_shape, shape, strict=True))
    return Box(start, stop)


def chunks_touching(box: Box, chunk_shape: Shape) -> Iterator[Shape]:
    """Grid indices, in C order, of the chunks that have an element in common with `box`."""
    if any(a == b for a, b in zip(box.start, box.stop, strict=True)):
        return
    first = [a // c for a, c in zip(box.start, chunk_shape, strict=True)]
    last = [(b - 1) // c for b, c in zip(box.stop, chunk_shape, strict=True)]
    index = list(first)
    while True:
        yield tuple(index)
        for d in reversed(range(len(index))):
            index[d] += 1
            if index[d] <= last[d]:
                break
            index[d] = first[d]
        else:
            return


def choose_chunk_shape(
    global_shape: Shape,
    write_shape: Shape,
    *,
    itemsize: int,
    limit_bytes: int | None,
    shard_axes: Sequence[int] = (),
) -> Shape:
    """The shape of the chunks of an array that is written in pieces of `write_shape`.

    Without a limit a chunk is a piece. With one, dimensions are cut to divisors of the piece until
    a chunk has at most `limit_bytes` bytes, `itemsize` for each element: first along `shard_axes`,
    then along dimensions that are divided already, the largest first, then along all. Source:
    format specification, section 11.

    Raises `ValueError` if the shapes differ in rank or the limit is below one element.
    """
    if len(global_shape) != len(write_shape):
        raise ValueError(f"shapes must have the same length: {global_shape} and {write_shape}")
    shape = [max(1, n) for n in write_shape]
    if limit_bytes is None:
        return tuple(shape)
    if limit_bytes < itemsize:
        raise ValueError(f"the chunk limit must be >= {itemsize} bytes, one element: {limit_bytes}")
    limit = limit_bytes // itemsize
    divided = {d for d, (g, w) in enumerate(zip(global_shape, write_shape, strict=True)) if g != w}
    cuts = [_Cut(n) for n in shape]
    if shard_axes:
        _cut_requested(cuts, sorted(shard_axes), divided, limit)
    while _size(cuts) > limit:
        choices = [d for d in sorted(divided) if cuts[d].now > 1]
        if not choices:
            divided = set(range(len(shape)))
            continue
        cuts[max(choices, key=lambda d: cuts[d].now)].reduce()
    return tuple(cut.now for cut in cuts)


class _Cut:
    """One dimension on its way down through the divisors of its size."""

    def __init__(self, size: int) -> None:
        self.now = size
        self._size = size
        self._smaller: list[int] | None = None

    @property
    def next(self) -> int:
        """The next smaller divisor; 1 stays 1."""
        if self._smaller is None:
            self._smaller = divisors(self._size)[:-1]
        return self._smaller[-1] if self._smaller else 1

    def reduce(self) -> None:
        self.now = self.next
        if self._smaller:
            self._smaller.pop()


def _size(cuts: Sequence[_Cut]) -> int:
    return math.prod(cut.now for cut in cuts)


def _cut_requested(cuts: list[_Cut], axes: list[int], divided: set[int], limit: int) -> None:
    """Rounds over the requested axes; each axis is cut at most once in a round."""
    candidates = [d for d in axes if d not in divided]
    while _size(cuts) > limit:
        left = [d for d in candidates if cuts[d].now > 1]
        if not left:
            return
        while left and _size(cuts) > limit:
            pick = min(left, key=lambda d: cuts[d].now // cuts[d].next)
            cuts[pick].reduce()
            divided.add(pick)
            left.remove(pick)
        candidates = axes


def divisors(n: int) -> list[int]:
    """All divisors of `n`, from 1 to `n`."""
    low = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    return low + [n // d for d in reversed(low) if d * d != n]
