# SPDX-License-Identifier: Apache-2.0
"""Old items: what the mirrored API does with values that were kept in one file, and with trees of
which nobody recorded the types.

Knows the API's rules for them, which are looser than for others: types that are asked for mean
little, and a target may be a part of the tree. The reading itself is the engine's.
"""

import dataclasses
import math
from typing import Any, Final, NamedTuple

import jax
import numpy as np
from jax.sharding import Sharding

from pertinax._core.open import Opened, open_item, read_foreign
from pertinax._device.wishes import Wish
from pertinax._formats.detect import AGGREGATE_FILE
from pertinax._formats.ledger import LEDGER_FILE
from pertinax._formats.manifest import StoredLeaf
from pertinax._store.contract import Store
from pertinax.checkpoint._adapt.wishes import Translator, Wanted, given_sharding
from pertinax.checkpoint.type_handlers import (
    ArrayRestoreArgs,
    RestoreArgs,
    default_restore_type,
)
from pertinax.errors import NotACheckpoint

_NUMBERS: Final = ("int", "float", "bool", "complex")


class OldLayout(NamedTuple):
    """What a handler was told of items without `_METADATA`.

    Attributes:
        aggregate_file: the file in which an old release kept the tree.
        by_directories: where that is missing too, make a tree of the names of directories.
    """

    aggregate_file: str = AGGREGATE_FILE
    by_directories: bool = False


DEFAULT_LAYOUT: Final = OldLayout()


def open_old(store: Store, path: str, layout: OldLayout) -> Opened | None:
    """An item without `_METADATA`; None if it is none that an old release could have written."""
    if layout.by_directories and store.stat(f"{path}/{LEDGER_FILE}") is not None:
        return open_item(store, path, path, ours=True)
    try:
        manifest = read_foreign(store, path, **layout._asdict())
    except NotACheckpoint:
        return None
    return Opened(store, path, path, manifest)


def is_old(opened: Opened) -> bool:
    """Whether the looser rules hold."""
    return bool(opened.manifest.aggregated) or not opened.manifest.typed


def want_untyped(translator: Translator, leaf: StoredLeaf, args: RestoreArgs) -> Wanted:
    """A leaf with files of its own, of which nobody recorded the type: the args decide."""
    if args.restore_type is None:
        args = dataclasses.replace(args, restore_type=default_restore_type(args))
    return translator.want(leaf, args)


def want_aggregated(translator: Translator, leaf: StoredLeaf, args: RestoreArgs) -> Wanted:
    """A leaf whose value was kept with those of others.

    Arrays become arrays of JAX if that is asked for, in the shape and layout of the args; numbers
    stay numbers, and text what it is.
    """
    if leaf.codec == "none" and leaf.kind == "str":
        return Wanted(Wish("any"))
    if leaf.kind == "bytes":
        return Wanted(Wish("bytes"))
    dtype = None if args.dtype is None else np.dtype(args.dtype).name
    if leaf.kind in _NUMBERS or (leaf.kind == "generic" and not _wants_array(args)):
        if dtype is None or leaf.kind == "complex":
            return Wanted(Wish(leaf.kind))
        return Wanted(Wish("generic", dtype), _to_python)
    if leaf.kind == "foreign":
        return translator.want(leaf, args)
    if not _wants_array(args):
        return Wanted(Wish("numpy", dtype))
    shape = getattr(args, "global_shape", None)
    if shape is None or tuple(shape) == leaf.shape or math.prod(shape) != math.prod(leaf.shape):
        return translator.want(leaf, dataclasses.replace(args, restore_type=jax.Array))
    reshaped = _Reshaped(tuple(shape), given_sharding(args))
    return Wanted(Wish("numpy", dtype), reshaped)


def _wants_array(args: RestoreArgs) -> bool:
    return isinstance(args, ArrayRestoreArgs) or args.restore_type in (jax.Array, "jax.Array")


def _to_python(value: Any) -> Any:
    return value.item()


class _Reshaped:
    """Turns an array of numpy into one of JAX, of another shape."""

    def __init__(self, shape: tuple[int, ...], sharding: Sharding | None) -> None:
        self._shape = shape
        self._sharding = sharding

    def __call__(self, value: Any) -> Any:
        return jax.device_put(value.reshape(self._shape), self._sharding)
