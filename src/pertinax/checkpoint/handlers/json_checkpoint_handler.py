# SPDX-License-Identifier: Apache-2.0
"""The handler for values that JSON can say.

Knows how such a value becomes text. Knows nothing of files or arrays.
"""

import contextvars
import dataclasses
import json
from concurrent.futures import Future as Write
from typing import Any

from etils import epath

from pertinax.checkpoint._adapt.text_file import TextFile, one_thread
from pertinax.checkpoint._adapt.threads import run_coroutine
from pertinax.checkpoint.checkpoint_args import CheckpointArgs, register_with_handler
from pertinax.checkpoint.future import Future
from pertinax.checkpoint.handlers.async_checkpoint_handler import AsyncCheckpointHandler
from pertinax.checkpoint.options import MultiprocessingOptions

METADATA_FILE = "metadata"


class JsonCheckpointHandler(AsyncCheckpointHandler):
    """Saves dicts, lists, text, numbers, booleans and None.

    Tuples come back as lists, and keys as text.
    """

    def __init__(
        self,
        filename: str | None = None,
        *,
        multiprocessing_options: MultiprocessingOptions | None = None,
    ) -> None:
        self._filename = filename or METADATA_FILE
        self._file = TextFile(self._filename, multiprocessing_options)
        self._executor = one_thread("json_ch")
        self._closed = False

    def _save_fn(self, x: Any, directory: epath.Path) -> int:
        """Write `x`. Runs on the thread of the handler; a subclass may do it its own way."""
        return self._file.write(directory, json.dumps(x)) if self._file.is_ours else 0

    async def async_save(
        self, directory: epath.Path, item: Any = None, args: "JsonSaveArgs | None" = None
    ) -> list[Future] | None:
        """Take the value as it is now, and begin to write it; the future raises `TypeError` for
        what JSON cannot say.

        Raises `ValueError` for args that are not passed as such, or if nothing is given: to save
        null, say `JsonSaveArgs(None)`.
        """
        if isinstance(item, CheckpointArgs):
            raise ValueError(
                f"Make sure to specify kwarg name `args=` for an instance of {type(item).__name__}"
            )
        if args is not None:
            item = args.item
        elif item is None:
            raise ValueError("there is nothing to save: JsonSaveArgs(None) saves null")
        try:
            value = json.loads(json.dumps(item))  # the program may change its own from now on
        except (TypeError, ValueError, RecursionError) as error:
            failed: Write[int] = Write()
            failed.set_exception(error)
            return [failed]
        inside = contextvars.copy_context()  # it is part of an operation, on its thread too
        return [self._executor.submit(inside.run, self._save_fn, value, directory)]

    def save(self, directory: epath.Path, *args: Any, **kwargs: Any) -> None:
        """As `async_save`, and wait for the file."""
        for future in run_coroutine(self.async_save(directory, *args, **kwargs)) or ():
            future.result()

    def restore(
        self, directory: epath.Path, item: Any = None, args: "JsonRestoreArgs | None" = None
    ) -> Any:
        """The value.

        Raises `FileNotFoundError` if it is not there, `CorruptCheckpoint` if it is not what was
        saved.
        """
        return json.loads(self._file.read(directory))

    def close(self) -> None:
        """Wait for what is being written. Nothing can be saved afterwards; restoring works."""
        self._closed = True
        self._executor.shutdown()

    def reopen(self) -> None:
        """Undo `close`: a manager does it with handlers that another has closed."""
        if self._closed:
            self._closed = False
            self._executor = one_thread("json_ch")


@register_with_handler(JsonCheckpointHandler, for_save=True)
@dataclasses.dataclass
class JsonSaveArgs(CheckpointArgs):
    """A value to save."""

    item: Any


@register_with_handler(JsonCheckpointHandler, for_restore=True)
@dataclasses.dataclass
class JsonRestoreArgs(CheckpointArgs):
    """Restores a value; `item` means nothing."""

    item: Any = None
