# SPDX-License-Identifier: Apache-2.0
"""Read whole leaves the plain way: what the engine's reader must agree with.

Knows manifests and chunk codecs. Takes no shortcut.
"""

import math

import numpy as np

from pertinax._formats.manifest import INLINE_FILE, Manifest
from pertinax._formats.zarr.codecs import decode_chunk
from pertinax._formats.zarr.dtypes import numpy_dtype
from pertinax._formats.zarr.tensorstore import read_with_tensorstore
from pertinax._plan.boxes import Box
from pertinax._plan.chunks import chunk_box, grid_shape, index_of
from pertinax._store.contract import Store
from pertinax.errors import CorruptCheckpoint


def read_stored(store: Store, item: str, manifest: Manifest, row: int) -> bytes:
    """The stored bytes of one chunk."""
    table = manifest.chunks
    name = table.files[table.file[row]]
    start, length = int(table.offset[row]), int(table.length[row])
    if name == INLINE_FILE:
        return manifest.inline[start : start + length]
    with store.open(f"{item}/{name}") as reader:
        return reader.read(start, length)


def read_leaf(store: Store, item: str, manifest: Manifest, position: int) -> np.ndarray:
    """All elements of one array leaf."""
    leaf = manifest.leaves[position]
    if leaf.codec == "tensorstore":
        whole = Box.whole(leaf.shape)
        where = {"container": manifest.container, "array_driver": manifest.array_driver}
        return read_with_tensorstore(item, leaf, whole, **where)
    stored = numpy_dtype(leaf.storage_dtype)
    out = np.full(leaf.shape, 0 if leaf.fill is None else leaf.fill, stored)
    grid = grid_shape(leaf.shape, leaf.chunk_shape)
    chunk = np.empty(math.prod(leaf.chunk_shape) * stored.itemsize, np.uint8)
    element = b"" if leaf.fill is None else np.array(leaf.fill, stored).tobytes()
    for row in np.flatnonzero(manifest.chunks.leaf == position):
        data = read_stored(store, item, manifest, int(row))
        try:
            decode_chunk(leaf.codec, data, chunk, fill=element)
        except ValueError as error:
            file = manifest.chunks.files[manifest.chunks.file[row]]
            raise CorruptCheckpoint(str(error), file=file, leaf=leaf.name) from error
        box = chunk_box(
            index_of(int(manifest.chunks.ordinal[row]), grid), leaf.chunk_shape, leaf.shape
        )
        elements = chunk.view(stored).reshape(leaf.chunk_shape)
        out[box.slices] = elements[tuple(slice(0, n) for n in box.shape)]
    native = out.astype(stored.newbyteorder("=")) if stored.byteorder == ">" else out
    return native.view(numpy_dtype(leaf.dtype)) if leaf.dtype else native
