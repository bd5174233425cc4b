# SPDX-License-Identifier: Apache-2.0
"""Fetching: regions of stored leaves become host arrays, every chunk fetched and decoded once.

Knows leaves, boxes, chunks and codecs by way of the manifest. Knows nothing of devices, and of
files only what `chunk_bytes` gives it.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from pertinax._core.chunk_bytes import (
    SEGMENT_BYTES,
    ChunkBytes,
    GatheredBytes,
    Parts,
    Stored,
    blocks_around,
)
from pertinax._device.snapshot import fresh_array
from pertinax._formats.manifest import Manifest, StoredLeaf
from pertinax._formats.zarr.codecs import decode_chunk
from pertinax._formats.zarr.dtypes import numpy_dtype
from pertinax._formats.zarr.tensorstore import read_with_tensorstore
from pertinax._plan.boxes import Box
from pertinax._plan.chunks import chunk_box, chunks_touching, grid_shape, index_of, ordinal_of
from pertinax._plan.flat import flat_box, flat_range, flat_runs
from pertinax._store.contract import Store, traits_of
from pertinax._store.workers import Workers
from pertinax._tree.paths import path_text
from pertinax.errors import CorruptCheckpoint, PartAbsent

_MOST_RUNS = 1 << 12
"""A box in more runs of a chunk than that is as good as all between the first and the last."""


class Request(NamedTuple):
    """A box of one leaf (by its position in the manifest)."""

    leaf: int
    box: Box


class _Job(NamedTuple):
    """A request with the chunks that it touches: row in the chunk table and box of each."""

    request: Request
    chunks: list[tuple[int, Box]]


class Fetcher:
    """Reads one item of a checkpoint. A context manager; arrays stay good after its end.

    With `padding` what stands between the chunks that are read must be zeros.
    """

    def __init__(
        self,
        store: Store,
        item: str,
        manifest: Manifest,
        *,
        use_map: bool,
        threads: int,
        gathered: Stored | None = None,
        padding: bool = False,
    ) -> None:
        self._manifest = manifest
        self._item = item
        self._workers = Workers(max(threads, traits_of(store).read_threads), "pertinax-read")
        self._bytes = (
            ChunkBytes(
                store, item, manifest, use_map=use_map, workers=self._workers, padding=padding
            )
            if gathered is None
            else GatheredBytes(gathered)
        )
        owners = manifest.chunks.leaf
        counts = np.bincount(owners[owners >= 0], minlength=len(manifest.leaves))
        skipped = int((owners < 0).sum())  # the container's own bytes stand first
        self._first_row: list[int] = (skipped + np.concatenate([[0], np.cumsum(counts)])).tolist()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the threads and close the files."""
        self._workers.close()
        self._bytes.close()

    def fetch(
        self, requests: Sequence[Request], *, beside: Sequence[int] = ()
    ) -> list[NDArray[Any]]:
        """The arrays for `requests`, in order, of the storage dtype. Rows of the chunk table
        `beside` them are read and compared as well. Raises `CorruptCheckpoint`.
        """
        jobs = [_Job(request, self._chunks_of(request)) for request in requests]
        owners = {row: job.request.leaf for job in jobs for row, _ in job.chunks}
        stored = self._bytes.load([*sorted(owners), *beside], self._parts(jobs))
        encoded = [
            row
            for row, leaf in owners.items()
            if self._manifest.leaves[leaf].codec not in ("raw", "flat")
        ]
        if encoded:
            decoded = self._workers.map(
                lambda row: self._decode(row, owners[row], stored[row]), encoded
            )
            stored.update(zip(encoded, decoded, strict=True))
        patched = sum(job.request.box.size for job in jobs if len(job.chunks) > 1)
        spread = self._workers.map if patched > SEGMENT_BYTES else map
        return list(spread(lambda job: self._assemble(job, stored), jobs))

    def _parts(self, jobs: Sequence[_Job]) -> dict[int, Parts]:
        """Of large raw chunks that are needed in part: which parts."""
        whole: set[int] = set()
        ranges: dict[int, list[tuple[int, int]]] = {}
        for (position, box), chunks in jobs:
            for row, chunk in chunks:
                common = None if chunk is box else chunk.intersect(box)
                leaf = self._manifest.leaves[position]
                if common is None or common == chunk or leaf.codec != "raw":
                    whole.add(row)
                    continue
                itemsize = numpy_dtype(leaf.storage_dtype).itemsize
                inside = common.relative_to(chunk.start)
                runs = flat_runs(inside, leaf.chunk_shape, most=_MOST_RUNS)
                ranges.setdefault(row, []).extend((a * itemsize, b * itemsize) for a, b in runs)
        parts: dict[int, Parts] = {}
        for row in ranges.keys() - whole:
            found = blocks_around(int(self._manifest.chunks.length[row]), ranges[row])
            if found is not None:
                parts[row] = found
        return parts

    def check_edges(self) -> list[CorruptCheckpoint]:
        """What is wrong beside the chunks of the files that were read; see `ChunkBytes`."""
        return self._bytes.damaged_edges()

    def check_rows(self, rows: Sequence[int]) -> list[CorruptCheckpoint]:
        """Read rows of the chunk table and compare them with their checksums; all damage found."""
        return self._bytes.damage(rows)

    def _chunks_of(self, request: Request) -> list[tuple[int, Box]]:
        leaf = self._manifest.leaves[request.leaf]
        if leaf.codec in ("tensorstore", "none") or not request.box.size:
            return []
        first, end = self._first_row[request.leaf : request.leaf + 2]
        if leaf.codec == "flat":
            return self._flat_chunks(request.box, leaf, range(first, end))
        if leaf.chunk_shape == leaf.shape and end > first:
            # All of the only chunk, as in most requests: `_assemble` knows it by the same box.
            return [
                (first, request.box if request.box.shape == leaf.shape else Box.whole(leaf.shape))
            ]
        grid = grid_shape(leaf.shape, leaf.chunk_shape)
        touched = chunks_touching(request.box, leaf.chunk_shape)
        boxes = [(ordinal_of(i, grid), chunk_box(i, leaf.chunk_shape, leaf.shape)) for i in touched]
        if end - first == math.prod(grid):
            return [(first + ordinal, box) for ordinal, box in boxes]
        # Some chunks are absent, which means the fill value (Zarr v3), or that they are elsewhere.
        ordinals = self._manifest.chunks.ordinal[first:end].tolist()
        rows = {ordinal: first + i for i, ordinal in enumerate(ordinals)}
        if leaf.fill is None:
            for ordinal, box in boxes:
                if ordinal not in rows:
                    raise _absent(self._item, self._manifest, leaf, box, ordinals)
        return [(rows[ordinal], box) for ordinal, box in boxes if ordinal in rows]

    def _flat_chunks(self, box: Box, leaf: StoredLeaf, rows: range) -> list[tuple[int, Box]]:
        """The runs of elements that a box needs some of."""
        itemsize = numpy_dtype(leaf.storage_dtype).itemsize
        counts = self._manifest.chunks.length[rows.start : rows.stop] // itemsize
        ends = np.cumsum(counts).tolist()
        start, stop = flat_range(box, leaf.shape)
        return [
            (row, Box((end - count,), (end,)))
            for row, end, count in zip(rows, ends, counts.tolist(), strict=True)
            if end > start and end - count < stop
        ]

    def _decode(self, row: int, leaf_position: int, data: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The raw elements of an encoded chunk."""
        leaf = self._manifest.leaves[leaf_position]
        dtype = numpy_dtype(leaf.storage_dtype)
        raw = fresh_array((math.prod(leaf.chunk_shape) * dtype.itemsize,), np.dtype(np.uint8))
        fill = b"" if leaf.fill is None else np.asarray(leaf.fill, dtype).tobytes()
        try:
            decode_chunk(leaf.codec, memoryview(data), raw, fill=fill)
        except ValueError as error:
            raise self._bytes.corrupt(row, str(error)) from error
        return raw

    def _assemble(self, job: _Job, stored: Stored) -> NDArray[Any]:
        (position, box), chunks = job
        leaf = self._manifest.leaves[position]
        dtype = numpy_dtype(leaf.storage_dtype)
        if len(chunks) == 1 and chunks[0][1] is box:
            return self._elements(chunks[0][0], leaf, dtype, stored)
        if leaf.codec == "tensorstore":
            return self._from_tensorstore(leaf, box)
        if leaf.codec == "flat":
            return flat_box(box, leaf.shape, [(b, stored[r].view(dtype)) for r, b in chunks])
        if len(chunks) == 1 and chunks[0][1].contains(box):
            array = self._elements(chunks[0][0], leaf, dtype, stored)
            part = array[(*box.relative_to(chunks[0][1].start).slices, ...)]  # `...` keeps rank 0
            if part.flags.c_contiguous:
                return part
        return self._patch(job, leaf, dtype, stored)

    def _patch(
        self, job: _Job, leaf: StoredLeaf, dtype: "np.dtype[Any]", stored: Stored
    ) -> NDArray[Any]:
        """A box put together from parts of several chunks."""
        box = job.request.box
        out = fresh_array(box.shape, dtype)
        if leaf.fill is not None:
            out[...] = leaf.fill
        for row, chunk in job.chunks:
            common = chunk.intersect(box)
            if common is not None:
                array = self._elements(row, leaf, dtype, stored)
                part = array[common.relative_to(chunk.start).slices]
                out[common.relative_to(box.start).slices] = part
        return out

    def _elements(
        self, row: int, leaf: StoredLeaf, dtype: "np.dtype[Any]", stored: Stored
    ) -> NDArray[Any]:
        """One chunk as an array of the full chunk shape."""
        data = stored[row]
        size = math.prod(leaf.chunk_shape) * dtype.itemsize
        if len(data) != size:
            raise self._bytes.corrupt(row, f"{len(data)} bytes stored, {size} expected")
        return data.view(dtype).reshape(leaf.chunk_shape)

    def _from_tensorstore(self, leaf: StoredLeaf, box: Box) -> NDArray[Any]:
        manifest = self._manifest
        return read_with_tensorstore(
            self._item, leaf, box, container=manifest.container, array_driver=manifest.array_driver
        )


def _absent(
    item: str, manifest: Manifest, leaf: StoredLeaf, box: Box, ordinals: Sequence[int]
) -> Exception:
    """What to raise where a chunk is wanted and not there."""
    grid = grid_shape(leaf.shape, leaf.chunk_shape)
    held = [chunk_box(index_of(o, grid), leaf.chunk_shape, leaf.shape) for o in ordinals]
    name = path_text(leaf.path)
    if manifest.verified:
        return PartAbsent(
            item,
            name,
            start=box.start,
            stop=box.stop,
            held=[(one.start, one.stop) for one in held],
        )
    return CorruptCheckpoint(
        f"{math.prod(grid) - len(held)} of {math.prod(grid)} chunks are missing, that of "
        f"{box.start} to {box.stop} among them",
        file=leaf.name,
        leaf=name,
    )
