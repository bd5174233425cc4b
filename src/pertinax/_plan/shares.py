# SPDX-License-Identifier: Apache-2.0
"""Shares: which process writes which part of an array that several of them hold.

Knows boxes and the processes that hold each. Knows nothing of devices or live arrays. Every process
works out the same answer from what all know, so nobody has to ask; and each looks at no more boxes
than it holds itself, however many processes there are.
"""

import heapq
import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from pertinax._plan.boxes import Box, Shape

FLOOR_BYTES = 1 << 20
"""Nobody gains by cutting a box into parts smaller than this."""


class Seat(NamedTuple):
    """A process at one box: the `number` of the box, the process's `place` among its
    `holders`.
    """

    number: int
    place: int
    holders: int


@dataclass(frozen=True, slots=True)
class Seating:
    """Who holds which box of all arrays that are laid out alike, as one process sees it.

    Attributes:
        own: the seats of this process.
        fewest: the holders of the box that has fewest; 0 if there is one that nobody holds.
        layout: equal for layouts in which the same processes hold the same boxes.
    """

    own: tuple[Seat, ...]
    fewest: int
    layout: bytes = field(repr=False)


def seating_of(
    numbers: NDArray[Any], processes: NDArray[Any], *, members: Collection[int], process: int
) -> Seating:
    """The seating of `process`, from the number of the box that each device holds, and the process
    that each device belongs to. Only `members` count.
    """
    boxes = int(numbers.max()) + 1
    taking_part = np.zeros(max(int(processes.max()), *members) + 1, bool)
    taking_part[list(members)] = True
    here = taking_part[processes]
    ways = len(taking_part)
    pairs = np.unique(numbers[here].astype(np.int64) * ways + processes[here])
    counts = np.bincount(pairs // ways, minlength=boxes)
    firsts = np.cumsum(counts) - counts
    own = np.flatnonzero(pairs % ways == process)
    held = pairs[own] // ways
    seats = zip(held.tolist(), (own - firsts[held]).tolist(), counts[held].tolist(), strict=True)
    return Seating(tuple(Seat(*seat) for seat in seats), int(counts.min()), pairs.tobytes())


@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    """How the boxes of one array lie: this process has `boxes`, at the seats of `seating`.

    `first` is the shape of the first box of all; `even` tells whether all have it.
    """

    seating: Seating
    boxes: tuple[Box, ...]
    first: Shape
    even: bool


class Share(NamedTuple):
    """What one process writes: each of `boxes` is all or part of the one of its own boxes at that
    position of `sources`.

    `piece` is the shape of one written part, the same for all processes.
    """

    boxes: tuple[Box, ...]
    sources: tuple[int, ...]
    piece: Shape


@final
class Sharing:
    """Shares out one array after another, so that all holders of a box write about the same.

    All processes must do so in the same order. Arrays that are alike get the same `Share`, the
    very object.
    """

    def __init__(self, floor_bytes: int = FLOOR_BYTES) -> None:
        self._floor = floor_bytes
        self._ways: dict[tuple[Shape, int, int], tuple[int, int]] = {}
        self._written: dict[tuple[bytes, int], list[tuple[int, int]]] = {}
        self._shares: dict[tuple[Any, ...], Share] = {}

    def share(self, spread: Spread, itemsize: int) -> Share:
        """The part that this process writes of an array of such elements.

        A box that several hold is cut into equal parts, as many as it has holders, if they have
        the floor's bytes and some dimension divides; what cannot be cut in so many ways goes to
        those who have written least so far.
        """
        ways, axis = 1, 0
        if spread.even and spread.seating.fewest > 1:
            ways, axis = self._cut(spread.first, spread.seating.fewest, itemsize)
        piece = tuple(n // ways if d == axis else n for d, n in enumerate(spread.first))
        parts = self._parts(spread.seating, ways, math.prod(piece) * itemsize)
        key = (spread, ways, axis, parts)
        if key not in self._shares:
            own = [i for i, part in enumerate(parts) if part >= 0]
            boxes = tuple(_part(spread.boxes[i], axis, ways, parts[i]) for i in own)
            self._shares[key] = Share(boxes, tuple(own), piece)
        return self._shares[key]

    def _parts(self, seating: Seating, ways: int, weight: int) -> tuple[int, ...]:
        """Which part of each own box this process writes, -1: none; each is of `weight` bytes."""
        parts: dict[int, dict[int, int] | None] = {}
        out: list[int] = []
        for number, place, count in seating.own:
            if count == 1:
                out.append(0)
                continue
            if count not in parts:
                parts[count] = self._least_busy(seating.layout, count, ways, weight)
            chosen = parts[count]
            # Of two boxes side by side the parts begin at different holders.
            turn = (place - number) % count
            out.append(turn if chosen is None else chosen.get(turn, -1))
        return tuple(out)

    def _least_busy(
        self, layout: bytes, count: int, ways: int, weight: int
    ) -> dict[int, int] | None:
        """Which of `count` holders write, and which part; None: each writes that of its turn."""
        if ways == count:
            return None
        written = self._written.setdefault((layout, count), [(0, turn) for turn in range(count)])
        least = [heapq.heappop(written) for _ in range(ways)]
        for before, turn in least:
            heapq.heappush(written, (before + weight, turn))
        return {turn: part for part, (_, turn) in enumerate(least)}

    def _cut(self, shape: Shape, most: int, itemsize: int) -> tuple[int, int]:
        key = (shape, most, itemsize)
        if key not in self._ways:
            self._ways[key] = _ways_to_cut(shape, most, itemsize, self._floor)
        return self._ways[key]


def _ways_to_cut(shape: Shape, most: int, itemsize: int, floor_bytes: int) -> tuple[int, int]:
    """Into how many equal parts, and along which dimension: the first that divides, for parts that
    are one run of bytes.
    """
    size = math.prod(shape) * itemsize
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
