# SPDX-License-Identifier: Apache-2.0
"""Slices written out and written short: `np.s_[1:, :]` of a shape, and back.

Knows tuples of slices and the shapes they index. Knows nothing of the arrays.

A slice is *concrete* when start, stop and step are all integers.
"""

from collections.abc import Sequence
from types import EllipsisType
from typing import Any

from pertinax.checkpoint.arrays.types import Index, NdSlice, Shape


def resolve_slice(xs: NdSlice | Sequence[slice | int], shape: Shape) -> Index:
    """The same index with every slice concrete; an integer becomes a slice of length one.

    `...` stands for the whole array without naming its dimensions: it becomes `()`.
    """
    if isinstance(xs, EllipsisType):
        return ()
    return tuple(_resolved(x, n) for x, n in zip(xs, shape, strict=False))


def _resolved(x: slice | int, n: int) -> slice:
    if not isinstance(x, slice):
        return slice(x, x + 1, 1)
    return slice(
        0 if x.start is None else x.start,
        n if x.stop is None else x.stop,
        1 if x.step is None else x.step,
    )


def dissolve_slice(xs: Index, shape: Shape, preserve_rank: bool = True) -> NdSlice:
    """The same index with nothing said that goes without saying; `...` if that is everything.

    `preserve_rank=False` leaves out whole dimensions at the end as well.
    """
    short = [
        slice(
            None if x.start == 0 else x.start,
            None if x.stop == n else x.stop,
            None if x.step == 1 else x.step,
        )
        for x, n in zip(xs, shape, strict=False)
    ]
    while short and not preserve_rank and short[-1] == slice(None):
        short.pop()
    return tuple(short) if short else ...


def normalize_slice(resolved_slice: Index, shape: Shape) -> Index:
    """A concrete index with bounds below zero counted from the end, as Python counts them."""
    return tuple(
        slice(_from_front(x.start, n), _from_front(x.stop, n), x.step)
        for x, n in zip(resolved_slice, shape, strict=False)
    )


def _from_front(bound: int, n: int) -> int:
    return bound if bound >= 0 else bound + n


def slice_shape(xs: Index) -> Shape:
    """The shape of what a concrete index picks."""
    return tuple(len(range(*int_tuple_from_slice(x))) for x in xs)


def int_tuple_from_slice(s: slice) -> tuple[int, ...]:
    """Start, stop and step. Raises `ValueError` unless the slice is concrete."""
    if s.start is None or s.stop is None or s.step is None:
        raise ValueError(f"{s} is not concrete: start, stop and step must be integers")
    return int(s.start), int(s.stop), int(s.step)


def pretty_nd_slice(idx: Sequence[slice] | EllipsisType) -> str:
    """The index as one writes it with `np.s_`."""
    if isinstance(idx, EllipsisType) or not idx:
        return "np.s_[...]"
    return f"np.s_[{', '.join(_pretty_slice(x) for x in idx)}]"


def _pretty_slice(s: slice) -> str:
    start, stop, step = (_text(part) for part in (s.start, s.stop, s.step))
    return f"{start}:{stop}:{step}" if step else f"{start}:{stop}"


def _text(part: Any) -> str:
    return "" if part is None else str(part)
