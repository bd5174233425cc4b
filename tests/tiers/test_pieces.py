# SPDX-License-Identifier: Apache-2.0
"""Pieces have the same numbers everywhere, and a process says in few letters which it has."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pertinax._formats.manifest import StoredLeaf
from pertinax._plan.boxes import Box
from pertinax._tiers.pieces import Pieces, decode_bits, encode_bits, table_of
from pertinax._tiers.stock import Candidate, candidate_of, find_candidates

LEAVES = (
    StoredLeaf((), "w", "jax", "float32", (8, 6), "float32", (4, 3)),
    StoredLeaf((), "name", "str", codec="none"),
    StoredLeaf((), "n", "jax", "int32", (), "int32", ()),
    StoredLeaf((), "empty", "jax", "int32", (0, 3), "int32", (1, 3)),
    StoredLeaf((), "b", "jax", "int8", (6,), "int8", (2,)),
)


def test_pieces_are_numbered_leaf_by_leaf():
    pieces = Pieces(LEAVES)
    assert pieces.total == 4 + 1 + 3
    assert [pieces.place(n) for n in range(8)] == [
        *((0, 0), (0, 1), (0, 2), (0, 3), (2, 0), (4, 0), (4, 1), (4, 2))
    ]
    assert pieces.box(2) == (0, Box((4, 0), (8, 3)))
    assert pieces.sizes() == [48] * 4 + [4] + [2] * 3
    assert [pieces.nbytes(n) for n in range(8)] == pieces.sizes()


def test_a_box_touches_the_pieces_that_it_shares_elements_with():
    pieces = Pieces(LEAVES)
    bits = pieces.touched([(0, Box((0, 2), (4, 4))), (2, Box((), ())), (4, Box((3,), (4,)))])
    assert np.flatnonzero(bits).tolist() == [0, 1, 4, 6]


def test_a_table_of_pieces_holds_these():
    pieces = Pieces(LEAVES)
    table = table_of(pieces, [1, 4, 7])
    assert pieces.numbers(table).tolist() == [1, 4, 7]
    assert np.flatnonzero(pieces.held(table)).tolist() == [1, 4, 7]
    assert table.length.tolist() == [48, 4, 2]
    assert len(table_of(pieces, [])) == 0


@given(st.lists(st.booleans(), max_size=300))
def test_bits_are_told_as_text(bits):
    array = np.array(bits, np.bool_)
    assert np.array_equal(decode_bits(encode_bits(array), len(bits)), array)


@pytest.mark.parametrize("total", [-1, 1 << 31])
def test_more_bits_than_there_can_be_are_refused(total):
    with pytest.raises(ValueError, match=f"{total} pieces"):
        decode_bits(encode_bits(np.zeros(3, np.bool_)), total)


def test_regular_holdings_take_little_room():
    one_of_4096 = np.arange(1000 * 4096) % 4096 == 77
    assert len(encode_bits(one_of_4096)) < 10_000


def told(*rows):
    return [
        [step, save_id, when, len(bits), encode_bits(np.array(bits, np.bool_))]
        for step, save_id, when, bits in rows
    ]


def test_only_parts_of_one_save_make_a_whole():
    stock = {
        0: told((10, "a", 5, [1, 1, 0, 0]), (20, "a2", 9, [1, 1, 0, 0])),
        1: told((10, "a", 5, [0, 0, 1, 1]), (20, "b", 8, [0, 0, 1, 1])),
    }
    found = find_candidates(stock, {})
    assert [(one.step, one.save_id, one.whole, one.holders) for one in found] == [
        (20, "a2", False, (0,)),
        (20, "b", False, (1,)),
        (10, "a", True, (0, 1)),
    ]


def test_a_part_and_the_durable_tier_belong_together_if_they_are_of_one_save():
    stock = {0: told((10, "a", 5, [1, 0]), (20, "b", 8, [1, 0]))}
    found = find_candidates(stock, {10: "a", 20: "other", 5: None})
    assert [(one.step, one.save_id, one.durable) for one in found] == [
        (20, "", True),
        (20, "b", False),
        (10, "a", True),
        (5, "", True),
    ]
    assert [candidate_of(one.told()) for one in found] == found


def test_of_two_whole_saves_of_a_step_the_later_one_counts():
    stock = {0: told((10, "old", 5, [1, 1])), 1: told((10, "new", 6, [1, 1]))}
    found = find_candidates(stock, {10: "other"})
    assert [one.save_id for one in found] == ["new", "old", ""]
    assert found[0] == Candidate(10, "new", durable=False, holders=(1,), whole=True)
