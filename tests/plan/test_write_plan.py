# SPDX-License-Identifier: Apache-2.0
"""A write plan gives every chunk its own aligned place, and leaves none out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pertinax._plan.boxes import Box
from pertinax._plan.chunks import chunk_box, grid_shape, grid_size, index_of
from pertinax._plan.write import (
    LARGE_ALIGNMENT,
    SMALL_ALIGNMENT,
    SMALL_BYTES,
    ArrayPieces,
    plan_write,
)


@st.composite
def arrays(draw, leaf):
    """An array cut into owned boxes of whole chunks."""
    shape = draw(
        st.sampled_from([(), (1,), (16,), (64, 48), (8, 64, 128), (1 << 16,), (1, 1), (300, 200)])
    )
    chunk = tuple(
        draw(st.sampled_from([d for d in range(1, n + 1) if n % d == 0 and n // d <= 8]))
        for n in shape
    )
    boxes = [Box.whole(shape)]
    if shape and chunk[0] < shape[0] and draw(st.booleans()):
        cut = chunk[0] * draw(st.integers(1, shape[0] // chunk[0] - 1))
        boxes = [
            Box((0,) * len(shape), (cut, *shape[1:])),
            Box((cut, *(0,) * (len(shape) - 1)), shape),
        ]
    return ArrayPieces(
        leaf, shape, chunk, draw(st.sampled_from([1, 2, 4, 8])), tuple(boxes), draw(st.booleans())
    )


@st.composite
def many(draw):
    return [draw(arrays(i)) for i in range(draw(st.integers(0, 6)))]


@given(many())
def test_places_are_disjoint_aligned_and_complete(pieces_of):
    plan = plan_write(pieces_of)
    expected = {(a.leaf, o) for a in pieces_of for o in range(grid_size(a.shape, a.chunk_shape))}
    assert len(plan.pieces) == len(expected)
    assert {(p.leaf, p.ordinal) for p in plan.pieces} == expected
    end = 0
    placed = plan.pieces[: plan.packed + plan.placed]
    assert len(plan.offsets) == len(placed)
    for i, (piece, offset) in enumerate(zip(placed, plan.offsets.tolist(), strict=True)):
        small = piece.length < SMALL_BYTES
        assert small == (i < plan.packed)
        assert offset >= end
        assert offset % (SMALL_ALIGNMENT if small else LARGE_ALIGNMENT) == 0
        end = offset + piece.length
        if small:
            assert end <= plan.packed_bytes
    assert end <= plan.placed_bytes
    assert end - plan.placed_bytes > -2 * LARGE_ALIGNMENT
    for piece in plan.pieces:
        array = pieces_of[piece.leaf]
        index = index_of(piece.ordinal, grid_shape(array.shape, array.chunk_shape))
        assert piece.box == chunk_box(index, array.chunk_shape, array.shape)
        assert array.boxes[piece.source].contains(piece.box)
        assert piece.length == piece.box.size * array.itemsize
    assert all(pieces_of[p.leaf].encoded for p in plan.pieces[len(placed) :])


def test_a_chunk_that_two_owners_would_have_to_share_is_refused():
    torn = ArrayPieces(0, (8,), (4,), 4, (Box((0,), (3,)), Box((3,), (8,))))
    with pytest.raises(ValueError, match="reaches out of the owned box"):
        plan_write([torn])


def test_an_empty_plan_is_a_plan():
    plan = plan_write([])
    assert (plan.pieces, plan.total_bytes) == ((), 0)
    assert plan.offsets.dtype == np.int64
