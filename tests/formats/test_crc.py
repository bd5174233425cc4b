# SPDX-License-Identifier: Apache-2.0
"""CRC-32C: the right polynomial, over any memory, in blocks."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pertinax._formats.crc import crc32c, crc_blocks, file_crc


@pytest.mark.parametrize(
    ("text", "expected"),
    [  # RFC 3720, B.4, and the usual check value
        (b"", 0x00000000),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_known_vectors(text: bytes, expected: int) -> None:
    assert crc32c(text) == expected


def test_an_empty_view_of_any_shape_has_the_checksum_of_nothing() -> None:
    assert crc32c(memoryview(np.zeros((0, 3)))) == 0


def test_files_have_the_other_crc_which_goes_on_from_where_it_was() -> None:
    assert file_crc(b"123456789") == 0xCBF43926  # the usual check value
    assert file_crc(b"6789", file_crc(b"12345")) == 0xCBF43926


@given(st.binary(max_size=200), st.integers(0, 200))
def test_a_checksum_continues_where_another_ended(text: bytes, cut: int) -> None:
    assert crc32c(text[cut:], crc32c(text[:cut])) == crc32c(text)


@pytest.mark.parametrize(
    "dtype", [np.uint8, np.float32, ml_dtypes.bfloat16, np.complex128, np.bool_]
)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (7,), (5, 6)])
def test_arrays_are_their_bytes(dtype: type, shape: tuple[int, ...]) -> None:
    array = np.ones(shape, dtype)
    assert crc32c(array) == crc32c(array.tobytes())
    assert crc_blocks(array, 8) == crc_blocks(array.tobytes(), 8)


def test_memory_need_not_be_bytes_nor_read_only() -> None:
    text = bytes(range(256)) * 300
    for buffer in (bytearray(text), memoryview(text), memoryview(bytearray(text))):
        assert crc32c(buffer) == crc32c(text)
        assert crc32c(memoryview(buffer)[3:]) == crc32c(text[3:])
        assert crc_blocks(buffer, 1000) == crc_blocks(text, 1000)


def test_memory_that_is_not_contiguous_is_refused_not_copied() -> None:
    array = np.arange(20).reshape(4, 5)
    for buffer in (array.T, array[:, ::2], memoryview(b"abcd")[::2]):
        with pytest.raises((ValueError, BufferError)):
            crc32c(buffer)
        with pytest.raises(ValueError, match="contiguous"):
            crc_blocks(buffer)


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 20, 21])
def test_one_checksum_for_each_block(size: int) -> None:
    text = bytes(range(size))
    assert crc_blocks(text, 10) == [crc32c(text[i : i + 10]) for i in range(0, size, 10)]


def test_a_block_has_a_byte_at_least() -> None:
    assert crc_blocks(b"ab", 1) == [crc32c(b"a"), crc32c(b"b")]
    with pytest.raises(ValueError, match="at least 1, not 0"):
        crc_blocks(b"ab", 0)


def test_blocks_are_a_mebibyte_unless_told() -> None:
    text = bytes((1 << 20) + 1)
    assert crc_blocks(text) == [crc32c(text[:-1]), crc32c(b"\0")]
    with pytest.raises(ValueError, match="block_bytes"):
        crc_blocks(text, 0)
