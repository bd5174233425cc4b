# SPDX-License-Identifier: Apache-2.0
"""Files of this machine, through the plainest system calls.

Knows POSIX: descriptors, short writes, fsync and what a failed one means. Knows nothing of what the
files hold. Keeps no state; each method is one step that a crash can cut before or after.
"""

# The contract speaks for the methods of a store.

import contextlib
import errno
import mmap
import os
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, final

from pertinax._store import system
from pertinax._store.contract import Buffer, Entry, Reader, Stat, Store, Writer

if sys.platform == "darwin":
    import fcntl

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
# Without O_NONBLOCK, opening a FIFO that somebody planted in a checkpoint would wait forever.
_OPEN: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
_OPEN_DIR: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY
_BUFFERS_AT_ONCE: Final = min(1024, os.sysconf("SC_IOV_MAX") or 16)

# Other file systems, file systems without links, other people's files, too many links already.
_UNLINKABLE: Final = frozenset(
    {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP}
)

# Smaller writes are left to the kernel: a request of its own would cost more than it gains.
_WRITEBACK_BYTES: Final = 1 << 20


@final
@dataclass(frozen=True, slots=True)
class LocalStore:
    """The file systems of this machine, network mounts included."""

    def make_dir(self, path: str, mode: int = 0o777) -> None:
        os.mkdir(path, mode)

    def create(self, path: str, length: int = 0) -> Writer:
        descriptor = os.open(path, _CREATE, 0o666)
        try:
            if length > 0:
                _set_length(descriptor, length)
        except BaseException:
            os.close(descriptor)
            # The name is ours alone since O_EXCL; the caller must not find half a reservation.
            with contextlib.suppress(OSError):
                os.unlink(path)
            raise
        return _LocalWriter(descriptor, path)

    def sync_dir(self, path: str) -> None:
        descriptor = os.open(path, _OPEN_DIR)
        try:
            _sync(descriptor)
        except OSError as error:
            # Some network and FUSE file systems have no notion of syncing a directory and say so.
            if error.errno != errno.EINVAL:
                raise OSError(error.errno, error.strerror, path) from error
        finally:
            os.close(descriptor)

    def rename(self, source: str, target: str) -> None:
        try:
            system.rename_no_replace(source, target)
        except NotImplementedError:
            _rename_checked(source, target)

    def exchange(self, one: str, other: str) -> None:
        system.rename_exchange(one, other)

    def remove_file(self, path: str) -> None:
        try:
            os.unlink(path)
        except PermissionError as error:
            # POSIX lets unlink of a directory fail with EPERM (macOS does); the contract is EISDIR.
            if stat.S_ISDIR(os.lstat(path).st_mode):
                raise _failure(errno.EISDIR, path) from error
            raise

    def remove_dir(self, path: str) -> None:
        os.rmdir(path)

    def list_dir(self, path: str) -> list[Entry]:
        with os.scandir(path) as names:
            return [Entry(one.name, one.is_dir(follow_symlinks=False)) for one in names]

    def stat(self, path: str) -> Stat | None:
        try:
            found = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        is_dir = stat.S_ISDIR(found.st_mode)
        return Stat(is_dir, 0 if is_dir else found.st_size, found.st_mtime_ns)

    def open(self, path: str) -> Reader:
        descriptor = os.open(path, _OPEN)
        try:
            found = os.fstat(descriptor)
            if stat.S_ISDIR(found.st_mode):
                raise _failure(errno.EISDIR, path)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.EINVAL, "not a regular file", path)
        except BaseException:
            os.close(descriptor)
            raise
        return _LocalReader(descriptor, path, found.st_size)

    def free_bytes(self, path: str) -> int | None:
        found = os.statvfs(path)
        # File systems without a notion of size report no blocks at all.
        return found.f_bavail * found.f_frsize if found.f_blocks else None


@final
class _LocalWriter:
    """A descriptor open for writing, and the first failure it met."""

    __slots__ = ("_descriptor", "_failed", "_path")

    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor = descriptor
        self._path = path
        self._failed: OSError | None = None

    def write_at(self, offset: int, buffers: Sequence[Buffer]) -> None:
        # Zero-length views cannot be cast, and have nothing to say.
        views = [memoryview(one).cast("B") for one in buffers if memoryview(one).nbytes]
        self._refuse_if_failed()
        end = offset
        try:
            for start in range(0, len(views), _BUFFERS_AT_ONCE):
                end = _write_all(self._descriptor, end, views[start : start + _BUFFERS_AT_ONCE])
            if end - offset >= _WRITEBACK_BYTES:
                system.begin_writeback(self._descriptor, offset, end - offset)
        except OSError as error:
            self._failed = error
            raise OSError(error.errno, error.strerror, self._path) from error

    def sync(self) -> None:
        self._refuse_if_failed()
        try:
            _sync(self._descriptor)
        except OSError as error:
            # The kernel may have dropped the pages and marked them clean: a second fsync would lie.
            self._failed = error
            raise OSError(error.errno, error.strerror, self._path) from error

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor != -1:
            os.close(descriptor)
        self._refuse_if_failed()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
            return
        with contextlib.suppress(OSError):  # the error under way tells more
            self.close()

    def _refuse_if_failed(self) -> None:
        if self._failed is not None:
            text = f"an earlier write or sync failed: {self._failed.strerror}"
            raise OSError(self._failed.errno, text, self._path)


@final
class _LocalReader:
    """A descriptor open for reading."""

    __slots__ = ("_descriptor", "_length", "_path")

    def __init__(self, descriptor: int, path: str, length: int) -> None:
        self._descriptor = descriptor
        self._path = path
        self._length = length

    @property
    def length(self) -> int:
        return self._length

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._check_range(offset, buffer.nbytes)
        if not buffer.nbytes:
            return
        rest = buffer.cast("B")
        while rest:
            count = os.preadv(self._descriptor, [rest], offset)
            if count == 0:
                raise EOFError(f"{self._path} was cut at byte {offset} while it was read")
            rest = rest[count:]
            offset += count

    def read(self, offset: int, length: int) -> bytes:
        self._check_range(offset, length)  # before memory is taken for what a hostile file claims
        first = os.pread(self._descriptor, length, offset)
        if len(first) == length:
            return first
        whole = bytearray(length)
        whole[: len(first)] = first
        self.read_into(offset + len(first), memoryview(whole)[len(first) :])
        return bytes(whole)

    def map(self, *, populate: bool = True) -> memoryview | None:
        if self._length == 0:
            return memoryview(bytearray())
        # A page beyond the end of the file kills the process when touched.
        if os.fstat(self._descriptor).st_size < self._length:
            raise EOFError(f"{self._path} was cut after it was opened")
        memory = self._mapped()
        if memory is None:
            return None
        if populate:
            system.populate_for_reading(memory, self._length)
        return memoryview(memory)

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor != -1:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _mapped(self) -> mmap.mmap | None:
        try:
            return system.map_private(self._descriptor, self._length)
        except NotImplementedError:
            return None
        except OSError as error:
            if error.errno in (errno.ENODEV, errno.EACCES):  # a file system without mappings
                return None
            raise OSError(error.errno, error.strerror, self._path) from error

    def _check_range(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0:
            raise ValueError(f"not a range: offset={offset} length={length}")
        if offset + length > self._length:
            raise EOFError(
                f"{self._path} has {self._length} bytes, {offset}..{offset + length} were asked for"
            )


def _write_all(descriptor: int, offset: int, views: list[memoryview]) -> int:
    """Write the views one after the other, continuing short writes; returns the offset behind."""
    while views:
        count = os.pwritev(descriptor, views, offset)
        if count == 0:
            raise OSError(errno.EIO, "the disk took no bytes")
        offset += count
        taken = 0
        while taken < len(views) and count >= views[taken].nbytes:
            count -= views[taken].nbytes
            taken += 1
        views = views[taken:]
        if count:
            views[0] = views[0][count:]
    return offset


def _set_length(descriptor: int, length: int) -> None:
    try:
        system.reserve(descriptor, length)
    except NotImplementedError:
        os.ftruncate(descriptor, length)


def _sync(descriptor: int) -> None:
    if sys.platform == "darwin":
        # fsync stops at the drive's cache there.
        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def _rename_checked(source: str, target: str) -> None:
    # A gap remains between check and rename. For a directory, which is what we publish, the worst
    # that fits into it is taking the place of an empty one: rename(2) refuses any other.
    if os.path.lexists(target):
        raise _failure(errno.EEXIST, target)
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.ENOTDIR) and os.path.lexists(target):
            raise _failure(errno.EEXIST, target) from error
        raise


def _failure(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)


def sync_file(store: object, path: str) -> None:
    """Make the bytes of an existing file durable, if it is one of this machine: user code may not
    have synced it.
    """
    if isinstance(store, LocalStore):
        descriptor = os.open(path, _OPEN)
        try:
            _sync(descriptor)
        finally:
            os.close(descriptor)


def changed_times(store: Store, directory: str, names: Sequence[str]) -> list[int | None]:
    """When each of `names` in `directory` last changed, as `Store.stat` tells it; None for what is
    not there or cannot be looked at. Ten thousand are asked at a time.
    """
    front = directory.rstrip("/") + "/"
    if not isinstance(store, LocalStore):
        return [_changed_ns(store, front + name) for name in names]
    found: list[int | None] = []
    look, add = os.stat, found.append
    for name in names:
        try:
            add(look(front + name).st_mtime_ns)
        except OSError:
            add(None)
    return found


def _changed_ns(store: Store, path: str) -> int | None:
    try:
        stat = store.stat(path)
    except OSError:
        return None
    return None if stat is None else stat.mtime_ns


def forget_cached(store: object, directory: str) -> None:
    """Ask the kernel to forget what it holds of the synced files below `directory`, so that reading
    them shows what the disk has. A wish: where it cannot be had, nothing happens.
    """
    if not isinstance(store, LocalStore) or not hasattr(os, "posix_fadvise"):
        return
    for place, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):
                descriptor = os.open(f"{place}/{name}", _OPEN)
                try:
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                finally:
                    os.close(descriptor)


def link_file(store: object, source: str, target: str) -> bool:
    """Give a file of this machine a second name; False where that cannot be done.

    Raises `FileNotFoundError` and whatever else the disk says about the paths themselves.
    """
    if not isinstance(store, LocalStore):
        return False
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in _UNLINKABLE:
            return False
        raise
    return True
