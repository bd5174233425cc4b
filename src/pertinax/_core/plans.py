# SPDX-License-Identifier: Apache-2.0
"""Plans that were made before, for whoever saves the same tree again and again.

Knows when a plan still holds: the same skeleton, leaves that look the same, the same options, the
same processes. Knows nothing of what plans say. It keeps no array alive, and no more than a few
plans. It belongs to an object that saves, a manager or a handler; there is none for all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, final

from pertinax._device.inspect import LiveLeaf
from pertinax._device.recognise import Known, recognise
from pertinax._formats.item import Described
from pertinax._formats.manifest import StoredLeaf
from pertinax._formats.metadata.names import OrbaxName
from pertinax._plan.write import WritePlan
from pertinax._tree.flatten import Flat, flatten
from pertinax._tree.follow import leaves_along

_KEPT: Final = 2


@final
@dataclass(frozen=True, slots=True, eq=False)
class Planned:
    """What was worked out for one tree.

    Attributes:
        flat: the tree taken apart, without its leaves.
        question: all else that the plan depends on.
        known: each leaf as it was understood.
        stored, names, write_shapes, plan: as in `ItemContent`.
        described: what others shall read about it, once that has been written.
    """

    flat: Flat
    question: Any
    known: Sequence[Known]
    stored: Sequence[StoredLeaf]
    names: Sequence[OrbaxName]
    write_shapes: Sequence[tuple[int, ...]]
    plan: WritePlan
    described: Described


@final
class Plans:
    """The last few plans. Any thread may ask: at worst a plan is made twice."""

    def __init__(self, kept: int = _KEPT) -> None:
        self._kept = kept
        self._plans: tuple[Planned, ...] = ()

    def take_apart(self, tree: Any) -> Flat:
        """As `flatten`; of a tree with the skeleton of a plan, that very skeleton."""
        for planned in self._plans:
            leaves = leaves_along(tree, planned.flat.root)
            if leaves is not None:
                return Flat(leaves, planned.flat.paths, planned.flat.root)
        return flatten(tree)

    def find(self, flat: Flat, question: Any) -> tuple[Planned, list[LiveLeaf]] | None:
        """The plan for a tree that `take_apart` has taken apart, and its leaves; or None."""
        for planned in self._plans:
            if planned.flat.root is flat.root and planned.question == question:
                leaves = _recognised(flat.leaves, planned.known)
                if leaves is not None:
                    self._plans = (planned, *(one for one in self._plans if one is not planned))
                    return planned, leaves
        return None

    def keep(self, planned: Planned) -> None:
        """Remember a plan, and forget the one that was not used for longest."""
        self._plans = (planned, *self._plans)[: self._kept]


def _recognised(values: Sequence[Any], known: Sequence[Known]) -> list[LiveLeaf] | None:
    out: list[LiveLeaf] = []
    for value, one in zip(values, known, strict=True):
        leaf = recognise(value, one)
        if leaf is None:
            return None
        out.append(leaf)
    return out
