# SPDX-License-Identifier: Apache-2.0
"""Chunk shapes for a budget, and fragments cut into chunks."""

import logging
import math
import random
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pertinax import checkpoint as ocp
from pertinax.checkpoint.arrays import subchunking
from pertinax.checkpoint.arrays.fragments import Fragment, Fragments
from tests.plan.test_chunks import KNOWN

F4 = np.dtype("f4")


@pytest.mark.row("R279")
@pytest.mark.parametrize(("global_shape", "write_shape", "elements", "axes", "chunk"), KNOWN)
def test_known_outcomes_of_the_rule(
    global_shape: Any, write_shape: Any, elements: int, axes: Any, chunk: Any
):
    for order in (axes, axes[::-1]):
        found = subchunking.choose_chunk_shape(
            global_shape, write_shape, F4, elements * 4, shard_axes=order
        )
        assert found == chunk


@pytest.mark.row("R279")
def test_without_a_budget_a_chunk_is_what_is_written():
    assert subchunking.choose_chunk_shape((8, 0, 4), (4, 0, 4), F4, None) == (4, 1, 4)
    assert subchunking.choose_chunk_shape((), (), F4, 4) == ()


@pytest.mark.parametrize(
    ("arguments", "axes", "phrase"),
    [
        (((10,), (10,), F4, 3), (), "must be >= 4"),
        (((10,), (10,), F4, 0), (), "must be >= 4"),
        (((10, 2), (10,), F4, 40), (), "must have the same length"),
        (((10,), (10,), F4, 8), (3,), "shard_axes"),
    ],
)
def test_an_impossible_budget_is_refused(arguments: Any, axes: Any, phrase: str):
    with pytest.raises(ValueError, match=phrase):
        subchunking.choose_chunk_shape(*arguments, shard_axes=axes)


def test_a_budget_below_one_mebibyte_is_logged(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        subchunking.choose_chunk_shape((10,), (10,), F4, subchunking._MIB)
        assert not caplog.records
        subchunking.choose_chunk_shape((10,), (10,), F4, subchunking._MIB - 1)
    assert "target_byte_size" in caplog.text


shapes = st.lists(st.integers(0, 60), min_size=1, max_size=4).map(tuple)


@pytest.mark.row("R279")
@given(shapes, st.data(), st.sampled_from(["i1", "f4", "c16"]), st.integers(1, 4000))
def test_chunks_divide_what_is_written_and_keep_to_the_budget(
    write_shape: Any, data: st.DataObject, dtype: str, elements: int
):
    pieces = data.draw(st.tuples(*[st.integers(1, 3)] * len(write_shape)))
    axes = data.draw(st.sets(st.integers(0, len(write_shape) - 1)).map(tuple))
    global_shape = tuple(n * k for n, k in zip(write_shape, pieces, strict=True))
    budget = elements * np.dtype(dtype).itemsize
    chunk = subchunking.choose_chunk_shape(
        global_shape, write_shape, np.dtype(dtype), budget, shard_axes=axes
    )
    assert math.prod(chunk) <= elements
    filled = tuple(max(1, n) for n in write_shape)
    assert subchunking.validate_divisible_shapes(filled, chunk)


@pytest.mark.interop
@pytest.mark.row("R279")
def test_orbax_chooses_the_same_chunk_shapes():
    from orbax.checkpoint._src.arrays import subchunking as theirs

    # Without axes: 0.12 has another rule for them. With 0.8.0 all of 20,000 such cases agreed, with
    # axes and without (2026-11).
    pick = random.Random(5)
    for _ in range(300):
        write_shape = tuple(
            pick.choice((0, 1, 2, 3, 8, 9, 12, 30)) for _ in range(pick.randint(1, 4))
        )
        global_shape = tuple(n * pick.randint(1, 3) for n in write_shape)
        arguments = (global_shape, write_shape, F4, 4 * pick.randint(1, 4000) + 3)
        mine = subchunking.choose_chunk_shape(*arguments)
        assert mine == theirs.choose_chunk_shape(*arguments), arguments


@pytest.mark.row("R135")
@pytest.mark.parametrize("size", [64, 200, 1 << 10, 1 << 20])
def test_stored_chunks_have_the_shape_that_the_rule_gives(size: int, tmp_path: Path):
    mesh = Mesh(np.array(jax.devices()), ("x",))
    array = jax.device_put(jnp.ones((16, 30)), NamedSharding(mesh, PartitionSpec("x")))
    tree = {"sharded": array, "numpy": np.ones((20, 9), F4)}
    save_args = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=size), tree)
    ocp.PyTreeCheckpointer().save(tmp_path / "it", tree, save_args=save_args)
    found = ocp.PyTreeCheckpointHandler().metadata(tmp_path / "it")
    for name, write_shape in (("sharded", (2, 30)), ("numpy", (20, 9))):
        rule = subchunking.choose_chunk_shape(tree[name].shape, write_shape, F4, size)
        assert found[name].storage.chunk_shape == rule


@pytest.mark.parametrize(
    ("n", "divisors"), [(1, [1]), (12, [1, 2, 3, 4, 6, 12]), (36, [1, 2, 3, 4, 6, 9, 12, 18, 36])]
)
def test_divisors_ascend(n: int, divisors: list[int]):
    assert subchunking._find_divisors(n) == divisors
    assert subchunking._find_divisors(0) == []


def test_shapes_divide_each_other_without_rest_or_not_at_all():
    divides = subchunking.validate_divisible_shapes
    assert divides((4, 6), (2, 3))
    assert divides((), ())
    assert divides((0,), (1,))
    for whole, part in (((4, 6), (3, 3)), ((4,), (2, 3)), ((2, 3), (4, 6)), ((1,), (0,))):
        assert not divides(whole, part)


# ------------------------------------------------------------------------------------------ cutting


def fragment(start: tuple[int, ...], shape: tuple[int, ...]) -> Fragment:
    place = tuple(slice(a, a + n, 1) for a, n in zip(start, shape, strict=True))
    return Fragment(index=place, value=np.arange(math.prod(shape)).reshape(shape))


@pytest.mark.row("R281")
def test_a_fragment_is_cut_in_row_major_order_without_copies():
    whole = fragment((4, 6), (4, 6))
    pieces = subchunking.chunk_fragment(whole, (2, 3))
    assert [piece.start.tolist() for piece in pieces] == [[4, 6], [4, 9], [6, 6], [6, 9]]
    assert all(np.shares_memory(piece.value, whole.value) for piece in pieces)
    assert pieces[1].value is not None
    assert pieces[1].value.tolist() == [[3, 4, 5], [9, 10, 11]]
    assert subchunking.chunk_fragment(whole, (4, 6))[0] is whole
    assert subchunking.chunk_fragment(fragment((0,), (0,)), (1,)) == []


@pytest.mark.parametrize(
    ("which", "shape", "phrase"),
    [
        (Fragment(index=np.s_[1:3:1,]), (2,), "abstract fragment"),
        (fragment((0,), (4,)), (2, 2), "must have the same length"),
        (fragment((0,), (4,)), (3,), "is not divisible by target_shape"),
        (fragment((0,), (4,)), (0,), "is not divisible by target_shape"),
    ],
)
def test_what_cannot_be_cut_is_refused(which: Fragment, shape: Any, phrase: str):
    with pytest.raises(ValueError, match=phrase):
        subchunking.chunk_fragment(which, shape)


dims = st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))


@pytest.mark.row("R281")
@given(st.lists(dims, min_size=1, max_size=3))
def test_the_pieces_hold_exactly_what_the_fragment_held(drawn: list[tuple[int, int, int, int]]):
    shape = tuple(chunk * count for _, chunk, count, _ in drawn)
    place = tuple(
        slice(start, start + (n - 1) * step + 1, step)
        for (start, _, _, step), n in zip(drawn, shape, strict=True)
    )
    array = np.full([part.stop for part in place], -1)
    whole = Fragment(index=place, value=np.arange(math.prod(shape)).reshape(shape))
    cut = subchunking.chunk_fragments(
        Fragments(array.shape, array.dtype, [whole]), tuple(chunk for _, chunk, _, _ in drawn)
    )
    expected = array.copy()
    expected[place] = whole.value
    for piece in cut.fragments:
        assert piece.shape == tuple(chunk for _, chunk, _, _ in drawn)
        assert (array[piece.index] == -1).all()
        array[piece.index] = piece.value
    assert np.array_equal(array, expected)
