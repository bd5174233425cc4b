# SPDX-License-Identifier: Apache-2.0
"""Whatever bytes come as MessagePack: a tree or a typed error, soon and in little room."""

import contextlib
import tracemalloc
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pertinax._formats.msgpack import Packed, decode, encode, materialize
from pertinax.errors import CorruptCheckpoint

ARRAY = encode({"a": np.arange(6, dtype=np.int16).reshape(2, 3), "b": {"c": (1, 2.5, None)}})
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(max_size=300),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(), inner, max_size=20),
    max_leaves=40,
)


def read_all(data: bytes) -> Any:
    def read(offset: int, length: int) -> bytes:
        return data[offset : offset + length]

    return materialize(decode(read, len(data), "checkpoint"), read)


@given(plain)
def test_what_the_library_packs_is_read_as_the_library_reads_it(tree: Any) -> None:
    data = msgpack.packb(tree)
    assert read_all(data) == msgpack.unpackb(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_tree_or_corrupt(data: bytes) -> None:
    with contextlib.suppress(CorruptCheckpoint, TypeError):
        read_all(data)


@given(st.integers(0, len(ARRAY) - 1), st.integers(1, 255))
def test_a_damaged_byte_gives_a_tree_or_a_typed_error(place: int, flip: int) -> None:
    data = bytearray(ARRAY)
    data[place] ^= flip
    with contextlib.suppress(CorruptCheckpoint, TypeError):
        read_all(bytes(data))


@given(st.integers(0, len(ARRAY) - 1))
def test_a_file_that_ends_early_is_corrupt_and_named(length: int) -> None:
    with pytest.raises(CorruptCheckpoint, match="checkpoint"):
        read_all(ARRAY[:length])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "incomplete"),
        (b"\xc1", "no value begins with"),
        (b"\x01\x02", "extra data"),
        (b"\x91\xa1\xff", "not UTF-8"),
        (b"\xc7\x01\x09\x00", "Unsupported msgpack code: 9"),
        (b"\xc7\x01\x01\x00", "payload of extension 1"),
        (b"\xd5\x01\x90\x90", "payload of extension 1"),
        (b"\xd4\x01\x90", "shape, dtype and bytes"),
        (b"\xc7\x03\x02\x92\xc0\xc0", "complex"),
        (b"\x81\x91\x01\x01", "a key cannot be a list"),
        (b"\x82\xa1a\x01\xa1a\x02", "twice"),
        (b"\x91" * 5000, "nested more than"),
        (b"\xdf\xff\xff\xff\xff", "incomplete"),
        (b"\xdd\xff\xff\xff\xff", "incomplete"),
        (b"\xdb\xff\xff\xff\xff", "incomplete"),
        (b"\xc6\xff\xff\xff\xff", "incomplete"),
        (b"\xc9\xff\xff\xff\xff\x01", "incomplete"),
    ],
)
def test_what_is_wrong_is_said(data: bytes, reason: str) -> None:
    with pytest.raises(CorruptCheckpoint, match=reason):
        read_all(data)


def packed(shape: list[int], dtype: str, data: bytes) -> bytes:
    return msgpack.packb(msgpack.ExtType(1, msgpack.packb([shape, dtype, data])))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (packed([3], "int64", bytes(8)), "has 24 bytes, stored are 8"),
        (packed([-1], "int64", bytes(8)), "shape, dtype and bytes"),
        (packed([2**40, 2**40], "int8", b""), "no array has the shape"),
        (packed([2**40, 0, 2**40], "int8", b""), "no array has the shape"),
        (packed([1] * 65, "int8", b"a"), "no array has the shape"),
    ],
)
def test_arrays_that_cannot_be_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(CorruptCheckpoint, match=reason):
        read_all(data)


def chunks(**fields: Any) -> bytes:
    part = msgpack.ExtType(1, msgpack.packb([[2], "int8", b"ab"]))
    base = {"shape": {"0": 4}, "chunks": {"0": part, "1": part}}
    return msgpack.packb({"__msgpack_chunked_array__": True, **base, **fields})


def test_parts_of_a_large_array_are_joined():
    assert read_all(chunks()).tobytes() == b"abab"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"shape": {"0": 5}}, "has 5 bytes, stored are 4"),
        ({"shape": {"1": 4}}, "not the parts"),
        ({"shape": [4]}, "not the parts"),
        ({"chunks": {}}, "do not belong together"),
        ({"chunks": {"0": 1}}, "not the parts"),
    ],
)
def test_parts_that_do_not_make_an_array_are_refused(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(CorruptCheckpoint, match=reason):
        read_all(chunks(**fields))


def test_a_head_that_announces_much_takes_no_room():
    data = b"\xdd\x00\x00\x70\x00" * 190 + bytes(30_000)
    tracemalloc.start()
    try:
        with pytest.raises(CorruptCheckpoint):
            read_all(data)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_arrays_stay_in_the_file_until_they_are_wanted():
    data = encode({"big": np.zeros(1 << 20, np.uint8), "small": 1})
    taken: list[int] = []

    def read(offset: int, length: int) -> bytes:
        taken.append(length)
        return data[offset : offset + length]

    tree = decode(read, len(data), "checkpoint")
    assert isinstance(tree["big"], Packed)
    assert tree["small"] == 1
    assert sum(taken) < 1 << 18
