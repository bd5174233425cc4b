# SPDX-License-Identifier: Apache-2.0
"""Array bytes on their way to the disk, checksummed while they are hot in cache.

Knows pieces, blocks and codecs. Knows nothing of trees, of names, or of which file a piece belongs
into: a `Placing` says so. Raw pieces go straight from the snapshot's buffers to their places, from
several threads; compressed ones get a place as they come.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from pertinax._device.snapshot import Snapshot
from pertinax._formats.crc import BLOCK_BYTES, crc32c, crc_blocks
from pertinax._formats.manifest import ChunkTable, StoredLeaf
from pertinax._formats.outputs import Outputs
from pertinax._formats.zarr.codecs import encode_chunk
from pertinax._plan.write import Piece, WritePlan
from pertinax._store.workers import Workers
from pertinax._tree.paths import path_text
from pertinax.errors import SnapshotChanged

SEGMENT_BYTES = 4 * BLOCK_BYTES
"""One write; a multiple of the block, small enough to stay in cache between checksum and copy."""

Progress = Callable[[int], None]
"""Called with the number of bytes written since the last call."""


Place = tuple[int, int]
"""One of the outputs, and an offset in it. Plain, for there may be very many."""


class Span(NamedTuple):
    """Bytes `start` to `stop` of the snapshot's packed pieces, all of them whole, and where they
    go.
    """

    start: int
    stop: int
    place: Place


class Placing(Protocol):
    """Where pieces go. Both sequences are those of the plan's packed and placed pieces."""

    @property
    def spans(self) -> Sequence[Span]:
        """The packed pieces, cut into writes."""
        ...

    @property
    def places(self) -> Sequence[Place]:
        """The place of each packed and placed piece."""
        ...

    def reserve(self, position: int, length: int) -> Place:
        """The place of the piece at `position` of the plan, which turned out to need `length`
        bytes. Any thread may ask, once for each piece.
        """
        ...


class Receipt(NamedTuple):
    """What became of one piece: where its bytes are, and one CRC-32C for each block of them."""

    piece: Piece
    file: int
    offset: int
    length: int
    crcs: Sequence[int]


@dataclass(frozen=True, slots=True)
class Content:
    """What is to be written: `leaves`, the pieces of their `plan`, the bytes in its `snapshot`.

    `others` waits for all others who write into the item, and has what the databases say that they
    have written. It is called when our own pieces are written, not before.
    """

    leaves: Sequence[StoredLeaf]
    plan: WritePlan
    snapshot: Snapshot
    others: Callable[[], Mapping[bytes, Any]] | None = None


def write_pieces(
    outputs: Outputs,
    placing: Placing,
    content: Content,
    *,
    workers: Workers,
    progress: Progress,
) -> list[Receipt]:
    """Write every piece. The files of packed and placed ones wait for as many writes as
    `writes_of` says.
    """
    plan, snapshot = content.plan, content.snapshot
    last = plan.packed + plan.placed
    places = placing.places
    offsets = plan.offsets[: plan.packed].tolist()
    writing = _Writing(outputs, placing, content, workers, progress, offsets)
    raw_jobs: list[_RawJob] = []
    for i in range(plan.packed, last):
        raw_jobs += _raw_jobs(plan.pieces[i], places[i], snapshot.large[i - plan.packed])
    tasks: list[Callable[[], Any]] = [
        *(lambda span=span: writing.packed(span) for span in placing.spans),
        *(lambda job=job: writing.raw(job) for job in raw_jobs),
        *(lambda i=i: writing.encoded(i) for i in range(last, len(plan.pieces))),
    ]
    results = workers.run_all(tasks)
    receipts = [receipt for found in results if isinstance(found, list) for receipt in found]
    receipts += _merge([r for r in results if isinstance(r, _Part)])
    receipts += [r for r in results if isinstance(r, Receipt)]
    return receipts


def writes_of(array: NDArray[Any]) -> int:
    """How many writes a placed piece takes."""
    if not array.flags.c_contiguous:
        return 1
    return -(-array.nbytes // SEGMENT_BYTES)


@dataclass(frozen=True, slots=True)
class _RawJob:
    """Part of a large piece: bytes from `start` of it, in `array`, go to `place`."""

    piece: Piece
    base: Place
    start: int
    array: NDArray[Any]


@dataclass(frozen=True, slots=True)
class _Part:
    job: _RawJob
    crcs: list[int]


def _raw_jobs(piece: Piece, place: Place, array: NDArray[Any]) -> list[_RawJob]:
    if not array.flags.c_contiguous:
        # A chunk cut out of a shard: made contiguous when its turn comes.
        return [_RawJob(piece, place, 0, array)]
    data = array.reshape(-1).view(np.uint8)
    return [
        _RawJob(piece, place, start, data[start : start + SEGMENT_BYTES])
        for start in range(0, piece.length, SEGMENT_BYTES)
    ]


@dataclass(frozen=True, slots=True)
class _Writing:
    """The three ways in which bytes are written, each from any thread."""

    outputs: Outputs
    placing: Placing
    content: Content
    workers: Workers
    progress: Progress
    offsets: Sequence[int]

    def packed(self, span: Span) -> list[Receipt]:
        start, stop, place = span
        length = stop - start
        out: list[Receipt] = []
        with self.workers.carrying(length):
            data = self.content.snapshot.image(start, stop)
            for i in range(bisect_left(self.offsets, start), bisect_left(self.offsets, stop)):
                piece, at = self.content.plan.pieces[i], self.offsets[i] - start
                crc = crc32c(data[at : at + piece.length])
                out.append(Receipt(piece, *self.placing.places[i], piece.length, (crc,)))
            self.outputs.write(*place, [data])
        self.progress(length)
        return out

    def raw(self, job: _RawJob) -> _Part:
        with self.workers.carrying(job.array.nbytes):
            data = np.ascontiguousarray(job.array).reshape(-1).view(np.uint8)
            crcs = crc_blocks(data)
            file, offset = job.base
            self.outputs.write(file, offset + job.start, [memoryview(data)])
            if crc_blocks(data) != crcs:
                # Somebody wrote into a live array meanwhile. What is on the disk may be neither the
                # old bytes nor the new ones, and it would not match its checksum.
                path = path_text(self.content.leaves[job.piece.leaf].path)
                raise SnapshotChanged(
                    f"leaf {path!r} was written to while it was being saved; nothing was "
                    "published. Do not write into arrays until the save is done, or use "
                    'snapshot="copy"'
                )
        self.progress(len(data))
        return _Part(job, crcs)

    def encoded(self, position: int) -> Receipt:
        plan, snapshot = self.content.plan, self.content.snapshot
        piece = plan.pieces[position]
        array = snapshot.large[position - plan.packed]
        copies = 1 if array.flags.c_contiguous else 2
        with self.workers.carrying(copies * piece.length):
            raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            data = encode_chunk(self.content.leaves[piece.leaf].codec, memoryview(raw))
            place = self.placing.reserve(position, len(data))
            self.outputs.write(*place, [data])
        self.progress(piece.length)
        return Receipt(piece, *place, len(data), crc_blocks(data))


def _merge(parts: list[_Part]) -> list[Receipt]:
    """Receipts of whole pieces, from those of their parts (which are in order)."""
    out: dict[tuple[int, int], Receipt] = {}
    for part in parts:
        piece = part.job.piece
        key = (piece.leaf, piece.ordinal)
        crcs = out[key].crcs if key in out else ()
        out[key] = Receipt(piece, *part.job.base, piece.length, (*crcs, *part.crcs))
    return list(out.values())


def chunk_table(files: Sequence[str], receipts: Sequence[Receipt]) -> ChunkTable:
    """All receipts as columns, leaf by leaf in grid order."""
    rows = sorted(receipts, key=lambda r: (r.piece.leaf, r.piece.ordinal))
    n = len(rows)
    return ChunkTable(
        tuple(files),
        np.fromiter([r.piece.leaf for r in rows], np.int64, n),
        np.fromiter([r.piece.ordinal for r in rows], np.int64, n),
        np.fromiter([r.file for r in rows], np.int64, n),
        np.fromiter([r.offset for r in rows], np.int64, n),
        np.fromiter([r.length for r in rows], np.int64, n),
        np.fromiter((crc for r in rows for crc in r.crcs), np.uint32),
    )


def with_nodes(table: ChunkTable, nodes: Receipt) -> ChunkTable:
    """The table with the container's own bytes in front."""
    assert table.crc is not None  # noqa: S101 - we made it, with checksums
    return ChunkTable(
        table.files,
        np.concatenate([[nodes.piece.leaf], table.leaf]),
        np.concatenate([[nodes.piece.ordinal], table.ordinal]),
        np.concatenate([[nodes.file], table.file]),
        np.concatenate([[nodes.offset], table.offset]),
        np.concatenate([[nodes.length], table.length]),
        np.concatenate([np.array(nodes.crcs, np.uint32), table.crc]),
    )
