# SPDX-License-Identifier: Apache-2.0
"""Slices written out and written short."""

from types import EllipsisType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pertinax.checkpoint.arrays import numpy_utils

SHAPE = (5, 6)


@pytest.mark.parametrize(
    ("index", "concrete"),
    [
        (np.s_[:, :], np.s_[0:5:1, 0:6:1]),
        (np.s_[1:3, 2], np.s_[1:3:1, 2:3:1]),
        (np.s_[::2, 4:], np.s_[0:5:2, 4:6:1]),
        (np.s_[-2:, :-1], np.s_[-2:5:1, 0:-1:1]),
        (..., ()),
        ((), ()),
    ],
)
def test_an_index_is_written_out(index: Any, concrete: Any):
    assert numpy_utils.resolve_slice(index, SHAPE) == concrete


@pytest.mark.parametrize(
    ("concrete", "full_rank", "trimmed"),
    [
        (np.s_[0:5:1, 0:6:1], np.s_[:, :], ...),
        (np.s_[0:5:1, 1:6:1], np.s_[:, 1:], np.s_[:, 1:]),
        (np.s_[1:2:1, 0:6:1], np.s_[1:2, :], np.s_[1:2,]),
        (np.s_[0:5:2, 0:6:1], np.s_[::2, :], np.s_[::2,]),
        (np.s_[0:9:1, 0:6:1], np.s_[:9, :], np.s_[:9,]),
        ((), ..., ...),
    ],
)
def test_an_index_is_written_short(concrete: Any, full_rank: Any, trimmed: Any):
    assert numpy_utils.dissolve_slice(concrete, SHAPE) == full_rank
    assert numpy_utils.dissolve_slice(concrete, SHAPE, preserve_rank=False) == trimmed


def test_bounds_below_zero_are_counted_from_the_end():
    assert numpy_utils.normalize_slice(np.s_[-2:5:1, 0:-1:1], SHAPE) == np.s_[3:5:1, 0:5:1]


def test_a_slice_that_leaves_something_open_is_not_concrete():
    assert numpy_utils.int_tuple_from_slice(np.s_[1:9:2]) == (1, 9, 2)
    for open_slice in (np.s_[1:], np.s_[:3:1], np.s_[1:3]):
        with pytest.raises(ValueError, match="not concrete"):
            numpy_utils.int_tuple_from_slice(open_slice)


@pytest.mark.parametrize(
    ("index", "text"),
    [
        (np.s_[1:4:2, :], "np.s_[1:4:2, :]"),
        (np.s_[:3, 1:], "np.s_[:3, 1:]"),
        (np.s_[::2,], "np.s_[::2]"),
        (np.s_[0:0:1, 2:3], "np.s_[0:0:1, 2:3]"),
        ((), "np.s_[...]"),
        (..., "np.s_[...]"),
    ],
)
def test_an_index_is_shown_as_one_writes_it(index: Any, text: str):
    assert numpy_utils.pretty_nd_slice(index) == text
    if index not in ((), ...):
        assert eval(text) in (index, index[0])


# -------------------------------------------------------------------------------- any index at all

parts = st.one_of(
    st.integers(-8, 8),
    st.slices(8),
    st.builds(slice, *[st.none() | st.integers(-9, 9)] * 2, st.none() | st.integers(1, 3)),
)


@given(st.lists(st.tuples(parts, st.integers(1, 8)), max_size=3))
def test_writing_out_and_short_again_picks_the_same_elements(drawn: list[tuple[Any, int]]):
    shape = tuple(n for _, n in drawn)
    index = tuple(part for part, _ in drawn)
    for part, n in drawn:
        # One integer is a slice of length one: only those inside, and not the last counted back.
        if isinstance(part, int) and not (-n <= part < n and part != -1):
            return
        if isinstance(part, slice) and (part.step or 1) < 0:
            return
    array = np.arange(np.prod(shape)).reshape(shape)
    expected = array[index].reshape(-1)
    concrete = numpy_utils.resolve_slice(index, shape)
    assert np.array_equal(array[concrete].reshape(-1), expected)
    for preserve_rank in (True, False):
        short = numpy_utils.dissolve_slice(concrete, shape, preserve_rank)
        assert np.array_equal(array[short].reshape(-1), expected)
        assert isinstance(short, EllipsisType) or len(short) <= len(shape)


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 9), st.integers(1, 3)), max_size=3))
def test_the_shape_of_a_concrete_index_is_that_of_what_it_picks(rows: list[tuple[int, int, int]]):
    index = tuple(slice(*row) for row in rows)
    assert numpy_utils.slice_shape(index) == np.zeros((9,) * len(rows))[index].shape
