# SPDX-License-Identifier: Apache-2.0
"""The manifest: what a checkpoint contains, whichever format it is in.

Knows leaves by name, type and shape, and where each chunk of their bytes lies. Knows nothing of how
a format writes that down (`ledger`, `metadata`, `zarr`, `ocdbt`) nor of live arrays (`_device`).
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pertinax._plan.boxes import Shape
from pertinax._plan.chunks import grid_size
from pertinax._tree.paths import Path
from pertinax._tree.skeleton import Node

LeafKind = Literal[
    "jax", "key", "numpy", "generic", "bool", "int", "float", "complex", "str", "bytes", "foreign"
]
"""What a leaf was in the program that saved it.

`jax` a `jax.Array`; `key` one of typed PRNG keys; `numpy` an array, `generic` a scalar of numpy;
then Python's own;
`foreign` a value that only a type handler of the user can read (Orbax door).
"""

Codec = Literal["raw", "zstd", "shard", "shard+zstd", "flat", "tensorstore", "none"]
"""How a chunk's elements become stored bytes.

`raw` C-order little-endian elements; `zstd` one zstd frame of them; `shard` a Zarr v3
`sharding_indexed` chunk with one inner chunk of raw elements (then 16 bytes of index and a
CRC-32C), `shard+zstd` the same with a zstd frame inside;
`flat` raw elements as well, but chunks are runs of the array's elements in C order, all but the
last of equal length;
`tensorstore` only TensorStore can tell; `none` the leaf has no chunks (its value is in
`Manifest.values`).
"""


class StoredLeaf(NamedTuple):
    """One leaf as stored.

    Attributes:
        path: where it stands in the tree.
        name: its name in the container: Orbax's parameter name, unique within the item.
        kind: what it was in the saving program.
        dtype: name of the dtype that the program sees (`bfloat16`, `float32`, ...; for `key` that
            of the key data).
        shape: its global shape (for `key` that of the key data).
        storage_dtype: name of the dtype in the file; differs from `dtype` where Zarr has no word
            for it.
        chunk_shape: elements of one chunk along each dimension, at least 1 each.
        codec: how chunks are encoded.
        sharding: how it was laid out, as the JSON text that Orbax keeps in `_sharding`; None when
            unknown.
        impl: name of the PRNG implementation of a `key`.
        fill: what an absent chunk means: an element value, or None when every chunk must be there.
        typestr: of a `foreign` leaf, the name of the type handler that wrote it.
    """

    path: Path
    name: str
    kind: LeafKind
    dtype: str = ""
    shape: Shape = ()
    storage_dtype: str = ""
    chunk_shape: Shape = ()
    codec: Codec = "raw"
    sharding: str | None = None
    impl: str | None = None
    fill: Any = None
    typestr: str | None = None


INLINE_FILE = ""
"""The name, in a chunk table, of a file that does not exist: its bytes are `Manifest.inline`.

Small chunks of Orbax's lie inside compressed nodes of its database, so no range of any file holds
them as they are.
"""


@dataclass(frozen=True, slots=True)
class ChunkTable:
    """All chunks of an item, one row each, by columns; rows of one leaf stand together in grid
    order.

    `leaf[i]` position of the leaf, `ordinal[i]` position of the chunk in the leaf's C-order grid,
    `file[i]` position in `files`, `offset[i]` and `length[i]` bytes in that file. `crc` holds one
    CRC-32C per started `BLOCK_BYTES` of each chunk, chunk after chunk, or is None in a checkpoint
    without checksums. `files` are relative to the item.
    """

    files: tuple[str, ...]
    leaf: NDArray[np.int64]
    ordinal: NDArray[np.int64]
    file: NDArray[np.int64]
    offset: NDArray[np.int64]
    length: NDArray[np.int64]
    crc: NDArray[np.uint32] | None

    def __len__(self) -> int:
        return len(self.leaf)


def lacks_chunks(leaves: Sequence[StoredLeaf], chunks: ChunkTable) -> bool:
    """Whether some chunk of some leaf is not in the table."""
    counts = np.bincount(chunks.leaf[chunks.leaf >= 0], minlength=len(leaves))
    stored = ("none", "tensorstore")
    return any(
        leaf.codec not in stored and counts[i] < grid_size(leaf.shape, leaf.chunk_shape)
        for i, leaf in enumerate(leaves)
    )


@dataclass(frozen=True, slots=True)
class FileRecord:
    """Another file, as written: its name relative to the ledger, its length and `file_crc`."""

    name: str
    length: int
    crc: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What one item of a checkpoint contains.

    Attributes:
        source: the format's name as `describe` shows it: `pertinax` (verified) or `orbax`
            (unverified).
        root: the skeleton of the tree.
        leaves: in the order in which `root` has them.
        chunks: where their bytes lie.
        values: leaves that are kept as values: position -> `str`, or `int` too large for an array.
        array_driver: `zarr` or `zarr3`; how to name keys.
        container: `ocdbt` or `directory`.
        files: every other file that a ledger vouches for.
        inline: the bytes of `INLINE_FILE`.
        aggregated: positions of leaves that an old release kept in one file with each other.
        typed: whether the files say what the leaves were; if not, all arrays count as numpy's.
        partial: the item is what one process held: chunks that are not in the table lie elsewhere.
        facts: what else is known, for `describe` (writer, times, save id).
    """

    source: Literal["pertinax", "orbax"]
    root: Node
    leaves: tuple[StoredLeaf, ...]
    chunks: ChunkTable
    values: Mapping[int, Any] = field(default_factory=dict[int, Any])
    array_driver: Literal["zarr", "zarr3"] = "zarr"
    container: Literal["ocdbt", "directory"] = "ocdbt"
    files: tuple[FileRecord, ...] = ()
    inline: bytes = b""
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    aggregated: AbstractSet[int] = frozenset()
    typed: bool = True
    partial: bool = False

    @property
    def verified(self) -> bool:
        """Whether every byte of the checkpoint can be checked."""
        return self.source == "pertinax"
