# SPDX-License-Identifier: Apache-2.0
"""The handler for messages of protocol buffers.

Knows how a message becomes text and comes back. Knows nothing of files. The package `protobuf` is
imported when a message is saved or restored.
"""

import contextvars
import dataclasses
from typing import Any

from etils import epath

from pertinax.checkpoint._adapt.text_file import TextFile, one_thread
from pertinax.checkpoint._adapt.threads import run_coroutine
from pertinax.checkpoint.checkpoint_args import CheckpointArgs, register_with_handler
from pertinax.checkpoint.future import Future
from pertinax.checkpoint.handlers.async_checkpoint_handler import AsyncCheckpointHandler
from pertinax.checkpoint.options import MultiprocessingOptions


class ProtoCheckpointHandler(AsyncCheckpointHandler):
    """Saves a message in the text format of protocol buffers.

    >>> checkpointer = Checkpointer(ProtoCheckpointHandler())
    >>> checkpointer.save("runs/config", args=ProtoSave(message))
    >>> message = checkpointer.restore("runs/config", args=ProtoRestore(type(message)))
    """

    def __init__(
        self,
        filename: str = "proto.pbtxt",
        *,
        multiprocessing_options: MultiprocessingOptions | None = None,
    ) -> None:
        self._filename = filename
        self._file = TextFile(filename, multiprocessing_options)
        self._executor = one_thread("proto_ch")
        self._closed = False

    def _save_fn(self, text: str, directory: epath.Path) -> int:
        return self._file.write(directory, text) if self._file.is_ours else 0

    async def async_save(
        self, directory: epath.Path, item: Any = None, args: "ProtoSaveArgs | None" = None
    ) -> list[Future] | None:
        """Take the message as it is now, and begin to write it.

        Raises `ValueError` for args that are not passed as such, `TypeError` for what is no
        message.
        """
        from google.protobuf import text_format
        from google.protobuf.message import Message

        _refuse_args(item)
        message = item if args is None else args.item
        if not isinstance(message, Message):
            raise NotAMessage(f"not a message of protocol buffers: {type(message).__qualname__}")
        text = text_format.MessageToString(message)
        inside = contextvars.copy_context()  # it is part of an operation, on its thread too
        return [self._executor.submit(inside.run, self._save_fn, text, directory)]

    def save(self, directory: epath.Path, *args: Any, **kwargs: Any) -> None:
        """As `async_save`, and wait for the file."""
        for future in run_coroutine(self.async_save(directory, *args, **kwargs)) or ():
            future.result()

    def restore(
        self, directory: epath.Path, item: Any = None, args: "ProtoRestoreArgs | None" = None
    ) -> Any:
        """The message, of the class `item`, or of that in `args`.

        Raises `ValueError` without a class, `FileNotFoundError` if nothing is there,
        `CorruptCheckpoint` if it is not what was saved, and protobuf's `ParseError` for another
        message.
        """
        from google.protobuf import text_format

        _refuse_args(item)
        message_cls = item if args is None else args.item
        if message_cls is None:
            raise ValueError(
                "Must provide `item` in order to deserialize proto to the correct type: the class "
                "of the message"
            )
        if not isinstance(message_cls, type):
            raise TypeError(f"the class of the message is needed, not {type(message_cls).__name__}")
        return text_format.Parse(self._file.read(directory), message_cls())

    def close(self) -> None:
        """Wait for what is being written. Nothing can be saved afterwards; restoring works."""
        self._closed = True
        self._executor.shutdown()

    def reopen(self) -> None:
        """Undo `close`: a manager does it with handlers that another has closed."""
        if self._closed:
            self._closed = False
            self._executor = one_thread("proto_ch")


class NotAMessage(TypeError, AttributeError):
    """Only messages can be saved."""


def _refuse_args(item: Any) -> None:
    if isinstance(item, CheckpointArgs):
        raise ValueError(
            f"Make sure to specify kwarg name `args=` for an instance of {type(item).__name__}"
        )


@register_with_handler(ProtoCheckpointHandler, for_save=True)
@dataclasses.dataclass
class ProtoSaveArgs(CheckpointArgs):
    """A message to save."""

    item: Any


@register_with_handler(ProtoCheckpointHandler, for_restore=True)
@dataclasses.dataclass
class ProtoRestoreArgs(CheckpointArgs):
    """The class of the message to restore."""

    item: type[Any]
