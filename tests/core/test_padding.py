# SPDX-License-Identifier: Apache-2.0
"""What lies between chunks is known to the byte, whatever their order and in however many files."""

import numpy as np
import pytest

from pertinax._core.padding import Padding, Span, _by_weight
from pertinax._formats.manifest import ChunkTable
from pertinax.errors import CorruptCheckpoint

MEGABYTE = 1 << 20


def padding(*chunks: tuple[int, int, int], files: tuple[str, ...] = ("d/0", "d/1")) -> Padding:
    """Of chunks by file, offset and length."""
    file, offset, length = np.array(chunks, np.int64).T
    zero = np.zeros(len(chunks), np.int64)
    return Padding(ChunkTable(files, zero, zero, file, offset, length, None))


def span(rows: list[int], size: int, *bad: int, origin: int = 0) -> Span:
    data = np.zeros(size, np.uint8)
    data[list(bad)] = 1
    return Span(rows, data, origin)


def test_what_follows_a_chunk_ends_with_the_next_one_of_its_file():
    assert padding((0, 10, 5), (1, 0, 3), (0, 0, 9), (1, 8, 2), (0, 15, 1)).after == [
        0,
        5,
        1,
        0,
        0,
    ]


def test_a_single_byte_between_two_chunks_counts_and_is_named():
    one = padding((1, 100, 4), (1, 105, 3))
    one.check(span([0, 1], 8, 0, 3, 5, 7, origin=100))
    with pytest.raises(CorruptCheckpoint, match="padding is not zero") as caught:
        one.check(span([0, 1], 8, 4, origin=100))
    assert (caught.value.file, caught.value.start, caught.value.stop) == ("d/1", 104, 105)


def test_the_first_byte_that_is_not_zero_is_named():
    some = padding((0, 0, 4), (0, 8, 4), (0, 16, 4), (0, 32, 4))
    with pytest.raises(CorruptCheckpoint) as caught:
        some.check(span([0, 1, 2, 3], 36, 14, 21, 31))
    assert (caught.value.file, caught.value.start) == ("d/0", 14)
    with pytest.raises(CorruptCheckpoint) as caught:
        some.check(span([0, 1, 2, 3], 36, 31))
    assert caught.value.start == 31


def test_what_is_wide_is_not_read_with_a_chunk():
    page = 1 << 16
    two = padding((0, 0, 8), (0, page + 8, 8), (0, 2 * page + 17, 8), (1, 0, 1))
    assert two.after == [page, 0, 0, 0]
    assert two.wide == [(0, page + 16, 2 * page + 17)]


@pytest.mark.parametrize(
    ("lengths", "slices"),
    [
        ([], []),
        ([1, 2, 3], [(0, 3)]),
        ([MEGABYTE // 2] * 4, [(0, 1), (1, 3), (3, 4)]),
        ([3 * MEGABYTE, 1, 5, MEGABYTE], [(0, 3), (3, 4)]),
    ],
)
def test_as_much_as_a_megabyte_is_looked_at_in_one_go(lengths, slices):
    found = [(one.start, one.stop) for one in _by_weight(np.array(lengths, np.int64))]
    assert found == slices


def test_of_each_file_it_is_known_where_its_chunks_begin_and_end():
    some = padding((0, 64, 8), (0, 16, 8), (2, 5, 1), files=("d/0", "d/1", "d/2"))
    assert some.ends() == [72, 0, 6]
    assert some.wide == [(0, 0, 16), (2, 0, 5)]
    assert some.after == [0, 40, 0]
