# SPDX-License-Identifier: Apache-2.0
"""B+tree nodes: keys to values in the leaves, keys to child nodes above them.

Knows the bytes of one node. Knows nothing of other nodes, of files as such, or of what keys mean.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
import numpy.typing as npt

from pertinax._formats.ocdbt.columns import (
    Cursor,
    Numbers,
    encode_strings,
    encode_varint,
    encode_varints,
)
from pertinax._formats.ocdbt.files import (
    FileTable,
    decode_file_table,
    encode_file_table,
    number_files,
)

MAX_ENTRIES = 1 << 20
MAX_KEY_BYTES = 65_535
MAX_INLINE_BYTES = 1 << 20
MAX_POSITION = 2**63 - 1
ENTRY_OVERHEAD_BYTES = 64  # above what the columns of one entry can take besides key and value

_LEAST_LEAF_ENTRY_BYTES = 3  # suffix length, value length, value kind
_LEAST_CHILD_BYTES = 8
_INLINE, _OUT_OF_LINE = 0, 1
_DECODED_ENTRY_BYTES = 128  # what Python spends on one key and value, for the budget


class Reference(NamedTuple):
    """A value stored out of line: `length` bytes at `offset` of `file`, below the database root."""

    file: str
    offset: int
    length: int


Value = bytes | Reference


@final
@dataclass(frozen=True, slots=True)
class Statistics:
    """What lies at and below a node."""

    keys: int
    tree_bytes: int
    indirect_bytes: int


@final
@dataclass(frozen=True, slots=True)
class Child:
    """What a parent says about one child node; `key` is not above any key in it."""

    key: bytes
    node: Reference
    statistics: Statistics


@final
@dataclass(frozen=True, slots=True)
class Leaf:
    """A decoded leaf node, keys whole and in order."""

    keys: list[bytes]
    values: list[Value]


@final
@dataclass(frozen=True, slots=True)
class Branch:
    """One child as an interior node describes it to a reader."""

    key: bytes  # whole; no key in the child is below it
    prefix: bytes  # cut from every key that the child stores
    node: Reference
    base: str  # where the child's own file table starts


@final
@dataclass(frozen=True, slots=True)
class Place:
    """What a reader knows of a node before opening it."""

    height: int
    prefix: bytes
    base: str


def encode_leaf(keys: Sequence[bytes], values: Sequence[Value]) -> bytes:
    """The body of a leaf node; keys must rise strictly."""
    indirect = [isinstance(value, Reference) for value in values]
    inline = [value for value in values if isinstance(value, bytes)]
    outer = [value for value in values if isinstance(value, Reference)]
    ids = number_files(reference.file for reference in outer)
    kinds = np.array(indirect, np.uint8)
    lengths = np.empty(len(values), np.uint64)
    lengths[kinds == _INLINE] = list(map(len, inline))
    lengths[kinds == _OUT_OF_LINE] = [reference.length for reference in outer]
    return b"".join(
        (
            b"\0",
            encode_file_table(list(ids)),
            encode_varint(len(keys)),
            *encode_strings(keys),
            encode_varints(lengths),
            kinds.tobytes(),
            encode_varints([ids[reference.file] for reference in outer]),
            encode_varints([reference.offset for reference in outer]),
            *inline,
        )
    )


def encode_interior(height: int, children: Sequence[Child]) -> bytes:
    """The body of a node above leaves or other interior nodes."""
    ids = number_files(child.node.file for child in children)
    prefix, suffix, text = encode_strings([child.key for child in children])
    columns = zip(*((*_place(child, ids), *_totals(child)) for child in children), strict=True)
    return b"".join(
        (
            bytes((height,)),
            encode_file_table(list(ids)),
            encode_varint(len(children)),
            prefix,
            suffix,
            bytes(len(children)),  # nothing is cut from the keys of any child
            text,
            *map(encode_varints, columns),
        )
    )


def _place(child: Child, ids: dict[str, int]) -> tuple[int, int, int]:
    return ids[child.node.file], child.node.offset, child.node.length


def _totals(child: Child) -> tuple[int, int, int]:
    statistics = child.statistics
    return statistics.keys, statistics.tree_bytes, statistics.indirect_bytes


def decode_node(cursor: Cursor, place: Place) -> Leaf | list[Branch]:
    """Decode one node, checking that it is what its place in the tree demands."""
    height = cursor.byte()
    if height != place.height:
        raise cursor.corrupt(f"node of height {height} where {place.height} was expected")
    table = decode_file_table(cursor, base=place.base)
    return _decode_interior(cursor, place, table) if height else _decode_leaf(cursor, place, table)


def _decode_leaf(cursor: Cursor, place: Place, table: FileTable) -> Leaf:
    rows = cursor.count(least_bytes=_LEAST_LEAF_ENTRY_BYTES, most=MAX_ENTRIES)
    shared, suffix = _key_columns(cursor, rows)
    keys = _keys(cursor, place.prefix, shared, suffix)
    lengths = cursor.varints(rows)
    kinds = np.frombuffer(cursor.take(rows), np.uint8)
    if int(kinds.max()) > _OUT_OF_LINE:
        raise cursor.corrupt(f"value kind {int(kinds.max())} where 0 or 1 was expected")
    outer = kinds == _OUT_OF_LINE
    count = int(np.count_nonzero(outer))
    numbers, offsets = cursor.varints(count), cursor.varints(count)
    references = _references(cursor, table, (numbers, offsets, lengths[outer]))
    inline = _inline_values(cursor, lengths[~outer])
    cursor.finish()
    if not references:
        return Leaf(keys, [*inline])
    if not inline:
        return Leaf(keys, [*references])
    next_inline, next_outer = iter(inline).__next__, iter(references).__next__
    return Leaf(keys, [next_outer() if far else next_inline() for far in outer.tolist()])


def _decode_interior(cursor: Cursor, place: Place, table: FileTable) -> list[Branch]:
    rows = cursor.count(least_bytes=_LEAST_CHILD_BYTES, most=MAX_ENTRIES)
    shared, suffix = _key_columns(cursor, rows)
    cuts = cursor.lengths(rows, most=MAX_KEY_BYTES).tolist()
    keys = _keys(cursor, place.prefix, shared, suffix)
    numbers, offsets, lengths = (cursor.varints(rows) for _ in range(3))
    for _ in range(3):  # statistics: nothing depends on them, and TensorStore does not check them
        cursor.varints(rows)
    cursor.finish()
    nodes = _references(cursor, table, (numbers, offsets, lengths))
    cuts = [cut + len(place.prefix) for cut in cuts]
    cursor.budget.spend(sum(cuts), file=cursor.file)
    if any(cut > len(key) for cut, key in zip(cuts, keys, strict=True)):
        raise cursor.corrupt("the common prefix of a child is longer than its key")
    bases = map(table.bases.__getitem__, numbers.tolist())
    prefixes = [key[:cut] for key, cut in zip(keys, cuts, strict=True)]
    return list(map(Branch, keys, prefixes, nodes, bases))


def _key_columns(cursor: Cursor, rows: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    cursor.budget.spend(rows * _DECODED_ENTRY_BYTES, file=cursor.file)
    shared = cursor.lengths(rows - 1, most=MAX_KEY_BYTES)
    return shared, cursor.lengths(rows, most=MAX_KEY_BYTES)


def _keys(
    cursor: Cursor,
    prefix: bytes,
    shared: npt.NDArray[np.int64],
    suffix: npt.NDArray[np.int64],
) -> list[bytes]:
    keys = cursor.strings(shared, suffix, most=MAX_KEY_BYTES - len(prefix))
    if not all(map(operator.lt, keys, keys[1:])):
        raise cursor.corrupt("keys do not rise")
    if not prefix:
        return keys
    cursor.budget.spend(len(prefix) * len(keys), file=cursor.file)
    return [prefix + key for key in keys]


def _references(
    cursor: Cursor, table: FileTable, columns: tuple[Numbers, Numbers, Numbers]
) -> list[Reference]:
    numbers, offsets, lengths = columns
    if not numbers.size:
        return []
    if int(numbers.max()) >= len(table.paths):
        raise cursor.corrupt(f"file id {int(numbers.max())} in a table of {len(table.paths)}")
    if max(int(offsets.max()), int(lengths.max())) > MAX_POSITION or (
        int((offsets + lengths).max()) > MAX_POSITION
    ):
        raise cursor.corrupt("a reference reaches past 2^63 bytes")
    used = np.unique(numbers).tolist()
    paths = {number: table.harmless_path(number, cursor) for number in used}
    files = map(paths.__getitem__, numbers.tolist())
    return list(map(Reference, files, offsets.tolist(), lengths.tolist()))


def _inline_values(cursor: Cursor, lengths: Numbers) -> list[bytes]:
    if lengths.size and int(lengths.max()) > MAX_INLINE_BYTES:
        raise cursor.corrupt(f"inline value of {int(lengths.max())} bytes")
    stops = np.cumsum(lengths, dtype=np.int64)
    text = cursor.take(int(stops[-1]) if stops.size else 0)
    ends: list[int] = stops.tolist()
    return [text[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
