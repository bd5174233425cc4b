# SPDX-License-Identifier: Apache-2.0
"""What nodes unfold into is paid for, byte by byte, and limits hold to the last one."""

import pytest

from pertinax._formats.ocdbt.btree import (
    Child,
    Place,
    Reference,
    Statistics,
    decode_node,
    encode_interior,
    encode_leaf,
)
from pertinax._formats.ocdbt.columns import Budget, Cursor
from pertinax._formats.ocdbt.files import decode_file_table, encode_file_table
from pertinax.errors import CorruptCheckpoint

MAX_KEY_BYTES = 65_535  # as the format has it
MAX_POSITION = 2**63 - 1
KEYS = [b"aa", b"ab", b"b"]


def node(body: bytes, prefix: bytes = b"", *, height: int = 0):
    """A decoded node, and what that has cost."""
    budget = Budget()
    before = budget.left_bytes
    cursor = Cursor(body, file="f", start=0, stop=len(body), budget=budget)
    return decode_node(cursor, Place(height, prefix, "")), before - budget.left_bytes


def interior(cut: int = 0) -> bytes:
    """Three children; `cut` bytes of the first one's key are cut from all keys in it."""
    one = Statistics(1, 1, 1)
    body = encode_interior(1, [Child(key, Reference("d/n", 9, 9), one) for key in KEYS])
    at = body.index(bytes(3) + b"aabb")
    return body[:at] + bytes((cut, 0, 0)) + body[at + 3 :]


def test_a_prefix_is_paid_for_once_for_each_key():
    leaf = encode_leaf(KEYS, [b"x", b"y", b"z"])
    plain, cost = node(leaf)
    longer, cost_of_longer = node(leaf, b"prefix/")
    assert plain.keys == KEYS
    assert longer.keys == [b"prefix/" + key for key in KEYS]
    assert cost_of_longer - cost == 3 * len(b"prefix/")


def test_what_is_cut_from_the_keys_of_a_child_is_paid_for():
    _, cost = node(interior(), height=1)
    branches, cost_of_cut = node(interior(2), height=1)
    assert [one.prefix for one in branches] == [b"aa", b"", b""]
    assert cost_of_cut - cost == 2
    with pytest.raises(CorruptCheckpoint, match="longer than its key"):
        node(interior(3), height=1)


def test_every_entry_is_paid_for():
    costs = [
        node(encode_leaf([bytes((k,)) for k in range(n)], [b""] * n))[1] for n in (1, 2, 3, 100)
    ]
    each = costs[1] - costs[0]
    assert each > 100
    assert costs == [costs[0] + (n - 1) * each for n in (1, 2, 3, 100)]


def test_a_key_with_its_prefix_is_as_long_as_keys_may_be_and_no_longer():
    prefix = b"p" * (MAX_KEY_BYTES - 2)
    (found, _) = node(encode_leaf([b"aa"], [b"x"]), prefix)
    assert len(found.keys[0]) == MAX_KEY_BYTES
    with pytest.raises(CorruptCheckpoint):
        node(encode_leaf([b"aaa"], [b"x"]), prefix)


def test_values_reach_as_far_as_positions_do_and_no_further():
    last = Reference("d/x", MAX_POSITION - 5, 5)
    (found, _) = node(encode_leaf([b"a"], [last]))
    assert found.values == [last]
    edge = Reference("d/x", MAX_POSITION, 0)
    assert node(encode_leaf([b"a"], [edge]))[0].values == [edge]
    with pytest.raises(CorruptCheckpoint, match="reaches past"):
        node(encode_leaf([b"a"], [Reference("d/x", MAX_POSITION - 5, 6)]))


def cursor(body: bytes) -> Cursor:
    return Cursor(body, file="f", start=0, stop=len(body), budget=Budget())


def test_numbers_may_have_64_bits_and_no_more():
    assert cursor(b"\xff" * 9 + b"\x01").varint() == 2**64 - 1
    assert cursor(b"\x80" * 9 + b"\x01").varint() == 2**63
    for more in (b"\xff" * 9 + b"\x02", b"\xff" * 10 + b"\x00", b"\x80" * 9 + b"\x7f"):
        with pytest.raises(CorruptCheckpoint, match=r"does not fit 64 bits|runs past the end"):
            cursor(more).varint()
    with pytest.raises(CorruptCheckpoint, match="does not fit 64 bits"):
        cursor(b"\xff" * 10 + b"\x00" + b"\x01").varints(2)


def test_as_many_rows_as_are_allowed_are_and_no_more():
    assert cursor(bytes((5,)) + bytes(10)).count(least_bytes=2, most=5) == 5
    for body, most in ((bytes((6,)) + bytes(12), 5), (bytes((5,)) + bytes(9), 5), (b"\0\0", 5)):
        with pytest.raises(CorruptCheckpoint, match="rows declared"):
            cursor(body).count(least_bytes=2, most=most)


def test_lengths_are_as_long_as_is_allowed_and_no_longer():
    assert cursor(bytes((1, 5))).lengths(2, most=5).tolist() == [1, 5]
    with pytest.raises(CorruptCheckpoint, match="length 6 where at most 5"):
        cursor(bytes((1, 6))).lengths(2, most=5)


def test_a_table_of_files_is_paid_for_and_has_room_for_what_it_declares():
    one = cursor(bytes((1, 0, 0)))
    before = one.budget.left_bytes
    found = decode_file_table(one, base="base/")
    assert (found.paths, found.bases) == (["base/"], ["base/"])
    assert before - one.budget.left_bytes == 2 * len("base/") + 200
    with pytest.raises(CorruptCheckpoint, match="2 data files declared, with 3 bytes left"):
        decode_file_table(cursor(bytes((2, 0, 0, 0))), base="")
    table = decode_file_table(cursor(encode_file_table(["d/a", "d/b"])), base="x/")
    assert table.paths == ["x/d/a", "x/d/b"]
