"""The data file: array bytes on their way to the disk, checksummed while they are hot in cache.

Knows pieces, offsets, blocks and codecs. Knows nothing of trees, names or of what surrounds the
file. Raw pieces go straight from the snapshot's buffers to the places that the plan gave them, from
several threads; compressed ones are appended behind, as they come.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pertinax._device.snapshot import Snapshot
from pertinax._formats.crc import BLOCK_BYTES, crc32c, crc_blocks
from pertinax._formats.manifest import ChunkTable, Codec, StoredLeaf
from pertinax._formats.zarr.codecs import encode_chunk
from pertinax._plan.write import LARGE_ALIGNMENT, SMALL_ALIGNMENT, Piece, WritePlan, align
from pertinax._store.contract import Writer
from pertinax._store.workers import Workers
from pertinax._tree.paths import path_text
from pertinax.errors import SnapshotChanged

_SEGMENT_BYTES = 4 * BLOCK_BYTES
"""One write; a multiple of the block, small enough to stay in cache between checksum and copy."""

Progress = Callable[[int], None]
"""Called with the number of bytes written since the last call."""


class Receipt(NamedTuple):
    """What became of one piece: where its bytes are, and one CRC-32C for each block of them."""

    piece: Piece
    offset: int
    length: int
    crcs: Sequence[int]


def write_pieces(
    writer: Writer,
    plan: WritePlan,
    snapshot: Snapshot,
    *,
    leaves: Sequence[StoredLeaf],
    workers: Workers,
    progress: Progress,
) -> tuple[list[Receipt], int]:
    """Write every piece of `leaves`; returns receipts and the end of the written bytes."""
    offsets = plan.offsets.tolist()
    raw_jobs: list[_RawJob] = []
    last = plan.packed + plan.placed
    for i in range(plan.packed, last):
        raw_jobs += _raw_jobs(plan.pieces[i], offsets[i], snapshot.large[i - plan.packed])
    tail = _Tail(plan.placed_bytes)
    encoded = zip(plan.pieces[last:], snapshot.large[plan.placed :], strict=True)
    tasks: list[Callable[[], Any]] = [
        *(
            lambda span=span: _write_packed(writer, snapshot.packed, span, progress)
            for span in _spans(plan)
        ),
        *(
            lambda job=job: _write_raw(writer, job, leaves[job.piece.leaf], progress)
            for job in raw_jobs
        ),
        *(
            lambda p=p, a=a: _write_encoded(
                writer, p, a, leaves[p.leaf].codec, tail=tail, progress=progress
            )
            for p, a in encoded
        ),
    ]
    results = workers.run_all(tasks)
    receipts = [
        Receipt(
            piece, offset, piece.length, (crc32c(snapshot.packed[offset : offset + piece.length]),)
        )
        for piece, offset in zip(plan.pieces[: plan.packed], offsets, strict=False)
    ]
    receipts += _merge([r for r in results if isinstance(r, _Part)])
    receipts += [r for r in results if isinstance(r, Receipt)]
    return receipts, tail.end


@dataclass(frozen=True, slots=True)
class _RawJob:
    """Part of a large piece: bytes `start` to `start + length` of it go to `offset`."""

    piece: Piece
    base: int
    start: int
    array: NDArray[Any]


@dataclass(frozen=True, slots=True)
class _Part:
    job: _RawJob
    crcs: list[int]


def _raw_jobs(piece: Piece, offset: int, array: NDArray[Any]) -> list[_RawJob]:
    if not array.flags.c_contiguous:
        # A chunk cut out of a shard: made contiguous when its turn comes.
        return [_RawJob(piece, offset, 0, array)]
    data = array.reshape(-1).view(np.uint8)
    return [
        _RawJob(piece, offset, start, data[start : start + _SEGMENT_BYTES])
        for start in range(0, piece.length, _SEGMENT_BYTES)
    ]


def _write_raw(writer: Writer, job: _RawJob, leaf: StoredLeaf, progress: Progress) -> _Part:
    data = np.ascontiguousarray(job.array).reshape(-1).view(np.uint8)
    crcs = crc_blocks(data)
    writer.write_at(job.base + job.start, [memoryview(data)])
    if crc_blocks(data) != crcs:
        # Somebody wrote into a live array meanwhile. What is on the disk may be neither the old
        # bytes nor the new ones, and it would not match its checksum.
        raise SnapshotChanged(
            f"leaf {path_text(leaf.path)!r} was written to while it was being saved; nothing was "
            f'published. Do not write into arrays until the save is done, or use snapshot="copy"'
        )
    progress(len(data))
    return _Part(job, crcs)


def _merge(parts: list[_Part]) -> list[Receipt]:
    """Receipts of whole pieces, from those of their parts (which are in order)."""
    out: dict[tuple[int, int], Receipt] = {}
    for part in parts:
        piece = part.job.piece
        key = (piece.leaf, piece.ordinal)
        crcs = out[key].crcs if key in out else ()
        out[key] = Receipt(piece, part.job.base, piece.length, (*crcs, *part.crcs))
    return list(out.values())


def _spans(plan: WritePlan) -> list[tuple[int, int]]:
    ends = range(0, plan.packed_bytes, _SEGMENT_BYTES)
    return [(start, min(start + _SEGMENT_BYTES, plan.packed_bytes)) for start in ends]


def _write_packed(
    writer: Writer, packed: memoryview, span: tuple[int, int], progress: Progress
) -> None:
    start, stop = span
    writer.write_at(start, [packed[start:stop]])
    progress(stop - start)


class _Tail:
    """The end of the file, where pieces of unforeseen length are appended."""

    def __init__(self, end: int) -> None:
        self._lock = threading.Lock()
        self.end = end

    def reserve(self, length: int) -> int:
        alignment = LARGE_ALIGNMENT if length >= LARGE_ALIGNMENT else SMALL_ALIGNMENT
        with self._lock:
            offset = align(self.end, alignment)
            self.end = offset + length
        return offset


def _write_encoded(
    writer: Writer,
    piece: Piece,
    array: NDArray[Any],
    codec: Codec,
    *,
    tail: _Tail,
    progress: Progress,
) -> Receipt:
    raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    data = encode_chunk(codec, memoryview(raw))
    offset = tail.reserve(len(data))
    writer.write_at(offset, [data])
    progress(piece.length)
    return Receipt(piece, offset, len(data), crc_blocks(data))


def chunk_table(file: str, receipts: Sequence[Receipt], nodes: Receipt | None) -> ChunkTable:
    """All receipts as columns: the container's own bytes first, then leaf by leaf in grid order."""
    rows = sorted(receipts, key=lambda r: (r.piece.leaf, r.piece.ordinal))
    if nodes is not None:
        rows.insert(0, nodes)
    n = len(rows)
    return ChunkTable(
        (file,) if rows else (),
        np.fromiter((r.piece.leaf for r in rows), np.int64, n),
        np.fromiter((r.piece.ordinal for r in rows), np.int64, n),
        np.zeros(n, np.int64),
        np.fromiter((r.offset for r in rows), np.int64, n),
        np.fromiter((r.length for r in rows), np.int64, n),
        np.fromiter((crc for r in rows for crc in r.crcs), np.uint32),
    )
