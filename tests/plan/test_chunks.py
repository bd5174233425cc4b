# SPDX-License-Identifier: Apache-2.0
"""Chunks: their shape follows the rule of the format, and they tile every array."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pertinax._plan.boxes import Box
from pertinax._plan.chunks import (
    choose_chunk_shape,
    chunk_box,
    chunks_touching,
    divisors,
    grid_shape,
    grid_size,
    index_of,
    ordinal_of,
)

KNOWN = [  # format specification, section 11: global, write, elements, shard_axes, outcome
    ((10, 100, 200), (10, 100, 200), 125, (), (5, 5, 5)),
    ((10, 100, 200), (10, 100, 200), 625, (), (5, 10, 10)),
    ((10, 500, 200), (10, 100, 200), 10000, (), (10, 5, 200)),
    ((10, 100, 200), (10, 100, 100), 25000, (), (10, 100, 25)),
    ((8, 10, 9), (8, 10, 9), 180, (0, 1, 2), (4, 5, 9)),
    ((8, 10, 9), (8, 10, 9), 180, (2, 0, 1), (4, 5, 9)),
    ((10, 0, 200), (5, 0, 200), 100, (), (1, 1, 100)),
    ((10, 0, 200), (5, 0, 200), 100, (1, 2), (5, 1, 20)),
    ((1, 90, 1, 128), (1, 90, 1, 128), 2880, (0, 2, 3), (1, 90, 1, 32)),
]


@pytest.mark.row("R279")
@pytest.mark.parametrize(("shape", "write", "elements", "axes", "wanted"), KNOWN)
@pytest.mark.parametrize("itemsize", [1, 4])
def test_the_rule_has_its_known_outcomes(shape, write, elements, axes, wanted, itemsize):
    limit = elements * itemsize + itemsize - 1
    assert (
        choose_chunk_shape(shape, write, itemsize=itemsize, limit_bytes=limit, shard_axes=axes)
        == wanted
    )


def test_without_a_limit_a_chunk_is_a_piece():
    assert choose_chunk_shape((8, 0, 6), (4, 0, 6), itemsize=4, limit_bytes=None) == (4, 1, 6)
    assert choose_chunk_shape((), (), itemsize=8, limit_bytes=8) == ()


def test_bad_limits_are_refused():
    with pytest.raises(ValueError, match="must be >="):
        choose_chunk_shape((4,), (4,), itemsize=4, limit_bytes=3)
    with pytest.raises(ValueError, match="must have the same length"):
        choose_chunk_shape((4,), (4, 4), itemsize=4, limit_bytes=None)


SHAPES = st.lists(st.integers(0, 40), max_size=4).map(tuple)


@given(SHAPES, st.integers(1, 500), st.sampled_from([1, 2, 4, 8]), st.data())
def test_a_chunk_divides_its_piece_and_fits_its_limit(shape, elements, itemsize, data):
    axes = data.draw(st.sets(st.integers(0, len(shape) - 1))) if shape else ()
    chunk = choose_chunk_shape(
        shape, shape, itemsize=itemsize, limit_bytes=elements * itemsize, shard_axes=tuple(axes)
    )
    assert math.prod(chunk) <= elements
    assert all(max(1, n) % c == 0 for n, c in zip(shape, chunk, strict=True))


@given(st.integers(1, 5000))
def test_divisors_are_all_of_them(n):
    assert divisors(n) == [d for d in range(1, n + 1) if n % d == 0]


@st.composite
def gridded(draw):
    shape = draw(st.lists(st.integers(0, 7), max_size=3).map(tuple))
    chunk = tuple(draw(st.integers(1, 8)) for _ in shape)
    start = tuple(draw(st.integers(0, n)) for n in shape)
    stop = tuple(draw(st.integers(a, n)) for a, n in zip(start, shape, strict=True))
    return shape, chunk, Box(start, stop)


@given(gridded())
def test_chunks_tile_the_array_and_those_touching_a_box_are_found_in_order(case):
    shape, chunk, box = case
    grid = grid_shape(shape, chunk)
    counted = np.zeros(shape, int)
    touching = []
    for index in itertools.product(*map(range, grid)):
        piece = chunk_box(index, chunk, shape)
        counted[piece.slices] += 1
        assert index_of(ordinal_of(index, grid), grid) == index
        if piece.intersect(box) is not None:
            touching.append(index)
    assert (counted == 1).all()
    assert list(chunks_touching(box, chunk)) == touching
    assert grid_size(shape, chunk) == len(list(itertools.product(*map(range, grid))))


@pytest.mark.row("R135", "R279")
@given(SHAPES, st.data(), st.integers(1, 400), st.sampled_from(["int8", "float32"]))
def test_the_rule_is_that_of_orbax(shape, data, elements, dtype):
    """But for `shard_axes`, which mean something else since 0.12."""
    theirs = pytest.importorskip("orbax.checkpoint._src.arrays.subchunking").choose_chunk_shape
    write = tuple(
        data.draw(st.sampled_from([d for d in range(1, n + 1) if n % d == 0] or [0])) for n in shape
    )
    kind = np.dtype(dtype)
    limit = elements * kind.itemsize
    wanted = theirs(shape, write, kind, limit)
    assert choose_chunk_shape(shape, write, itemsize=kind.itemsize, limit_bytes=limit) == tuple(
        wanted
    )
