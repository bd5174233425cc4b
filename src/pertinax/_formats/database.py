"""The database of an item: arrays as keys and values of OCDBT, the way Orbax looks for them.

Knows which keys an array has and what stands under each: its metadata inline, its chunks by
reference. Knows nothing of how OCDBT encodes them (`ocdbt`) nor of when they are written (`item`).
"""

import time
import uuid
from collections.abc import Sequence

from pertinax._formats.data_file import Receipt
from pertinax._formats.manifest import StoredLeaf
from pertinax._formats.ocdbt import (
    MANIFEST_FILE,
    EncodedDatabase,
    Reference,
    Value,
    encode_database,
)
from pertinax._formats.zarr.array import chunk_key, metadata_key
from pertinax._formats.zarr.text import ArraySpec, encode_metadata
from pertinax._plan.boxes import Shape
from pertinax._plan.chunks import grid_shape, index_of

__all__ = ["MANIFEST_FILE", "encode_arrays"]


def encode_arrays(
    leaves: Sequence[StoredLeaf], receipts: Sequence[Receipt], *, data_file: str, offset: int
) -> EncodedDatabase:
    """A database of one version, whose nodes will lie at `offset` of `data_file`."""
    return encode_database(
        _entries(leaves, receipts, data_file),
        data_file=data_file,
        offset=offset,
        commit_time_ns=time.time_ns(),
        uuid=uuid.uuid4().bytes,
    )


def _entries(
    leaves: Sequence[StoredLeaf], receipts: Sequence[Receipt], file: str
) -> list[tuple[bytes, Value]]:
    """Every array's metadata and every chunk; keys in byte order."""
    arrays = [leaf for leaf in leaves if leaf.codec != "none"]
    specs: list[ArraySpec] = [(a.shape, a.chunk_shape, a.storage_dtype, a.codec) for a in arrays]
    entries: list[tuple[bytes, Value]] = [
        (_key_bytes(metadata_key("zarr", leaf.name)), text)
        for leaf, text in zip(arrays, encode_metadata("zarr", specs), strict=True)
    ]
    alone: dict[tuple[Shape, Shape], str | None] = {}  # what follows the name of an only chunk
    for receipt in receipts:
        leaf = leaves[receipt.piece.leaf]
        layout = (leaf.shape, leaf.chunk_shape)
        if layout not in alone:
            alone[layout] = _only_chunk(grid_shape(*layout))
        suffix = alone[layout]
        if suffix is None:
            key = chunk_key("zarr", leaf.name, index_of(receipt.piece.ordinal, grid_shape(*layout)))
        else:
            key = f"{leaf.name}/{suffix}" if leaf.name else suffix
        entries.append((_key_bytes(key), Reference(file, receipt.offset, receipt.length)))
    entries.sort(key=lambda entry: entry[0])
    return entries


def _only_chunk(grid: Shape) -> str | None:
    """The key of the only chunk of an array without a name; None if there are several."""
    return chunk_key("zarr", "", (0,) * len(grid)) if max(grid, default=1) == 1 else None


def _key_bytes(key: str) -> bytes:
    """Text from the file system may hold bytes that are no UTF-8; they come back as they were."""
    return key.encode("utf-8", "surrogateescape")
