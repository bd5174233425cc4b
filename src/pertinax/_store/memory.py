# SPDX-License-Identifier: Apache-2.0
"""A store in memory: the local one's peer, for tests and for trees that need no disk.

Knows names and bytes in dictionaries. Knows nothing of durability: what it holds dies with the
process. Safe to use from several threads.
"""

# The contract speaks for the methods of a store.

import errno
import os
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self, final

from pertinax._store.contract import Buffer, Entry, Reader, Stat, Writer


@final
class FileNode:
    """The bytes of one file, whatever its names."""

    __slots__ = ("content", "mtime_ns")

    def __init__(self, content: bytes = b"") -> None:
        self.content = bytearray(content)
        self.mtime_ns = time.time_ns()


@final
class DirNode:
    """The names in one directory."""

    __slots__ = ("mtime_ns", "names")

    def __init__(self, names: "dict[str, Node] | None" = None) -> None:
        self.names: dict[str, Node] = {} if names is None else names
        self.mtime_ns = time.time_ns()


Node = FileNode | DirNode


@final
class MemoryStore:
    """Files and directories in memory, below `/`, with the semantics of a local disk."""

    __slots__ = ("_lock", "root")

    def __init__(self, root: DirNode | None = None) -> None:
        self.root = DirNode() if root is None else root
        self._lock = threading.RLock()

    def make_dir(self, path: str, mode: int = 0o777) -> None:  # noqa: ARG002  nobody to keep out
        with self._lock:
            _add(self, path, DirNode())

    def create(self, path: str, length: int = 0) -> Writer:
        with self._lock:
            node = FileNode(bytes(length))
            _add(self, path, node)
        return _MemoryWriter(node, path, self._lock)

    def sync_dir(self, path: str) -> None:
        with self._lock:
            self.directory(path)

    def rename(self, source: str, target: str) -> None:
        with self._lock:
            before, old = self.parent(source)
            after, new = self.parent(target)
            node = before.names.get(old)
            if node is None:
                raise failure(errno.ENOENT, source)
            if new in after.names:
                raise failure(errno.EEXIST, target)
            if f"{_clean(target)}/".startswith(f"{_clean(source)}/"):
                raise failure(errno.EINVAL, target)
            del before.names[old]
            after.names[new] = node

    def exchange(self, one: str, other: str) -> None:
        with self._lock:
            (first, a), (second, b) = self.parent(one), self.parent(other)
            for holder, name, path in ((first, a, one), (second, b, other)):
                if name not in holder.names:
                    raise failure(errno.ENOENT, path)
            first.names[a], second.names[b] = second.names[b], first.names[a]

    def remove_file(self, path: str) -> None:
        with self._lock:
            holder, name = self.parent(path)
            if name not in holder.names:
                raise failure(errno.ENOENT, path)
            if isinstance(holder.names[name], DirNode):
                raise failure(errno.EISDIR, path)
            del holder.names[name]

    def remove_dir(self, path: str) -> None:
        with self._lock:
            holder, name = self.parent(path)
            if self.directory(path).names:
                raise failure(errno.ENOTEMPTY, path)
            del holder.names[name]

    def list_dir(self, path: str) -> list[Entry]:
        with self._lock:
            names = self.directory(path).names.items()
            return [Entry(name, isinstance(node, DirNode)) for name, node in names]

    def stat(self, path: str) -> Stat | None:
        with self._lock:
            node = self.find(path)
            if node is None:
                return None
            if isinstance(node, DirNode):
                return Stat(is_dir=True, length=0, mtime_ns=node.mtime_ns)
            return Stat(is_dir=False, length=len(node.content), mtime_ns=node.mtime_ns)

    def open(self, path: str) -> Reader:
        with self._lock:
            node = self.find(path)
            if node is None:
                raise failure(errno.ENOENT, path)
            if isinstance(node, DirNode):
                raise failure(errno.EISDIR, path)
            return _MemoryReader(node, path, self._lock)

    def free_bytes(self, path: str) -> int | None:  # noqa: ARG002
        return None

    def find(self, path: str) -> Node | None:
        """What lies at `path`, or None."""
        node: Node = self.root
        for part in _parts(path):
            if not isinstance(node, DirNode) or part not in node.names:
                return None
            node = node.names[part]
        return node

    def directory(self, path: str) -> DirNode:
        """The directory at `path`. Raises as the operating system does."""
        node = self.find(path)
        if node is None:
            raise failure(errno.ENOENT, path)
        if isinstance(node, FileNode):
            raise failure(errno.ENOTDIR, path)
        return node

    def parent(self, path: str) -> tuple[DirNode, str]:
        """The directory that holds the last name of `path`, and that name."""
        parts = _parts(path)
        if not parts:
            raise failure(errno.EBUSY, path)
        return self.directory("/" + "/".join(parts[:-1])), parts[-1]


@final
class _MemoryWriter:
    __slots__ = ("_closed", "_lock", "_node", "_path")

    def __init__(self, node: FileNode, path: str, lock: threading.RLock) -> None:
        self._node = node
        self._path = path
        self._lock = lock
        self._closed = False

    def write_at(self, offset: int, buffers: Sequence[Buffer]) -> None:
        with self._lock:
            self._refuse_if_closed()
            put(self._node, offset, join(buffers))

    def sync(self) -> None:
        self._refuse_if_closed()

    def close(self) -> None:
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise failure(errno.EBADF, self._path)


@final
class _MemoryReader:
    __slots__ = ("_closed", "_length", "_lock", "_node", "_path")

    def __init__(self, node: FileNode, path: str, lock: threading.RLock) -> None:
        self._node = node
        self._path = path
        self._lock = lock
        self._length = len(node.content)
        self._closed = False

    @property
    def length(self) -> int:
        return self._length

    def read_into(self, offset: int, buffer: memoryview) -> None:
        content = self.read(offset, buffer.nbytes)
        if content:
            buffer.cast("B")[:] = content

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0:
            raise ValueError(f"not a range: offset={offset} length={length}")
        if offset + length > self._length:
            raise EOFError(
                f"{self._path} has {self._length} bytes, {offset}..{offset + length} were asked for"
            )
        with self._lock:
            if self._closed:
                raise failure(errno.EBADF, self._path)
            return bytes(memoryview(self._node.content)[offset : offset + length])

    def map(self, *, populate: bool = True) -> memoryview | None:  # noqa: ARG002
        return memoryview(bytearray(self.read(0, self._length)))

    def close(self) -> None:
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def put(node: FileNode, offset: int, content: bytes) -> None:
    """Write into a file, which grows as needed."""
    if not content:
        return
    gap = offset - len(node.content)
    if gap > 0:
        node.content.extend(bytes(gap))
    node.content[offset : offset + len(content)] = content
    node.mtime_ns = time.time_ns()


def join(buffers: Sequence[Buffer]) -> bytes:
    """All bytes of `buffers`, one after the other."""
    return b"".join(memoryview(one).cast("B") for one in buffers if memoryview(one).nbytes)


def failure(number: int, path: str) -> OSError:
    """The error that the operating system would raise."""
    return OSError(number, os.strerror(number), path)


def _add(store: MemoryStore, path: str, node: Node) -> None:
    if not _parts(path):
        raise failure(errno.EEXIST, path)
    holder, name = store.parent(path)
    if name in holder.names:
        raise failure(errno.EEXIST, path)
    holder.names[name] = node
    holder.mtime_ns = time.time_ns()


def _parts(path: str) -> list[str]:
    if not path.startswith("/"):
        raise ValueError(f"not an absolute path: {path!r}")
    parts = [part for part in path.split("/") if part]
    if ".." in parts or "." in parts:
        raise ValueError(f"not a plain path: {path!r}")
    return parts


def _clean(path: str) -> str:
    return "/".join(_parts(path))
