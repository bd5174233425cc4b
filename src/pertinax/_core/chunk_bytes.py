# SPDX-License-Identifier: Apache-2.0
"""Chunk bytes: the stored bytes of chunks, each read once and compared with its checksums.

Knows files, ranges, blocks and checksums by way of the manifest's chunk table, the zeros between
chunks, and how to read a store well: local files are mapped, so that an array may be the file's own
pages; others are read in coalesced ranges. Knows nothing of elements or boxes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pertinax._core.padding import Padding, Span, not_zero
from pertinax._device.snapshot import fresh_buffer
from pertinax._formats.crc import BLOCK_BYTES, crc32c
from pertinax._formats.ledger import block_counts
from pertinax._formats.manifest import INLINE_FILE, Manifest
from pertinax._store.contract import Reader, Store, traits_of
from pertinax._store.system import populate_pages
from pertinax._store.workers import Workers
from pertinax._tree.paths import path_text
from pertinax.errors import CorruptCheckpoint

SEGMENT_BYTES = 16 * BLOCK_BYTES
"""What one thread reads or verifies at a time."""
_REQUEST_BYTES = 1 << 20
"""Where many reads should be under way, none is made smaller than this for it."""
_PAGE_BYTES = 4096
_OPEN_FILES = 32
"""A checkpoint may have more files than a program may have open."""
_MAPPED_FILES = 1 << 13
"""Nor may it map as many as it likes: Linux allows 65530 regions, and others want some too."""
_SMALL_FILE_BYTES = 1 << 16
"""Where there are many files, those that give less than this are read: a map costs more."""

Stored = dict[int, NDArray[np.uint8]]
"""Row of the chunk table -> the bytes of that chunk."""
Parts = tuple[tuple[int, int], ...]
"""Ranges of a chunk's bytes, in order, of whole blocks (but for the chunk's end)."""


def blocks_around(length: int, ranges: Iterable[tuple[int, int]]) -> Parts | None:
    """The whole blocks that have these ranges of a chunk of `length` bytes; None if all have."""
    needed = np.zeros(-(-length // BLOCK_BYTES) + 2, bool)
    for start, stop in ranges:
        needed[1 + start // BLOCK_BYTES : 1 + -(-stop // BLOCK_BYTES)] = True
    edges = np.flatnonzero(needed[1:] != needed[:-1]).tolist()
    if len(edges) == 2 and edges[1] - edges[0] == len(needed) - 2:
        return None
    return tuple(
        (first * BLOCK_BYTES, min(last * BLOCK_BYTES, length))
        for first, last in zip(edges[::2], edges[1::2], strict=True)
    )


class GatheredBytes:
    """Chunks whose bytes are in memory, and were compared with their checksums on their way."""

    def __init__(self, rows: Stored) -> None:
        self._rows = rows

    def load(self, rows: Sequence[int], wanted: Mapping[int, Parts] | None = None) -> Stored:  # noqa: ARG002 - they are all here
        """The bytes of chunks."""
        return {row: self._rows[row] for row in rows}

    def damage(self, rows: Sequence[int]) -> list[CorruptCheckpoint]:  # noqa: ARG002 - see above
        """None."""
        return []

    def damaged_edges(self) -> list[CorruptCheckpoint]:
        """None: there are no files."""
        return []

    def corrupt(self, row: int, reason: str) -> CorruptCheckpoint:
        """An error that says which chunk it is."""
        return CorruptCheckpoint(reason, file=f"chunk {row}")

    def close(self) -> None:
        """Nothing is open."""


class ChunkBytes:
    """The bytes of one item's chunks. Close it when done; arrays that it gave out stay good.

    With `padding` what stands between a chunk that is loaded whole and the next one is read with
    it, and must be zeros.
    """

    def __init__(
        self,
        store: Store,
        item: str,
        manifest: Manifest,
        *,
        use_map: bool,
        workers: Workers,
        padding: bool = False,
    ) -> None:
        chunks = manifest.chunks
        self._manifest = manifest
        self._files = _Files(store, item, manifest, use_map=use_map)
        self._workers = workers
        self._traits = traits_of(store)
        # Lists: numpy is slow at giving out single numbers, and there may be thousands of chunks.
        self._file: list[int] = chunks.file.tolist()
        self._offset: list[int] = chunks.offset.tolist()
        self._length: list[int] = chunks.length.tolist()
        self._crc: list[int] = [] if chunks.crc is None else chunks.crc.tolist()
        self._first_crc = np.concatenate([[0], np.cumsum(block_counts(chunks.length))]).tolist()
        self._padding = Padding(chunks) if padding else None

    def close(self) -> None:
        """Close the files."""
        self._files.close()

    def load(self, rows: Sequence[int], wanted: Mapping[int, Parts] | None = None) -> Stored:
        """The bytes of chunks, verified; of those in `wanted` these parts alone, and what else
        their arrays show means nothing. Raises `CorruptCheckpoint`.
        """
        out: Stored = {}
        wanted = wanted or {}
        reads: list[tuple[list[int], int, int, int]] = []
        maps: list[tuple[int, int, int]] = []
        spans: list[Span] = []
        for group, file, start, stop in self._ranges([r for r in rows if r not in wanted]):
            mapped = self._files.mapped(file, start, stop)
            if mapped is None:
                reads.append((group, file, start, stop))
                continue
            maps.append((file, start, stop))
            spans.append(Span(group, mapped, 0))
            for row in group:
                out[row] = self._cut(mapped, row, 0)
        tasks = self._reads(reads, out, spans)
        for row, parts in wanted.items():
            file, base = self._file[row], self._offset[row]
            to_end = parts[-1][1] == self._length[row]
            after = self._padding.after[row] if self._padding is not None and to_end else 0
            mapped = self._files.mapped(file, base, base + self._length[row] + after)
            if mapped is None:
                tasks += self._part_reads(row, parts, out, spans)
                continue
            maps += [(file, base + start, base + stop) for start, stop in parts]
            out[row] = self._cut(mapped, row, 0)
            if after:
                end = base + self._length[row]
                maps.append((file, end, end + after))
                spans.append(Span([row], mapped, 0))
        self._workers.run_all([lambda m=m: self._files.bring_in(*m) for m in maps])
        self._workers.run_all(tasks)
        if self._manifest.chunks.crc is not None:
            self._verify(rows, out, wanted)
        if self._padding is not None:
            for span in spans:
                self._padding.check(span)
        return out

    def damaged_edges(self) -> list[CorruptCheckpoint]:
        """Of the files that were read none has bytes behind its last chunk, or any but zeros in a
        wide gap or before the first chunk: an error for each that has.
        """
        return [] if self._padding is None else self._files.damaged_edges(self._padding)

    def damage(self, rows: Sequence[int]) -> list[CorruptCheckpoint]:
        """All damage in these rows, one error for each of them."""
        try:
            self.load(rows)
        except CorruptCheckpoint as first:
            if len(rows) == 1:
                return [first]
            middle = len(rows) // 2
            return self.damage(rows[:middle]) + self.damage(rows[middle:])
        return []

    def corrupt(
        self, row: int, reason: str, start: int = 0, length: int | None = None
    ) -> CorruptCheckpoint:
        """An error that says where `length` bytes from byte `start` of a chunk are."""
        chunks = self._manifest.chunks
        begin = self._offset[row] + start
        owner = int(chunks.leaf[row])
        return CorruptCheckpoint(
            reason,
            file=chunks.files[self._file[row]],
            leaf=path_text(self._manifest.leaves[owner].path) if owner >= 0 else None,
            start=begin,
            stop=begin + (self._length[row] if length is None else length),
        )

    def _cut(self, data: NDArray[np.uint8], row: int, origin: int) -> NDArray[np.uint8]:
        offset = self._offset[row] - origin
        return data[offset : offset + self._length[row]]

    def _ranges(self, rows: Sequence[int]) -> Iterable[tuple[list[int], int, int, int]]:
        """Rows grouped into ranges of one file: close neighbours together, up to a segment.

        Bytes between neighbours are read in vain, so a range bridges what costs no more than
        another read (on a disk, alignment), and at most a 32nd of what is wanted.
        """
        chunks = self._manifest.chunks
        gap = self._traits.read_gap_bytes
        padding = self._padding
        picked = np.asarray(rows, np.int64)
        order = picked[np.lexsort((chunks.offset[picked], chunks.file[picked]))].tolist()
        group: list[int] = []
        file = start = stop = wanted = 0
        for row in order:
            offset, length = self._offset[row], self._length[row]
            spare = wanted // 32 - (stop - start - wanted)
            near = group and self._file[row] == file and offset - stop <= max(gap, spare)
            if not near or max(stop, offset + length) - start > SEGMENT_BYTES:
                if group:
                    yield group, file, start, stop
                group, file, start, stop, wanted = [], self._file[row], offset, offset, 0
            group.append(row)
            wanted += length
            stop = max(stop, offset + length + (0 if padding is None else padding.after[row]))
        if group:
            yield group, file, start, stop

    def _reads(
        self, ranges: Sequence[tuple[list[int], int, int, int]], out: Stored, spans: list[Span]
    ) -> list[Callable[[], None]]:
        """Reads that fill new memory for the ranges: `spans` is told of it, and `out` of the chunks
        that lie in it.

        A chunk that is larger than a segment is read in parts.
        """
        total = sum(stop - start for _, _, start, stop in ranges)
        step = max(_REQUEST_BYTES, min(SEGMENT_BYTES, total // self._traits.read_threads))
        tasks: list[Callable[[], None]] = []
        for group, file, start, stop in ranges:
            origin = start - start % _PAGE_BYTES  # keeps the alignment that it has in the file
            buffer = fresh_buffer(stop - origin)
            data = np.frombuffer(buffer, np.uint8)
            spans.append(Span(group, data, origin))
            for row in group:
                out[row] = self._cut(data, row, origin)
            for begin in range(start, stop, step):
                part = buffer[begin - origin : min(begin + step, stop) - origin]
                tasks.append(lambda f=file, b=begin, p=part: self._files.read(f, b, p))
        return tasks

    def _part_reads(
        self, row: int, parts: Parts, out: Stored, spans: list[Span]
    ) -> list[Callable[[], None]]:
        """Reads of parts into memory for a whole chunk: what is not touched costs nothing."""
        file, base, length = self._file[row], self._offset[row], self._length[row]
        ahead = base % _PAGE_BYTES
        after = 0 if self._padding is None else self._padding.after[row]
        buffer = fresh_buffer(ahead + length + after)
        data = np.frombuffer(buffer, np.uint8)
        out[row] = data[ahead : ahead + length]
        room = buffer[ahead:]
        if parts[-1][1] == length:
            parts = (*parts[:-1], (parts[-1][0], length + after))
            spans.append(Span([row], data, base - ahead))
        tasks: list[Callable[[], None]] = []
        for start, stop in parts:
            for begin in range(start, stop, SEGMENT_BYTES):
                part = room[begin : min(begin + SEGMENT_BYTES, stop)]
                tasks.append(lambda b=base + begin, p=part: self._files.read(file, b, p))
        return tasks

    def _verify(self, rows: Sequence[int], stored: Stored, wanted: Mapping[int, Parts]) -> None:
        jobs: list[list[tuple[int, int, NDArray[np.uint8]]]] = [[]]
        weight = 0
        for row in rows:
            data = stored[row]
            whole = ((0, max(1, len(data))),)
            starts = (
                (start, min(start + SEGMENT_BYTES, stop))
                for begin, stop in wanted.get(row, whole)
                for start in range(begin, stop, SEGMENT_BYTES)
            )
            for start, end in starts:
                part = data[start:end]
                if weight and weight + len(part) > SEGMENT_BYTES:
                    jobs.append([])
                    weight = 0
                jobs[-1].append((row, start, part))
                # Beside the bytes the cost of a call, so that tiny chunks spread over threads too.
                weight += len(part) + 512
        for _ in (self._workers.map if len(jobs) > 1 else map)(self._verify_parts, jobs):
            pass

    def _verify_parts(self, parts: list[tuple[int, int, NDArray[np.uint8]]]) -> None:
        for row, start, data in parts:
            first = self._first_crc[row] + start // BLOCK_BYTES
            for i in range(-(-len(data) // BLOCK_BYTES)):
                block = data[i * BLOCK_BYTES : (i + 1) * BLOCK_BYTES]
                found, wanted = crc32c(block), self._crc[first + i]
                if found != wanted:
                    reason = f"checksum is {found:08x}, written was {wanted:08x}"
                    raise self.corrupt(row, reason, start + i * BLOCK_BYTES, len(block))


class _Files:
    """The data files of an item, opened when first needed; no more than a few stay open.

    `mapped` comes first, on one thread; then any thread may `read`.
    """

    def __init__(self, store: Store, item: str, manifest: Manifest, *, use_map: bool) -> None:
        self._store = store
        self._item = item
        self._names = manifest.chunks.files
        self._use_map = use_map
        self._read_only = _files_to_read(manifest) if use_map else frozenset[int]()
        self._readers: dict[int, Reader] = {}
        self._lengths: dict[int, int] = {}
        self._maps: dict[int, NDArray[np.uint8] | None] = {}
        if INLINE_FILE in self._names:  # small chunks of Orbax's, which lie inside compressed nodes
            inline = np.frombuffer(manifest.inline, np.uint8)
            self._maps[self._names.index(INLINE_FILE)] = inline

    def _open(self, file: int) -> Reader:
        try:
            return self._store.open(f"{self._item}/{self._names[file]}")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise CorruptCheckpoint("the file is missing", file=self._names[file]) from error

    def _check_end(self, file: int, start: int, stop: int) -> None:
        length = self._lengths[file]
        if stop > length:
            raise CorruptCheckpoint(
                f"the file ends at byte {length}", file=self._names[file], start=start, stop=stop
            )

    def mapped(self, file: int, start: int, stop: int) -> NDArray[np.uint8] | None:
        """The whole file as memory (`start` and `stop` are checked against its end), or None."""
        if self._names[file] == INLINE_FILE:
            return self._maps[file]
        if file in self._read_only:
            return None
        if file not in self._lengths:
            self._meet(file)
        self._check_end(file, start, stop)
        return self._maps[file]

    def damaged_edges(self, padding: Padding) -> list[CorruptCheckpoint]:
        """See `ChunkBytes.damaged_edges`."""
        found: list[CorruptCheckpoint] = []
        last = padding.ends()
        for file, length in self._lengths.items():
            if length > last[file]:
                reason, name = "bytes behind the last chunk", self._names[file]
                found.append(CorruptCheckpoint(reason, file=name, start=last[file], stop=length))
        for file, first, stop in padding.wide:
            at = self._not_zero(file, first, stop) if file in self._lengths else None
            if at is not None:
                found.append(not_zero(self._names[file], at))
        return found

    def _not_zero(self, file: int, first: int, stop: int) -> int | None:
        """The first byte of a range that is not zero. It is read a block at a time."""
        for start in range(first, stop, BLOCK_BYTES):
            block = bytearray(min(BLOCK_BYTES, stop - start))
            self.read(file, start, memoryview(block))
            if any(block):
                return start + len(block) - len(block.lstrip(b"\0"))
        return None

    def bring_in(self, file: int, start: int, stop: int) -> None:
        """Have the pages of a mapped range read now: later, a page that the disk cannot read would
        end the process.
        """
        mapped = self._maps[file]
        if mapped is None or self._names[file] == INLINE_FILE:
            return
        try:
            populate_pages(mapped.ctypes.data + start, stop - start)
        except OSError as error:
            raise CorruptCheckpoint(
                f"the disk does not give these bytes: {error.strerror}",
                file=self._names[file],
                start=start,
                stop=stop,
            ) from error

    def _meet(self, file: int) -> None:
        """Open a file for the first time: map it, or else keep it open if there is room for it."""
        reader = self._open(file)
        try:
            view = reader.map(populate=False) if self._use_map else None
        except BaseException:
            reader.close()
            raise
        self._maps[file] = None if view is None else np.frombuffer(view, np.uint8)
        self._lengths[file] = reader.length
        if view is None and len(self._readers) < _OPEN_FILES:
            self._readers[file] = reader
        else:
            reader.close()  # the view stays good

    def read(self, file: int, start: int, buffer: memoryview) -> None:
        """Fill `buffer` from byte `start`."""
        try:
            if file in self._readers:
                self._check_end(file, start, start + len(buffer))
                self._readers[file].read_into(start, buffer)
                return
            with self._open(file) as reader:
                self._lengths[file] = reader.length
                self._check_end(file, start, start + len(buffer))
                reader.read_into(start, buffer)
        except EOFError as error:
            raise CorruptCheckpoint(
                "the file was cut or replaced while it was read",
                file=self._names[file],
                start=start,
                stop=start + len(buffer),
            ) from error

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()


def _files_to_read(manifest: Manifest) -> frozenset[int]:
    """The files that are not worth a map, or one too many."""
    chunks = manifest.chunks
    if len(chunks.files) <= _OPEN_FILES:
        return frozenset()
    used = np.zeros(len(chunks.files), np.int64)
    np.add.at(used, chunks.file, chunks.length)
    large = np.flatnonzero(used >= _SMALL_FILE_BYTES)
    mapped = set(large[:_MAPPED_FILES].tolist())
    return frozenset(range(len(used))) - mapped
