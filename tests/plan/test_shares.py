"""Replicas share the writing: every element once in the whole job, about evenly."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pertinax._plan.boxes import Box
from pertinax._plan.shares import Holding, share_out

WHOLE = Box((0, 0), (12, 8))


def test_what_one_process_holds_it_writes_whole() -> None:
    share = share_out([(WHOLE, (3,))], 3, itemsize=4, turn=9, floor_bytes=1)
    assert share.boxes == share.holdings == (WHOLE,)
    assert share.piece == (12, 8)


def test_a_replicated_array_is_cut_into_as_many_parts_as_there_are_holders() -> None:
    shares = [
        share_out([(WHOLE, (0, 1, 2))], p, itemsize=4, turn=0, floor_bytes=1) for p in (0, 1, 2)
    ]
    assert [share.boxes for share in shares] == [
        (Box((0, 0), (4, 8)),),
        (Box((4, 0), (8, 8)),),
        (Box((8, 0), (12, 8)),),
    ]
    assert {share.piece for share in shares} == {(4, 8)}


@pytest.mark.parametrize(
    ("holders", "ways", "axis"),
    [(5, 4, 0), (7, 6, 0), (8, 8, 1), (12, 12, 0), (11, 8, 1)],
)
def test_any_divisor_of_any_dimension_will_do(holders: int, ways: int, axis: int) -> None:
    share = share_out([(WHOLE, tuple(range(holders)))], 0, itemsize=4, turn=0, floor_bytes=1)
    expected = list(WHOLE.shape)
    expected[axis] //= ways
    assert share.piece == tuple(expected)


def test_small_boxes_are_not_cut_but_go_round() -> None:
    turns = [
        [p for p in range(4) if share_out([(WHOLE, (0, 1, 2, 3))], p, itemsize=4, turn=t).boxes]
        for t in range(8)
    ]
    assert turns == [[0], [1], [2], [3]] * 2


def test_parts_are_never_smaller_than_the_floor() -> None:
    bytes_whole = 12 * 8 * 4
    share = share_out(
        [(WHOLE, tuple(range(12)))], 0, itemsize=4, turn=0, floor_bytes=bytes_whole // 3
    )
    assert math.prod(share.piece) * 4 >= bytes_whole // 3


@given(
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    replicas=st.integers(1, 6),
    floor=st.integers(1, 200),
    turn=st.integers(0, 20),
)
def test_every_element_is_written_once(
    rows: int, columns: int, size: tuple[int, int], replicas: int, floor: int, turn: int
) -> None:
    shape = (rows * size[0], columns * size[1])
    holdings: list[Holding] = []
    for r in range(rows):
        for c in range(columns):
            start = (r * size[0], c * size[1])
            box = Box(start, (start[0] + size[0], start[1] + size[1]))
            first = (r * columns + c) % 3  # processes hold several boxes, in no special order
            holdings.append((box, tuple(sorted({(first + 2 * k) % 7 for k in range(replicas)}))))
    written = np.zeros(shape, int)
    pieces = set()
    for process in range(7):
        share = share_out(holdings, process, itemsize=2, turn=turn, floor_bytes=floor)
        pieces.add(share.piece)
        for box, whole in zip(share.boxes, share.holdings, strict=True):
            assert whole.contains(box)
            assert box.shape == share.piece
            assert process in dict(holdings)[whole]
            written[box.slices] += 1
    assert (written == 1).all()
    assert len(pieces) == 1


def test_replicas_write_about_the_same_number_of_bytes() -> None:
    """Sixty leaves of odd sizes on four replicas: nobody writes more than a fifth too much."""
    sizes = [(n % 13 + 1, 32 * (n % 7 + 1)) for n in range(60)]
    written = dict.fromkeys(range(4), 0)
    for turn, shape in enumerate(sizes):
        for process in written:
            share = share_out(
                [(Box.whole(shape), (0, 1, 2, 3))], process, itemsize=4, turn=turn, floor_bytes=1024
            )
            written[process] += sum(box.size * 4 for box in share.boxes)
    mean = sum(written.values()) / 4
    assert max(written.values()) < 1.2 * mean
