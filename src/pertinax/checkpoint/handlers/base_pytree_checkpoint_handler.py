# SPDX-License-Identifier: Apache-2.0
"""The handler for trees that the other tree handlers build on.

Knows its own args only, no other way to be called. The work is the engine's, reached through
`_adapt`.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from etils import epath

from pertinax._core.foreign import merge_late
from pertinax._core.options import SaveOptions
from pertinax._core.places import locate
from pertinax._core.plans import Plans
from pertinax._formats.layout import LayoutName, layout_name
from pertinax.checkpoint._adapt.describe import describe_tree
from pertinax.checkpoint._adapt.leaf_handlers import Settings
from pertinax.checkpoint._adapt.meeting import Meeting
from pertinax.checkpoint._adapt.saving import begin_write, hold
from pertinax.checkpoint._adapt.stored import restore_all, restore_into
from pertinax.checkpoint._adapt.telemetry import record_merged
from pertinax.checkpoint._adapt.threads import run_coroutine
from pertinax.checkpoint.checkpoint_args import CheckpointArgs, register_with_handler
from pertinax.checkpoint.future import Future
from pertinax.checkpoint.handlers.async_checkpoint_handler import AsyncCheckpointHandler
from pertinax.checkpoint.options import MultiprocessingOptions
from pertinax.checkpoint.tree import get_param_names
from pertinax.errors import UnsupportedLeaf


class BasePyTreeCheckpointHandler(AsyncCheckpointHandler):
    """Saves and restores trees.

    `use_ocdbt` chooses between a database in few files and one file for each chunk, `use_zarr3`
    between versions of Zarr; both are for saving, for checkpoints say of themselves how they are
    kept. The limits bound how many bytes are on their way between memory and disk at a time; what
    is larger by itself goes alone. Arrays that need no copy on their way do not count.

    Leaves whose type has, in `type_handler_registry` (None: that of the program), a handler of the
    program's own are stored and read by that handler; the files that it writes are checksummed
    like ours. All other leaves are stored by the engine.
    """

    def __init__(
        self,
        *,
        save_concurrent_bytes: int | None = None,
        restore_concurrent_bytes: int | None = None,
        use_ocdbt: bool = True,
        use_zarr3: bool = False,
        multiprocessing_options: MultiprocessingOptions | None = None,
        type_handler_registry: Any = None,
        enable_post_merge_validation: bool = True,
    ) -> None:
        self._save_bytes = save_concurrent_bytes
        self._restore_bytes = restore_concurrent_bytes
        # The usual names are the engine's business.
        self._own_names: Callable[[Any], Any] | None = None
        if type(self).get_param_names is not BasePyTreeCheckpointHandler.get_param_names:
            self._own_names = self.get_param_names
        self._meeting = Meeting(multiprocessing_options)
        self._plans = Plans()
        self._layout: LayoutName = layout_name(use_ocdbt=use_ocdbt, use_zarr3=use_zarr3)
        self._settings = Settings(
            registry=type_handler_registry,
            use_ocdbt=use_ocdbt,
            use_zarr3=use_zarr3,
            validate=enable_post_merge_validation,
        )

    def get_param_names(self, item: Any) -> Any:
        """The name of each leaf of `item`, in a tree of the same structure."""
        return get_param_names(item)

    async def async_save(
        self, directory: epath.Path, args: "BasePyTreeSaveArgs"
    ) -> list[Future] | None:
        """Hold the tree's bytes; the future returned is that of the files.

        Raises `ValueError` for an empty tree.
        """
        _check_limit("save_concurrent", self._save_bytes)
        options = SaveOptions(
            layout=self._layout,
            file_bytes=args.ocdbt_target_data_file_size,
            budget_bytes=self._save_bytes,
            pinned=args.enable_pinned_host_transfer,
        )
        settings = dataclasses.replace(
            self._settings,
            concurrent_bytes=self._save_bytes,
            file_bytes=args.ocdbt_target_data_file_size,
            pinned=args.enable_pinned_host_transfer,
        )
        names = None if self._own_names is None else self._own_names(args.item)
        try:
            future = await begin_write(
                directory,
                self._meeting,
                lambda topology: hold(
                    args.item,
                    args.save_args,
                    options,
                    settings,
                    names=names,
                    topology=topology,
                    plans=self._plans,
                ),
            )
        except UnsupportedLeaf as error:
            raise ValueError(f"TypeHandler lookup failed: {error}") from error
        return [future]

    def name_leaves_with(self, get_param_names: Callable[[Any], Any]) -> None:
        """Let a handler around this one decide what leaves are called."""
        self._own_names = get_param_names

    def save(self, directory: epath.Path, *args: Any, **kwargs: Any) -> None:
        """As `async_save`, and wait for the files."""
        for future in run_coroutine(self.async_save(directory, *args, **kwargs)) or ():
            future.result()

    def restore(self, directory: epath.Path, args: "BasePyTreeRestoreArgs | None" = None) -> Any:
        """The tree in `directory`: like `args.item` if given, else dicts and lists.

        Raises `FileNotFoundError` if there is none, `ValueError` if it differs from the item.
        """
        _check_limit("restore_concurrent", self._restore_bytes)
        settings = self.reading_settings()
        if args is None or args.item is None:
            restore_args = None if args is None else args.restore_args
            return restore_all(directory, restore_args, settings=settings)
        return restore_into(directory, args.item, args.restore_args, settings=settings)

    def reading_settings(self) -> Settings:
        """How leaves are read: which type handlers there are, and how many bytes at a time."""
        return dataclasses.replace(self._settings, concurrent_bytes=self._restore_bytes)

    def metadata(self, directory: epath.Path) -> Any:
        """Dicts and lists with what is known of each leaf.

        Raises `FileNotFoundError` if there is no tree.
        """
        return describe_tree(directory, settings=self.reading_settings())

    def finalize(self, directory: epath.Path) -> None:
        """Make one database of what is in several, if that has not been done.

        A save of ours does it itself. Raises `ValueError` for arrays that are not whole, unless
        `enable_post_merge_validation` is false.
        """
        began_s = time.monotonic()
        store, path = locate(directory)
        if store.stat(path) is not None:
            validate = self._settings.validate and not self._settings.use_zarr3
            merge_late(store, path, validate=validate)
        record_merged(time.monotonic() - began_s)


def _check_limit(name: str, limit: int | None) -> None:
    if limit is not None and limit <= 0:
        raise ValueError(f"{name} must be positive, not {limit} bytes")


@register_with_handler(BasePyTreeCheckpointHandler, for_save=True)
@dataclasses.dataclass
class BasePyTreeSaveArgs(CheckpointArgs):
    """A tree to save.

    Attributes:
        item: the tree.
        save_args: a tree like it, with a `SaveArgs` for each leaf.
        ocdbt_target_data_file_size: a data file is closed once it exceeds so many bytes, and no
            chunk is larger; 0: one file, None: one file with chunks of 2 GiB at most. Means nothing
            without OCDBT.
        enable_pinned_host_transfer: whether arrays on accelerators come by way of pinned host
            memory, where the device has some. A CPU's arrays are where they are.
    """

    item: Any
    save_args: Any = None
    ocdbt_target_data_file_size: int | None = None
    enable_pinned_host_transfer: bool = True


@register_with_handler(BasePyTreeCheckpointHandler, for_restore=True)
@dataclasses.dataclass
class BasePyTreeRestoreArgs(CheckpointArgs):
    """How to restore a tree.

    Attributes:
        item: a tree with the structure that the result shall have, None for that of the checkpoint.
        restore_args: a tree like it, with a `RestoreArgs` for each leaf.
    """

    item: Any = None
    restore_args: Any = None
