# SPDX-License-Identifier: Apache-2.0
"""The handler for trees of arrays and values, with a say in each leaf.

Knows the arguments of the mirrored API, old and new. The work is done by the handler that it wraps.
"""

import dataclasses
from typing import Any

import jax
from etils import epath

from pertinax._formats.detect import AGGREGATE_FILE
from pertinax._formats.metadata.tree_metadata import TREE_FILE
from pertinax.checkpoint._adapt import files
from pertinax.checkpoint._adapt.describe import describe_tree
from pertinax.checkpoint._adapt.old_values import DEFAULT_LAYOUT, OldLayout
from pertinax.checkpoint._adapt.stored import restore_all, restore_into
from pertinax.checkpoint._adapt.telemetry import record_deprecated
from pertinax.checkpoint._adapt.threads import run_coroutine
from pertinax.checkpoint._adapt.transformed import restore_by_function, restore_transformed
from pertinax.checkpoint.checkpoint_args import CheckpointArgs, register_with_handler
from pertinax.checkpoint.future import Future
from pertinax.checkpoint.handlers.async_checkpoint_handler import AsyncCheckpointHandler
from pertinax.checkpoint.handlers.base_pytree_checkpoint_handler import (
    BasePyTreeCheckpointHandler,
    BasePyTreeRestoreArgs,
    BasePyTreeSaveArgs,
)
from pertinax.checkpoint.options import MultiprocessingOptions
from pertinax.checkpoint.tree import get_param_names

_GB = 10**9


class PyTreeCheckpointHandler(AsyncCheckpointHandler):
    """Saves and restores trees; `SaveArgs` and `RestoreArgs` say what shall happen to each leaf."""

    def __init__(
        self,
        aggregate_filename: str | None = None,
        *,
        save_concurrent_gb: float | None = None,
        restore_concurrent_gb: float | None = None,
        use_ocdbt: bool = True,
        use_zarr3: bool = False,
        multiprocessing_options: MultiprocessingOptions | None = None,
        type_handler_registry: Any = None,
        handler_impl: BasePyTreeCheckpointHandler | None = None,
    ) -> None:
        jax.monitoring.record_event("/jax/orbax/pytree_checkpoint_handler/init/ocdbt")
        self._old = OldLayout(aggregate_filename or AGGREGATE_FILE, by_directories=not use_ocdbt)
        self._handler_impl = handler_impl or BasePyTreeCheckpointHandler(
            save_concurrent_bytes=_bytes_of(save_concurrent_gb),
            restore_concurrent_bytes=_bytes_of(restore_concurrent_gb),
            use_ocdbt=use_ocdbt,
            use_zarr3=use_zarr3,
            multiprocessing_options=multiprocessing_options,
            type_handler_registry=type_handler_registry,
        )
        if type(self).get_param_names is not PyTreeCheckpointHandler.get_param_names:
            self._handler_impl.name_leaves_with(self.get_param_names)

    def get_param_names(self, item: Any) -> Any:
        """The name of each leaf of `item`, in a tree of the same structure."""
        return get_param_names(item)

    async def async_save(
        self,
        directory: epath.Path,
        item: Any = None,
        save_args: Any = None,
        args: "PyTreeSaveArgs | None" = None,
    ) -> list[Future] | None:
        """Hold the tree's bytes and begin to write them.

        Raises `ValueError` for an empty tree, a leaf that cannot be stored, or `save_args` of
        another structure.
        """
        _refuse_args_as(item)
        given = args if args is not None else PyTreeSaveArgs(item, save_args)
        return await self._handler_impl.async_save(
            directory,
            args=BasePyTreeSaveArgs(
                given.item,
                given.save_args,
                given.ocdbt_target_data_file_size,
                given.enable_pinned_host_transfer,
            ),
        )

    def save(self, directory: epath.Path, *args: Any, **kwargs: Any) -> None:
        """As `async_save`, and wait for the files."""
        for future in run_coroutine(self.async_save(directory, *args, **kwargs)) or ():
            future.result()

    def restore(
        self,
        directory: epath.Path,
        item: Any = None,
        restore_args: Any = None,
        transforms: Any = None,
        transforms_default_to_original: bool = True,
        legacy_transform_fn: Any = None,
        args: "PyTreeRestoreArgs | None" = None,
    ) -> Any:
        """The tree in `directory`: like the item if one is given, else dicts and lists.

        With `transforms={}` the item may be part of the tree; what it has beside that stays as it
        is. Raises `FileNotFoundError` if there is no tree, `ValueError` if it differs from the
        item, or lacks what a transformation asks for.
        """
        _refuse_args_as(item)
        given = (
            args
            if args is not None
            else PyTreeRestoreArgs(
                item, restore_args, transforms, transforms_default_to_original, legacy_transform_fn
            )
        )
        if given.transforms is not None and given.legacy_transform_fn is not None:
            raise ValueError("Cannot provide both `transforms` and `legacy_transform_fn`.")
        if given.legacy_transform_fn is not None:
            return restore_by_function(
                directory,
                given.item,
                given.restore_args,
                given.legacy_transform_fn,
                old=self._old,
                settings=self._handler_impl.reading_settings(),
            )
        if given.transforms is not None:
            record_deprecated("apply_transformations")
            return self._transformed(directory, given)
        if self._knows_more_of(directory):
            settings = self._handler_impl.reading_settings()
            if given.item is None:
                return restore_all(directory, given.restore_args, old=self._old, settings=settings)
            return restore_into(
                directory, given.item, given.restore_args, old=self._old, settings=settings
            )
        return self._handler_impl.restore(
            directory, args=BasePyTreeRestoreArgs(given.item, given.restore_args)
        )

    def _transformed(self, directory: epath.Path, given: "PyTreeRestoreArgs") -> Any:
        for name in ("item", "restore_args"):
            if getattr(given, name) is None:
                raise ValueError(
                    f"If providing `transforms`, must provide `{name}` matching structure of "
                    "expected result."
                )
        return restore_transformed(
            directory,
            given.item,
            given.restore_args,
            given.transforms,
            default_to_original=given.transforms_default_to_original,
            old=self._old,
            settings=self._handler_impl.reading_settings(),
        )

    def metadata(self, directory: epath.Path) -> Any:
        """Dicts and lists with what is known of each leaf.

        Raises `FileNotFoundError` if there is no tree.
        """
        if self._knows_more_of(directory):
            return describe_tree(directory, self._old, self._handler_impl.reading_settings())
        return self._handler_impl.metadata(directory)

    def _knows_more_of(self, directory: epath.Path) -> bool:
        """Whether what this handler was told of old items helps with this one."""
        if self._old == DEFAULT_LAYOUT:
            return False
        place = epath.Path(directory)
        own = self._old.aggregate_file != AGGREGATE_FILE
        return not files.exists(place / TREE_FILE) or (
            own and files.exists(place / self._old.aggregate_file)
        )

    def finalize(self, directory: epath.Path) -> None:
        """Finish what all processes have written."""
        self._handler_impl.finalize(directory)

    def close(self) -> None:
        """Close the handler that does the work."""
        self._handler_impl.close()


def _bytes_of(gigabytes: float | None) -> int | None:
    return None if gigabytes is None else int(gigabytes * _GB)


def _refuse_args_as(item: Any) -> None:
    if isinstance(item, CheckpointArgs):
        raise ValueError(f"pass {type(item).__name__} with its keyword: args=...")


@register_with_handler(PyTreeCheckpointHandler, for_save=True)
@dataclasses.dataclass
class PyTreeSaveArgs(CheckpointArgs):
    """A tree to save.

    Attributes:
        item: the tree.
        save_args: a tree like it, with a `SaveArgs` for each leaf.
        ocdbt_target_data_file_size: a data file is closed once it exceeds so many bytes; see
            `BasePyTreeSaveArgs`.
        enable_pinned_host_transfer: whether arrays on accelerators come by way of page-locked
            memory, where the device has some. A CPU's arrays are where they are.
    """

    item: Any
    save_args: Any = None
    ocdbt_target_data_file_size: int | None = None
    enable_pinned_host_transfer: bool = True


@register_with_handler(PyTreeCheckpointHandler, for_restore=True)
@dataclasses.dataclass
class PyTreeRestoreArgs(CheckpointArgs):
    """How to restore a tree.

    Attributes:
        item: a tree with the structure that the result shall have, None for that of the checkpoint.
        restore_args: a tree like it, with a `RestoreArgs` for each leaf.
        transforms: `Transform`s by key, or `{}` if the item is but a part of the tree. Only leaves
            that the result needs are read.
        transforms_default_to_original: whether leaves without a transformation are taken from the
            checkpoint, or stay as the item has them.
        legacy_transform_fn: makes of the item, the stored tree and what is known of its leaves the
            tree that shall be restored, and what is known of its leaves.
    """

    item: Any = None
    restore_args: Any = None
    transforms: Any = None
    transforms_default_to_original: bool = True
    legacy_transform_fn: Any = None
