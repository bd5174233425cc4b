# SPDX-License-Identifier: Apache-2.0
"""Handlers for whole trees in one file, as checkpoints had them before 0.5.16.

Knows one file. Items are not written this way any more; programs may be.
"""

import abc
from typing import Any

from etils import epath

from pertinax._core.places import locate
from pertinax._formats.item import write_file
from pertinax._formats.msgpack import decode, encode, materialize
from pertinax.checkpoint import multihost
from pertinax.checkpoint._adapt.saving import make_dirs
from pertinax.checkpoint._adapt.threads import start
from pertinax.checkpoint.future import Future, NoopFuture
from pertinax.checkpoint.tree import is_empty_node, serialize_tree


class AggregateHandler(abc.ABC):
    """Writes a tree to a file and reads it back."""

    @abc.abstractmethod
    async def serialize(self, path: epath.Path, item: Any) -> Future:
        """Take hold of `item` and begin to write it; the future is the end of that."""

    @abc.abstractmethod
    def deserialize(self, path: epath.Path) -> Any:
        """The tree in the file. Raises `FileNotFoundError` if there is none."""

    @abc.abstractmethod
    def close(self) -> None:
        """Free what the handler holds."""


class MsgpackHandler(AggregateHandler):
    """Files as `msgpack_utils` spells them.

    The process `primary_host` writes, or every process if it is None.
    """

    def __init__(self, primary_host: int | None = 0) -> None:
        self._primary_host = primary_host

    async def serialize(self, path: epath.Path, item: Any) -> Future:
        """Spell `item` as dicts and lists, and begin to write it, in place of what is there.

        The future's result is the number of bytes. Raises `ValueError` for what has no spelling.
        """
        if not multihost.is_primary_host(self._primary_host):
            return NoopFuture()
        plain = item if is_empty_node(item) else serialize_tree(item, keep_empty_nodes=True)
        data = encode(plain)
        return start(lambda: _replace(path, data), "pertinax-write-msgpack")

    def deserialize(self, path: epath.Path) -> Any:
        """The tree in the file.

        Raises `FileNotFoundError`, or `CorruptCheckpoint` if it is not one of these files.
        """
        store, text = locate(path)
        if store.stat(text) is None:
            raise FileNotFoundError(2, "Checkpoint does not exist", text)
        with store.open(text) as reader:
            return materialize(decode(reader.read, reader.length, text), reader.read)

    def close(self) -> None:
        """Nothing is held: each write has a thread of its own, which ends with it."""


def _replace(path: epath.Path, data: bytes) -> int:
    store, text = locate(path)
    make_dirs(store, text.rpartition("/")[0])
    if store.stat(text) is not None:
        store.remove_file(text)
    write_file(store, text, data)
    return len(data)
