# SPDX-License-Identifier: Apache-2.0
"""Placeholders: texts that stand for leaves whose values lie in files of their own.

Knows how they are spelled, and how the names of directories become a tree of them. Reads no array.
"""

from collections.abc import Iterable
from typing import Any, Final

import jax
import jax.monitoring
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pertinax._formats.aggregate import PLACEHOLDER, placeholder_name
from pertinax._formats.directory.names import RESERVED_NAMES
from pertinax.checkpoint._adapt import files
from pertinax.checkpoint.tree import PyTree

_EVENT: Final = "/jax/orbax/deprecation/inferred_structure"


def leaf_placeholder(name: str) -> str:
    """The text that stands for the leaf of this name."""
    return PLACEHOLDER + name


def leaf_is_placeholder(leaf: Any) -> bool:
    """Whether a leaf is such a text, of today or of the oldest releases."""
    return placeholder_name(leaf) is not None


def name_from_leaf_placeholder(placeholder: str) -> str:
    """The name of the leaf that the text stands for. Raises `ValueError` for any other value."""
    name = placeholder_name(placeholder)
    if name is None:
        raise ValueError(f"{placeholder!r:.80} is no placeholder: it lacks the prefix")
    return name


def all_leaves_are_placeholders(tree: PyTree) -> bool:
    """Whether no leaf of the tree is a value; so it is for a tree without leaves."""
    return all(leaf_is_placeholder(leaf) for leaf in jax.tree.leaves(tree))


def pytree_structure(directory: epath.PathLike) -> PyTree:
    """The tree that the names in an item's directory make, with placeholders for its leaves.

    Dots separate keys; files of the item itself are no leaves. What was a list is a dict. Raises
    `ValueError` if a name is both a leaf and a container of others.
    """
    jax.monitoring.record_event(_EVENT)
    names = (name for name, is_dir in files.children(directory) if not _is_of_item(name, is_dir))
    return _nested(names)


def _is_of_item(name: str, is_dir: bool) -> bool:
    if name == "checkpoint":
        return not is_dir
    return name in RESERVED_NAMES or name.startswith("ocdbt.process_")


def _nested(names: Iterable[str]) -> dict[str, Any]:
    top: dict[str, Any] = {}
    for name in names:
        below: Any = top
        *outer, last = name.split(".")
        for key in outer:
            below = below.setdefault(key, {}) if isinstance(below, dict) else None
        if not isinstance(below, dict) or last in below:
            raise ValueError(f"{name!r} is both a leaf and a container of leaves, or holds one")
        below[last] = leaf_placeholder(name)
    return top


def fully_replicated_host_local_array_to_global_array(arr: jax.Array) -> jax.Array:
    """An array that every device of this process has whole, as one that is replicated over all.

    `pmap` makes such arrays, with a first axis over devices, which is gone in the result; copies
    must be alike. Each process calls it with its own. Raises `ValueError` if a device has no copy,
    or more than one.
    """
    copies = [shard.data for shard in arr.addressable_shards]
    if not arr.is_fully_replicated:
        if any(copy.ndim == 0 or copy.shape[0] != 1 for copy in copies):
            raise ValueError(f"the first axis of {arr.shape} is not that of {len(copies)} devices")
        copies = [copy[0] for copy in copies]
    shape = copies[0].shape
    mesh = Mesh(np.array(jax.devices()), ("x",))
    spec = PartitionSpec(None) if shape else PartitionSpec()
    return jax.make_array_from_single_device_arrays(shape, NamedSharding(mesh, spec), copies)
