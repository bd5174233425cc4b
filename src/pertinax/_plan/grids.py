# SPDX-License-Identifier: Apache-2.0
"""Grids: arrays cut into equal boxes by the axes of a mesh.

Knows meshes as the lengths of their axes, and which box each position of the mesh holds. Knows
nothing of devices or processes. All positions are worked out at once, for there may be tens of
thousands.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pertinax._plan.boxes import Box, Shape
from pertinax._plan.chunks import index_of


class Grid(NamedTuple):
    """`cuts` equal boxes along each dimension, numbered in C order, and the number of the one that
    each position of the mesh holds, in the mesh's order.
    """

    cuts: Shape
    numbers: NDArray[np.int64]

    def box(self, number: int, shape: Shape) -> Box:
        """The box of that number of an array of `shape`."""
        each = self.box_shape(shape)
        start = tuple(i * n for i, n in zip(index_of(number, self.cuts), each, strict=True))
        return Box(start, tuple(a + n for a, n in zip(start, each, strict=True)))

    def box_shape(self, shape: Shape) -> Shape:
        """The shape of every box of an array of `shape`."""
        return tuple(n // ways for n, ways in zip(shape, self.cuts, strict=True))


def grid_of(
    mesh: Mapping[Hashable, int], along: Sequence[Sequence[Hashable]], shape: Shape
) -> Grid | None:
    """The grid of an array whose dimension `d` is divided by the axes `along[d]` of `mesh`, the
    first of them outermost.

    `mesh` has the length of each axis, in order. None if there is no such axis, or if boxes would
    not be equal.
    """
    lengths = tuple(mesh.values())
    if not all(axis in mesh for axes in along for axis in axes):
        return None
    cuts = tuple(math.prod(mesh[axis] for axis in axes) for axes in along)
    if any(n % ways for n, ways in zip(shape, cuts, strict=True)):
        return None
    position = dict(zip(mesh, np.indices(lengths, sparse=True), strict=True))
    numbers = np.zeros((1,) * len(lengths), np.int64)
    for axes in along:
        for axis in axes:
            numbers = numbers * mesh[axis] + position[axis]
    return Grid(cuts, np.broadcast_to(numbers, lengths).ravel())
