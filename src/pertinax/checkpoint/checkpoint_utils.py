"""Targets and what they ask for.

Knows how the leaves of a target become restore args. Knows nothing of files.
"""

from collections.abc import Sequence
from typing import Any, cast

import jax
import numpy as np

from pertinax._tree.flatten import flatten
from pertinax._tree.paths import path_text
from pertinax._tree.rebuild import refill
from pertinax.checkpoint._adapt.trees import MISSING, align
from pertinax.checkpoint.metadata.sharding import ShardingMetadata
from pertinax.checkpoint.metadata.value import ArrayMetadata, ScalarMetadata, StringMetadata
from pertinax.checkpoint.type_handlers import ArrayRestoreArgs, RestoreArgs

STANDARD_ARRAY_TYPES = (int, float, np.ndarray, jax.Array)


def construct_restore_args(
    target: Any, sharding_tree: Any = None, set_global_shape: bool = True
) -> Any:
    """A tree like `target` with the restore args that bring back such leaves.

    Leaves may be arrays, numbers, text, `jax.ShapeDtypeStruct`s, or the metadata of stored leaves.
    `sharding_tree` has a sharding (or its metadata, or None) for each leaf; without it leaves say
    so themselves. Raises `ValueError` for another leaf.

    >>> restore_args = construct_restore_args(abstract_state)
    >>> checkpointer.restore(path, item=abstract_state, restore_args=restore_args)
    """
    flat = flatten(target)
    if sharding_tree is None:
        shardings: Sequence[Any] = [getattr(leaf, "sharding", None) for leaf in flat.leaves]
    else:
        found = align(target, sharding_tree, "sharding_tree")
        shardings = [None if one is MISSING else one for one in found]
    args = [
        _args_of(leaf, sharding, path_text(path), set_global_shape)
        for leaf, sharding, path in zip(flat.leaves, shardings, flat.paths, strict=True)
    ]
    return refill(target, args)


def _args_of(leaf: Any, sharding: Any, path: str, with_shape: bool) -> RestoreArgs:
    if isinstance(leaf, ScalarMetadata):
        return RestoreArgs(type(np.zeros((), leaf.dtype).item()), leaf.dtype)
    if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct | ArrayMetadata):
        return _array_args(leaf, sharding, with_shape)
    if isinstance(leaf, np.ndarray):
        return RestoreArgs(np.ndarray, cast("np.ndarray[Any, Any]", leaf).dtype)
    if isinstance(leaf, int | float | complex | np.number | np.bool_):
        return RestoreArgs(type(leaf), getattr(leaf, "dtype", None))
    if isinstance(leaf, str | StringMetadata):
        return RestoreArgs(str)
    raise ValueError(f"Unsupported type: {type(leaf)} at {path!r}")


def _array_args(leaf: Any, sharding: Any, with_shape: bool) -> RestoreArgs:
    if sharding is None:
        kind = np.ndarray if isinstance(leaf, ArrayMetadata) else None
        return RestoreArgs(kind, leaf.dtype)
    layout = sharding.to_jax_sharding() if isinstance(sharding, ShardingMetadata) else sharding
    shape = tuple(leaf.shape) if with_shape else None
    return ArrayRestoreArgs(
        restore_type=jax.Array, dtype=leaf.dtype, sharding=layout, global_shape=shape
    )
