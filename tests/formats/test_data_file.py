# SPDX-License-Identifier: Apache-2.0
"""Pieces on their way: in how many writes, and where each comes to lie."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pytest

from pertinax._device.snapshot import Snapshot
from pertinax._formats.crc import crc32c, crc_blocks
from pertinax._formats.data_file import (
    SEGMENT_BYTES,
    Content,
    Receipt,
    Span,
    _merge,
    _Part,
    _RawJob,
    _Writing,
    writes_of,
)
from pertinax._formats.manifest import StoredLeaf
from pertinax._plan.boxes import Box
from pertinax._plan.write import Piece, WritePlan
from pertinax.errors import SnapshotChanged


@pytest.mark.parametrize(
    ("length", "writes"),
    [(0, 0), (1, 1), (SEGMENT_BYTES, 1), (SEGMENT_BYTES + 1, 2), (3 * SEGMENT_BYTES, 3)],
)
def test_a_piece_takes_a_write_for_each_segment(length: int, writes: int) -> None:
    assert writes_of(np.zeros(length, np.int8)) == writes


def test_a_piece_that_is_cut_out_of_a_shard_takes_one_write() -> None:
    assert writes_of(np.zeros((4, SEGMENT_BYTES), np.int8)[:, 1:]) == 1


class Watched:
    """Outputs, places and workers of one save, and what each is told."""

    def __init__(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.meanwhile = meanwhile
        self.written: list[tuple[int, int, bytes]] = []
        self.carried: list[int] = []
        self.told: list[int] = []
        self.places = [(1, 64), (1, 128), (1, 192)]

    def write(self, file: int, offset: int, buffers: Sequence[Any]) -> None:
        self.written.append((file, offset, b"".join(bytes(one) for one in buffers)))
        self.meanwhile()

    def carrying(self, length: int) -> AbstractContextManager[None]:
        self.carried.append(length)
        return nullcontext()

    def reserve(self, position: int, length: int) -> tuple[int, int]:
        return (position, length)

    def writing(self, packed: int, *large: np.ndarray[Any, Any], codec: Any = "raw") -> _Writing:
        """Packed pieces of four bytes each, then large ones."""
        leaf = StoredLeaf((), "w", "numpy", "int8", (8,), "int8", (4,), codec=codec)
        lengths = [4] * packed + [one.nbytes for one in large]
        pieces = tuple(Piece(0, 0, i, Box((), ()), n) for i, n in enumerate(lengths))
        offsets = np.arange(packed) * 4
        plan = WritePlan(pieces, offsets, packed, 0, 4 * packed, 4 * packed, sum(lengths))
        image = memoryview(bytes(range(4 * packed)))
        content = Content((leaf,), plan, Snapshot(image, large, ()))
        return _Writing(self, self, content, self, self.told.append, offsets.tolist())  # type: ignore[arg-type]


def test_packed_pieces_are_written_together_and_vouched_for_one_by_one() -> None:
    seen = Watched()
    receipts = seen.writing(3).packed(Span(4, 12, (7, 9)))
    assert seen.written == [(7, 9, bytes(range(4, 12)))]
    assert (seen.carried, seen.told) == ([8], [8])
    assert [one.crcs for one in receipts] == [
        (crc32c(bytes(range(4, 8))),),
        (crc32c(bytes(range(8, 12))),),
    ]


def test_a_raw_piece_that_changes_while_it_is_written_fails_the_save() -> None:
    array = np.zeros(10, np.int8)
    job = _RawJob(Piece(0, 0, 0, Box((), ()), 10), (2, 100), 5, array)
    seen = Watched()
    part = seen.writing(0, array).raw(job)
    assert seen.written == [(2, 105, bytes(10))]
    assert (seen.carried, seen.told, part.crcs) == ([10], [10], crc_blocks(bytes(10)))
    changing = Watched(lambda: array.fill(1))
    with pytest.raises(SnapshotChanged, match="was written to while it was being saved"):
        changing.writing(0, array).raw(job)


@pytest.mark.parametrize(("step", "copies"), [(1, 1), (2, 2)])
def test_what_is_compressed_is_carried_once_or_twice_and_lies_where_there_is_room(
    step: int, copies: int
) -> None:
    array = np.arange(80, dtype=np.int8)[: 40 * step : step]
    seen = Watched()
    receipt = seen.writing(2, array).encoded(2)
    assert seen.written == [(2, 40, array.tobytes())]
    assert (seen.carried, seen.told) == ([40 * copies], [40])
    assert (receipt.file, receipt.offset, receipt.length) == (2, 40, 40)
    assert receipt.crcs == crc_blocks(array.tobytes())


def test_the_checksums_of_a_piece_are_those_of_its_parts_in_order() -> None:
    first, other = Piece(0, 0, 0, Box((), ()), 10), Piece(0, 0, 1, Box((), ()), 5)
    array = np.zeros(5, np.int8)
    parts = [
        _Part(_RawJob(first, (0, 64), 0, array), [1, 2]),
        _Part(_RawJob(first, (0, 64), 5, array), [3]),
        _Part(_RawJob(other, (1, 0), 0, array), [4]),
    ]
    assert _merge(parts) == [Receipt(first, 0, 64, 10, (1, 2, 3)), Receipt(other, 1, 0, 5, (4,))]
