# SPDX-License-Identifier: Apache-2.0
"""The contract of a store: bytes by path, every effect explicit.

Knows files, directories and what makes them durable. Knows nothing of arrays, checkpoints or
formats. Paths are absolute, `/`-separated text. A store never retries, never guesses and never
hides an error: `OSError`s come out as they are, the caller adds meaning. Durability follows POSIX
at its weakest:

- bytes of a file survive a power loss only after `Writer.sync`;
- a new, renamed or removed *name* survives only after `sync_dir` of the directory that holds it;
- what was not synced may survive in part, in any combination.

Everything that Pertinax does to a disk goes through these few methods, so that a simulated disk
(`pertinax.testing.CrashingStore`) can cut a save at each of them.
"""

from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Protocol, Self, runtime_checkable

Buffer = bytes | bytearray | memoryview


class Entry(NamedTuple):
    """One name in a directory."""

    name: str
    is_dir: bool


class Traits(NamedTuple):
    """In which numbers stores differ.

    Attributes:
        read_gap_bytes: reading so many bytes in vain costs no more than another read.
        read_threads: how many reads should be under way at least.
        file_bytes: where data files are cut if nobody says; None: there is one.
        keeps_times: whether directories have times of their own.
        keeps_names: whether a file may have several names, and get others.
        has_room: whether what is stored takes room of which there is so much and no more.
    """

    read_gap_bytes: int = 64
    read_threads: int = 1
    file_bytes: int | None = None
    keeps_times: bool = True
    keeps_names: bool = True
    has_room: bool = True


class Stat(NamedTuple):
    """What a path is: `length` in bytes (0 for a directory), `mtime_ns` since the epoch."""

    is_dir: bool
    length: int
    mtime_ns: int


class Writer(Protocol):
    """A new file that is being filled. Safe to use from several threads on disjoint ranges."""

    def write_at(self, offset: int, buffers: Sequence[Buffer]) -> None:
        """Put all bytes of `buffers`, one after the other, at `offset`.

        Buffers are C-contiguous, of any element type. A failure is final, as with `sync`.
        """
        ...

    def sync(self) -> None:
        """Make the bytes durable. A failure is final: the pages may be lost, so no later `sync`
        or `close` of this writer reports success.
        """
        ...

    def close(self) -> None:
        """Release the file. Not a sync."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


@runtime_checkable
class Streaming(Protocol):
    """A writer that sends bytes in order, and so must know which will not come."""

    def leave(self, offset: int, length: int) -> None:
        """Nobody will write these bytes: they are zero."""
        ...

    def abandon(self) -> None:
        """Close the file, which is not finished and will not be: nothing of it may stay."""
        ...


class Reader(Protocol):
    """An open file. Safe to use from several threads. Good even after the name is gone."""

    @property
    def length(self) -> int:
        """Bytes in the file when it was opened."""
        ...

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`. Raises `EOFError` when the file ends before."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`. Raises `EOFError` when the file ends before."""
        ...

    def map(self, *, populate: bool = True) -> memoryview | None:
        """The whole file as private, copy-on-write memory, or None where that cannot be had.

        Writing into the view never reaches the file. The view lives as long as anybody holds it,
        also after `close` and after the file's removal. `populate` asks for all pages at once.
        """
        ...

    def close(self) -> None:
        """Release the file. Views from `map` stay good."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


@runtime_checkable
class Store(Protocol):
    """Where bytes live. Methods raise `OSError` subclasses as the operating system does."""

    def make_dir(self, path: str, mode: int = 0o777) -> None:
        """Make one directory. `FileExistsError` if the name is taken.

        `FileNotFoundError` without its parent.
        """
        ...

    def create(self, path: str, length: int = 0) -> Writer:
        """Create a file of `length` zero bytes under a name that must not be taken.

        Room for them is reserved where that is possible; where there is none, nothing is created.
        """
        ...

    def sync_dir(self, path: str) -> None:
        """Make the names in directory `path` durable."""
        ...

    def rename(self, source: str, target: str) -> None:
        """Give a file or directory another name, atomically.

        `FileExistsError` if `target` exists, be it an empty directory or a dangling link.
        """
        ...

    def exchange(self, one: str, other: str) -> None:
        """Swap two names atomically. `NotImplementedError` where the file system cannot."""
        ...

    def remove_file(self, path: str) -> None:
        """Remove one file or link. `IsADirectoryError` for a directory."""
        ...

    def remove_dir(self, path: str) -> None:
        """Remove one empty directory."""
        ...

    def list_dir(self, path: str) -> list[Entry]:
        """The names in a directory, in no promised order. Links are reported as files."""
        ...

    def stat(self, path: str) -> Stat | None:
        """What lies at `path`, or None if nothing does. Links are followed."""
        ...

    def open(self, path: str) -> Reader:
        """Open a regular file for reading. Never waits, whatever lies there."""
        ...

    def free_bytes(self, path: str) -> int | None:
        """Room left for the caller on the file system that holds `path`, or None when unknown."""
        ...


@runtime_checkable
class Peculiar(Protocol):
    """A store that is not like a local disk."""

    @property
    def traits(self) -> Traits:
        """In what it differs."""
        ...

    def absolute(self, text: str) -> str:
        """The path that people mean by `text`."""
        ...


def traits_of(store: Store) -> Traits:
    """In what a store differs from others."""
    return store.traits if isinstance(store, Peculiar) else Traits()
