# SPDX-License-Identifier: Apache-2.0
"""Parts: what each of several processes wrote of one item, and how one of them learns of it all.

Knows chunk tables and the small files that carry them to the primary, which removes them. Knows
nothing of how processes talk beyond a round of theirs.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from pertinax._formats.crc import file_crc
from pertinax._formats.ledger import block_counts, decode_chunks, encode_chunks
from pertinax._formats.manifest import ChunkTable, StoredLeaf
from pertinax._hosts import Round
from pertinax._store.contract import Store
from pertinax._store.failures import storage_errors
from pertinax._store.workers import Workers
from pertinax.errors import CorruptCheckpoint, UnsupportedTopology

PART_PREFIX: Final = "part."


@final
@dataclass(frozen=True, slots=True)
class Exchange:
    """The round in which an item is written, and what the item is called in it."""

    talk: Round
    item: str = ""

    def give(
        self,
        store: Store,
        directory: str,
        table: ChunkTable,
        leaves: Sequence[StoredLeaf],
        *,
        workers: Workers,
    ) -> list[ChunkTable]:
        """Hand over what this process wrote and made durable, and wait for all.

        The primary, whose `workers` read it, gets what the others wrote; they get nothing, and are
        done with the arrays. Raises `UnsupportedTopology` if they saved another tree than the
        primary did.
        """
        who = self.talk.topology
        if who.alone:
            return []
        phase = f"write {self.item}".rstrip()
        if not who.is_primary:
            name = f"{PART_PREFIX}{who.process}"
            data = json.dumps(encode_chunks(table)).encode()
            path = f"{directory}/{name}"
            with storage_errors("write a part", path), store.create(path) as writer:
                writer.write_at(0, [data])
            part = [digest_of(leaves), name, len(data), file_crc(data)]
            self.talk.collect(phase, part, _nothing)
            return []
        parts: dict[int, Any] = {}
        self.talk.collect(phase, None, parts.update)
        del parts[who.process]
        own = digest_of(leaves)
        odd = [process for process, (digest, *_) in parts.items() if digest != own]
        if odd:
            raise UnsupportedTopology(
                f"processes {odd} saved another tree than process {who.process}: names, shapes, "
                "dtypes and shardings of all leaves must be the same everywhere"
            )
        # Thousands, perhaps, on a disk that is far away.
        return list(workers.map(lambda part: _take(store, directory, *part[1:]), parts.values()))


def digest_of(leaves: Sequence[StoredLeaf]) -> str:
    """Equal if two processes mean the same arrays, cut into the same chunks."""
    digest = hashlib.sha256()
    for leaf in leaves:
        told = (leaf.name, leaf.kind, leaf.storage_dtype, leaf.shape, leaf.chunk_shape)
        digest.update(repr(told).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]


def _nothing(_: Mapping[int, Any]) -> None:
    """Only the primary decides."""


def _take(store: Store, directory: str, name: str, length: int, crc: int) -> ChunkTable:
    """Read a part, and remove it: the ledger will have it all."""
    with storage_errors("read a part", directory), store.open(f"{directory}/{name}") as reader:
        data = reader.read(0, reader.length)
    if len(data) != length or file_crc(data) != crc:
        raise CorruptCheckpoint("not the part that its process wrote", file=name)
    with storage_errors("remove a part", directory):
        store.remove_file(f"{directory}/{name}")
    return decode_chunks(json.loads(data))


def join_tables(tables: Sequence[ChunkTable]) -> ChunkTable:
    """All chunks of several tables, in the order of a ledger: leaf by leaf, in grid order."""
    if len(tables) == 1:
        return tables[0]
    files = [file for table in tables for file in table.files]
    starts = np.cumsum([0, *(len(table.files) for table in tables)])
    columns = {
        name: np.concatenate([getattr(table, name) for table in tables])
        for name in ("leaf", "ordinal", "offset", "length")
    }
    file = np.concatenate([t.file + start for t, start in zip(tables, starts, strict=False)])
    order = np.lexsort((columns["ordinal"], columns["leaf"]))
    crcs = _reorder_crcs(tables, columns["length"], order)
    return ChunkTable(
        tuple(files),
        columns["leaf"][order],
        columns["ordinal"][order],
        file[order],
        columns["offset"][order],
        columns["length"][order],
        crcs,
    )


def _reorder_crcs(
    tables: Sequence[ChunkTable], lengths: NDArray[np.int64], order: NDArray[np.int64]
) -> NDArray[np.uint32]:
    """The checksums of all chunks, a run for each, in another order of chunks."""
    crcs = np.concatenate([table.crc for table in tables if table.crc is not None])
    counts = block_counts(lengths)
    begins = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)[:-1]])[: len(counts)]
    moved = counts[order]
    ends = np.cumsum(moved)
    total = int(ends[-1]) if len(ends) else 0
    inside = np.arange(total) - np.repeat(ends - moved, moved)
    return crcs[np.repeat(begins[order], moved) + inside]
