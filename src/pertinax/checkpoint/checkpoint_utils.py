"""Targets and what they ask for.

Knows how the leaves of a target become restore args. Knows nothing of files.
"""

from collections.abc import Sequence
from typing import Any, cast

import jax
import numpy as np

from pertinax._tree.flatten import Flat, flatten
from pertinax._tree.paths import Path, path_text
from pertinax._tree.rebuild import refill
from pertinax.checkpoint._adapt.trees import MISSING, align
from pertinax.checkpoint.metadata.value import ArrayMetadata, ScalarMetadata, StringMetadata
from pertinax.checkpoint.type_handlers import ArrayRestoreArgs, RestoreArgs

STANDARD_ARRAY_TYPES = (int, float, np.ndarray, jax.Array)


def construct_restore_args(
    target: Any, sharding_tree: Any = None, set_global_shape: bool = True
) -> Any:
    """A tree like `target` with the restore args that bring back such leaves.

    Leaves may be arrays, numbers, text, `jax.ShapeDtypeStruct`s, or the metadata of stored leaves.
    `sharding_tree` has a sharding (or its metadata, or None) for each leaf; without it leaves say
    so themselves. Metadata stay what they are: the devices are looked up when the leaf is restored.
    Raises `ValueError` for another leaf, numbers of numpy among them.

    >>> restore_args = construct_restore_args(abstract_state)
    >>> checkpointer.restore(path, item=abstract_state, restore_args=restore_args)
    """
    flat = flatten(target)
    for leaf, path in zip(flat.leaves, flat.paths, strict=True):
        if isinstance(leaf, complex | np.generic) and not isinstance(leaf, float):
            raise ValueError(
                f"Unsupported type: {type(leaf)} at {path_text(path)!r}: give a number of Python, "
                "or a RestoreArgs of your own"
            )
    shardings = None
    if sharding_tree is not None:
        found = align(target, sharding_tree, "sharding_tree")
        shardings = [None if one is MISSING else one for one in found]
    return refill(target, restore_args_of(flat, shardings, with_shape=set_global_shape))


def restore_args_of(
    flat: Flat, shardings: Sequence[Any] | None = None, *, with_shape: bool = True
) -> list[RestoreArgs]:
    """The restore args of each leaf of a target that was taken apart already."""
    if shardings is None:
        shardings = [getattr(leaf, "sharding", None) for leaf in flat.leaves]
    return [
        _args_of(leaf, sharding, path, with_shape)
        for leaf, sharding, path in zip(flat.leaves, shardings, flat.paths, strict=True)
    ]


def _args_of(leaf: Any, sharding: Any, path: Path, with_shape: bool) -> RestoreArgs:
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
    raise ValueError(f"Unsupported type: {type(leaf)} at {path_text(path)!r}")


def _array_args(leaf: Any, sharding: Any, with_shape: bool) -> RestoreArgs:
    if sharding is None and not isinstance(leaf, jax.Array):
        kind = np.ndarray if isinstance(leaf, ArrayMetadata) else None
        return RestoreArgs(kind, leaf.dtype)
    shape = tuple(leaf.shape) if with_shape else None
    return ArrayRestoreArgs(
        restore_type=jax.Array, dtype=leaf.dtype, sharding=sharding, global_shape=shape
    )
