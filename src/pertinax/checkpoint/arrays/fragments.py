# SPDX-License-Identifier: Apache-2.0
"""Fragments: the pieces of one global array that a process has, each with its place.

Knows index geometry, NumPy arrays and the layout of a `jax.Array`. Knows nothing of files.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from pertinax.checkpoint.arrays import numpy_utils
from pertinax.checkpoint.arrays.types import DType, Index, Shape


@dataclasses.dataclass(frozen=True, init=False, eq=False, repr=False)
class Fragment:
    """One piece of an array.

    Attributes:
        np_index: its place: a row of start, stop and step for each dimension.
        value: its elements, in the shape that the place has; None if the fragment is abstract.
    """

    np_index: NDArray[Any]
    value: NDArray[Any] | None = None

    def __init__(
        self,
        *,
        index: Index | None = None,
        np_index: NDArray[Any] | None = None,
        value: NDArray[Any] | None = None,
    ) -> None:
        """A fragment at `index` (concrete slices) or at `np_index` (integers, `[rank, 3]`).

        Raises `ValueError` unless exactly one place is given, and it is concrete; `TypeError` if
        the place or the value is of another type.
        """
        object.__setattr__(self, "np_index", _place(index, np_index))
        object.__setattr__(self, "value", _checked_value(value))

    @property
    def index(self) -> Index:
        """The place as slices."""
        return _index_from_ndarray(self.np_index)

    @property
    def start(self) -> NDArray[Any]:
        """First position along each dimension."""
        return self.np_index[:, 0]

    @property
    def stop(self) -> NDArray[Any]:
        """End along each dimension, not included."""
        return self.np_index[:, 1]

    @property
    def step(self) -> NDArray[Any]:
        """Distance between neighbours along each dimension."""
        return self.np_index[:, 2]

    @property
    def shape(self) -> Shape:
        """Elements along each dimension."""
        return numpy_utils.slice_shape(self.index)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the value. Raises `ValueError` if there is none."""
        if self.value is None:
            raise ValueError(f"the nbytes of abstract {self!r} depend on a dtype: nbytes_astype()")
        return self.nbytes_astype(self.value.dtype)

    def nbytes_astype(self, dtype: DType) -> int:
        """Bytes that so many elements of `dtype` have."""
        return self.size * np.dtype(dtype).itemsize

    def offset_by(self, delta: Any) -> "Fragment":
        """The same value, moved by `delta` along each dimension."""
        moved = self.np_index.copy()
        moved[:, :2] += np.asarray(delta, dtype=moved.dtype).reshape(-1, 1)
        return Fragment(np_index=moved, value=self.value)

    def is_degenerate(self) -> bool:
        """Whether there is no element in it."""
        return self.size == 0

    def __array__(self, dtype: Any = None, *, copy: bool | None = None) -> NDArray[Any]:
        if self.value is None:
            raise ValueError(f"an abstract fragment is no array: {self!r}")
        return _as_asked(self.value, dtype, copy)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Fragment):
            return False
        if not np.array_equal(self.np_index, other.np_index):
            return False
        if self.value is None or other.value is None:
            return self.value is other.value
        return self.value.dtype == other.value.dtype and np.array_equal(self.value, other.value)

    __hash__ = None  # pyright: ignore[reportAssignmentType] - the value can change

    def __repr__(self) -> str:
        place = f"Fragment(index={numpy_utils.pretty_nd_slice(self.index)}"
        return place + (")" if self.value is None else ", value=...)")


def _place(index: Index | None, np_index: NDArray[Any] | None) -> NDArray[Any]:
    if index is not None and np_index is not None:
        raise ValueError("both index and np_index are given: a fragment has one place")
    if index is not None:
        if not isinstance(index, tuple) or not all(isinstance(part, slice) for part in index):
            raise TypeError(f"the index must be a tuple of slices, not {index!r:.80}")
        return _ndarray_from_index(index)
    if np_index is None:
        raise ValueError("a fragment needs a place: either index or np_index")
    if not isinstance(np_index, np.ndarray):
        raise TypeError(f"np_index must be an np.ndarray, not {type(np_index).__name__}")
    if np_index.ndim != 2 or np_index.shape[1] != 3 or np_index.dtype.kind not in "iu":
        found = f"{np_index.dtype}{list(np_index.shape)}"
        raise ValueError(f"np_index must hold integers in the shape [rank, 3], not {found}")
    return np_index


def _checked_value(value: Any) -> NDArray[Any] | None:
    if value is not None and not isinstance(value, np.ndarray):
        raise TypeError(f"the value must be an np.ndarray or None, not {type(value).__name__}")
    return cast("NDArray[Any] | None", value)


@dataclasses.dataclass(frozen=True)
class Fragments:
    """The pieces that a process has of one array.

    Attributes:
        shape, dtype: of the whole array.
        fragments: the pieces; there may be none, and they may overlap.
    """

    shape: Shape
    dtype: DType
    fragments: Sequence[Fragment]

    def __post_init__(self) -> None:
        for fragment in self.fragments:
            if not isinstance(fragment, Fragment):
                raise TypeError(f"every piece must be a Fragment, not {type(fragment).__name__}")

    def is_degenerate(self) -> bool:
        """Whether no piece has an element."""
        return all(fragment.is_degenerate() for fragment in self.fragments)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def addressable_nbytes(self) -> int:
        """Bytes of the pieces together."""
        return sum(fragment.nbytes_astype(self.dtype) for fragment in self.fragments)

    def __array__(self, dtype: Any = None, *, copy: bool | None = None) -> NDArray[Any]:
        if not _is_full(self):
            raise ValueError(f"Attempt to convert non-full Fragments to array: {self}")
        for fragment in self.fragments:
            if fragment.value is not None and fragment.value.shape == tuple(self.shape):
                return _as_asked(fragment.value, dtype, copy)
        whole = np.empty(self.shape, dtype=self.dtype)
        for fragment in self.fragments:
            whole[fragment.index] = _value_in_shape(fragment)
        return _as_asked(whole, dtype, copy=None)


def _as_asked(array: NDArray[Any], dtype: Any, copy: bool | None) -> NDArray[Any]:
    """What NumPy's protocol of array conversion wants of `__array__`."""
    wanted = array.dtype if dtype is None else np.dtype(dtype)
    if wanted == array.dtype:
        return array.copy() if copy else array
    if copy is False:
        raise ValueError(f"{array.dtype} to {wanted} takes a copy, and copy=False forbids it")
    return array.astype(wanted)


def _value_in_shape(fragment: Fragment) -> NDArray[Any]:
    """The value, checked: NumPy would spread a smaller one over the place without a word."""
    value = np.asarray(fragment)
    if value.shape != fragment.shape:
        raise ValueError(f"{fragment!r} has a value of shape {value.shape}")
    return value


def _is_full(fragments: Fragments) -> bool:
    """Whether the pieces cover every element of the array."""
    shape = tuple(fragments.shape)
    pieces = [piece for piece in fragments.fragments if not piece.is_degenerate()]
    if math.prod(shape) == 0:
        return True
    # A grid of cells between all the bounds: each cell is covered wholly or not at all. A piece
    # with gaps has a bound at each of its elements.
    bounds = [sorted({0, n}) for n in shape]
    for piece in pieces:
        if len(piece.np_index) != len(shape):
            return False
        for dim, (start, stop, step) in enumerate(piece.np_index.tolist()):
            positions = (start, stop) if step == 1 else range(start, stop, step)
            cuts = positions if step == 1 else [b for p in positions for b in (p, p + 1)]
            bounds[dim] += [min(max(b, 0), shape[dim]) for b in cuts]
    edges = [np.unique(b) for b in bounds]
    covered = np.zeros([len(e) - 1 for e in edges], dtype=bool)
    for piece in pieces:
        cells = [
            np.isin(e[:-1], np.arange(*row))
            if row[2] != 1
            else (e[:-1] >= row[0]) & (e[:-1] < row[1])
            for e, row in zip(edges, piece.np_index.tolist(), strict=True)
        ]
        covered[np.ix_(*cells)] = True
    return bool(covered.all())


def _ndarray_from_index(idx: Index) -> NDArray[Any]:
    """The place as rows of integers. Raises `ValueError` unless every slice is concrete."""
    rows = [numpy_utils.int_tuple_from_slice(part) for part in idx]
    return np.array(rows, dtype=np.int64).reshape(len(rows), 3)


def _index_from_ndarray(a: NDArray[Any]) -> Index:
    return tuple(slice(*row) for row in a.tolist())


def _normalize(idx: Index, shape: Shape) -> Index:
    return numpy_utils.resolve_slice(idx, shape)


def addressable_shards(x: Any) -> list[Index]:
    """The place of each shard of `x` that this process has; a value without layout is one shard.

    Raises `ValueError` if the layout cannot divide the shape.
    """
    shape = tuple(x.shape)
    sharding: Any = getattr(x, "sharding", None)
    if sharding is None:
        return [numpy_utils.resolve_slice((slice(None),) * len(shape), shape)]
    indices = sharding.addressable_devices_indices_map(shape)
    return [_normalize(index or (), shape) for index in indices.values()]


def abstract_fragments(x: Any) -> Fragments:
    """The pieces of an array, or of something with its shape, dtype and layout, without values.

    `Fragments` come back as they are.
    """
    if isinstance(x, Fragments):
        return x
    pieces = [Fragment(index=index) for index in addressable_shards(x)]
    return Fragments(tuple(x.shape), np.dtype(x.dtype), pieces)


def validate_fragments_can_be_stacked(fragments: Fragments) -> None:
    """Raise `ValueError` unless there are pieces, all have values, and all are of one shape."""
    if not fragments.fragments:
        raise ValueError("No fragments to stack.")
    if any(fragment.value is None for fragment in fragments.fragments):
        raise ValueError(f"Not all fragments have values: {fragments}")
    if len({fragment.shape for fragment in fragments.fragments}) > 1:
        raise ValueError(f"Differently-shaped fragments cannot be stacked: {fragments}")


def stack_fragments(fragments: Fragments | None) -> NDArray[Any] | None:
    """The values along a new first dimension; a single one is not copied. None stays None.

    Raises `ValueError` where `validate_fragments_can_be_stacked` does.
    """
    if fragments is None:
        return None
    validate_fragments_can_be_stacked(fragments)
    values = [_value_in_shape(fragment) for fragment in fragments.fragments]
    return values[0][np.newaxis] if len(values) == 1 else np.stack(values)
