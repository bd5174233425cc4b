"""Shares: which process writes which part of an array that several of them hold.

Knows boxes and the processes that hold each. Knows nothing of devices or live arrays. Every process
works out the same answer from what all know, so nobody has to ask.
"""

from collections.abc import Sequence
from typing import NamedTuple

from pertinax._plan.boxes import Box, Shape

Holding = tuple[Box, tuple[int, ...]]
"""A box of an array, and the processes that hold it, in order."""

FLOOR_BYTES = 1 << 20
"""Nobody gains by cutting a box into parts smaller than this."""


class Share(NamedTuple):
    """What one process writes: each of `boxes` lies in the one of `holdings` at the same position.

    `piece` is the shape of one written part, the same for all processes.
    """

    boxes: tuple[Box, ...]
    holdings: tuple[Box, ...]
    piece: Shape


def share_out(
    holdings: Sequence[Holding],
    process: int,
    *,
    itemsize: int,
    turn: int,
    floor_bytes: int = FLOOR_BYTES,
) -> Share:
    """The part of an array that `process` writes.

    `holdings` are the distinct boxes of the array. Those that several processes hold are cut
    into equal parts of at least `floor_bytes` where they can be; what cannot be cut goes round
    among the holders, beginning with number `turn`, so that many small arrays spread as well.
    """
    shapes = {box.shape for box, _ in holdings}
    ways, axis = 1, 0
    if len(shapes) == 1:
        (shape,) = shapes
        fewest = min(len(holders) for _, holders in holdings)
        ways, axis = _ways_to_cut(shape, fewest, itemsize, floor_bytes)
    piece = holdings[0][0].shape if holdings else ()
    if ways > 1:
        piece = tuple(n // ways if d == axis else n for d, n in enumerate(piece))
    boxes: list[Box] = []
    whole: list[Box] = []
    for number, (box, holders) in enumerate(holdings):
        for part in range(ways):
            if holders[(turn + number + part) % len(holders)] == process:
                boxes.append(_part(box, axis, ways, part))
                whole.append(box)
    return Share(tuple(boxes), tuple(whole), piece)


def _ways_to_cut(shape: Shape, most: int, itemsize: int, floor_bytes: int) -> tuple[int, int]:
    """Into how many equal parts, and along which dimension: the first that divides, for parts that
    are one run of bytes.
    """
    size = itemsize
    for n in shape:
        size *= n
    for ways in range(min(most, size // max(1, floor_bytes)), 1, -1):
        for axis, n in enumerate(shape):
            if n % ways == 0:
                return ways, axis
    return 1, 0


def _part(box: Box, axis: int, ways: int, part: int) -> Box:
    if ways == 1:
        return box
    width = (box.stop[axis] - box.start[axis]) // ways
    start, stop = list(box.start), list(box.stop)
    start[axis] += part * width
    stop[axis] = start[axis] + width
    return Box(tuple(start), tuple(stop))
