# SPDX-License-Identifier: Apache-2.0
"""Directory writer: one file for each key, in directories that are called like the leaves.

Knows which file each chunk and each array's metadata belongs into. Knows nothing of what surrounds
them in the item.
"""

import contextlib
from collections.abc import Iterable, Sequence
from typing import final

from pertinax._formats.data_file import (
    Content,
    Place,
    Progress,
    Span,
    chunk_table,
    write_pieces,
    writes_of,
)
from pertinax._formats.manifest import ChunkTable, StoredLeaf
from pertinax._formats.outputs import Outputs
from pertinax._formats.parts import Exchange, join_tables
from pertinax._formats.zarr.array import Driver, chunk_suffix, key_prefix, metadata_key
from pertinax._formats.zarr.text import ArraySpec, encode_metadata
from pertinax._plan.boxes import Shape
from pertinax._plan.chunks import grid_shape, index_of
from pertinax._plan.write import Piece
from pertinax._store.contract import Store
from pertinax._store.failures import storage_errors
from pertinax._store.workers import Workers


def write_directories(
    store: Store,
    directory: str,
    content: Content,
    driver: Driver,
    *,
    workers: Workers,
    progress: Progress,
    exchange: Exchange,
) -> tuple[ChunkTable, dict[str, bytes]]:
    """The chunks, each in a file of its own, durable.

    Returns where those of all processes are, and the files with the arrays' metadata, which are to
    be written; their directories are there.
    """
    files = _metadata_files(content.leaves, driver)
    names = _chunk_names(content.leaves, content.plan.pieces, driver)
    with storage_errors("make a directory", directory):
        for name in _directories([*files, *names]):
            with contextlib.suppress(FileExistsError):  # another process was faster
                store.make_dir(f"{directory}/{name}")
    with Outputs(store, directory) as outputs:
        own = KeyFiles(outputs, names, content)
        receipts = write_pieces(outputs, own, content, workers=workers, progress=progress)
    content.snapshot.check()
    own = chunk_table(names, receipts)
    others = exchange.give(store, directory, own, content.leaves, workers=workers)
    return join_tables([own, *others]), files


@final
class KeyFiles:
    """Each piece at the beginning of a file of its own."""

    def __init__(self, outputs: Outputs, names: Sequence[str], content: Content) -> None:
        plan = content.plan
        self.places: list[Place] = [(file, 0) for file in range(len(names))]
        self.spans: list[Span] = []
        for file, (name, piece) in enumerate(zip(names, plan.pieces, strict=True)):
            writes = 1
            if file < plan.packed:
                start = int(plan.offsets[file])
                self.spans.append(Span(start, start + piece.length, self.places[file]))
            elif file < plan.packed + plan.placed:
                writes = writes_of(content.snapshot.large[file - plan.packed])
            planned = file < plan.packed + plan.placed
            outputs.add(name, piece.length if planned else 0, writes=writes)

    def reserve(self, position: int, length: int) -> Place:  # noqa: ARG002 - a file takes any length
        """The beginning of the piece's own file."""
        return self.places[position]


def _metadata_files(leaves: Sequence[StoredLeaf], driver: Driver) -> dict[str, bytes]:
    arrays = [leaf for leaf in leaves if leaf.codec != "none"]
    specs: list[ArraySpec] = [(a.shape, a.chunk_shape, a.storage_dtype, a.codec) for a in arrays]
    texts = encode_metadata(driver, specs)
    return {metadata_key(driver, a.name): text for a, text in zip(arrays, texts, strict=True)}


def _chunk_names(
    leaves: Sequence[StoredLeaf], pieces: Sequence[Piece], driver: Driver
) -> list[str]:
    grids: dict[tuple[Shape, Shape], Shape] = {}
    names: list[str] = []
    for piece in pieces:
        leaf = leaves[piece.leaf]
        layout = (leaf.shape, leaf.chunk_shape)
        if layout not in grids:
            grids[layout] = grid_shape(*layout)
        suffix = chunk_suffix(driver, index_of(piece.ordinal, grids[layout]))
        names.append(key_prefix(leaf.name) + suffix)
    return names


def _directories(files: Iterable[str]) -> list[str]:
    """Every directory that the files need, parents first."""
    found: dict[str, None] = {}
    for file in files:
        parent = file.rpartition("/")[0]
        missing: list[str] = []
        while parent and parent not in found:
            missing.append(parent)
            parent = parent.rpartition("/")[0]
        found.update(dict.fromkeys(reversed(missing)))
    return list(found)
