# SPDX-License-Identifier: Apache-2.0
"""Orbax's items: from their files to a manifest.

Knows which file of an item directory says what, and puts it together. Knows nothing of how the
files spell it (`metadata`, `zarr`, `ocdbt`, `directory`) nor of the elements of arrays. Nothing
here is checked against a checksum, for Orbax keeps none; but what contradicts itself is
`CorruptCheckpoint`.
"""

import contextlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Self, final

import numpy as np

from pertinax._formats.aggregate import (
    decode_aggregate,
    kept_values,
    packed_leaf,
    tree_of,
    tree_of_names,
    with_values,
)
from pertinax._formats.detect import AGGREGATE_FILE
from pertinax._formats.directory.names import is_inside
from pertinax._formats.directory.reader import find_arrays, has_zarr3, read_keys
from pertinax._formats.manifest import (
    INLINE_FILE,
    ChunkTable,
    LeafKind,
    Manifest,
    StoredLeaf,
    lacks_chunks,
)
from pertinax._formats.metadata.array_metadatas import ARRAY_METADATAS_DIR, decode_key_impls
from pertinax._formats.metadata.sharding import SHARDING_FILE, decode_sharding
from pertinax._formats.metadata.strings import STRINGS_FILE, decode_strings
from pertinax._formats.metadata.tree_metadata import TREE_FILE, TreeEntry, TreeMetadata, decode_tree
from pertinax._formats.ocdbt import (
    MANIFEST_FILE,
    Reference,
    UnsupportedDatabase,
    Value,
    read_database,
)
from pertinax._formats.zarr.array import (
    METADATA_KEY,
    ArrayMetadata,
    Driver,
    metadata_key,
    parse_chunk_suffix,
    split_chunk_key,
)
from pertinax._formats.zarr.codecs import stored_length
from pertinax._formats.zarr.dtypes import native_name
from pertinax._formats.zarr.tensorstore import list_with_tensorstore
from pertinax._formats.zarr.text import parse_metadata
from pertinax._store.contract import Reader, Store
from pertinax._tree.paths import Key
from pertinax._tree.skeleton import LEAF, Node
from pertinax.errors import CheckpointNotFound, CorruptCheckpoint, NotACheckpoint

_KINDS: Mapping[str, LeafKind] = {"jax.Array": "jax", "np.ndarray": "numpy", "scalar": "numpy"}
_MAX_METADATA_BYTES = 1 << 24
_DEEPEST_CHUNK = 65  # the directories `c/<i>/<j>/...` of an array of the highest rank


def read_orbax_item(
    store: Store, item: str, *, aggregate_file: str = AGGREGATE_FILE, by_directories: bool = False
) -> Manifest:
    """What the item directory `item` contains, by Orbax's own account.

    Old releases kept values, and before 0.3.2 the tree itself, in `aggregate_file`. Where nothing
    says what the tree is, `by_directories` makes one of the directories' names. Raises
    `CheckpointNotFound`, `NotACheckpoint` when it is no PyTree item, `CorruptCheckpoint` when its
    files contradict each other or their formats.
    """
    files = _Files(store, item)
    with files:
        tree = _read_tree(files, aggregate_file, by_directories=by_directories)
        return _manifest(files, tree)


def read_orbax_array(store: Store, item: str, name: str) -> Manifest:
    """The array that Orbax's handler of single arrays keeps under `name`; its old releases leave no
    account of it. The manifest is that of a dict with one leaf.

    Raises `CheckpointNotFound` and `CorruptCheckpoint`.
    """
    with _Files(store, item) as files:
        keys = {
            driver
            for driver in METADATA_KEY
            if store.stat(f"{item}/{metadata_key(driver, name)}") is not None
        }
        if not keys:
            raise CheckpointNotFound(f"{item} has no array {name!r}")
        path = (Key("key", name),)
        value_type = "jax.Array" if name in _shardings(files) else "np.ndarray"
        tree = TreeMetadata(
            root=Node("dict", path, (LEAF,)),
            entries=(TreeEntry(path, name, value_type),),
            use_zarr3="zarr" not in keys,
        )
        return _manifest(files, tree)


def _manifest(files: "_Files", tree: TreeMetadata) -> Manifest:
    keys = _find_keys(files, tree)
    table = _Rows()
    leaves = _Leaves(files, tree, keys, table).build()
    chunks = table.build(files)
    needed = [leaf if leaf.fill is None else leaf._replace(codec="none") for leaf in leaves]
    return Manifest(
        source="orbax",
        root=tree.root,
        leaves=leaves,
        chunks=chunks,
        values=_strings(files, tree) | kept_values(tree.entries),
        array_driver=_driver(tree),
        container=keys.container,
        inline=b"".join(table.inline),
        facts={} if tree.custom is None else {"custom_metadata": tree.custom},
        aggregated=frozenset(i for i, entry in enumerate(tree.entries) if entry.aggregated),
        typed=tree.typed,
        partial=lacks_chunks(needed, chunks),
    )


def _read_tree(files: "_Files", aggregate_file: str, *, by_directories: bool) -> TreeMetadata:
    if TREE_FILE in files.names:
        tree = decode_tree(files.read(TREE_FILE))
        if not any(entry.aggregated for entry in tree.entries):
            return tree
        if aggregate_file not in files.names:
            raise CorruptCheckpoint("missing, with values of leaves in it", file=aggregate_file)
        return with_values(tree, decode_aggregate(files.reader(aggregate_file), aggregate_file))
    if aggregate_file in files.names:
        tree = tree_of(decode_aggregate(files.reader(aggregate_file), aggregate_file))
    else:
        names = list(find_arrays(files.store, files.item)) if by_directories else []
        if not names:
            raise NotACheckpoint(f"{files.item} has no {TREE_FILE} and no {aggregate_file}")
        tree = tree_of_names(names)
    stored = (entry.name for entry in tree.entries if not entry.aggregated)
    zarr3 = MANIFEST_FILE not in files.names and has_zarr3(files.store, files.item, stored)
    return replace(tree, use_zarr3=zarr3)


def _driver(tree: TreeMetadata) -> Driver:
    return "zarr3" if tree.use_zarr3 else "zarr"


@final
class _Files:
    """The files of one item, each opened once. No name leads out of the item."""

    def __init__(self, store: Store, item: str) -> None:
        self.store = store
        self.item = item
        self._readers: dict[str, Reader] = {}
        try:
            self.names = {entry.name for entry in store.list_dir(item)}
        except FileNotFoundError:
            raise CheckpointNotFound(f"nothing lies at {item}") from None
        except NotADirectoryError:
            raise NotACheckpoint(f"{item} is a file, not the directory of an item") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for reader in self._readers.values():
            reader.close()

    def reader(self, name: str) -> Reader:
        found = self._readers.get(name)
        if found is None:
            if not is_inside(name):
                raise CorruptCheckpoint("the name leads out of the checkpoint", file=name)
            try:
                found = self._readers[name] = self.store.open(f"{self.item}/{name}")
            except (FileNotFoundError, IsADirectoryError) as error:
                raise CorruptCheckpoint(f"cannot be read: {error!r}", file=name) from error
        return found

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        reader = self.reader(name)
        return reader.read(offset, max(0, reader.length - offset) if length is None else length)

    def read_value(self, value: Value, leaf: str) -> bytes:
        """A small value, wherever it lies."""
        if isinstance(value, bytes):
            return value
        if value.length > _MAX_METADATA_BYTES:
            reason = f"array metadata of {value.length} bytes"
            raise CorruptCheckpoint(reason, file=value.file, leaf=leaf)
        try:
            # Not kept open: there may be one such file for each of many thousand leaves.
            if not is_inside(value.file):
                raise CorruptCheckpoint("the name leads out of the checkpoint", file=value.file)
            with self.store.open(f"{self.item}/{value.file}") as reader:
                return reader.read(value.offset, value.length)
        except (EOFError, FileNotFoundError) as error:
            reason = f"array metadata cannot be read: {error!r}"
            raise CorruptCheckpoint(reason, file=value.file, leaf=leaf) from error


@final
@dataclass(frozen=True, slots=True)
class _Keys:
    """Every key of the item; `opaque` if only TensorStore can find the chunks."""

    container: Literal["ocdbt", "directory"]
    values: Mapping[str, Value]
    opaque: bool = False


def _find_keys(files: _Files, tree: TreeMetadata) -> _Keys:
    driver = _driver(tree)
    arrays = [
        entry.name
        for entry in tree.entries
        if entry.value_type != "string" and not entry.aggregated
    ]
    if MANIFEST_FILE in files.names:
        try:
            database = read_database(files.read)
        except UnsupportedDatabase:
            if not os.path.isfile(f"{files.item}/{MANIFEST_FILE}"):
                raise  # TensorStore reads local files only, as far as we ask it to
            return _Keys("ocdbt", list_with_tensorstore(files.item, driver), opaque=True)
        values = {key.decode("utf-8", "surrogateescape"): value for key, value in database.items()}
        return _Keys("ocdbt", values)
    unmerged = [name for name in files.names if name.startswith("ocdbt.process_")]
    if arrays and unmerged:
        reason = f"missing: the save was never finished, {len(unmerged)} databases are unmerged"
        raise CorruptCheckpoint(reason, file=MANIFEST_FILE)
    depth = 0 if driver == "zarr" else _DEEPEST_CHUNK
    leaves = [(name, depth) for name in arrays]
    return _Keys("directory", read_keys(files.store, files.item, leaves, METADATA_KEY[driver]))


def _strings(files: _Files, tree: TreeMetadata) -> dict[int, str]:
    places = {
        i: entry.name
        for i, entry in enumerate(tree.entries)
        if entry.value_type == "string" and not entry.aggregated
    }
    if not places:
        return {}
    if STRINGS_FILE not in files.names:
        raise CorruptCheckpoint(f"missing, with {len(places)} strings in it", file=STRINGS_FILE)
    texts = decode_strings(files.read(STRINGS_FILE), places.values())
    return {i: texts[name] for i, name in places.items()}


@final
class _Leaves:
    """Describes leaves one by one, and lists their chunks."""

    def __init__(self, files: _Files, tree: TreeMetadata, keys: _Keys, rows: "_Rows") -> None:
        self._files = files
        self._tree = tree
        self._driver: Driver = _driver(tree)
        self._keys = keys
        self._rows = rows
        self._shardings = _shardings(files)
        self._impls = _key_impls(files)
        self._chunks = _chunks_by_leaf(self._driver, keys.values)
        self._parsed: dict[bytes, tuple[ArrayMetadata, str]] = {}

    def build(self) -> tuple[StoredLeaf, ...]:
        return tuple([self._leaf(i, entry) for i, entry in enumerate(self._tree.entries)])

    def _leaf(self, position: int, entry: TreeEntry) -> StoredLeaf:
        if entry.aggregated:
            leaf, located = packed_leaf(entry)
            self._rows.add(position, leaf, located)
            return leaf
        if entry.value_type == "string":
            return StoredLeaf(entry.path, entry.name, "str", codec="none")
        described = self._array(entry)
        if described is None:
            return StoredLeaf(
                entry.path, entry.name, "foreign", codec="none", typestr=entry.value_type
            )
        array, dtype = described
        kind = _kind(entry.value_type, array, dtype)
        impl = self._impls.get(entry.name) if kind == "jax" else None
        leaf = StoredLeaf(
            path=entry.path,
            name=entry.name,
            kind="key" if impl is not None else kind,
            dtype=dtype,
            shape=array.shape,
            storage_dtype=array.dtype,
            chunk_shape=array.chunk_shape,
            codec="tensorstore" if self._keys.opaque else array.codec,
            sharding=self._shardings.get(entry.name),
            impl=impl,
            fill=array.fill,
            typestr=entry.value_type if kind == "foreign" else None,
        )
        if leaf.codec != "tensorstore":
            expected = stored_length(array.codec, array.chunk_bytes)
            located = self._located(leaf, array)
            self._rows.add(position, leaf, located, expected)
            if self._tree.every_chunk and len(located) < math.prod(array.grid):
                leaf = leaf._replace(fill=None)  # what is not there is lost, or elsewhere
        return leaf

    def _array(self, entry: TreeEntry) -> tuple[ArrayMetadata, str] | None:
        """The leaf's array and its dtype in memory; None for a foreign leaf without one."""
        key = metadata_key(self._driver, entry.name)
        value = self._keys.values.get(key)
        if value is None:
            if entry.value_type not in _KINDS:
                return None
            reason = "the array's metadata is missing"
            raise CorruptCheckpoint(reason, file=key, leaf=entry.name)
        text = self._files.read_value(value, entry.name)
        found = self._parsed.get(text)
        if found is None:
            array = parse_metadata(self._driver, text, key)
            found = array, native_name(array.dtype) if array.dtype else ""
            self._parsed[text] = found
        return found

    def _located(self, leaf: StoredLeaf, array: ArrayMetadata) -> list[tuple[int, Value]]:
        """The chunks that are there, in grid order.

        Absent ones are nobody's fault yet: an item may hold what one process had.
        """
        grid = array.grid
        located: list[tuple[int, Value]] = []
        for suffix, value in self._chunks.get(leaf.name, ()):
            ordinal = parse_chunk_suffix(self._driver, suffix, grid)
            if ordinal is not None:
                located.append((ordinal, value))
        located.sort(key=lambda pair: pair[0])
        return located


def _kind(value_type: str, array: ArrayMetadata, dtype: str) -> LeafKind:
    if value_type != "scalar" or array.shape:
        return _KINDS.get(value_type, "foreign")
    if dtype == "bool":
        return "bool"
    if "complex" in dtype:
        return "complex"
    return "float" if "float" in dtype else "int"


def _shardings(files: _Files) -> dict[str, str]:
    return decode_sharding(files.read(SHARDING_FILE)) if SHARDING_FILE in files.names else {}


def _key_impls(files: _Files) -> dict[str, str]:
    impls: dict[str, str] = {}
    if ARRAY_METADATAS_DIR in files.names:
        with contextlib.suppress(NotADirectoryError):
            for entry in files.store.list_dir(f"{files.item}/{ARRAY_METADATAS_DIR}"):
                name = f"{ARRAY_METADATAS_DIR}/{entry.name}"
                if entry.name.startswith("process_") and not entry.is_dir:
                    impls |= decode_key_impls(files.read(name), name)
    return impls


def _chunks_by_leaf(
    driver: Driver, keys: Mapping[str, Value]
) -> dict[str, list[tuple[str, Value]]]:
    found: dict[str, list[tuple[str, Value]]] = {}
    for key, value in keys.items():
        split = split_chunk_key(driver, key)
        if split is not None:
            found.setdefault(split[0], []).append((split[1], value))
    return found


@final
@dataclass(slots=True)
class _Rows:
    """The chunk table under construction."""

    columns: list[tuple[int, int, int, int, int]] = field(
        default_factory=list[tuple[int, int, int, int, int]]
    )
    files: dict[str, int] = field(default_factory=dict[str, int])
    inline: list[bytes] = field(default_factory=list[bytes])
    inline_bytes: int = 0

    def add(
        self,
        position: int,
        leaf: StoredLeaf,
        located: Sequence[tuple[int, Value]],
        expected: int | None = None,
    ) -> None:
        for ordinal, value in located:
            place = self._inline(value) if isinstance(value, bytes) else value
            if expected is not None and place.length != expected:
                reason = f"chunk {ordinal} should have {expected} bytes, not {place.length}"
                raise CorruptCheckpoint(reason, file=place.file, leaf=leaf.name)
            file = self.files.setdefault(place.file, len(self.files))
            self.columns.append((position, ordinal, file, place.offset, place.length))

    def _inline(self, value: bytes) -> Reference:
        place = Reference(INLINE_FILE, self.inline_bytes, len(value))
        self.inline.append(value)
        self.inline_bytes += len(value)
        return place

    def build(self, files: _Files) -> ChunkTable:
        """The table, once every range is known to lie within its file."""
        table = np.array(self.columns, np.int64).reshape(-1, 5)
        lengths = np.array([self._length(files, name) for name in self.files], np.int64)
        leaf, ordinal, file, offset, length = (np.ascontiguousarray(c) for c in table.T)
        outside = np.flatnonzero((offset > lengths[file]) | (length > lengths[file] - offset))
        if len(outside):
            row = int(outside[0])
            name, have = list(self.files)[int(file[row])], int(lengths[file[row]])
            start, stop = int(offset[row]), int(offset[row]) + int(length[row])
            raise CorruptCheckpoint(
                f"the file has only {have} bytes", file=name, start=start, stop=stop
            )
        return ChunkTable(tuple(self.files), leaf, ordinal, file, offset, length, None)

    def _length(self, files: _Files, name: str) -> int:
        if name == INLINE_FILE:
            return self.inline_bytes
        if not is_inside(name):
            raise CorruptCheckpoint("the name leads out of the checkpoint", file=name)
        stat = files.store.stat(f"{files.item}/{name}")
        if stat is None or stat.is_dir:
            raise CorruptCheckpoint("missing, with chunks in it", file=name)
        return stat.length
