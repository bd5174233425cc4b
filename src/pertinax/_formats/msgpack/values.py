# SPDX-License-Identifier: Apache-2.0
"""What the legacy file means by its extensions: arrays, complex numbers, numpy scalars, tuples.

Knows their payloads, and that a large array is cut into flat parts. Arrays stay in the file until
`materialize` is asked for them. Knows nothing of trees that lie elsewhere in part.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from pertinax._formats.msgpack.wire import Blob, Cursor, Extension, Read, read_value
from pertinax._formats.zarr.dtypes import numpy_dtype
from pertinax._plan.boxes import Shape
from pertinax._tree.skeleton import MAX_DEPTH

ARRAY, COMPLEX, SCALAR, TUPLE = 1, 2, 3, 4
CHUNKED: Final = "__msgpack_chunked_array__"
_MAX_RANK: Final = 64


class Packed(NamedTuple):
    """An array (or, as `scalar`, a number of numpy's) that lies in the file.

    `parts` are byte ranges of the file with its elements, C-order, one after the other; all but the
    last are of equal length. A `dtype` that we have no word for leaves them unread.
    """

    dtype: str
    shape: Shape
    parts: tuple[tuple[int, int], ...]
    scalar: bool = False


def decode(read: Read, length: int, file: str) -> Any:
    """The tree in a file of `length` bytes.

    Dicts, lists, tuples and Python's values, `Packed` for arrays, `Blob` for bytes. Little more
    than what is between the arrays is read. Raises `CorruptCheckpoint`, naming `file`.
    """
    cursor = Cursor(read, length, file)
    value = _Reader(cursor).mean(read_value(cursor), 0)
    if cursor.position < length:
        cursor.corrupt(f"{length - cursor.position} bytes of extra data behind the tree")
    return value


def materialize(tree: Any, read: Read) -> Any:
    """The same tree with arrays of numpy in place of `Packed`, and bytes. Raises `TypeError` for a
    dtype that this Python does not have.
    """
    return _map_leaves(tree, lambda leaf: _value_of(leaf, read))


def _map_leaves(tree: Any, function: Callable[[Any], Any]) -> Any:
    if isinstance(tree, dict):
        pairs = cast("dict[Any, Any]", tree).items()
        return {key: _map_leaves(child, function) for key, child in pairs}
    if isinstance(tree, list) or type(tree) is tuple:
        return type(tree)([_map_leaves(child, function) for child in cast("list[Any]", tree)])
    return function(tree)


def _value_of(leaf: Any, read: Read) -> Any:
    if isinstance(leaf, Blob):
        return read(leaf.start, leaf.stop - leaf.start)
    if not isinstance(leaf, Packed):
        return leaf
    array = _array(leaf, read)
    return array[()] if leaf.scalar else array


def _array(packed: Packed, read: Read) -> NDArray[Any]:
    try:
        dtype = numpy_dtype(packed.dtype)
    except ValueError as error:
        raise TypeError(str(error)) from error
    parts = [read(start, stop - start) for start, stop in packed.parts]
    data = parts[0] if len(parts) == 1 else b"".join(parts)
    return np.frombuffer(data, dtype).reshape(packed.shape)


class _Reader:
    """Turns what is on the wire into what was meant by it."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor

    def mean(self, value: Any, depth: int) -> Any:
        if depth > MAX_DEPTH:
            self._cursor.corrupt(f"nested more than {MAX_DEPTH} deep")
        if isinstance(value, Extension):
            return self._extension(value, depth)
        if isinstance(value, dict):
            pairs = cast("dict[Any, Any]", value).items()
            found = {key: self.mean(child, depth + 1) for key, child in pairs}
            return self._joined(found) if found.get(CHUNKED) is True else found
        if type(value) is list:
            return [self.mean(child, depth + 1) for child in cast("list[Any]", value)]
        return value

    def _extension(self, found: Extension, depth: int) -> Any:
        if found.code not in (ARRAY, COMPLEX, SCALAR, TUPLE):
            self._cursor.corrupt(f"Unsupported msgpack code: {found.code}")
        inner = self._cursor.within(found.start, found.stop)
        payload = read_value(inner, depth + 1)
        if inner.position < found.stop or type(payload) is not list:
            inner.corrupt(f"not the payload of extension {found.code}")
        items = cast("list[Any]", payload)
        if found.code == TUPLE:
            return tuple([self.mean(item, depth + 1) for item in items])
        if found.code == COMPLEX:
            if len(items) != 2 or not all(type(item) in (int, float) for item in items):
                inner.corrupt("not the two parts of a complex number")
            return complex(*items)
        return self._packed(items, scalar=found.code == SCALAR)

    def _packed(self, items: list[Any], *, scalar: bool) -> Packed:
        shape: Any = items[0] if len(items) == 3 else None
        if (
            type(shape) is not list
            or type(items[1]) is not str
            or not isinstance(items[2], Blob)
            or not all(type(size) is int and size >= 0 for size in cast("list[Any]", shape))
        ):
            self._cursor.corrupt("not the shape, dtype and bytes of an array")
        place = (items[2].start, items[2].stop)
        found = Packed(items[1], tuple(cast("list[int]", shape)), (place,), scalar)
        self._check(found)
        return found

    def _joined(self, found: Mapping[Any, Any]) -> Packed:
        """One array out of its flat parts."""
        sizes = self._numbered(found.get("shape"), lambda size: type(size) is int and size >= 0)
        parts: list[Packed] = self._numbered(found.get("chunks"), _is_flat)
        if not parts or len({part.dtype for part in parts}) > 1:
            self._cursor.corrupt("the parts of an array do not belong together")
        lengths = [stop - start for part in parts for start, stop in part.parts]
        if len(set(lengths[:-1])) > 1 or lengths[-1] > lengths[0]:
            self._cursor.corrupt("the parts of an array have unequal lengths")
        ranges = tuple([place for part in parts for place in part.parts])
        whole = Packed(parts[0].dtype, tuple(sizes), ranges)
        self._check(whole)
        return whole

    def _numbered(self, found: Any, fits: Callable[[Any], bool]) -> list[Any]:
        """The values of `{"0": ..., "1": ...}` in order."""
        table = cast("dict[Any, Any]", found) if isinstance(found, dict) else {}
        values = [table.get(str(i)) for i in range(len(table))]
        if not isinstance(found, dict) or not all(fits(value) for value in values):
            self._cursor.corrupt("not the parts of a large array")
        return values

    def _check(self, packed: Packed) -> None:
        if len(packed.shape) > _MAX_RANK or math.prod([s for s in packed.shape if s]) >= 1 << 62:
            self._cursor.corrupt(f"no array has the shape {packed.shape!r:.80}")
        try:
            item_bytes = numpy_dtype(packed.dtype).itemsize
        except ValueError:
            return  # whoever wants this very array is told
        stored = sum(stop - start for start, stop in packed.parts)
        wanted = math.prod(packed.shape) * item_bytes
        if stored != wanted:
            self._cursor.corrupt(
                f"{packed.dtype}{list(packed.shape)} has {wanted} bytes, stored are {stored}"
            )


def _is_flat(part: Any) -> bool:
    return isinstance(part, Packed) and len(part.shape) == 1 and not part.scalar
