"""The handler for values that JSON can say.

Knows one small file. Knows nothing of arrays.
"""

import dataclasses
import json
from typing import Any

from etils import epath

from pertinax._core.open import read_file
from pertinax._core.places import locate
from pertinax._formats.item import write_file
from pertinax._store.contract import Store
from pertinax.checkpoint._adapt.saving import make_dirs
from pertinax.checkpoint._adapt.stored import check_beside
from pertinax.checkpoint._adapt.threads import run_coroutine, start
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

    async def async_save(
        self, directory: epath.Path, item: Any = None, args: "JsonSaveArgs | None" = None
    ) -> list[Future] | None:
        """Write the value down, and begin to put it into its file.

        Raises `TypeError` for what JSON cannot say.
        """
        if isinstance(item, CheckpointArgs):
            raise ValueError(f"pass {type(item).__name__} with its keyword: args=...")
        text = json.dumps(item if args is None else args.item)
        store, path = locate(directory)
        return [start(lambda: self._write(store, path, text.encode()), "pertinax-write-json")]

    def save(self, directory: epath.Path, *args: Any, **kwargs: Any) -> None:
        """As `async_save`, and wait for the file."""
        for future in run_coroutine(self.async_save(directory, *args, **kwargs)) or ():
            future.result()

    def _write(self, store: Store, path: str, text: bytes) -> None:
        make_dirs(store, path)
        file = f"{path}/{self._filename}"
        if store.stat(file) is not None:
            store.remove_file(file)
        write_file(store, file, text)

    def restore(
        self, directory: epath.Path, item: Any = None, args: "JsonRestoreArgs | None" = None
    ) -> Any:
        """The value.

        Raises `FileNotFoundError` if it is not there, `CorruptCheckpoint` if it is not what was
        saved.
        """
        store, path = locate(directory)
        if store.stat(f"{path}/{self._filename}") is None:
            raise FileNotFoundError(2, "no such file", f"{path}/{self._filename}")
        check_beside(store, path, self._filename)
        return json.loads(read_file(store, path, self._filename))


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
