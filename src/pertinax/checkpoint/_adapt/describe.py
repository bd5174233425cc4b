# SPDX-License-Identifier: Apache-2.0
"""Describing: the leaves of a stored tree as metadata of the mirrored API.

Knows stored leaves and the classes that speak of them. Reads no array.
"""

from typing import Any

from etils import epath

from pertinax._formats.manifest import StoredLeaf
from pertinax._formats.metadata.tree_metadata import TREE_FILE
from pertinax._formats.zarr.dtypes import numpy_dtype
from pertinax.checkpoint._adapt.absent import has_layouts
from pertinax.checkpoint._adapt.leaf_handlers import STOCK, Settings
from pertinax.checkpoint._adapt.old_values import DEFAULT_LAYOUT, OldLayout
from pertinax.checkpoint._adapt.stored import StoredTree, open_tree
from pertinax.checkpoint.metadata.sharding import ShardingMetadata, from_serialized_string
from pertinax.checkpoint.metadata.value import (
    ArrayMetadata,
    Metadata,
    ScalarMetadata,
    StorageMetadata,
    StringMetadata,
)
from pertinax.errors import CheckpointNotFound
from pertinax.typing import PathLike

_ARRAYS = ("jax", "key", "numpy", "bytes")


def describe_tree(
    directory: PathLike, old: OldLayout = DEFAULT_LAYOUT, settings: Settings = STOCK
) -> Any:
    """Dicts and lists with the metadata of each leaf; empty containers stand for themselves.

    Leaves of the program's own type handlers are described by these. Raises `FileNotFoundError` if
    there is no tree.
    """
    stored = _open(directory, old, settings)
    return stored.nest(describe_all(stored, epath.Path(directory)))


def _open(
    directory: PathLike, old: OldLayout = DEFAULT_LAYOUT, settings: Settings = STOCK
) -> StoredTree:
    stored = open_tree(directory, old, settings)
    opened = stored.opened
    if not opened.manifest.typed or opened.store.stat(f"{opened.directory}/{TREE_FILE}") is None:
        raise CheckpointNotFound(
            2, f"Metadata file (named {TREE_FILE}) does not exist", str(directory)
        )
    return stored


def describe_all(stored: StoredTree, place: epath.Path) -> list[Metadata]:
    """The metadata of every leaf; of values that an old release kept elsewhere, but the name."""
    aggregated = stored.opened.manifest.aggregated
    placed = has_layouts(stored.opened)
    theirs = stored.describe_theirs()
    return [
        theirs[i]
        if i in theirs
        else Metadata(leaf.name, place)
        if i in aggregated
        else _describe(leaf, place, placed=placed)
        for i, leaf in enumerate(stored.leaves)
    ]


def describe_leaves(directory: PathLike) -> dict[tuple[str, ...], Metadata]:
    """The metadata of each leaf under its keys as text. Raises as `describe_tree`."""
    stored = _open(directory)
    every = describe_all(stored, epath.Path(directory))
    return {
        name.keys: every[slot]
        for name, slot in zip(stored.names, stored.slots, strict=True)
        if slot is not None
    }


def _describe(leaf: StoredLeaf, place: epath.Path, *, placed: bool) -> Metadata:
    if leaf.codec == "none":
        return (
            Metadata(leaf.name, place)
            if leaf.kind == "foreign"
            else StringMetadata(leaf.name, place)
        )
    dtype = numpy_dtype(leaf.dtype)
    if leaf.kind not in _ARRAYS:
        return ScalarMetadata(leaf.name, place, dtype=dtype)
    storage = StorageMetadata(leaf.chunk_shape)
    layout = _layout(leaf.sharding) if placed else None
    return ArrayMetadata(leaf.name, place, leaf.shape, layout, dtype, storage)


def _layout(text: str | None) -> ShardingMetadata | None:
    """None for layouts that are unknown: one of them must not hide what is known of the others."""
    if text is None:
        return None
    try:
        return from_serialized_string(text)
    except (ValueError, NotImplementedError):
        return None
