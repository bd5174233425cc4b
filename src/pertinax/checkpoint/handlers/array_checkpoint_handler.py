# SPDX-License-Identifier: Apache-2.0
"""The handler for a single array.

Knows its name and its args. The files are the engine's: an item whose only leaf has a directory of
its own.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from etils import epath

from pertinax._core.options import SaveOptions
from pertinax.checkpoint._adapt.arrays import restore_array
from pertinax.checkpoint._adapt.leaf_handlers import Settings
from pertinax.checkpoint._adapt.meeting import Meeting
from pertinax.checkpoint._adapt.saving import begin_write, hold
from pertinax.checkpoint._adapt.threads import run_coroutine
from pertinax.checkpoint.checkpoint_args import CheckpointArgs, register_with_handler
from pertinax.checkpoint.future import Future
from pertinax.checkpoint.handlers.async_checkpoint_handler import AsyncCheckpointHandler
from pertinax.checkpoint.type_handlers import RestoreArgs, SaveArgs
from pertinax.errors import UnsupportedLeaf

CHECKPOINT_NAME = "checkpoint"


class ArrayCheckpointHandler(AsyncCheckpointHandler):
    """Saves an array of JAX or numpy, or a number, in a directory `checkpoint_name` of the item."""

    def __init__(self, checkpoint_name: str | None = None) -> None:
        self._checkpoint_name = checkpoint_name or CHECKPOINT_NAME

    async def async_save(
        self,
        directory: epath.Path,
        item: Any = None,
        save_args: SaveArgs | None = None,
        args: "ArraySaveArgs | None" = None,
    ) -> list[Future] | None:
        """Hold the array's bytes and begin to write them.

        Raises `TypeError` for anything else than an array or a number.
        """
        if isinstance(item, CheckpointArgs):
            raise ValueError(f"pass {type(item).__name__} with its keyword: args=...")
        given = args if args is not None else ArraySaveArgs(item, save_args)
        if not isinstance(given.item, np.ndarray | np.number | jax.Array | int | float):
            raise TypeError(f"Unsupported type: {type(given.item)} is no array and no number")
        name = self._checkpoint_name
        options = SaveOptions(layout="directory+zarr2", taken_name=None)
        try:
            args_tree = {name: given.save_args or SaveArgs()}
            future = await begin_write(
                directory,
                Meeting(),
                lambda topology: hold(
                    {name: given.item},
                    args_tree,
                    options,
                    Settings(use_ocdbt=False),
                    topology=topology,
                ),
            )
        except UnsupportedLeaf as error:
            raise TypeError(f"Unsupported type: {error}") from error
        return [future]

    def save(self, directory: epath.Path, *args: Any, **kwargs: Any) -> None:
        """As `async_save`, and wait for the files."""
        for future in run_coroutine(self.async_save(directory, *args, **kwargs)) or ():
            future.result()

    def restore(
        self,
        directory: epath.Path,
        item: Any = None,
        restore_args: RestoreArgs | None = None,
        args: "ArrayRestoreArgs | None" = None,
    ) -> Any:
        """The array as `restore_args` ask for it: without any an array of numpy, even of a number.

        Raises `FileNotFoundError` if it is not there. `item` means nothing.
        """
        if isinstance(item, CheckpointArgs):
            raise ValueError(f"pass {type(item).__name__} with its keyword: args=...")
        given = args if args is not None else ArrayRestoreArgs(restore_args=restore_args)
        return restore_array(directory, self._checkpoint_name, given.restore_args or RestoreArgs())


@register_with_handler(ArrayCheckpointHandler, for_save=True)
@dataclasses.dataclass
class ArraySaveArgs(CheckpointArgs):
    """An array to save; `save_args` may give it another dtype, or smaller chunks."""

    item: Any
    save_args: SaveArgs | None = None


@register_with_handler(ArrayCheckpointHandler, for_restore=True)
@dataclasses.dataclass
class ArrayRestoreArgs(CheckpointArgs):
    """Restores an array; `item` means nothing. Not to be mistaken for the args of a leaf of a tree,
    which `restore_args` may be.
    """

    item: Any = None
    restore_args: RestoreArgs | None = None
