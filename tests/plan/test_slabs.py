# SPDX-License-Identifier: Apache-2.0
"""Large arrays in parts: all of each, nothing twice, no part too large."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pertinax._plan.boxes import Box
from pertinax._plan.slabs import slabs

SIDES = st.lists(st.integers(1, 9), min_size=0, max_size=3)


@given(data=st.data(), sides=SIDES, limit=st.integers(1, 200), whole=st.booleans())
def test_the_parts_are_the_box_and_small(data, sides, limit, whole):
    shape = tuple(sides)
    chunk = tuple(data.draw(st.integers(1, n + 2)) for n in shape)
    start = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    stop = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, shape, strict=True))
    box = Box(start, stop)
    parts = list(slabs(box, chunk, limit, whole_chunks=whole))
    times = np.zeros(shape, int)
    for part in parts:
        times[part.slices] += 1
    assert (times[box.slices] == 1).all()
    assert times.sum() == box.size
    assert max(one.size for one in parts) <= max(limit, math.prod(chunk) if whole else 1)


def test_no_chunk_is_decoded_twice():
    parts = list(slabs(Box.whole((10, 7)), (3, 2), 12, whole_chunks=True))
    starts = {(a // 3, b // 2) for part in parts for a, b in [part.start]}
    assert all(a % 3 == 0 and b % 2 == 0 for a, b in (part.start for part in parts))
    assert len(starts) == len(parts)


@pytest.mark.parametrize(("limit", "count"), [(1 << 20, 1), (256, 4), (200, 6)])
def test_parts_are_as_large_as_they_may_be(limit, count):
    assert len(list(slabs(Box.whole((1, 32, 32)), (1, 32, 32), limit, whole_chunks=False))) == count
