# SPDX-License-Identifier: Apache-2.0
"""The manifest: configuration, and where the newest version of the tree has its root.

Knows the bytes of `manifest.ocdbt`. Knows nothing of nodes. Only the newest version is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from pertinax._formats.ocdbt.btree import MAX_POSITION, Reference, Statistics
from pertinax._formats.ocdbt.columns import MISSING, Cursor, encode_varint, encode_varints
from pertinax._formats.ocdbt.files import decode_file_table, encode_file_table
from pertinax._formats.ocdbt.frame import UnsupportedDatabase

MANIFEST_FILE = "manifest.ocdbt"

_SINGLE, _NUMBERED = 0, 1
_ARITY_LOG2 = 4
_MAX_ARITY_LOG2 = 16
_UUID_BYTES = 16
_MAX_NODE_BYTES = 2**32 - 1
_LEAST_VERSION_BYTES = 16
_MAX_VERSION_NODES = 1 << 20


@final
@dataclass(frozen=True, slots=True)
class Config:
    """What a database promises its readers and asks of its writers."""

    uuid: bytes
    max_inline_bytes: int
    max_node_bytes: int
    compress: bool

    def __post_init__(self) -> None:
        if len(self.uuid) != _UUID_BYTES:
            raise ValueError(f"uuid has {len(self.uuid)} bytes where {_UUID_BYTES} are needed")
        if not 0 <= self.max_node_bytes <= _MAX_NODE_BYTES:
            raise ValueError(
                f"max_node_bytes is {self.max_node_bytes}, not in 0..{_MAX_NODE_BYTES}"
            )


@final
@dataclass(frozen=True, slots=True)
class Version:
    """One state of the database; `root` is None when it holds no key."""

    generation: int
    commit_time_ns: int
    root: Reference | None
    height: int
    base: str
    statistics: Statistics


def encode_manifest(config: Config, version: Version) -> bytes:
    """The body of a manifest that knows one version."""
    root = version.root or Reference("", MISSING, MISSING)
    totals = version.statistics
    numbers = (root.offset, root.length, totals.keys, totals.tree_bytes, totals.indirect_bytes)
    return b"".join(
        (
            config.uuid,
            bytes((_SINGLE,)),
            encode_varints([config.max_inline_bytes, config.max_node_bytes]),
            bytes((_ARITY_LOG2, int(config.compress))),
            bytes(4) if config.compress else b"",  # zstd level: 0 asks for the default
            encode_file_table([root.file]),
            encode_varints([1, version.generation]),
            bytes((version.height, 0)),
            *map(encode_varint, numbers),
            version.commit_time_ns.to_bytes(8, "little"),
            b"\0",  # no version nodes
        )
    )


def decode_manifest(cursor: Cursor) -> tuple[Config, Version]:
    """Read the configuration and the newest version.

    Raises `CorruptCheckpoint`, or `UnsupportedDatabase` for numbered manifests and unknown
    compression.
    """
    config, arity_log2 = _decode_config(cursor)
    table = decode_file_table(cursor, base="")
    rows = cursor.count(least_bytes=_LEAST_VERSION_BYTES, most=1 << arity_log2)
    generations = cursor.varints(rows)
    if int(generations[0]) < 1 or (generations[1:] <= generations[:-1]).any():
        raise cursor.corrupt("generations do not rise from 1")
    height = cursor.take(rows)[-1]
    columns = [cursor.varints(rows) for _ in range(6)]
    number, offset, length, *totals = (int(column[-1]) for column in columns)
    commit_time_ns = int(cursor.little_endian_u64(rows)[-1])
    _skip_version_nodes(cursor)
    cursor.finish()
    if number >= len(table.paths):
        raise cursor.corrupt(f"file id {number} in a table of {len(table.paths)}")
    root = None
    if (offset, length) != (MISSING, MISSING):
        if offset + length > MAX_POSITION:
            raise cursor.corrupt(f"root node at {offset} with {length} bytes")
        root = Reference(table.harmless_path(number, cursor), offset, length)
    statistics = Statistics(*totals)
    base = table.bases[number]
    return config, Version(int(generations[-1]), commit_time_ns, root, height, base, statistics)


def _decode_config(cursor: Cursor) -> tuple[Config, int]:
    uuid = cursor.take(_UUID_BYTES)
    kind = cursor.byte()
    max_inline_bytes, max_node_bytes = (int(number) for number in cursor.varints(2))
    arity_log2 = cursor.byte()
    compression = cursor.varint()
    if kind > _NUMBERED:
        raise cursor.corrupt(f"manifest kind {kind} where 0 or 1 was expected")
    if not 1 <= arity_log2 <= _MAX_ARITY_LOG2:
        raise cursor.corrupt(f"version tree arity 2^{arity_log2}")
    if max_node_bytes > _MAX_NODE_BYTES:
        raise cursor.corrupt(f"nodes of up to {max_node_bytes} bytes")
    if kind == _NUMBERED:
        raise UnsupportedDatabase(f"file {cursor.file!r}: numbered OCDBT manifests")
    if compression > 1:
        raise UnsupportedDatabase(f"file {cursor.file!r}: OCDBT compression method {compression}")
    if compression:
        cursor.take(4)
    return Config(uuid, max_inline_bytes, max_node_bytes, bool(compression)), arity_log2


def _skip_version_nodes(cursor: Cursor) -> None:
    rows = cursor.varint()
    if rows > min(_MAX_VERSION_NODES, cursor.left_bytes):
        raise cursor.corrupt(f"{rows} version nodes declared")
    for _ in range(5):
        cursor.varints(rows)
    cursor.take(9 * rows)  # commit times and heights
