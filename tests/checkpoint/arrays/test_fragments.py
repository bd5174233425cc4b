# SPDX-License-Identifier: Apache-2.0
"""Fragments: pieces of an array with their places."""

import dataclasses
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pertinax.checkpoint.arrays import fragments as lib
from pertinax.checkpoint.arrays.fragments import Fragment, Fragments

F4 = np.dtype("f4")
PLACE = np.s_[1:3:1, 0:4:2]
pytestmark = pytest.mark.row("R281")


def piece(start: int, stop: int, fill: float = 1.0) -> Fragment:
    return Fragment(index=np.s_[start:stop:1,], value=np.full(stop - start, fill, F4))


def whole(*pieces: Fragment, shape: Any = (4,)) -> Fragments:
    return Fragments(shape, F4, list(pieces))


def test_a_place_can_be_given_as_slices_or_as_numbers():
    by_slices = Fragment(index=PLACE)
    by_numbers = Fragment(np_index=np.array([[1, 3, 1], [0, 4, 2]]))
    assert by_slices == by_numbers
    assert by_numbers.index == PLACE
    for part, expected in (("start", [1, 0]), ("stop", [3, 4]), ("step", [1, 2])):
        assert getattr(by_slices, part).tolist() == expected
    assert (by_slices.shape, by_slices.size) == ((2, 2), 4)


@pytest.mark.parametrize(
    ("given", "error", "phrase"),
    [
        ({}, ValueError, "either index or np_index"),
        (
            {"index": PLACE, "np_index": np.zeros((2, 3), int)},
            ValueError,
            "both index and np_index",
        ),
        ({"index": list(PLACE)}, TypeError, "must be a tuple of slices"),
        ({"index": PLACE[0]}, TypeError, "must be a tuple of slices"),
        ({"index": (1, 2)}, TypeError, "must be a tuple of slices"),
        ({"index": np.s_[1:, :]}, ValueError, "not concrete"),
        ({"np_index": [[1, 3, 1]]}, TypeError, "np_index must be an np.ndarray"),
        ({"np_index": np.zeros((2, 2), int)}, ValueError, r"\[rank, 3\]"),
        ({"np_index": np.zeros((2, 3))}, ValueError, "integers"),
        ({"index": PLACE, "value": [[1]]}, TypeError, "must be an np.ndarray"),
        ({"index": PLACE, "value": jnp.ones((2, 2))}, TypeError, "must be an np.ndarray"),
    ],
)
def test_a_fragment_without_one_proper_place_is_refused(given: Any, error: Any, phrase: str):
    with pytest.raises(error, match=phrase):
        Fragment(**given)


def test_bytes_need_a_value_or_a_dtype():
    full = Fragment(index=PLACE, value=np.zeros((2, 2)))
    assert full.nbytes == 32
    assert full.nbytes_astype(np.dtype("i1")) == 4
    abstract = Fragment(index=PLACE)
    assert abstract.nbytes_astype(np.dtype("i8")) == 32
    with pytest.raises(ValueError, match="nbytes of abstract"):
        _ = abstract.nbytes
    with pytest.raises(ValueError, match="abstract"):
        np.asarray(abstract)


def test_a_fragment_is_a_frozen_value_that_can_be_moved_and_replaced():
    value = np.arange(4.0).reshape(2, 2)
    fragment = Fragment(index=PLACE, value=value)
    assert fragment.offset_by(np.array([1, 2])).index == np.s_[2:4:1, 2:6:2]
    assert fragment.index == PLACE
    other = dataclasses.replace(fragment, value=value + 1)
    assert (other.index, np.asarray(other)[0, 0]) == (PLACE, 1.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        fragment.value = None
    assert pickle.loads(pickle.dumps(fragment)) == fragment
    with pytest.raises(TypeError, match="unhashable"):
        hash(fragment)


def test_equality_is_that_of_place_dtype_and_content():
    value = np.arange(4.0).reshape(2, 2)
    one = Fragment(index=PLACE, value=value)
    assert one == Fragment(index=PLACE, value=value.copy())
    assert one != Fragment(index=PLACE, value=value + 1)
    assert one != Fragment(index=PLACE, value=value.astype(F4))
    assert one != Fragment(index=np.s_[1:3:1, 0:2:1], value=value)
    assert one != Fragment(index=PLACE)
    assert Fragment(index=PLACE) == Fragment(index=PLACE)
    assert one != "a fragment"


def test_a_fragment_shows_its_place():
    place = np.s_[1:2:1, 3:4:1]
    assert repr(Fragment(index=place)) == "Fragment(index=np.s_[1:2:1, 3:4:1])"
    shown = repr(Fragment(index=place, value=np.array([[8]])))
    assert shown == "Fragment(index=np.s_[1:2:1, 3:4:1], value=...)"
    assert repr(Fragment(index=())) == "Fragment(index=np.s_[...])"


def test_nothing_in_a_fragment_or_in_all_of_them_is_degenerate():
    empty = Fragment(index=np.s_[2:2:1, 0:4:1])
    assert empty.is_degenerate()
    assert not piece(0, 1).is_degenerate()
    assert not Fragment(index=(), value=np.array(3)).is_degenerate()
    assert whole().is_degenerate()
    assert whole(piece(1, 1)).is_degenerate()
    assert not whole(piece(1, 1), piece(1, 2)).is_degenerate()


def test_fragments_hold_nothing_else_and_count_bytes():
    with pytest.raises(TypeError, match="must be a Fragment"):
        Fragments((2,), F4, [np.zeros(2)])
    both = whole(piece(0, 1), piece(2, 4))
    assert (both.nbytes, both.addressable_nbytes) == (16, 12)
    with pytest.raises(dataclasses.FrozenInstanceError):
        both.shape = (3,)


def test_a_full_size_part_becomes_the_array_without_a_copy():
    part = piece(0, 4, 2.0)
    assert np.asarray(whole(part)) is part.value
    assert np.asarray(whole(piece(0, 2), part)) is part.value
    copied = np.array(whole(part), copy=True)
    assert not np.shares_memory(copied, part.value)
    assert np.asarray(whole(part), dtype=np.int16).dtype == np.int16


def test_parts_are_put_together():
    assert np.asarray(whole(piece(2, 4, 5), piece(0, 2, 3))).tolist() == [3, 3, 5, 5]
    scalar = Fragments((), F4, [Fragment(index=(), value=np.array(7, F4))])
    assert np.asarray(scalar) == 7
    assert np.asarray(Fragments((0, 3), F4, [])).shape == (0, 3)
    gaps = [
        Fragment(index=np.s_[0:4:2,], value=np.array([0, 2], F4)),
        Fragment(index=np.s_[1:4:2,], value=np.array([1, 3], F4)),
    ]
    assert np.asarray(whole(*gaps)).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "parts", [(), (piece(0, 2),), (piece(0, 2), piece(0, 2)), (piece(0, 2), piece(3, 4))]
)
def test_what_is_not_full_becomes_no_array(parts: Any):
    assert not lib._is_full(whole(*parts))
    with pytest.raises(ValueError, match="Attempt to convert non-full Fragments to array"):
        np.asarray(whole(*parts))


def test_a_value_that_does_not_fill_its_place_is_not_spread_over_it():
    stretched = Fragment(index=np.s_[0:2:1,], value=np.ones(1, F4))
    with pytest.raises(ValueError, match=r"value of shape \(1,\)"):
        np.asarray(whole(stretched, piece(2, 4)))


boxes = st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(1, 3))


@given(st.lists(st.tuples(boxes, boxes), max_size=6))
def test_full_means_that_every_element_is_covered(places: list[Any]):
    places.append(((0, 3, 1), (0, 4, 1)))  # most of it, so that full ones are not rare
    shape = (4, 4)
    pieces = [Fragment(np_index=np.array(place)) for place in places]
    covered = np.zeros(shape, bool)
    for fragment in pieces:
        covered[fragment.index] = True
    assert lib._is_full(Fragments(shape, F4, pieces)) == covered.all()


def test_fullness_of_a_huge_array_is_known_without_its_memory():
    n = 1 << 40
    halves = [Fragment(index=np.s_[0:n:1, a : a + n // 2 : 1]) for a in (0, n // 2)]
    assert lib._is_full(Fragments((n, n), F4, halves))
    assert not lib._is_full(Fragments((n, n), F4, halves[:1]))


def test_places_go_to_numbers_and_back():
    assert lib._ndarray_from_index(PLACE).tolist() == [[1, 3, 1], [0, 4, 2]]
    assert lib._ndarray_from_index(()).shape == (0, 3)
    assert lib._index_from_ndarray(lib._ndarray_from_index(PLACE)) == PLACE


# --------------------------------------------------------------------------------------- of arrays


def sharded(spec: PartitionSpec) -> jax.Array:
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b"))
    return jax.device_put(jnp.arange(32.0).reshape(8, 4), NamedSharding(mesh, spec))


def test_every_device_here_has_a_shard():
    rows = lib.addressable_shards(sharded(PartitionSpec("a")))
    assert rows == [np.s_[n : n + 2 : 1, 0:4:1] for n in (0, 0, 2, 2, 4, 4, 6, 6)]
    assert lib.addressable_shards(sharded(PartitionSpec())) == [np.s_[0:8:1, 0:4:1]] * 8
    assert lib.addressable_shards(jnp.zeros(())) == [()]
    assert lib.addressable_shards(np.zeros((3, 2))) == [np.s_[0:3:1, 0:2:1]]
    assert lib.addressable_shards(jax.ShapeDtypeStruct((3,), F4)) == [np.s_[0:3:1,]]


def test_abstract_fragments_have_the_places_of_an_array_without_its_values():
    array = sharded(PartitionSpec("b", "a"))
    for like in (array, jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)):
        found = lib.abstract_fragments(like)
        assert (found.shape, found.dtype, len(found.fragments)) == ((8, 4), F4, 8)
        assert all(fragment.value is None for fragment in found.fragments)
        assert lib._is_full(found)
    same = whole(piece(0, 4))
    assert lib.abstract_fragments(same) is same
    assert lib.abstract_fragments(np.zeros(3, ml_dtypes.bfloat16)).dtype == ml_dtypes.bfloat16


def test_fragments_of_one_shape_are_stacked():
    assert lib.stack_fragments(None) is None
    stacked = lib.stack_fragments(whole(piece(0, 2, 1), piece(2, 4, 2)))
    assert stacked is not None
    assert stacked.tolist() == [[1, 1], [2, 2]]
    one = piece(0, 4)
    single = lib.stack_fragments(whole(one))
    assert single is not None
    assert single.shape == (1, 4)
    assert np.shares_memory(single, one.value)


@pytest.mark.parametrize(
    ("parts", "phrase"),
    [
        ((), "No fragments to stack"),
        ((piece(0, 2), Fragment(index=np.s_[2:4:1,])), "Not all fragments have values"),
        ((piece(0, 2), piece(0, 3)), "Differently-shaped fragments"),
    ],
)
def test_other_fragments_cannot_be_stacked(parts: Any, phrase: str):
    for refuse in (lib.validate_fragments_can_be_stacked, lib.stack_fragments):
        with pytest.raises(ValueError, match=phrase):
            refuse(whole(*parts))
