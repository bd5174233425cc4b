# SPDX-License-Identifier: Apache-2.0
"""Boxes: rectangular regions of arrays.

Knows n-dimensional integer geometry. Knows nothing of bytes, devices or files.
"""

import math
from dataclasses import dataclass
from operator import le, sub
from typing import Self

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Box:
    """A region of an array: `start[i] <= index[i] < stop[i]`. Rank 0 means a scalar."""

    start: Shape
    stop: Shape

    def __post_init__(self) -> None:
        start, stop = self.start, self.stop
        # Millions are made: builtins over generators.
        if len(start) != len(stop) or not all(map(le, start, stop)) or (start and min(start) < 0):
            raise ValueError(f"not a box: start={start} stop={stop}")

    @classmethod
    def whole(cls, shape: Shape) -> Self:
        """The box of a whole array."""
        return cls((0,) * len(shape), shape)

    @property
    def shape(self) -> Shape:
        """Elements along each dimension."""
        return tuple(map(sub, self.stop, self.start))

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def slices(self) -> tuple[slice, ...]:
        """The box as an index."""
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))

    def intersect(self, other: "Box") -> "Box | None":
        """The common region, or None if there is no common element."""
        start = tuple(map(max, self.start, other.start))
        stop = tuple(map(min, self.stop, other.stop))
        return Box(start, stop) if all(a < b for a, b in zip(start, stop, strict=True)) else None

    def contains(self, other: "Box") -> bool:
        """Whether every element of `other` is in this box."""
        return all(a <= b for a, b in zip(self.start, other.start, strict=True)) and all(
            a >= b for a, b in zip(self.stop, other.stop, strict=True)
        )

    def relative_to(self, origin: Shape) -> "Box":
        """The same region, counted from `origin`."""
        return Box(
            tuple(a - o for a, o in zip(self.start, origin, strict=True)),
            tuple(b - o for b, o in zip(self.stop, origin, strict=True)),
        )
