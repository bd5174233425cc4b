"""Describing: the leaves of a stored tree as metadata of the mirrored API.

Knows stored leaves and the classes that speak of them. Reads no array.
"""

from typing import Any

from etils import epath

from pertinax._formats.manifest import StoredLeaf
from pertinax._formats.zarr.dtypes import numpy_dtype
from pertinax.checkpoint._adapt.stored import open_tree
from pertinax.checkpoint.metadata.sharding import ShardingMetadata, from_serialized_string
from pertinax.checkpoint.metadata.value import (
    ArrayMetadata,
    Metadata,
    ScalarMetadata,
    StorageMetadata,
    StringMetadata,
)
from pertinax.typing import PathLike

_ARRAYS = ("jax", "key", "numpy", "bytes")


def describe_tree(directory: PathLike) -> Any:
    """Dicts and lists with the metadata of each leaf; empty containers stand for themselves.

    Raises `FileNotFoundError` if there is no tree.
    """
    stored = open_tree(directory)
    place = epath.Path(directory)
    return stored.nest([_describe(leaf, place) for leaf in stored.leaves])


def describe_leaves(directory: PathLike) -> dict[tuple[str, ...], Metadata]:
    """The metadata of each leaf under its keys as text. Raises as `describe_tree`."""
    stored = open_tree(directory)
    place = epath.Path(directory)
    return {
        name.keys: _describe(stored.leaves[slot], place)
        for name, slot in zip(stored.names, stored.slots, strict=True)
        if slot is not None
    }


def _describe(leaf: StoredLeaf, place: epath.Path) -> Metadata:
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
    return ArrayMetadata(leaf.name, place, leaf.shape, _layout(leaf.sharding), dtype, storage)


def _layout(text: str | None) -> ShardingMetadata | None:
    """None for layouts that are unknown: one of them must not hide what is known of the others."""
    if text is None:
        return None
    try:
        return from_serialized_string(text)
    except (ValueError, NotImplementedError):
        return None
