# SPDX-License-Identifier: Apache-2.0
"""Writer: a whole database from a sorted list of keys and values, in one go.

Knows how to split entries into nodes and stack nodes into a tree. Knows nothing of disks: the
caller writes the bytes, values first, then the nodes, then the manifest that makes them visible.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import numpy as np
import numpy.typing as npt

from pertinax._formats.ocdbt.btree import (
    ENTRY_OVERHEAD_BYTES,
    MAX_ENTRIES,
    MAX_INLINE_BYTES,
    MAX_KEY_BYTES,
    MAX_POSITION,
    Child,
    Reference,
    Statistics,
    Value,
    encode_interior,
    encode_leaf,
)
from pertinax._formats.ocdbt.files import path_problem
from pertinax._formats.ocdbt.frame import MANIFEST, NODE, encode_frame
from pertinax._formats.ocdbt.manifest import Config, Version, encode_manifest


@final
@dataclass(frozen=True, slots=True)
class EncodedDatabase:
    """`nodes` belongs where it was encoded for; then `manifest` commits it."""

    nodes: bytes
    manifest: bytes


def encode_database(
    entries: Sequence[tuple[bytes, Value]],
    *,
    data_file: str,
    offset: int,
    commit_time_ns: int,
    uuid: bytes,
    max_inline_bytes: int = 1024,
    max_node_bytes: int = 100_000_000,
    compress: bool = False,
) -> EncodedDatabase:
    """Encode a database of one version, whose nodes will lie at `offset` of `data_file`.

    Keys must rise strictly. References may point into any file below the database root. Raises
    `ValueError` for entries that OCDBT cannot hold, or inline values above `max_inline_bytes`.
    """
    config = Config(uuid, max_inline_bytes, max_node_bytes, compress)
    keys = [key for key, _ in entries]
    values = [value for _, value in entries]
    _check(keys, values, max_inline_bytes)
    _check_references([Reference(data_file, offset, 0)])
    nodes = _NodeWriter(data_file, offset, compress=compress)
    height = 0
    level = [
        nodes.add_leaf(keys[part], values[part])
        for part in _split(_entry_bytes(keys, values), max_node_bytes, least=1)
    ]
    while len(level) > 1:
        height += 1
        sizes = np.array([len(child.key) + ENTRY_OVERHEAD_BYTES for child in level])
        parts = _split(sizes, max_node_bytes, least=2)
        level = [nodes.add_interior(height, level[part]) for part in parts]
    root, totals = (level[0].node, level[0].statistics) if level else (None, Statistics(0, 0, 0))
    version = Version(1, commit_time_ns, root, height, "", totals)
    manifest = encode_frame(MANIFEST, encode_manifest(config, version), compress=compress)
    return EncodedDatabase(b"".join(nodes.frames), manifest)


@final
class _NodeWriter:
    """Appends node frames and remembers where they will lie."""

    def __init__(self, data_file: str, offset: int, *, compress: bool) -> None:
        self.frames: list[bytes] = []
        self._file = data_file
        self._offset = offset
        self._compress = compress

    def add_leaf(self, keys: Sequence[bytes], values: Sequence[Value]) -> Child:
        node = self._append(encode_leaf(keys, values))
        indirect = sum([value.length for value in values if isinstance(value, Reference)])
        return Child(keys[0], node, Statistics(len(keys), node.length, indirect))

    def add_interior(self, height: int, children: Sequence[Child]) -> Child:
        node = self._append(encode_interior(height, children))
        below = [child.statistics for child in children]
        totals = Statistics(
            sum(part.keys for part in below),
            sum(part.tree_bytes for part in below) + node.length,
            sum(part.indirect_bytes for part in below),
        )
        return Child(children[0].key, node, totals)

    def _append(self, body: bytes) -> Reference:
        frame = encode_frame(NODE, body, compress=self._compress)
        node = Reference(self._file, self._offset, len(frame))
        self.frames.append(frame)
        self._offset += len(frame)
        return node


def _check(keys: Sequence[bytes], values: Sequence[Value], max_inline_bytes: int) -> None:
    if not 0 <= max_inline_bytes <= MAX_INLINE_BYTES:
        raise ValueError(f"max_inline_bytes is {max_inline_bytes}, not in 0..{MAX_INLINE_BYTES}")
    for before, key in pairwise(keys):
        if before >= key:
            raise ValueError(f"keys must rise strictly, but {before!r} is followed by {key!r}")
    if (longest := max(map(len, keys), default=0)) > MAX_KEY_BYTES:
        raise ValueError(f"a key has {longest} bytes where at most {MAX_KEY_BYTES} are allowed")
    inline = [len(value) for value in values if isinstance(value, bytes)]
    if (largest := max(inline, default=0)) > max_inline_bytes:
        raise ValueError(f"an inline value has {largest} bytes; write it out of line")
    _check_references([value for value in values if isinstance(value, Reference)])


def _check_references(references: Sequence[Reference]) -> None:
    for file in {reference.file for reference in references}:
        if problem := path_problem(file):
            raise ValueError(problem)
    for reference in references:
        if min(reference.offset, reference.length) < 0 or (
            reference.offset + reference.length > MAX_POSITION
        ):
            raise ValueError(f"no place in a file: {reference}")


def _entry_bytes(keys: Sequence[bytes], values: Sequence[Value]) -> npt.NDArray[np.int64]:
    stored = [len(value) if isinstance(value, bytes) else 0 for value in values]
    return np.array(list(map(len, keys)), np.int64) + stored + ENTRY_OVERHEAD_BYTES


def _split(sizes: npt.NDArray[np.int64], max_node_bytes: int, *, least: int) -> Iterator[slice]:
    """Runs of neighbours that fit one node, `least` or more each: a tree must get narrower."""
    ends = np.cumsum(sizes)
    begin = 0
    while begin < ends.size:
        before = int(ends[begin - 1]) if begin else 0
        fitting = int(np.searchsorted(ends, before + max_node_bytes, side="right"))
        stop = min(max(fitting, begin + least), begin + MAX_ENTRIES, ends.size)
        yield slice(begin, stop)
        begin = stop
