# SPDX-License-Identifier: Apache-2.0
"""Replicas share the writing: every element once in the whole job, about evenly."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pertinax._plan.boxes import Box, Shape
from pertinax._plan.shares import Share, Sharing, Spread, seating_of

WHOLE = Box((0, 0), (12, 8))
Holding = tuple[Box, Sequence[int]]


def spread_of(holdings: Sequence[Holding], process: int) -> Spread:
    """As `process` sees it."""
    pairs = [(n, who) for n, (_, holders) in enumerate(holdings) for who in holders]
    numbers, processes = np.array(pairs).T
    members = set(processes.tolist()) | {process}
    seating = seating_of(numbers, processes, members=members, process=process)
    boxes = [holdings[seat.number][0] for seat in seating.own]
    shapes = {box.shape for box, _ in holdings}
    return Spread(seating, tuple(boxes), holdings[0][0].shape, len(shapes) == 1)


def share_alone(holdings: Sequence[Holding], process: int, floor_bytes: int = 1) -> Share:
    return Sharing(floor_bytes).share(spread_of(holdings, process), 4)


def test_what_one_process_holds_it_writes_whole() -> None:
    share = share_alone([(WHOLE, (3,))], 3)
    assert share.boxes == (WHOLE,)
    assert share.sources == (0,)
    assert share.piece == (12, 8)


def test_a_replicated_array_is_cut_into_as_many_parts_as_there_are_holders() -> None:
    shares = [share_alone([(WHOLE, (0, 1, 2))], process) for process in (0, 1, 2)]
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
    share = share_alone([(WHOLE, range(holders))], 0)
    expected = list(WHOLE.shape)
    expected[axis] //= ways
    assert share.piece == tuple(expected)


def test_small_boxes_are_not_cut_but_go_round() -> None:
    sharings = [Sharing() for _ in range(4)]
    spreads = [spread_of([(WHOLE, (0, 1, 2, 3))], process) for process in range(4)]
    turns = [
        [p for p in range(4) if sharings[p].share(spreads[p], itemsize=4).boxes] for _ in range(8)
    ]
    assert sorted(turns[:4]) == sorted(turns[4:]) == [[0], [1], [2], [3]]


def test_parts_are_never_smaller_than_the_floor() -> None:
    bytes_whole = 12 * 8 * 4
    share = share_alone([(WHOLE, range(12))], 0, bytes_whole // 3)
    assert math.prod(share.piece) * 4 >= bytes_whole // 3


def test_who_is_no_member_has_no_part() -> None:
    numbers, processes = np.array([[0, 0], [0, 5], [1, 5], [1, 7]]).T
    seating = seating_of(numbers, processes, members=[5, 6], process=5)
    assert [tuple(seat) for seat in seating.own] == [(0, 0, 1), (1, 0, 1)]
    assert seating_of(numbers, processes, members=[0, 6], process=6).fewest == 0


@given(
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    replicas=st.integers(1, 6),
    floor=st.integers(1, 200),
    leaves=st.integers(1, 9),
)
def test_every_element_is_written_once(
    rows: int, columns: int, size: tuple[int, int], replicas: int, floor: int, leaves: int
) -> None:
    shape = (rows * size[0], columns * size[1])
    holdings: list[Holding] = []
    for r, c in itertools.product(range(rows), range(columns)):
        start = (r * size[0], c * size[1])
        box = Box(start, (start[0] + size[0], start[1] + size[1]))
        first = (r * columns + c) % 3  # processes hold several boxes, in no special order
        holdings.append((box, sorted({(first + 2 * k) % 7 for k in range(replicas)})))
    written = np.zeros((leaves, *shape), int)
    pieces: set[Shape] = set()
    for process in range(7):
        sharing, spread = Sharing(floor), spread_of(holdings, process)
        for leaf in range(leaves):
            share = sharing.share(spread, itemsize=2)
            pieces.add(share.piece)
            for box, source in zip(share.boxes, share.sources, strict=True):
                whole = spread.boxes[source]
                assert whole.contains(box)
                assert box.shape == share.piece
                assert process in dict(holdings)[whole]
                written[leaf][box.slices] += 1
    assert (written == 1).all()
    assert len(pieces) == 1


def bytes_written(shapes: Sequence[Shape], replicas: int, floor: int) -> list[int]:
    """What each replica writes of arrays that all of them hold."""
    out: list[int] = []
    for process in range(replicas):
        sharing = Sharing(floor)
        shares = (
            sharing.share(spread_of([(Box.whole(shape), range(replicas))], process), itemsize=4)
            for shape in shapes
        )
        out.append(sum(box.size * 4 for share in shares for box in share.boxes))
    return out


def test_replicas_write_about_the_same_number_of_bytes() -> None:
    """Sixty leaves of odd sizes on four replicas: nobody writes more than a tenth too much."""
    written = bytes_written([(n % 13 + 1, 32 * (n % 7 + 1)) for n in range(60)], 4, 1024)
    assert max(written) < 1.1 * sum(written) / 4


@pytest.mark.parametrize("replicas", [2, 3, 4, 7, 8])
def test_leaves_that_are_large_and_small_by_turns_are_shared_evenly(replicas: int) -> None:
    """Kernel, bias, kernel, bias: going round blindly, one of two replicas wrote all kernels."""
    written = bytes_written([(64, 64), (64,)] * 84, replicas, 1 << 20)
    assert max(written) < 1.1 * sum(written) / replicas
