# SPDX-License-Identifier: Apache-2.0
"""Reader: the newest version of a whole database.

Knows how to walk a tree that may be a trap: nodes are opened once each, inside the key range that
their parent gives them, and no deeper than the manifest says. Knows nothing of disks: the caller
reads the bytes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from pertinax._formats.ocdbt.btree import Branch, Leaf, Place, Reference, Value, decode_node
from pertinax._formats.ocdbt.columns import Budget, Cursor
from pertinax._formats.ocdbt.frame import MANIFEST, NODE, UnsupportedDatabase, decode_frame
from pertinax._formats.ocdbt.manifest import MANIFEST_FILE, Config, Version, decode_manifest
from pertinax.errors import CorruptCheckpoint

__all__ = ["Database", "Read", "UnsupportedDatabase", "open_database", "read_database"]

Read = Callable[[str, int, int | None], bytes]

_PROBE_BYTES = 1 << 20
# What a name or place that no such file has may raise (IndexError: the probe found no byte).
_UNREADABLE = (EOFError, FileNotFoundError, IndexError, IsADirectoryError, NotADirectoryError)


@final
@dataclass(frozen=True, slots=True)
class Database:
    """A database as its newest version has it; files of references are relative to its root."""

    entries: dict[bytes, Value]  # keys in order
    config: Config
    version: Version


def read_database(read: Read) -> dict[bytes, Value]:
    """Every key of the newest version, in order; see `open_database`."""
    return open_database(read).entries


def open_database(read: Read) -> Database:
    """Read and check the manifest and every node of the newest version; values stay where they are.

    `read(file, offset, length)` returns bytes of a root-relative file, all up to its end for a
    length of None, and raises `FileNotFoundError` or `EOFError`. A missing manifest stays a
    `FileNotFoundError`; all other damage is `CorruptCheckpoint`. Raises `UnsupportedDatabase` if
    TensorStore may know more, and `NewerFormat` for a later version of the frame format.
    """
    budget = Budget()
    manifest = read(MANIFEST_FILE, 0, None)
    config, version = decode_manifest(
        decode_frame(manifest, MANIFEST, file=MANIFEST_FILE, start=0, budget=budget)
    )
    entries: dict[bytes, Value] = {}
    if version.root is not None:
        top = Branch(b"", b"", version.root, version.base)
        entries = _walk(_NodeReader(read, budget), _Step(top, version.height, None))
    return Database(entries, config, version)


@final
@dataclass(frozen=True, slots=True)
class _Step:
    """A node still to be opened: it may hold keys from `branch.key` on, below `limit`."""

    branch: Branch
    height: int
    limit: bytes | None


def _walk(nodes: _NodeReader, top: _Step) -> dict[bytes, Value]:
    entries: dict[bytes, Value] = {}
    steps = [top]
    while steps:
        step = steps.pop()
        cursor = nodes.open(step.branch.node)
        place = Place(step.height, step.branch.prefix, step.branch.base)
        node = decode_node(cursor, place)
        if isinstance(node, Leaf):
            _check_range(node.keys[0], node.keys[-1], step, cursor)
            entries.update(zip(node.keys, node.values, strict=True))
        else:
            _check_range(node[0].key, node[-1].key, step, cursor)
            steps += reversed(_steps_below(node, step))
    return entries


def _steps_below(branches: Sequence[Branch], step: _Step) -> list[_Step]:
    limits = [*(branch.key for branch in branches[1:]), step.limit]
    pairs = zip(branches, limits, strict=True)
    return [_Step(branch, step.height - 1, limit) for branch, limit in pairs]


def _check_range(first: bytes, last: bytes, step: _Step, cursor: Cursor) -> None:
    if first < step.branch.key or (step.limit is not None and last >= step.limit):
        raise cursor.corrupt("node holds keys outside the range that its parent gives it")


@final
class _NodeReader:
    """Opens nodes, no two of which may share a byte.

    That rules out cycles, and trees that are small on disk and endless when walked.
    """

    def __init__(self, read: Read, budget: Budget) -> None:
        self._read = read
        self._budget = budget
        self._taken: dict[str, list[tuple[int, int]]] = {}

    def open(self, node: Reference) -> Cursor:
        self._claim(node)
        try:
            if (
                node.length > _PROBE_BYTES
            ):  # let no declared length size a buffer that no file fills
                self._read(node.file, node.offset + node.length - 1, 1)[0]
            frame = self._read(node.file, node.offset, node.length)
        except _UNREADABLE as error:
            raise _corrupt(node, f"tree node cannot be read: {error!r}") from error
        if len(frame) != node.length:
            raise _corrupt(node, f"tree node has {len(frame)} bytes where {node.length} are due")
        return decode_frame(frame, NODE, file=node.file, start=node.offset, budget=self._budget)

    def _claim(self, node: Reference) -> None:
        extent = (node.offset, node.offset + node.length)
        taken = self._taken.setdefault(node.file, [])
        at = bisect_left(taken, extent)
        clear_before = at == 0 or taken[at - 1][1] <= extent[0]
        clear_after = at == len(taken) or extent[1] <= taken[at][0]
        if not (clear_before and clear_after):
            raise _corrupt(node, "tree node overlaps one that is already in the tree")
        taken.insert(at, extent)


def _corrupt(node: Reference, reason: str) -> CorruptCheckpoint:
    stop = node.offset + node.length
    return CorruptCheckpoint(reason, file=node.file, start=node.offset, stop=stop)
