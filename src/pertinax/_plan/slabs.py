# SPDX-License-Identifier: Apache-2.0
"""Slabs: an array that is too large to be handled at once, cut into parts that are not.

Knows boxes and chunks. Knows nothing of bytes on a disk or of who wants the parts.
"""

import math
from collections.abc import Iterator

from pertinax._plan.boxes import Box, Shape


def slabs(box: Box, chunk_shape: Shape, limit: int, *, whole_chunks: bool) -> Iterator[Box]:
    """Parts of `box`, in C order, of `limit` elements at most.

    With `whole_chunks` no chunk is in two of them, so that a part has one chunk at least, however
    large. Without, a part has one element at least.
    """
    size = box.size
    axis = next((i for i, n in enumerate(box.shape) if n > 1), None)
    if size <= limit or axis is None:
        yield box
        return
    unit = chunk_shape[axis] if whole_chunks else 1
    start, stop = box.start[axis], box.stop[axis]
    across = math.prod(box.shape[axis + 1 :])
    step = max(1, limit // (across * unit)) * unit
    low = start
    while low < stop:
        high = min(stop, low - low % unit + step)
        part = Box(
            (*box.start[:axis], low, *box.start[axis + 1 :]),
            (*box.stop[:axis], high, *box.stop[axis + 1 :]),
        )
        yield from _below(part, axis, chunk_shape, limit, whole_chunks=whole_chunks)
        low = high


def _below(
    part: Box, axis: int, chunk_shape: Shape, limit: int, *, whole_chunks: bool
) -> Iterator[Box]:
    """The part, or parts of it along the dimensions behind `axis`."""
    behind = Box(part.start[axis + 1 :], part.stop[axis + 1 :])
    thickness = part.size // max(1, behind.size)
    if part.size <= limit or not behind.shape:
        yield part
        return
    finer = slabs(
        behind, chunk_shape[axis + 1 :], max(1, limit // thickness), whole_chunks=whole_chunks
    )
    for one in finer:
        yield Box(
            (*part.start[: axis + 1], *one.start),
            (*part.stop[: axis + 1], *one.stop),
        )
