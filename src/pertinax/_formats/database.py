# SPDX-License-Identifier: Apache-2.0
"""The database of an item: arrays as keys and values of OCDBT, the way Orbax looks for them.

Knows which keys an array has and what stands under each: its metadata inline, its chunks by
reference; and how chunks share a data file, or several. Knows nothing of how OCDBT encodes them
(`ocdbt`).
"""

import contextlib
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from operator import itemgetter
from typing import final

import numpy as np

from pertinax._formats.crc import crc_blocks
from pertinax._formats.data_file import (
    SEGMENT_BYTES,
    Content,
    Place,
    Progress,
    Receipt,
    Span,
    chunk_table,
    with_nodes,
    write_pieces,
    writes_of,
)
from pertinax._formats.manifest import ChunkTable, StoredLeaf
from pertinax._formats.ocdbt import (
    MANIFEST_FILE,
    EncodedDatabase,
    Reference,
    Value,
    encode_database,
)
from pertinax._formats.outputs import Outputs
from pertinax._formats.parts import Exchange, join_tables
from pertinax._formats.zarr.array import Driver, chunk_suffix, key_prefix, metadata_key
from pertinax._formats.zarr.text import ArraySpec, encode_metadata
from pertinax._plan.boxes import Box, Shape
from pertinax._plan.chunks import grid_shape
from pertinax._plan.write import LARGE_ALIGNMENT, SMALL_ALIGNMENT, Piece, WritePlan, align
from pertinax._store.contract import Store
from pertinax._store.failures import storage_errors
from pertinax._store.workers import Workers
from pertinax._tree.quiet import collector_paused

_INLINE_BYTES = 1024


def write_database(
    store: Store,
    directory: str,
    content: Content,
    driver: Driver,
    *,
    workers: Workers,
    progress: Progress,
    exchange: Exchange,
) -> tuple[ChunkTable, dict[str, bytes]]:
    """The data files, with the database's nodes at the end of the primary's last one, durable.

    Returns where the chunks of all processes are, and the file of the database's manifest, which is
    to be written; nothing on processes that are not the primary.
    """
    if not exchange.talk.topology.is_primary:
        table = _write_part(store, directory, content, workers=workers, progress=progress)
        exchange.give(store, directory, table, content.leaves, workers=workers)
        return table, {}
    _make_data_dir(store, directory)
    with Outputs(store, directory) as outputs:
        files = DataFiles(outputs, content)
        receipts = write_pieces(outputs, files, content, workers=workers, progress=progress)
        content.snapshot.check()
        # Orbax's readers look for the database's nodes at the end; ours ask the ledger.
        place = files.place_nodes()
        own = chunk_table(outputs.names, receipts)
        others = exchange.give(store, directory, own, content.leaves, workers=workers)
        table = join_tables([own, *others])
        foreign = {} if content.others is None else content.others()
        with collector_paused(max(len(content.leaves), len(table))):
            entries = _with_others(array_entries(content.leaves, table, driver), foreign)
            database = encode_arrays(entries, outputs.names[place[0]], place[1])
        outputs.write(*place, [database.nodes])
    if database.nodes:
        piece = Piece(-1, 0, 0, Box((), ()), len(database.nodes))
        nodes = Receipt(piece, *place, piece.length, crc_blocks(database.nodes))
        table = with_nodes(table, nodes)
    return table, {MANIFEST_FILE: database.manifest}


def _make_data_dir(store: Store, directory: str) -> None:
    """Processes that save together may all try."""
    with storage_errors("make a directory", directory), contextlib.suppress(FileExistsError):
        store.make_dir(f"{directory}/d")


def _write_part(
    store: Store, directory: str, content: Content, *, workers: Workers, progress: Progress
) -> ChunkTable:
    """The data files of a process that is not the primary, durable; none if it owns nothing."""
    if not content.plan.pieces:
        return chunk_table((), ())
    _make_data_dir(store, directory)
    with Outputs(store, directory) as outputs:
        files = DataFiles(outputs, content, exact=True)
        receipts = write_pieces(outputs, files, content, workers=workers, progress=progress)
        content.snapshot.check()
        outputs.write(*files.end(), [])
    with storage_errors("write array data", directory):
        store.sync_dir(f"{directory}/d")
    return chunk_table(outputs.names, receipts)


@final
class DataFiles:
    """Pieces one after the other, in one file or in several; those without a place come last."""

    def __init__(self, outputs: Outputs, content: Content, *, exact: bool = False) -> None:
        """`exact`: nothing will follow, so that files must end where their last piece does."""
        plan = content.plan
        self._outputs = outputs
        self._file_bytes = plan.file_bytes
        self._lock = threading.Lock()
        ends = _file_ends(plan, exact=exact)
        self.spans: list[Span] = []
        for file, (start, end) in enumerate(zip(plan.cuts, ends, strict=True)):
            spans = _spans(plan, file, start, min(end, plan.packed_bytes))
            self.spans += spans
            outputs.add(_new_name(), end - start, writes=len(spans))
        self.places = _places(plan)
        for place, array in zip(self.places[plan.packed :], content.snapshot.large, strict=False):
            outputs.expect(place[0], writes_of(array))
        self._tail = len(ends) - 1
        self._end = ends[-1] - plan.cuts[-1]
        for gap in _gaps(plan, self.spans, self.places, (self._tail, self._end)):
            outputs.leave(*gap)
        outputs.expect(self._tail)  # it stays open for what comes

    def reserve(self, position: int, length: int) -> Place:  # noqa: ARG002 - all come behind
        """A place behind all others, in a new file if the last one is full."""
        return self._append(length, LARGE_ALIGNMENT if length >= LARGE_ALIGNMENT else 0, writes=1)

    def place_nodes(self) -> Place:
        """The last place of all; nothing else can follow."""
        return self._append(0, LARGE_ALIGNMENT, writes=0)

    def end(self) -> Place:
        """Where the last file ends, if no more comes: the write that it was kept open for."""
        return (self._tail, self._end)

    def _append(self, length: int, alignment: int, *, writes: int) -> Place:
        full: int | None = None
        with self._lock:
            if self._file_bytes and self._end > self._file_bytes:
                full, self._tail, self._end = (
                    self._tail,
                    self._outputs.add(_new_name(), writes=1),
                    0,
                )
            offset = align(self._end, alignment or SMALL_ALIGNMENT)
            if offset > self._end:
                self._outputs.leave(self._tail, self._end, offset)
            self._end = offset + length
            place = (self._tail, offset)
            self._outputs.expect(self._tail, writes)
        if full is not None:
            self._outputs.write(full, 0, [])  # the one that it was kept open for
        return place


def _new_name() -> str:
    return f"d/{uuid.uuid4().hex}"


def _file_ends(plan: WritePlan, *, exact: bool) -> list[int]:
    """Where in the image each file ends, as far as that is planned."""
    if not plan.file_bytes and not exact:
        return [plan.placed_bytes]
    # To the byte: nothing may follow in a file that turns out to be full.
    ends: list[int] = []
    for cut in (*plan.cuts[1:], plan.placed_bytes + 1):
        last = int(np.searchsorted(plan.offsets, cut)) - 1
        ends.append(int(plan.offsets[last]) + plan.pieces[last].length if last >= 0 else 0)
    return ends


def _spans(plan: WritePlan, file: int, start: int, stop: int) -> list[Span]:
    """Writes of whole packed pieces, as many of them as a segment holds."""
    found: list[Span] = []
    begin = start
    while begin < stop:
        end = stop
        if stop - begin > SEGMENT_BYTES:
            last = int(np.searchsorted(plan.offsets[: plan.packed], begin + SEGMENT_BYTES, "right"))
            end = int(plan.offsets[last - 1])
        found.append(Span(begin, end, (file, begin - start)))
        begin = end
    return found


def _gaps(
    plan: WritePlan, spans: Sequence[Span], places: Sequence[Place], end_of_all: Place
) -> Iterator[tuple[int, int, int]]:
    """What lies between planned pieces, for alignment: file, start and stop."""
    ends = {span.place[0]: span.place[1] + span.stop - span.start for span in spans}
    for place, piece in zip(places[plan.packed :], plan.pieces[plan.packed :], strict=False):
        file, offset = place
        end = ends.get(file, 0)
        if offset > end:
            yield file, end, offset
        ends[file] = offset + piece.length
    file, stop = end_of_all
    if stop > ends.get(file, 0):
        yield file, ends.get(file, 0), stop


def _places(plan: WritePlan) -> list[Place]:
    if len(plan.cuts) == 1:
        return list(zip(repeat(0), plan.offsets.tolist(), strict=False))
    files = np.searchsorted(plan.cuts, plan.offsets, side="right") - 1
    inside = plan.offsets - np.array(plan.cuts)[files]
    return list(zip(files.tolist(), inside.tolist(), strict=True))


def encode_arrays(
    entries: Sequence[tuple[bytes, Value]], data_file: str, offset: int
) -> EncodedDatabase:
    """A database of one version, whose nodes will lie at `offset` of `data_file`."""
    inline = max((len(value) for _, value in entries if isinstance(value, bytes)), default=0)
    return encode_database(
        entries,
        data_file=data_file,
        offset=offset,
        commit_time_ns=time.time_ns(),
        uuid=uuid.uuid4().bytes,
        max_inline_bytes=max(_INLINE_BYTES, inline),
    )


def _with_others(
    entries: list[tuple[bytes, Value]], others: Mapping[bytes, Value]
) -> list[tuple[bytes, Value]]:
    """Raises `ValueError` if a key of ours is also a key of others."""
    if not others:
        return entries
    taken = others.keys() & dict(entries).keys()
    if taken:
        raise ValueError(f"two leaves write the key {min(taken)!r}: give them distinct names")
    return sorted([*entries, *others.items()], key=lambda entry: entry[0])


def array_entries(
    leaves: Sequence[StoredLeaf], table: ChunkTable, driver: Driver
) -> list[tuple[bytes, Value]]:
    """Every array's metadata and every chunk, by keys in byte order."""
    arrays = [leaf for leaf in leaves if leaf.codec != "none"]
    specs: list[ArraySpec] = [(a.shape, a.chunk_shape, a.storage_dtype, a.codec) for a in arrays]
    entries: list[tuple[bytes, Value]] = [
        (_key_bytes(metadata_key(driver, leaf.name)), text)
        for leaf, text in zip(arrays, encode_metadata(driver, specs), strict=True)
    ]
    suffixes: dict[tuple[Shape, Shape], list[bytes]] = {}
    names = list(map(table.files.__getitem__, table.file.tolist()))
    references = list(map(Reference, names, table.offset.tolist(), table.length.tolist()))
    ordinals: list[int] = table.ordinal.tolist()
    firsts: list[int] = np.searchsorted(table.leaf, np.arange(len(leaves) + 1)).tolist()
    for leaf, first, end in zip(leaves, firsts, firsts[1:], strict=False):
        if first == end:
            continue
        layout = (leaf.shape, leaf.chunk_shape)
        if layout not in suffixes:
            suffixes[layout] = _suffixes(driver, grid_shape(*layout))
        prefix, known = _key_bytes(key_prefix(leaf.name)), suffixes[layout]
        keys = [prefix + known[ordinal] for ordinal in ordinals[first:end]]
        entries += zip(keys, references[first:end], strict=True)
    entries.sort(key=itemgetter(0))
    return entries


def _suffixes(driver: Driver, grid: Shape) -> list[bytes]:
    """What follows an array's prefix in the keys of all chunks of a grid, in grid order."""
    return [chunk_suffix(driver, index).encode() for index in np.ndindex(grid)]


def _key_bytes(key: str) -> bytes:
    """Text from the file system may hold bytes that are no UTF-8; they come back as they were."""
    return key.encode("utf-8", "surrogateescape")
