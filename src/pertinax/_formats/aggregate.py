# SPDX-License-Identifier: Apache-2.0
"""The legacy aggregate file within an item: which leaves it holds, and which lie elsewhere.

Knows the texts that stand for a leaf with files of its own, and how the tree in the file and the
one in `_METADATA` go together. Knows nothing of how either is spelled, nor of how arrays are read.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple, cast

import numpy as np

from pertinax._formats.manifest import LeafKind, StoredLeaf
from pertinax._formats.metadata.tree_metadata import TreeEntry, TreeMetadata
from pertinax._formats.msgpack import Packed, decode
from pertinax._formats.msgpack.wire import Blob
from pertinax._formats.ocdbt import Reference, Value
from pertinax._formats.zarr.dtypes import native_name
from pertinax._store.contract import Reader
from pertinax._tree.paths import Key, KeyKind, Path
from pertinax._tree.skeleton import LEAF, NONE, Node
from pertinax.errors import CorruptCheckpoint

PLACEHOLDER: Final = "PLACEHOLDER://"
OLD_PLACEHOLDER: Final = "AGGREGATED://"
_MAX_LEAVES: Final = 1 << 18
"""A byte of the file can be a leaf, and each takes about a thousand bytes here."""
_UNKNOWN_TYPE: Final = "np.ndarray"
"""Where nothing says what a leaf was: Orbax's readers then give an array of numpy as well."""


class Aggregate(NamedTuple):
    """The tree in the file of this name; arrays are but located in it."""

    file: str
    tree: Any


def decode_aggregate(reader: Reader, file: str) -> Aggregate:
    """What is in the file. Raises `CorruptCheckpoint`."""
    return Aggregate(file, decode(reader.read, reader.length, file))


def placeholder_name(value: Any) -> str | None:
    """The name of the leaf that a text stands for; None for any other value."""
    if isinstance(value, str):
        for prefix in (PLACEHOLDER, OLD_PLACEHOLDER):
            if value.startswith(prefix):
                return value[len(prefix) :]
    return None


def tree_of(aggregate: Aggregate) -> TreeMetadata:
    """The tree of an item that has no `_METADATA`."""
    entries: list[TreeEntry] = []
    root = _grow(aggregate.tree, (), "", entries, aggregate.file)
    return TreeMetadata(root, tuple(entries), typed=False)


def tree_of_names(names: Iterable[str]) -> TreeMetadata:
    """The tree of an item of which nothing but the directories of its leaves is left.

    Dots separate keys, as far as anybody can tell; positions in lists look like any other key.
    """
    top: dict[str, Any] = {}
    for name in sorted(names):
        below = top
        *outer, last = name.split(".")
        for key in outer:
            below = below.setdefault(key, {})
            if not isinstance(below, dict):
                break
        if not isinstance(below, dict) or last in below:
            raise CorruptCheckpoint("it is both a leaf and a container", file=name)
        below[last] = PLACEHOLDER + name
    return tree_of(Aggregate("", top))


def _grow(value: Any, path: Path, name: str, entries: list[TreeEntry], file: str) -> Node:
    if value is None:
        return NONE
    children = _children(value)
    if children is None:
        elsewhere = placeholder_name(value)
        if elsewhere is not None:
            entries.append(TreeEntry(path, elsewhere, _UNKNOWN_TYPE))
        else:
            entries.append(TreeEntry(path, name, "", aggregated=True, value=(file, value)))
        return LEAF
    if len(entries) + len(children) > _MAX_LEAVES:
        raise CorruptCheckpoint(f"more than {_MAX_LEAVES} leaves", file=file)
    dot = name + "." if path else ""
    nodes = [
        _grow(child, (*path, key), f"{dot}{key.value}", entries, file) for key, child in children
    ]
    kind = "dict" if isinstance(value, dict) else "list" if isinstance(value, list) else "tuple"
    return Node(kind, tuple(key for key, _ in children), tuple(nodes))


def _children(value: Any) -> list[tuple[Key, Any]] | None:
    pairs: Any
    kind: KeyKind = "index"
    if isinstance(value, dict):
        kind, pairs = "key", cast("dict[Any, Any]", value).items()
    elif isinstance(value, list) or type(value) is tuple:
        pairs = enumerate(cast("list[Any]", value))
    else:
        return None
    return [(Key(kind, key), child) for key, child in pairs]


def with_values(tree: TreeMetadata, aggregate: Aggregate) -> TreeMetadata:
    """`tree`, with the values that its aggregated leaves have in the file.

    Raises `CorruptCheckpoint` if one of them is not there.
    """
    entries = [
        _with_value(entry, aggregate) if entry.aggregated else entry for entry in tree.entries
    ]
    return replace(tree, entries=tuple(entries))


def _with_value(entry: TreeEntry, aggregate: Aggregate) -> TreeEntry:
    value = aggregate.tree
    for key in entry.path:
        children = {str(own.value): child for own, child in _children(value) or ()}
        if str(key.value) not in children:
            reason = "the file has no value for it"
            raise CorruptCheckpoint(reason, file=aggregate.file, leaf=entry.name)
        value = children[str(key.value)]
    elsewhere = placeholder_name(value)
    if elsewhere is not None:
        return replace(entry, name=elsewhere, aggregated=False)
    if _children(value):
        reason = "the file has a container in its place"
        raise CorruptCheckpoint(reason, file=aggregate.file, leaf=entry.name)
    return replace(entry, value=(aggregate.file, value))


def kept_values(entries: Sequence[TreeEntry]) -> dict[int, Any]:
    """Aggregated texts, by the position of their leaf."""
    kept = [(i, entry.value[1]) for i, entry in enumerate(entries) if entry.aggregated]
    return {i: value for i, value in kept if isinstance(value, str)}


_PYTHON: Mapping[type, tuple[LeafKind, str]] = {
    bool: ("bool", "bool"),
    float: ("float", "float64"),
    complex: ("complex", "complex128"),
}


def packed_leaf(entry: TreeEntry) -> tuple[StoredLeaf, list[tuple[int, Value]]]:
    """An aggregated leaf, and where its bytes are: numbers of Python get bytes as well, so that
    they can be cast like any other.
    """
    file, value = entry.value
    if isinstance(value, Packed):
        return _array_leaf(entry, file, value)
    if isinstance(value, Blob):
        length = value.stop - value.start
        return _leaf(entry, "bytes", "uint8", (length,)), _at(file, value) if length else []
    if type(value) is int:
        dtype = "int64" if -(1 << 63) <= value < 1 << 63 else "uint64"
        return _leaf(entry, "int", dtype), [(0, np.array(value, dtype).tobytes())]
    if type(value) in _PYTHON:
        kind, dtype = _PYTHON[type(value)]
        return _leaf(entry, kind, dtype), [(0, np.array(value, dtype).tobytes())]
    # Text; and empty containers where `_METADATA` has a leaf.
    kind = "str" if isinstance(value, str) else "foreign"
    return StoredLeaf(entry.path, entry.name, kind, codec="none"), []


def _at(file: str, *places: tuple[int, int]) -> list[tuple[int, Value]]:
    return [(i, Reference(file, start, stop - start)) for i, (start, stop) in enumerate(places)]


def _leaf(entry: TreeEntry, kind: LeafKind, dtype: str, shape: tuple[int, ...] = ()) -> StoredLeaf:
    chunk_shape = tuple([max(1, size) for size in shape])
    return StoredLeaf(entry.path, entry.name, kind, dtype, shape, dtype, chunk_shape)


def _array_leaf(
    entry: TreeEntry, file: str, packed: Packed
) -> tuple[StoredLeaf, list[tuple[int, Value]]]:
    try:
        dtype = native_name(packed.dtype)
    except ValueError:
        return StoredLeaf(entry.path, entry.name, "foreign", codec="none"), []
    kind: LeafKind = "jax" if entry.value_type == "jax.Array" else "numpy"
    leaf = _leaf(entry, "generic" if packed.scalar else kind, dtype, packed.shape)
    leaf = leaf._replace(storage_dtype=packed.dtype)
    places = [place for place in packed.parts if place[1] > place[0]]
    if len(places) > 1:
        leaf = leaf._replace(codec="flat")
    return leaf, _at(file, *places)
