# SPDX-License-Identifier: Apache-2.0
"""Outputs: the data files of an item while threads fill them.

Knows when each file is created (with its first write), made durable and closed (with its last), so
that few are open at a time however many there are. Knows nothing of what is in them.
"""

import contextlib
import threading
from collections.abc import Sequence
from typing import Self, final

from pertinax._store.contract import Buffer, Store, Streaming, Writer
from pertinax._store.failures import storage_errors

_RESERVED_FROM = 1 << 16  # below, reserving room costs more than it saves


@final
class Outputs:
    """Files below `directory`; those still open at the end of a failed save are abandoned.

    A context manager: leave it and every file is durable.
    """

    def __init__(self, store: Store, directory: str) -> None:
        self._store = store
        self._directory = directory
        self._files: list[_Output] = []

    @property
    def names(self) -> tuple[str, ...]:
        """The files, relative to the directory."""
        return tuple(output.name for output in self._files)

    def add(self, name: str, length: int = 0, *, writes: int) -> int:
        """A file that will get so many writes; `length` bytes of it are known to be needed.

        Returns its position. Its parent must be there. Not to be called by two threads at once.
        """
        self._files.append(_Output(name, length, writes))
        return len(self._files) - 1

    def expect(self, file: int, writes: int = 1) -> None:
        """One more write to a file, or several; it must still be waiting for another."""
        output = self._files[file]
        with output.lock:
            output.writes += writes

    def leave(self, file: int, start: int, stop: int) -> None:
        """Nobody will write from `start` to `stop`. For stores that cannot skip; others are not
        told. Not after the last write.
        """
        output = self._files[file]
        with output.lock:
            if output.writer is None:
                output.gaps.append((start, stop))
                return
            writer = output.writer
        if isinstance(writer, Streaming):
            writer.leave(start, stop - start)

    def write(self, file: int, offset: int, buffers: Sequence[Buffer]) -> None:
        """One of the writes that a file waits for; after the last it is durable, and closed."""
        output = self._files[file]
        path = f"{self._directory}/{output.name}"
        with storage_errors("write array data", path):
            with output.lock:
                if output.writer is None:
                    length = output.length if output.length >= _RESERVED_FROM else 0
                    output.writer = _tell(self._store.create(path, length), output.gaps)
                writer = output.writer
            writer.write_at(offset, buffers)
            with output.lock:
                output.writes -= 1
                if output.writes:
                    return
                output.writer = None
            with writer:
                writer.sync()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        for output in self._files:
            if output.writer is not None:
                with contextlib.suppress(OSError):  # the error under way tells more
                    _give_up(output.writer)
        waiting = [output.name for output in self._files if output.writes]
        if kind is None and waiting:
            raise RuntimeError(f"files that still wait for writes: {waiting[:5]}")


def _give_up(writer: Writer) -> None:
    if isinstance(writer, Streaming):
        writer.abandon()
    else:
        writer.close()


def _tell(writer: Writer, gaps: Sequence[tuple[int, int]]) -> Writer:
    if isinstance(writer, Streaming):
        for start, stop in gaps:
            writer.leave(start, stop - start)
    return writer


class _Output:
    """One file: how many writes it waits for, and its writer while there is one."""

    __slots__ = ("gaps", "length", "lock", "name", "writer", "writes")

    def __init__(self, name: str, length: int, writes: int) -> None:
        self.name = name
        self.length = length
        self.writes = writes
        self.writer: Writer | None = None
        self.gaps: list[tuple[int, int]] = []
        self.lock = threading.Lock()
