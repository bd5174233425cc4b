# SPDX-License-Identifier: Apache-2.0
"""Boxes agree with numpy about what they contain."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pertinax._plan.boxes import Box

SIDE = 6


@st.composite
def boxes(draw, rank=None):
    rank = draw(st.integers(0, 3)) if rank is None else rank
    start = tuple(draw(st.integers(0, SIDE)) for _ in range(rank))
    return Box(start, tuple(draw(st.integers(a, SIDE)) for a in start))


@st.composite
def pairs(draw):
    rank = draw(st.integers(0, 3))
    return draw(boxes(rank)), draw(boxes(rank))


def painted(box: Box) -> np.ndarray:
    out = np.zeros((SIDE,) * len(box.start), bool)
    out[box.slices] = True
    return out


@given(pairs())
def test_intersection_and_containment_are_those_of_sets(pair):
    one, other = pair
    common = one.intersect(other)
    both = painted(one) & painted(other)
    assert (common is None) == (not both.any())
    if common is not None:
        assert (painted(common) == both).all()
        assert one.contains(common)
        assert other.contains(common)
        assert common == other.intersect(one)
    if other.size:
        assert one.contains(other) == bool((painted(one) >= painted(other)).all())


@given(boxes())
def test_a_box_knows_its_shape_and_size(box):
    assert box.size == painted(box).sum()
    assert np.zeros((SIDE,) * len(box.start))[box.slices].shape == box.shape
    assert box.relative_to(box.start) == Box.whole(box.shape)


@pytest.mark.parametrize(("start", "stop"), [((1,), (0,)), ((0,), (1, 1)), ((-1,), (1,))])
def test_what_is_no_box_is_refused(start, stop):
    with pytest.raises(ValueError, match="not a box"):
        Box(start, stop)
