"""Fetching: regions of stored leaves become host arrays, every byte fetched once and checked.

Knows chunks, checksums and codecs by way of the manifest, and how to read a store well: local files are mapped, so
that an array may be the file's own pages; others are read in coalesced ranges. Knows nothing of devices.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pertinax._device.snapshot import fresh_buffer
from pertinax._formats.crc import crc32c
from pertinax._formats.ledger import block_counts
from pertinax._formats.manifest import BLOCK_BYTES, Manifest, StoredLeaf
from pertinax._formats.orbax import INLINE, INLINE_FILE
from pertinax._formats.zarr.codecs import decode_chunk
from pertinax._formats.zarr.dtypes import numpy_dtype
from pertinax._formats.zarr.tensorstore import read_with_tensorstore
from pertinax._plan.boxes import Box
from pertinax._plan.chunks import chunk_box, chunks_touching, grid_shape, ordinal_of
from pertinax._store.contract import Reader, Store
from pertinax._store.workers import Workers
from pertinax._tree.paths import path_text
from pertinax.errors import CorruptCheckpoint

_SEGMENT_BYTES = 16 * BLOCK_BYTES
_GAP_BYTES = 1 << 16
_PAGE_BYTES = 4096


class Request(NamedTuple):
    """A box of one leaf (by its position in the manifest)."""

    leaf: int
    box: Box


class Fetcher:
    """Reads one item of a checkpoint. Use as a context manager; arrays stay good after it is closed."""

    def __init__(self, store: Store, item: str, manifest: Manifest, *, use_map: bool, threads: int) -> None:
        self._manifest = manifest
        self._item = item
        self._files = _Files(store, item, manifest, use_map=use_map)
        self._workers = Workers(threads, "pertinax-read")
        chunks = manifest.chunks
        counts = np.bincount(chunks.leaf[chunks.leaf >= 0], minlength=len(manifest.leaves))
        skipped = int((chunks.leaf < 0).sum())  # the container's own bytes stand first
        # Lists: numpy is slow at giving out single numbers, and there may be thousands of small chunks.
        self._file, self._offset, self._length = chunks.file.tolist(), chunks.offset.tolist(), chunks.length.tolist()
        self._crc: list[int] = [] if chunks.crc is None else chunks.crc.tolist()
        self._first_row = (skipped + np.concatenate([[0], np.cumsum(counts)])).tolist()
        self._first_crc = np.concatenate([[0], np.cumsum(block_counts(chunks.length))]).tolist()

    def __enter__(self) -> "Fetcher":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the threads and close the files."""
        self._workers.close()
        self._files.close()

    def fetch(self, requests: Sequence[Request]) -> list[NDArray[Any]]:
        """The arrays for `requests`, in order, of the storage dtype. Raises `CorruptCheckpoint`."""
        rows = [self._rows_of(request) for request in requests]
        stored = self._load(sorted({row for group in rows for row, _ in group}))
        jobs = [(request, group, stored) for request, group in zip(requests, rows, strict=True)]
        heavy = sum(r.box.size for r in requests) > _SEGMENT_BYTES
        mapper = self._workers.map if heavy else map
        return list(mapper(self._assemble, jobs))

    def check_rows(self, rows: Sequence[int]) -> list[CorruptCheckpoint]:
        """Read rows of the chunk table and compare them with their checksums; all damage found."""
        try:
            self._load(list(rows))
        except CorruptCheckpoint as first:
            if len(rows) == 1:
                return [first]
            middle = len(rows) // 2
            return self.check_rows(rows[:middle]) + self.check_rows(rows[middle:])
        return []

    def _rows_of(self, request: Request) -> list[tuple[int, Box]]:
        """Rows of the chunk table that the box touches, each with the chunk's own box."""
        leaf = self._manifest.leaves[request.leaf]
        if leaf.codec in ("tensorstore", "none"):
            return []
        first = self._first_row[request.leaf]
        if leaf.chunk_shape == leaf.shape:
            if request.box.shape == leaf.shape:  # all of the one chunk, as most requests are
                return [(first, request.box)]
            return [(first, Box.whole(leaf.shape))]
        grid = grid_shape(leaf.shape, leaf.chunk_shape)
        if self._first_row[request.leaf + 1] - first == math.prod(grid):
            return [
                (first + ordinal_of(index, grid), chunk_box(index, leaf.chunk_shape, leaf.shape))
                for index in chunks_touching(request.box, leaf.chunk_shape)
            ]
        return self._sparse_rows(request, leaf)

    def _sparse_rows(self, request: Request, leaf: StoredLeaf) -> list[tuple[int, Box]]:
        """Absent chunks mean the fill value (Zarr v3)."""
        first, last = self._first_row[request.leaf], self._first_row[request.leaf + 1]
        rows = {int(o): first + i for i, o in enumerate(self._manifest.chunks.ordinal[first:last])}
        grid = grid_shape(leaf.shape, leaf.chunk_shape)
        return [
            (rows[ordinal_of(index, grid)], chunk_box(index, leaf.chunk_shape, leaf.shape))
            for index in chunks_touching(request.box, leaf.chunk_shape)
            if ordinal_of(index, grid) in rows
        ]

    # --- bytes

    def _load(self, rows: list[int]) -> dict[int, NDArray[np.uint8]]:
        """Stored bytes of chunks, verified."""
        out: dict[int, NDArray[np.uint8]] = {}
        reads: list[tuple[list[int], int, int, int]] = []
        for group, file, start, stop in self._ranges(rows):
            mapped = self._files.mapped(file, start, stop)
            if mapped is None:
                reads.append((group, file, start, stop))
                continue
            for row in group:
                out[row] = self._cut(mapped, row, 0)
        for found in self._workers.map(self._read_range, reads):
            out.update(found)
        if self._manifest.chunks.crc is not None:
            self._verify(rows, out)
        return out

    def _cut(self, data: NDArray[np.uint8], row: int, origin: int) -> NDArray[np.uint8]:
        offset = self._offset[row] - origin
        return data[offset : offset + self._length[row]]

    def _ranges(self, rows: list[int]) -> Iterable[tuple[list[int], int, int, int]]:
        """Rows grouped into ranges of one file: close neighbours together, up to a segment."""
        chunks = self._manifest.chunks
        picked = np.asarray(rows, np.int64)
        order = picked[np.lexsort((chunks.offset[picked], chunks.file[picked]))].tolist()
        group: list[int] = []
        file = start = stop = 0
        for row in order:
            offset, length = self._offset[row], self._length[row]
            near = group and self._file[row] == file and offset - stop <= _GAP_BYTES
            if not near or max(stop, offset + length) - start > _SEGMENT_BYTES:
                if group:
                    yield group, file, start, stop
                group, file, start, stop = [], self._file[row], offset, offset
            group.append(row)
            stop = max(stop, offset + length)
        if group:
            yield group, file, start, stop

    def _read_range(self, job: tuple[list[int], int, int, int]) -> dict[int, NDArray[np.uint8]]:
        group, file, start, stop = job
        origin = start - start % _PAGE_BYTES  # keeps the alignment that the bytes have in the file
        buffer = fresh_buffer(stop - origin)
        self._files.read(file, start, buffer[start - origin :])
        data = np.frombuffer(buffer, np.uint8)
        return {row: self._cut(data, row, origin) for row in group}

    def _verify(self, rows: list[int], stored: dict[int, NDArray[np.uint8]]) -> None:
        jobs: list[list[tuple[int, int, NDArray[np.uint8]]]] = [[]]
        weight = 0
        for row in rows:
            data = stored[row]
            for start in range(0, max(1, len(data)), _SEGMENT_BYTES):
                part = data[start : start + _SEGMENT_BYTES]
                if weight and weight + len(part) > _SEGMENT_BYTES:
                    jobs.append([])
                    weight = 0
                jobs[-1].append((row, start, part))
                weight += len(part) + 512  # the cost of a call, so that tiny chunks spread over threads too
        for _ in (self._workers.map if len(jobs) > 1 else map)(self._verify_parts, jobs):
            pass

    def _verify_parts(self, parts: list[tuple[int, int, NDArray[np.uint8]]]) -> None:
        crcs = self._crc
        for row, start, data in parts:
            first = self._first_crc[row] + start // BLOCK_BYTES
            for i in range(-(-len(data) // BLOCK_BYTES)):
                block = data[i * BLOCK_BYTES : (i + 1) * BLOCK_BYTES]
                found = crc32c(block)
                if found != crcs[first + i]:
                    raise self._damage(row, start + i * BLOCK_BYTES, len(block), crcs[first + i], found)

    def _damage(self, row: int, start: int, length: int, wanted: int, found: int) -> CorruptCheckpoint:
        chunks = self._manifest.chunks
        begin = int(chunks.offset[row]) + start
        owner = int(chunks.leaf[row])
        return CorruptCheckpoint(
            f"checksum is {found:08x}, written was {wanted:08x}",
            file=chunks.files[int(chunks.file[row])],
            leaf=path_text(self._manifest.leaves[owner].path) if owner >= 0 else None,
            start=begin,
            stop=begin + length,
        )

    # --- elements

    def _assemble(self, job: tuple[Request, list[tuple[int, Box]], dict[int, NDArray[np.uint8]]]) -> NDArray[Any]:
        request, group, stored = job
        leaf = self._manifest.leaves[request.leaf]
        dtype = numpy_dtype(leaf.storage_dtype)
        if leaf.codec == "tensorstore":
            return self._from_tensorstore(leaf, request.box)
        if len(group) == 1 and group[0][1] is request.box:
            return self._elements(group[0][0], leaf, dtype, stored)
        if len(group) == 1 and group[0][1].contains(request.box):
            array = self._elements(group[0][0], leaf, dtype, stored)
            part = array[(*request.box.relative_to(group[0][1].start).slices, ...)]  # `...`: rank 0 stays an array
            if part.flags.c_contiguous:
                return part
        out = np.frombuffer(fresh_buffer(request.box.size * dtype.itemsize), dtype).reshape(request.box.shape)
        if len(group) < math.prod(grid_shape(leaf.shape, leaf.chunk_shape)) and leaf.fill:
            out[...] = leaf.fill
        for row, box in group:
            common = box.intersect(request.box)
            if common is not None:
                array = self._elements(row, leaf, dtype, stored)
                out[common.relative_to(request.box.start).slices] = array[common.relative_to(box.start).slices]
        return out

    def _elements(
        self, row: int, leaf: StoredLeaf, dtype: "np.dtype[Any]", stored: dict[int, NDArray[np.uint8]]
    ) -> NDArray[Any]:
        """One chunk as an array of the full chunk shape."""
        data = stored[row]
        size = math.prod(leaf.chunk_shape) * dtype.itemsize
        if leaf.codec != "raw":
            raw = fresh_buffer(size)
            try:
                decode_chunk(leaf.codec, memoryview(data), np.frombuffer(raw, np.uint8))
            except ValueError as error:
                raise self._undecodable(row, str(error)) from error
            data = np.frombuffer(raw, np.uint8)
        elif len(data) != size:
            raise self._undecodable(row, f"{len(data)} bytes stored, {size} expected")
        return data.view(dtype).reshape(leaf.chunk_shape)

    def _undecodable(self, row: int, reason: str) -> CorruptCheckpoint:
        chunks = self._manifest.chunks
        begin = int(chunks.offset[row])
        return CorruptCheckpoint(
            reason,
            file=chunks.files[int(chunks.file[row])],
            leaf=path_text(self._manifest.leaves[int(chunks.leaf[row])].path),
            start=begin,
            stop=begin + int(chunks.length[row]),
        )

    def _from_tensorstore(self, leaf: StoredLeaf, box: Box) -> NDArray[Any]:
        manifest = self._manifest
        return read_with_tensorstore(
            self._item, leaf, box, container=manifest.container, array_driver=manifest.array_driver
        )


class _Files:
    """The data files of an item, opened when first needed."""

    def __init__(self, store: Store, item: str, manifest: Manifest, *, use_map: bool) -> None:
        self._store = store
        self._item = item
        self._names = manifest.chunks.files
        self._use_map = use_map
        self._readers: dict[int, Reader] = {}
        self._maps: dict[int, NDArray[np.uint8] | None] = {}
        if INLINE_FILE in self._names:  # small chunks of Orbax's, which lie inside compressed nodes
            inline = np.frombuffer(manifest.facts[INLINE], np.uint8)
            self._maps[self._names.index(INLINE_FILE)] = inline

    def _reader(self, file: int) -> Reader:
        if file not in self._readers:
            try:
                self._readers[file] = self._store.open(f"{self._item}/{self._names[file]}")
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
                raise CorruptCheckpoint("the file is missing", file=self._names[file]) from error
        return self._readers[file]

    def _check_end(self, file: int, start: int, stop: int) -> Reader:
        reader = self._reader(file)
        if stop > reader.length:
            raise CorruptCheckpoint(
                f"the file ends at byte {reader.length}", file=self._names[file], start=start, stop=stop
            )
        return reader

    def mapped(self, file: int, start: int, stop: int) -> NDArray[np.uint8] | None:
        """The whole file as memory (`start` and `stop` are checked against its end), or None."""
        if self._names[file] == INLINE_FILE:
            return self._maps[file]
        reader = self._check_end(file, start, stop)
        if not self._use_map:
            return None
        if file not in self._maps:
            view = reader.map(populate=False)
            self._maps[file] = None if view is None else np.frombuffer(view, np.uint8)
        return self._maps[file]

    def read(self, file: int, start: int, buffer: memoryview) -> None:
        """Fill `buffer` from byte `start`."""
        try:
            self._check_end(file, start, start + len(buffer)).read_into(start, buffer)
        except EOFError as error:
            raise CorruptCheckpoint(
                "the file became shorter while it was read",
                file=self._names[file],
                start=start,
                stop=start + len(buffer),
            ) from error

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()


