# SPDX-License-Identifier: Apache-2.0
"""The ledger, `pertinax.json`: what a checkpoint holds, exactly, with a checksum for every byte of
it.

Knows how a `Manifest` is written down and checked. Knows nothing of stores, devices or of Orbax.
The file is one JSON object (described in `docs/formats/ledger.md`); tables are columns, numbers in
base64. Its last field is the CRC-32C of all bytes before that field, so the ledger vouches for
itself. Whatever does not add up is `CorruptCheckpoint`.
"""

import base64
import binascii
import json
import math
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from pertinax._formats.crc import BLOCK_BYTES, crc32c
from pertinax._formats.manifest import (
    ChunkTable,
    Codec,
    FileRecord,
    LeafKind,
    Manifest,
    StoredLeaf,
)
from pertinax._formats.meshes import Shortener
from pertinax._formats.zarr.dtypes import numpy_dtype
from pertinax._plan.boxes import Shape
from pertinax._plan.chunks import grid_size
from pertinax._tree.quiet import collector_paused
from pertinax._tree.skeleton import Node, decode, decode_value, encode, encode_value, leaf_paths
from pertinax.errors import CorruptCheckpoint, NewerFormat

LEDGER_FILE = "pertinax.json"
VERSION = 2
"""Raised when a reader of the version before could no longer understand, or could misunderstand,
what is written. 2 has items that hold a part of their arrays; all others are written as 1."""

_TAIL = b',"crc32c":"%08x"}'
_TAIL_BYTES = len(_TAIL % 0)
_MAX_LEDGER_BYTES = 1 << 31
_LEAF_BYTES = 64  # what a leaf takes, roughly: tells large ledgers from small ones
_MAX_ARRAY_BYTES = 1 << 56
_MAX_RANK = 64  # numpy's own limit
_MAX_RATIO = 1 << 15  # zstd: a block of 4 bytes stands for at most 128 KiB
_KINDS = frozenset(get_args(LeafKind))
_CODECS = frozenset(get_args(Codec))
_SPEC_FIELDS = (
    "kind",
    "dtype",
    "shape",
    "storage_dtype",
    "chunk_shape",
    "codec",
    "sharding",
    "impl",
    "typestr",
)


def encode_ledger(manifest: Manifest) -> bytes:
    """The ledger file of an item (or, without leaves, of a directory of items)."""
    shortener = Shortener()
    specs: dict[tuple[Any, ...], int] = {}
    spec_of = attrgetter(*_SPEC_FIELDS)
    rows = [specs.setdefault(spec_of(leaf), len(specs)) for leaf in manifest.leaves]
    fields: dict[str, Any] = {
        "pertinax": 2 if manifest.partial else 1,
        **manifest.facts,
        **({"partial": True} if manifest.partial else {}),
        "container": manifest.container,
        "array_driver": manifest.array_driver,
        "block_bytes": BLOCK_BYTES,
        "tree": encode(manifest.root),
        "specs": [_encode_spec(spec, shortener) for spec in specs],
        "leaves": {"name": [leaf.name for leaf in manifest.leaves], "spec": _pack(rows, np.int32)},
        "values": [[i, encode_value(value)] for i, value in sorted(manifest.values.items())],
        "chunks": encode_chunks(manifest.chunks),
        "files": [[record.name, record.length, f"{record.crc:08x}"] for record in manifest.files],
    }
    body = json.dumps(fields, separators=(",", ":")).encode()[:-1]
    return body + _TAIL % crc32c(body)


def _encode_spec(spec: tuple[Any, ...], shortener: Shortener) -> dict[str, Any]:
    fields: dict[str, Any] = dict(zip(_SPEC_FIELDS, spec, strict=True))
    if fields["sharding"] is not None:
        fields["sharding"] = shortener.short(fields["sharding"])
    if fields["typestr"] is None:
        del fields["typestr"]  # only leaves of type handlers have one
    return fields


def encode_chunks(chunks: ChunkTable) -> dict[str, Any]:
    """A chunk table as JSON has it: columns of little-endian integers in base64."""
    assert chunks.crc is not None  # noqa: S101 - a ledger without checksums is a bug of ours, not of the user
    return {
        "files": list(chunks.files),
        "leaf": _pack(chunks.leaf, np.int32),
        "ordinal": _pack(chunks.ordinal, np.int64),
        "file": _pack(chunks.file, np.int32),
        "offset": _pack(chunks.offset, np.int64),
        "length": _pack(chunks.length, np.int64),
        "crc32c": _pack(chunks.crc, np.uint32),
    }


def _pack(values: Any, dtype: type) -> str:
    return base64.b64encode(
        np.ascontiguousarray(values, np.dtype(dtype).newbyteorder("<"))
    ).decode()


def encode_step_ledger(files: Sequence[FileRecord], facts: Mapping[str, Any]) -> bytes:
    """The ledger of a directory of items: it has no leaves, and vouches for `files` alone."""
    none = np.zeros(0, np.int64)
    chunks = ChunkTable((), none, none, none, none, none, np.zeros(0, np.uint32))
    empty = Manifest("pertinax", Node("dict"), (), chunks, files=tuple(files), facts=facts)
    return encode_ledger(empty)


def decode_ledger(data: bytes, *, file: str = LEDGER_FILE) -> Manifest:
    """The manifest in a ledger file. Raises `CorruptCheckpoint` or `NewerFormat`."""
    with collector_paused(len(data) // _LEAF_BYTES):
        return _decode(_checked_fields(data, file), file)


def _decode(fields: dict[str, Any], file: str) -> Manifest:
    version = fields.get("pertinax")
    if isinstance(version, int) and version > VERSION:
        raise NewerFormat(
            f"{file!r} has format version {version}, and this pertinax reads up to {VERSION}: "
            "upgrade pertinax to open it"
        )
    try:
        if version not in (1, VERSION) or fields["block_bytes"] != BLOCK_BYTES:
            raise ValueError(f"version {version!r}, block size {fields.get('block_bytes')!r}")
        return _manifest(fields)
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise CorruptCheckpoint(
            f"not a ledger: {type(error).__name__}: {error}", file=file
        ) from error


def _checked_fields(data: bytes, file: str) -> dict[str, Any]:
    if len(data) > _MAX_LEDGER_BYTES or len(data) < _TAIL_BYTES + 2:
        raise CorruptCheckpoint(f"a ledger cannot have {len(data)} bytes", file=file)
    body, tail = data[:-_TAIL_BYTES], data[-_TAIL_BYTES:]
    found = crc32c(body)
    if tail != _TAIL % found:
        raise CorruptCheckpoint(
            f"the ledger does not match its own checksum: ends in {tail!r}, computed {found:08x}",
            file=file,
            start=0,
            stop=len(data),
        )
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CorruptCheckpoint(f"not JSON: {error}", file=file) from error
    # What is JSON and has this tail is an object.
    return cast("dict[str, Any]", fields)


def vouched_files(data: bytes, *, file: str = LEDGER_FILE) -> frozenset[str]:
    """The names of all files that a ledger vouches for, data files included. Nothing else is
    decoded.

    Raises `CorruptCheckpoint`.
    """
    fields = _checked_fields(data, file)
    try:
        names = [*fields["chunks"]["files"], *(name for name, _, _ in fields["files"])]
        return frozenset(_safe(name) for name in names)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptCheckpoint(
            f"not a ledger: {type(error).__name__}: {error}", file=file
        ) from error


def _manifest(fields: Mapping[str, Any]) -> Manifest:
    root = decode(fields["tree"])
    leaves = _leaves(fields, root)
    chunks = decode_chunks(fields["chunks"])
    container, driver = fields["container"], fields["array_driver"]
    if container not in ("ocdbt", "directory") or driver not in ("zarr", "zarr3"):
        raise ValueError(f"no such layout: {container!r} {driver!r}")
    values = {int(i): decode_value(value) for i, value in fields["values"]}
    files = tuple(FileRecord(_safe(name), int(n), int(crc, 16)) for name, n, crc in fields["files"])
    partial = fields.get("partial", False)
    if type(partial) is not bool or (partial and fields["pertinax"] < 2):
        raise ValueError(f"partial is {partial!r} in version {fields['pertinax']}")
    known = {
        "partial",
        "container",
        "array_driver",
        "block_bytes",
        "tree",
        "specs",
        "leaves",
        "values",
        "chunks",
        "files",
    }
    facts = {
        name: value for name, value in fields.items() if name not in known | {"crc32c", "pertinax"}
    }
    _check_chunks(leaves, chunks, values, partial=partial)
    return Manifest(
        "pertinax",
        root,
        leaves,
        chunks,
        values,
        driver,
        container,
        files=files,
        facts=facts,
        partial=partial,
    )


def _leaves(fields: Mapping[str, Any], root: Node) -> tuple[StoredLeaf, ...]:
    shortener = Shortener()
    specs = [_spec(spec, shortener) for spec in fields["specs"]]
    names = fields["leaves"]["name"]
    rows = _unpack(fields["leaves"]["spec"], np.int32).tolist()
    paths = leaf_paths(root)
    if not len(paths) == len(names) == len(rows) == len(set(names)):
        raise ValueError(
            f"{len(paths)} leaves in the tree, {len(rows)} specs, {len(set(names))} names"
        )
    if rows and not 0 <= min(rows) <= max(rows) < len(specs):
        raise ValueError("a leaf without a spec")
    return tuple(
        StoredLeaf(path, str(name), *specs[row])
        for path, name, row in zip(paths, names, rows, strict=True)
    )


def _spec(fields: Mapping[str, Any], shortener: Shortener) -> tuple[Any, ...]:
    kind, codec = fields["kind"], fields["codec"]
    shape, chunk_shape = tuple(fields["shape"]), tuple(fields["chunk_shape"])
    if kind not in _KINDS or codec not in _CODECS or len(shape) != len(chunk_shape):
        raise ValueError(f"not a leaf: {fields!r:.200}")
    if not all(type(n) is int and n >= 0 for n in shape) or not all(
        type(n) is int and n > 0 for n in chunk_shape
    ):
        raise ValueError(f"not a shape: {shape} in chunks of {chunk_shape}")
    texts = [fields[name] for name in ("dtype", "storage_dtype")]
    optional = [fields[name] for name in ("sharding", "impl")]
    typestr = fields.get("typestr")
    if not all(isinstance(t, str) for t in texts) or not all(
        t is None or isinstance(t, str) for t in (*optional, typestr)
    ):
        raise ValueError(f"not a leaf: {fields!r:.200}")
    if (kind == "foreign") != (typestr is not None):
        raise ValueError(f"a {kind} of the type {typestr!r}")
    _check_spec(kind, codec, shape, chunk_shape, texts)
    if optional[0] is not None:
        optional[0] = shortener.long(optional[0])
    return kind, texts[0], shape, texts[1], chunk_shape, codec, *optional, None, typestr


def _check_spec(kind: str, codec: str, shape: Shape, chunk_shape: Shape, dtypes: list[str]) -> None:
    """What we never write must not reach those who would trust it."""
    if codec == "none":
        if kind not in ("str", "int", "foreign") or shape or any(dtypes):
            raise ValueError(f"a {kind} without chunks")
        return
    visible, stored = map(numpy_dtype, dtypes)
    if codec == "tensorstore" or kind in ("str", "foreign") or visible.itemsize != stored.itemsize:
        raise ValueError(f"a {kind} of dtype {dtypes[0]!r}, stored as {dtypes[1]!r} in {codec}")
    if len(shape) > _MAX_RANK or any(
        math.prod(max(1, n) for n in s) > _MAX_ARRAY_BYTES for s in (shape, chunk_shape)
    ):
        raise ValueError(f"an array of shape {shape} in chunks of {chunk_shape}")
    if kind in ("generic", "bool", "int", "float", "complex") and shape:
        raise ValueError(f"a {kind} of shape {shape}")
    odd = "time" in dtypes[0] or ("complex" in dtypes[0] and kind != "complex")
    if kind in ("bool", "int", "float", "complex") and odd:
        raise ValueError(f"a {kind} of dtype {dtypes[0]!r}")
    if kind == "bytes" and (len(shape) != 1 or dtypes[0] != "uint8"):
        raise ValueError(f"bytes of dtype {dtypes[0]!r} and shape {shape}")
    if kind == "key" and (not shape or dtypes[0] != "uint32"):
        raise ValueError(f"keys of dtype {dtypes[0]!r} and shape {shape}")


def decode_chunks(fields: Mapping[str, Any]) -> ChunkTable:
    """The inverse of `encode_chunks`. Raises `ValueError` for what cannot be."""
    files = tuple(_safe(name) for name in fields["files"])
    table = ChunkTable(
        files,
        _unpack(fields["leaf"], np.int32).astype(np.int64),
        _unpack(fields["ordinal"], np.int64),
        _unpack(fields["file"], np.int32).astype(np.int64),
        _unpack(fields["offset"], np.int64),
        _unpack(fields["length"], np.int64),
        _unpack(fields["crc32c"], np.uint32),
    )
    n = len(table)
    if any(len(c) != n for c in (table.ordinal, table.file, table.offset, table.length)):
        raise ValueError("columns of different lengths")
    if n and (
        min(table.offset.min(), table.length.min(), table.ordinal.min(), table.file.min()) < 0
        or int(table.file.max()) >= len(files)
        or int(table.offset.max()) + int(table.length.max()) >= 1 << 62
    ):
        raise ValueError("a chunk out of bounds")
    if block_counts(table.length).sum() != len(cast("NDArray[np.uint32]", table.crc)):
        raise ValueError("not one checksum per block")
    return table


def block_counts(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Checksums that chunks of these lengths in bytes have."""
    return -(-lengths // BLOCK_BYTES)


def _check_chunks(
    leaves: tuple[StoredLeaf, ...],
    chunks: ChunkTable,
    values: Mapping[int, Any],
    *,
    partial: bool,
) -> None:
    """Every leaf has each chunk of its grid exactly once, in order, and raw chunks have the bytes
    of their elements. A `partial` item may lack chunks.

    Rows of no leaf (-1), the container's own bytes, stand before all others.
    """
    stored = chunks.leaf >= 0
    if len(chunks) and int(chunks.leaf.max()) >= len(leaves):
        raise ValueError("a chunk of no leaf")
    counts = np.bincount(chunks.leaf[stored], minlength=len(leaves))
    grids: dict[tuple[Any, ...], int] = {}
    for i, leaf in enumerate(leaves):
        key = (leaf.shape, leaf.chunk_shape, leaf.codec)
        if key not in grids:
            grids[key] = (
                0
                if leaf.codec in ("none", "tensorstore")
                else grid_size(leaf.shape, leaf.chunk_shape)
            )
        is_value = leaf.codec == "none" and leaf.kind != "foreign"
        lacking = counts[i] > grids[key] if partial else counts[i] != grids[key]
        if lacking or is_value != (i in values):
            raise ValueError(f"leaf {leaf.name!r} has {counts[i]} chunks of {grids[key]}")
        if is_value and type(values[i]).__name__ != leaf.kind:
            raise ValueError(f"leaf {leaf.name!r} is no {leaf.kind}")
    owners, ordinals = chunks.leaf[stored], chunks.ordinal[stored]
    if (np.diff(chunks.leaf) < 0).any():
        raise ValueError("chunks out of order")
    if partial:
        _check_part(leaves, owners, ordinals)
    else:
        firsts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        if len(owners) and (ordinals != np.arange(len(owners)) - firsts[owners]).any():
            raise ValueError("chunks out of order")
    _check_lengths(leaves, chunks)


def _check_part(
    leaves: tuple[StoredLeaf, ...], owners: NDArray[np.int64], ordinals: NDArray[np.int64]
) -> None:
    """Each chunk stands in its leaf's grid, and once."""
    sizes = np.array(
        [0 if leaf.codec == "none" else grid_size(leaf.shape, leaf.chunk_shape) for leaf in leaves],
        np.int64,
    )
    if len(owners) and (ordinals >= sizes[owners]).any():
        raise ValueError("a chunk outside of its array")
    again = (np.diff(owners) == 0) & (np.diff(ordinals) <= 0)
    if again.any():
        raise ValueError("chunks out of order")


def _check_lengths(leaves: tuple[StoredLeaf, ...], chunks: ChunkTable) -> None:
    """A hostile length must not make a reader allocate more than the elements need."""
    order = np.lexsort((chunks.offset, chunks.file))
    starts, files = chunks.offset[order], chunks.file[order]
    ends = starts + chunks.length[order]
    if ((ends[:-1] > starts[1:]) & (files[:-1] == files[1:])).any():
        raise ValueError("chunks overlap")
    sizes: dict[tuple[Any, ...], int] = {}
    for owner, length in zip(chunks.leaf.tolist(), chunks.length.tolist(), strict=True):
        if owner < 0:
            continue
        leaf = leaves[owner]
        key = (leaf.storage_dtype, leaf.chunk_shape)
        if key not in sizes:
            sizes[key] = math.prod(leaf.chunk_shape) * numpy_dtype(leaf.storage_dtype).itemsize
        if leaf.codec == "raw" and length != sizes[key]:
            raise ValueError(
                f"a chunk of {leaf.name!r} has {length} bytes, its elements {sizes[key]}"
            )
        if sizes[key] > length * _MAX_RATIO:
            raise ValueError(
                f"{length} bytes cannot unfold into the {sizes[key]} of a chunk of {leaf.name!r}"
            )


def _unpack(text: Any, dtype: type) -> NDArray[Any]:
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from error
    return np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).astype(dtype, copy=False)


def _safe(name: Any) -> str:
    """A file name that stays inside the checkpoint."""
    if not isinstance(name, str) or not name or "\0" in name or "\\" in name:
        raise ValueError(f"not a file name: {name!r:.80}")
    if any(part in ("", ".", "..") for part in name.split("/")):
        raise ValueError(f"a file name that leaves the checkpoint: {name!r:.80}")
    return name
