# SPDX-License-Identifier: Apache-2.0
"""A checkpointer for the state of a training run, in one word.

Knows which handler it stands for, and the words of its calls. Knows nothing else.
"""

from typing import Any

from pertinax.checkpoint.async_checkpointer import AsyncCheckpointer
from pertinax.checkpoint.handlers.standard_checkpoint_handler import (
    StandardCheckpointHandler,
    StandardRestoreArgs,
    StandardSaveArgs,
)
from pertinax.checkpoint.options import AsyncOptions, FileOptions, MultiprocessingOptions
from pertinax.typing import PathLike


class StandardCheckpointer(AsyncCheckpointer):
    """`AsyncCheckpointer(StandardCheckpointHandler())`, called without args classes.

    >>> checkpointer = StandardCheckpointer()
    >>> checkpointer.save("runs/first", state)
    >>> checkpointer.wait_until_finished()
    >>> state = checkpointer.restore("runs/first", state)
    """

    def __init__(
        self,
        *,
        async_options: AsyncOptions | None = None,
        multiprocessing_options: MultiprocessingOptions | None = None,
        file_options: FileOptions | None = None,
        checkpoint_metadata_store: Any = None,
        temporary_path_class: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            StandardCheckpointHandler(multiprocessing_options=multiprocessing_options, **kwargs),
            async_options=async_options,
            multiprocessing_options=multiprocessing_options,
            file_options=file_options,
            checkpoint_metadata_store=checkpoint_metadata_store,
            temporary_path_class=temporary_path_class,
        )

    def save(
        self, directory: PathLike, state: Any, *, save_args: Any = None, force: bool = False
    ) -> None:
        """Begin to save a tree of arrays and numbers.

        Raises `ValueError` if the directory is taken.
        """
        super().save(directory, args=StandardSaveArgs(state, save_args), force=force)

    def restore(self, directory: PathLike, target: Any = None, *, strict: bool = True) -> Any:
        """A tree like `target`, or as it was saved.

        `strict=False` cuts or pads arrays to the target's shapes.
        """
        return super().restore(directory, args=StandardRestoreArgs(target, strict))
