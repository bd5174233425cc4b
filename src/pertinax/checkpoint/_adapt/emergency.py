# SPDX-License-Identifier: Apache-2.0
"""What the emergency manager hands to the engine: targets, names of steps, notes on the mesh.

Knows the mirrored API's words for these. Knows nothing of saving or restoring.
"""

import json
import logging
import re
from typing import Any, Final, final

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding

from pertinax._core.places import locate
from pertinax._hosts import this_job
from pertinax._steps.naming import Naming, PlainNaming
from pertinax._store.leftovers import join_path
from pertinax._store.publishing import publishing
from pertinax._tree.flatten import flatten
from pertinax._tree.rebuild import refill
from pertinax.checkpoint._adapt.trees import align
from pertinax.checkpoint.experimental.emergency.multihost import runtime_to_distributed_ids
from pertinax.checkpoint.path import step as step_lib
from pertinax.checkpoint.type_handlers import ArrayRestoreArgs, RestoreArgs, SaveArgs

_LOG: Final = logging.getLogger(__name__)
_FOLDER: Final = "process_metadata"
_PROCESSES: Final = "global_process_metadata.json"
_MESH: Final = "mesh_metadata.json"
_NUMBER: Final = re.compile(r"[0-9]+")


@final
class FormatNaming:
    """A format of the program's own, as the engine asks for names."""

    def __init__(self, name_format: step_lib.NameFormat[Any]) -> None:
        self._format = name_format

    def name(self, step: int) -> str:
        """The name that `step` is written under."""
        return self._format.build_name(step)

    def step(self, name: str) -> int | None:
        """The number in `name` that the format writes so."""
        for digits in _NUMBER.findall(name):
            number = int(digits)
            if self._format.build_name(number) == name:
                return number
        return None


def naming_of(name_format: step_lib.NameFormat[Any]) -> Naming:
    """The names of a format; the standard one is the engine's own."""
    if name_format == step_lib.standard_name_format():
        return PlainNaming()
    return FormatNaming(name_format)


def note_mesh(directory: epath.Path, mesh: Mesh) -> None:
    """Write down, once for a root, which device had which place, for tools and for Orbax.

    Restores do not read it. All processes call it.
    """
    store, folder = locate(directory / _FOLDER)
    notes = {
        _PROCESSES: runtime_to_distributed_ids(),
        _MESH: [int(device.id) for device in mesh.devices.flat],
    }

    def write() -> None:
        if store.stat(folder) is not None:
            return
        publish = publishing(store)
        publish.make_dirs(folder)
        for name, numbers in notes.items():
            publish.replace_file(join_path(folder, name), json.dumps(numbers).encode())

    with this_job().begin("create_process_metadata", str(directory)) as talk:
        talk.agree("written", write)


def with_dtypes(item: Any, save_args: Any) -> Any:
    """The tree with its arrays in the dtypes that `save_args` ask for."""
    if save_args is None:
        return item
    flat = flatten(item)
    args = align(item, save_args, "save_args")
    out = [
        value.astype(one.dtype)
        if isinstance(one, SaveArgs) and one.dtype is not None and hasattr(value, "astype")
        else value
        for value, one in zip(flat.leaves, args, strict=True)
    ]
    return refill(item, out)


def target_of(abstract_state: Any, item: Any, restore_args: Any) -> Any:
    """What the engine shall restore into: the item, else the abstract state, with what the restore
    args say of each leaf.
    """
    tree = abstract_state if item is None else item
    flat = flatten(tree)
    args: list[Any] = [None] * len(flat.leaves)
    if restore_args is not None:
        args = align(tree, restore_args, "restore_args")
    return refill(tree, [_wish(leaf, one) for leaf, one in zip(flat.leaves, args, strict=True)])


def _wish(leaf: Any, args: Any) -> Any:
    args = args if isinstance(args, RestoreArgs) else RestoreArgs()
    if args.restore_type is np.ndarray:
        return np.zeros(leaf.shape, args.dtype or leaf.dtype)
    if isinstance(leaf, np.ndarray | np.generic) or not hasattr(leaf, "dtype"):
        return leaf
    dtype = leaf.dtype if args.dtype is None else jnp.dtype(args.dtype)
    shape, sharding = leaf.shape, getattr(leaf, "sharding", None)
    if isinstance(args, ArrayRestoreArgs):
        shape = shape if args.global_shape is None else tuple(args.global_shape)
        if args.mesh is not None and args.mesh_axes is not None:
            sharding = NamedSharding(args.mesh, args.mesh_axes)
        elif args.sharding is not None:
            given: Any = args.sharding
            sharding = given.to_jax_sharding() if hasattr(given, "to_jax_sharding") else given
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
