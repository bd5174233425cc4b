# SPDX-License-Identifier: Apache-2.0
"""Single arrays: items that hold one array under a name, from whichever release.

Knows where each release keeps the array and what it says of it. The reading is the engine's.
"""

from dataclasses import replace
from typing import Any

import jax
import numpy as np

from pertinax._core.open import Opened, read_settled
from pertinax._core.places import locate
from pertinax._formats.msgpack import decode, materialize
from pertinax._store.contract import Store
from pertinax.checkpoint._adapt.stored import StoredTree, open_tree
from pertinax.checkpoint._adapt.wishes import given_sharding
from pertinax.checkpoint.type_handlers import ArrayRestoreArgs, RestoreArgs, default_restore_type
from pertinax.errors import CheckpointNotFound, CorruptCheckpoint
from pertinax.typing import PathLike

_ELEMENT = "ELEMENT"
"""What the oldest releases called the array within a file of its own."""


def restore_array(directory: PathLike, name: str, args: RestoreArgs) -> Any:
    """The array under `name` as the args ask for it; an array of numpy if they do not say.

    Raises `FileNotFoundError` if it is not there, `ValueError` if it cannot be had so.
    """
    if args.restore_type is None:
        args = replace(args, restore_type=default_restore_type(args))
    return read_settled(directory, None, lambda: _restore(directory, name, args))


def _restore(directory: PathLike, name: str, args: RestoreArgs) -> Any:
    store, path = locate(directory)
    found = store.stat(f"{path}/{name}")
    if found is not None and not found.is_dir:
        return _converted(_read_packed(store, path, name), args)
    stored = _open(directory, store, path, name)
    paths = [[key.value for key in leaf.path] for leaf in stored.leaves]
    if [name] not in paths:
        raise CheckpointNotFound(2, f"no array {name!r} in this item", path)
    return stored.read([(paths.index([name]), args)])[0]


def _open(directory: PathLike, store: Store, path: str, name: str) -> StoredTree:
    # Other readers than that of arrays need none of this.
    from pertinax._formats.detect import detect
    from pertinax._formats.orbax import read_orbax_array

    if detect(store, path, aside=True).kind in ("pertinax", "orbax"):
        return open_tree(directory)
    return StoredTree(Opened(store, path, path, read_orbax_array(store, path, name)))


def _read_packed(store: Store, path: str, name: str) -> Any:
    with store.open(f"{path}/{name}") as reader:
        tree = materialize(decode(reader.read, reader.length, name), reader.read)
    if not isinstance(tree, dict) or _ELEMENT not in tree:
        raise CorruptCheckpoint("there is no array in it", file=name)
    return tree[_ELEMENT]


def _converted(value: Any, args: RestoreArgs) -> Any:
    """A value of the oldest files, which is no array of the engine's."""
    array = np.asarray(value, args.dtype)
    if isinstance(args.restore_type, type) and issubclass(args.restore_type, int | float | complex):
        return array.item()
    if not isinstance(args, ArrayRestoreArgs):
        return array
    if args.global_shape is not None:
        array = array.reshape(args.global_shape)
    return jax.device_put(array, given_sharding(args))
