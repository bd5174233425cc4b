# SPDX-License-Identifier: Apache-2.0
"""The handler for the state of a training run: a tree of arrays and numbers, restored into a tree
like it.

Knows which leaves it takes and what a target asks for. The work is done by the handler that it
wraps.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from etils import epath

from pertinax._core.plans import Plans
from pertinax._formats.metadata.sharding import SHARDING_FILE
from pertinax._plan.topology import Topology
from pertinax._tree.flatten import Flat, flatten
from pertinax._tree.paths import Path, path_text
from pertinax._tree.quiet import collector_paused
from pertinax.checkpoint._adapt import files
from pertinax.checkpoint._adapt.leaf_handlers import NoTypeHandler
from pertinax.checkpoint._adapt.meeting import Meeting
from pertinax.checkpoint._adapt.saving import Held, begin_write, hold
from pertinax.checkpoint._adapt.stored import restore_flat
from pertinax.checkpoint._adapt.threads import run_coroutine
from pertinax.checkpoint.checkpoint_args import CheckpointArgs, register_with_handler
from pertinax.checkpoint.checkpoint_utils import restore_args_of
from pertinax.checkpoint.future import Future
from pertinax.checkpoint.handlers.async_checkpoint_handler import AsyncCheckpointHandler
from pertinax.checkpoint.handlers.pytree_checkpoint_handler import (
    PyTreeCheckpointHandler,
    PyTreeRestoreArgs,
)
from pertinax.checkpoint.metadata.value import ArrayMetadata
from pertinax.checkpoint.options import MultiprocessingOptions
from pertinax.checkpoint.type_handlers import ArrayRestoreArgs, RestoreArgs, SaveArgs
from pertinax.errors import UnsupportedLeaf

_TARGETS = (
    *(int, float, complex, np.number, np.bool_),
    *(np.ndarray, jax.Array, jax.ShapeDtypeStruct),
)


class StandardCheckpointHandler(AsyncCheckpointHandler):
    """Saves trees of arrays and numbers; restores them as a target asks."""

    def __init__(
        self,
        *,
        save_concurrent_gb: float | None = 96,
        restore_concurrent_gb: float | None = 96,
        multiprocessing_options: MultiprocessingOptions | None = None,
    ) -> None:
        self._meeting = Meeting(multiprocessing_options)
        self._plans = Plans()
        self._impl = PyTreeCheckpointHandler(
            save_concurrent_gb=save_concurrent_gb,
            restore_concurrent_gb=restore_concurrent_gb,
            multiprocessing_options=multiprocessing_options,
        )

    async def async_save(
        self,
        directory: epath.Path,
        item: Any = None,
        save_args: Any = None,
        args: "StandardSaveArgs | None" = None,
    ) -> list[Future] | None:
        """Hold the tree's bytes and begin to write them.

        Raises `ValueError` for what cannot be saved.
        """
        given = _given(item, args, StandardSaveArgs(item, save_args))
        if given.item is None:
            raise ValueError("Must provide item to save")
        if given.save_args is not None:
            _check_aggregate(given.save_args)

        def take(topology: Topology) -> Held:
            try:
                held = hold(given.item, given.save_args, topology=topology, plans=self._plans)
            except (UnsupportedLeaf, NoTypeHandler) as error:
                raise ValueError(f"Unsupported type: {error}") from error
            for leaf, value in zip(held.content.leaves, held.values, strict=True):
                if not isinstance(value, _TARGETS):
                    raise _unsupported(type(value), leaf.path, "saved")
            return held

        return [await begin_write(directory, self._meeting, take)]

    def save(self, directory: epath.Path, *args: Any, **kwargs: Any) -> None:
        """As `async_save`, and wait for the files."""
        for future in run_coroutine(self.async_save(directory, *args, **kwargs)) or ():
            future.result()

    def restore(
        self, directory: epath.Path, item: Any = None, args: "StandardRestoreArgs | None" = None
    ) -> Any:
        """The tree in `directory`: as the target asks, or dicts and lists as it was saved.

        Raises `FileNotFoundError` if there is no tree, `ValueError` if it does not fit the target.
        """
        given = _given(item, args, StandardRestoreArgs(item))
        if given.item is None:
            return self._impl.restore(directory, args=self._untargeted(directory))
        flat = flatten(given.item)
        _check_leaves(flat)
        with collector_paused(len(flat.leaves)):
            wanted = restore_args_of(flat)
            if not given.strict:
                wanted = [_loosen(one) for one in wanted]
            return restore_flat(directory, given.item, flat, wanted)

    def _untargeted(self, directory: epath.Path) -> PyTreeRestoreArgs:
        """Arrays of which no layout is stored come back as numpy arrays."""
        if files.exists(epath.Path(directory) / SHARDING_FILE):
            return PyTreeRestoreArgs()

        def args(leaf: Any) -> RestoreArgs:
            unplaced = type(leaf) is ArrayMetadata and leaf.sharding is None
            return RestoreArgs(restore_type=np.ndarray if unplaced else None)

        known = jax.tree.map(args, self.metadata(directory))
        return PyTreeRestoreArgs(restore_args=known)

    def metadata(self, directory: epath.Path) -> Any:
        """Dicts and lists with what is known of each leaf.

        Raises `FileNotFoundError` if there is no tree.
        """
        return self._impl.metadata(directory)

    def finalize(self, directory: epath.Path) -> None:
        """Finish what all processes have written."""
        self._impl.finalize(directory)

    def close(self) -> None:
        """Close the handler that does the work."""
        self._impl.close()


def _given(item: Any, args: Any, otherwise: Any) -> Any:
    if isinstance(item, CheckpointArgs):
        raise ValueError(f"pass {type(item).__name__} with its keyword: args=...")
    return otherwise if args is None else args


def _check_leaves(flat: Flat) -> None:
    for leaf, path in zip(flat.leaves, flat.paths, strict=True):
        if not isinstance(leaf, _TARGETS):
            raise _unsupported(type(leaf), path, "restored")


def _unsupported(kind: type, path: Path, what: str) -> ValueError:
    return ValueError(
        f"Unsupported type: {kind} at {path_text(path)!r}: arrays and numbers can be {what} here, "
        f"and the PyTree handler takes text as well"
    )


def _check_aggregate(save_args: Any) -> None:
    for one in flatten(save_args).leaves:
        if isinstance(one, SaveArgs) and one.aggregate:
            raise ValueError("Unsupported option: SaveArgs.aggregate")


def _loosen(args: Any) -> Any:
    return dataclasses.replace(args, strict=False) if isinstance(args, ArrayRestoreArgs) else args


@register_with_handler(StandardCheckpointHandler, for_save=True)
@dataclasses.dataclass
class StandardSaveArgs(CheckpointArgs):
    """A tree of arrays and numbers to save.

    Attributes:
        item: the tree.
        save_args: a tree like it, with a `SaveArgs` for each leaf.
    """

    item: Any
    save_args: Any = None


@register_with_handler(StandardCheckpointHandler, for_restore=True)
@dataclasses.dataclass
class StandardRestoreArgs(CheckpointArgs):
    """How to restore a tree.

    Attributes:
        item: the target: arrays, numbers or `jax.ShapeDtypeStruct`s; None for the tree as it was
            saved.
        strict: whether an array of another shape than the target's is an error; if not, it is cut
            or padded.
    """

    item: Any = None
    strict: bool = True
