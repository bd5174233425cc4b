# SPDX-License-Identifier: Apache-2.0
"""Cutting what is written into chunks: which shape they get, and the pieces themselves.

Knows fragments and budgets in bytes. The rule that picks a shape is the engine's (`_plan/chunks`).
"""

import logging
from typing import Any

import numpy as np

from pertinax._plan import chunks
from pertinax.checkpoint.arrays.fragments import Fragment, Fragments
from pertinax.checkpoint.arrays.types import DType, Shape

_MIB = 2**20
_LOG = logging.getLogger(__name__)


def choose_chunk_shape(
    global_shape: Shape,
    write_shape: Shape,
    dtype: DType,
    target_byte_size: int | None,
    *,
    shard_axes: tuple[int, ...] = (),
) -> Shape:
    """The shape of the chunks of an array of `global_shape`, written in pieces of `write_shape`.

    It divides `write_shape`. With a target, a chunk has at most `target_byte_size` bytes;
    `shard_axes` are cut first. Raises `ValueError` if the shapes differ in rank, an axis does not
    exist, or the target is below one element. A target below 1 MiB is logged: small chunks are
    slow.
    """
    rank = len(write_shape)
    axes = [axis + rank if axis < 0 else axis for axis in shard_axes]
    if any(not 0 <= axis < rank for axis in axes):
        raise ValueError(f"{shard_axes=} names a dimension that {write_shape=} does not have")
    if len(global_shape) != rank:
        raise ValueError(f"{global_shape=} and {write_shape=} must have the same length")
    itemsize = np.dtype(dtype).itemsize
    if target_byte_size is not None and target_byte_size < itemsize:
        raise ValueError(f"{target_byte_size=} must be >= {itemsize}, the bytes of one element")
    if target_byte_size is not None and target_byte_size < _MIB:
        _LOG.warning(
            "chunks of target_byte_size=%d bytes are small: slow to store and read",
            target_byte_size,
        )
    return chunks.choose_chunk_shape(
        tuple(global_shape),
        tuple(write_shape),
        itemsize=itemsize,
        limit_bytes=target_byte_size,
        shard_axes=axes,
    )


def _find_divisors(size: int) -> list[int]:  # pyright: ignore[reportUnusedFunction] - tests of programs ask it
    return chunks.divisors(size) if size > 0 else []


def validate_divisible_shapes(divided_shape: Shape, dividing_shape: Shape) -> bool:
    """Whether pieces of the second shape fill the first without rest; not if the ranks differ."""
    if len(divided_shape) != len(dividing_shape):
        return False
    pairs = zip(divided_shape, dividing_shape, strict=True)
    return all(n % piece == 0 if piece else n == 0 for n, piece in pairs)


def chunk_fragment(fragment: Fragment, target_shape: Shape) -> list[Fragment]:
    """Pieces of `target_shape`, in C order; their values are views. An equal shape: the fragment.

    Raises `ValueError` for an abstract fragment, another rank, or a shape that does not divide.
    """
    if fragment.value is None:
        raise ValueError(f"an abstract fragment has nothing to cut: {fragment!r}")
    shape = fragment.shape
    if len(target_shape) != len(shape):
        raise ValueError(f"{target_shape=} must have the same length as fragment.{shape=}")
    if shape == tuple(target_shape):
        return [fragment]
    if not validate_divisible_shapes(shape, target_shape):
        raise ValueError(f"fragment.{shape=} is not divisible by {target_shape=}")
    grid = [n // piece if piece else 0 for n, piece in zip(shape, target_shape, strict=True)]
    return [
        _cut(fragment, np.multiply(cell, target_shape), target_shape) for cell in np.ndindex(*grid)
    ]


def _cut(fragment: Fragment, first: Any, shape: Shape) -> Fragment:
    """The piece of `shape` that begins `first` elements into the fragment."""
    assert fragment.value is not None  # noqa: S101 - asked before
    within = tuple(slice(a, a + n) for a, n in zip(first.tolist(), shape, strict=True))
    start = fragment.start + first * fragment.step
    # The end of a piece with gaps is that of its last element's stride, unless the fragment ends.
    stop = np.minimum(start + np.array(shape, dtype=int) * fragment.step, fragment.stop)
    place = np.stack([start, stop, fragment.step], axis=1).astype(np.int64)
    return Fragment(np_index=place, value=fragment.value[within])


def chunk_fragments(fragments: Fragments, target_shape: Shape) -> Fragments:
    """All fragments, each cut as `chunk_fragment` does."""
    pieces = [
        piece for whole in fragments.fragments for piece in chunk_fragment(whole, target_shape)
    ]
    return Fragments(fragments.shape, fragments.dtype, pieces)
