# SPDX-License-Identifier: Apache-2.0
"""A box out of runs of elements is the box that numpy cuts out of the whole array."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pertinax._plan.boxes import Box
from pertinax._plan.flat import flat_box, flat_range, flat_runs


@st.composite
def cases(draw: st.DrawFn) -> tuple[tuple[int, ...], Box, int]:
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=4)))
    bounds = [sorted((draw(st.integers(0, n)), draw(st.integers(0, n)))) for n in shape]
    box = Box(tuple(low for low, _ in bounds), tuple(high for _, high in bounds))
    return shape, box, draw(st.integers(1, 7))


@given(cases())
def test_a_box_is_cut_out_of_the_runs_that_hold_it(case: Any) -> None:
    shape, box, run = case
    array = np.arange(np.prod(shape, dtype=int), dtype=np.int16).reshape(shape)
    start, stop = flat_range(box, shape)
    runs = [
        (Box((i,), (min(i + run, array.size),)), array.reshape(-1)[i : i + run])
        for i in range(0, array.size, run)
        if i < stop and min(i + run, array.size) > start
    ]
    found = flat_box(box, shape, runs)
    assert found.shape == box.shape
    if box.size:
        assert found.flags.c_contiguous
        assert (found == array[box.slices]).all()


def test_the_range_of_a_box_is_from_its_first_corner_to_behind_its_last() -> None:
    assert flat_range(Box((1, 2), (3, 4)), (5, 10)) == (12, 24)
    assert flat_range(Box((), ()), ()) == (0, 1)
    assert flat_range(Box((1, 1), (1, 3)), (4, 4)) == (0, 0)


@given(cases())
def test_the_runs_of_a_box_are_its_elements_and_no_others(case: Any) -> None:
    shape, box, most = case
    whole = np.zeros(shape, bool)
    whole[box.slices] = True
    runs = flat_runs(box, shape, most=1 << 20)
    marked = np.zeros(whole.size, int)
    for start, stop in runs:
        marked[start:stop] += 1
    assert np.array_equal(marked, whole.reshape(-1))
    few = flat_runs(box, shape, most=most)
    assert few == runs or few == [flat_range(box, shape)]
