"""The handler for trees that the other tree handlers build on.

Knows its own args only, no other way to be called. The work is the engine's, reached through
`_adapt`.
"""

import dataclasses
import logging
from typing import Any, Final

from etils import epath

from pertinax.checkpoint._adapt.describe import describe_tree
from pertinax.checkpoint._adapt.saving import begin_write, hold
from pertinax.checkpoint._adapt.stored import restore_all, restore_into
from pertinax.checkpoint._adapt.threads import run_coroutine
from pertinax.checkpoint.checkpoint_args import CheckpointArgs, register_with_handler
from pertinax.checkpoint.future import Future
from pertinax.checkpoint.handlers.async_checkpoint_handler import AsyncCheckpointHandler
from pertinax.checkpoint.options import MultiprocessingOptions
from pertinax.checkpoint.tree import get_param_names
from pertinax.errors import UnsupportedLeaf

_LOG: Final = logging.getLogger("pertinax")


class BasePyTreeCheckpointHandler(AsyncCheckpointHandler):
    """Saves and restores trees.

    The limits on bytes in flight are accepted and checked; the engine keeps to budgets of its own.
    Whatever the options say, files are written in the default layout, Zarr v2 inside OCDBT, which
    every reader understands.
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
        if not use_ocdbt or use_zarr3:
            _LOG.warning(
                "layout not supported yet, the default is written use_ocdbt=%s use_zarr3=%s",
                use_ocdbt,
                use_zarr3,
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
        try:
            content = hold(args.item, args.save_args)
        except UnsupportedLeaf as error:
            raise ValueError(f"TypeHandler lookup failed: {error}") from error
        return [begin_write(directory, content)]

    def save(self, directory: epath.Path, *args: Any, **kwargs: Any) -> None:
        """As `async_save`, and wait for the files."""
        for future in run_coroutine(self.async_save(directory, *args, **kwargs)) or ():
            future.result()

    def restore(self, directory: epath.Path, args: "BasePyTreeRestoreArgs | None" = None) -> Any:
        """The tree in `directory`: like `args.item` if given, else dicts and lists.

        Raises `FileNotFoundError` if there is none, `ValueError` if it differs from the item.
        """
        _check_limit("restore_concurrent", self._restore_bytes)
        if args is None or args.item is None:
            return restore_all(directory, None if args is None else args.restore_args)
        return restore_into(directory, args.item, args.restore_args)

    def metadata(self, directory: epath.Path) -> Any:
        """Dicts and lists with what is known of each leaf.

        Raises `FileNotFoundError` if there is no tree.
        """
        return describe_tree(directory)


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
        ocdbt_target_data_file_size: accepted; the engine writes one data file for each process.
        enable_pinned_host_transfer: accepted; the engine chooses how bytes come from a device.
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
