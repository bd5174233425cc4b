# SPDX-License-Identifier: Apache-2.0
"""System calls that Python does not offer: atomic renames, reserved room, populated mappings.

Knows the C library and its error numbers. Knows nothing of stores. Every call goes through ctypes,
which releases the GIL, so that a slow disk never stops the training thread. What a platform lacks
raises `NotImplementedError`; the caller decides what to do without.
"""

import contextlib
import ctypes
import errno
import mmap
import os
import platform
import sys
from collections.abc import Callable, Mapping
from ctypes import c_char, c_char_p, c_int, c_long, c_size_t, c_uint, c_void_p
from typing import Final

# `off_t` of the plain symbols is a C long on every 64-bit system; 32-bit ones are told apart below.
_OFF_T: Final = c_long
_AT_FDCWD: Final = -100
_RENAME_NOREPLACE: Final = 1
_RENAME_EXCHANGE: Final = 2
_RENAME_SWAP_DARWIN: Final = 2
_RENAME_EXCL_DARWIN: Final = 4
_RENAMEAT2_NUMBERS: Final[Mapping[str, int]] = {"x86_64": 316, "aarch64": 276, "riscv64": 276}
_MAP_FIXED: Final = 0x10
_SYNC_FILE_RANGE_WRITE: Final = 2
_MADV_POPULATE_READ: Final = 22
_EHWPOISON: Final = 133  # memory that has gone bad; Python has no name for it
_UNREADABLE: Final = frozenset({errno.EFAULT, _EHWPOISON})
_UNSUPPORTED: Final = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP})


def rename_no_replace(source: str, target: str) -> None:
    """Rename in one step that fails with `FileExistsError` if `target` exists."""
    _rename_flagged(source, target, linux=_RENAME_NOREPLACE, darwin=_RENAME_EXCL_DARWIN)


def rename_exchange(one: str, other: str) -> None:
    """Swap two names in one step."""
    _rename_flagged(one, other, linux=_RENAME_EXCHANGE, darwin=_RENAME_SWAP_DARWIN)


def reserve(descriptor: int, length: int) -> None:
    """Give the file `length` bytes of room on the disk, reading as zeros, and that length.

    Not `os.posix_fallocate`: where the file system cannot reserve, glibc imitates it by writing
    into every block, a million system calls for a large file.
    """
    if sys.platform != "linux":
        raise NotImplementedError("no fallocate here")
    fallocate = _function("fallocate", c_int, c_int, c_int, _OFF_T, _OFF_T)
    while fallocate(descriptor, 0, 0, length) != 0:
        number = ctypes.get_errno()
        if number == errno.EINTR:
            continue
        if number in _UNSUPPORTED:
            raise NotImplementedError("this file system reserves no room")
        raise OSError(number, os.strerror(number))


def begin_writeback(descriptor: int, offset: int, length: int) -> None:
    """Ask the kernel to start writing a range to the disk now, and do not wait: a hint, no promise.

    Otherwise a save fills the page cache first and the disk idles, until `fsync` starts it: with
    the hint 1 GiB took 0.4-0.6 s instead of 0.7-1.0 s. A failing disk is still reported by `fsync`,
    for only waiting takes note of errors.
    """
    if sys.platform != "linux" or ctypes.sizeof(_OFF_T) != 8:
        return
    with contextlib.suppress(NotImplementedError):
        start = _function("sync_file_range", c_int, c_int, _OFF_T, _OFF_T, c_uint)
        start(descriptor, offset, length, _SYNC_FILE_RANGE_WRITE)


def map_private(descriptor: int, length: int) -> mmap.mmap:
    """Map the first `length` (> 0) bytes of a file, copy-on-write; holds no file descriptor.

    Python's own file mapping keeps a duplicate descriptor as long as it lives: a restored tree of
    a few thousand files would use them all up. So Python maps anonymous memory (which it will unmap
    when the last view dies) and the file is laid over it.
    """
    if ctypes.sizeof(_OFF_T) != 8:
        raise NotImplementedError("mapping needs a 64-bit system")
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    memory = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=protection)
    lay = _function("mmap", c_void_p, c_void_p, c_size_t, c_int, c_int, c_int, _OFF_T)
    address = _address(memory)
    flags = mmap.MAP_PRIVATE | _MAP_FIXED
    if lay(address, length, protection, flags, descriptor, 0) != address:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return memory


def populate_for_reading(memory: mmap.mmap, length: int) -> None:
    """Bring in the first `length` bytes of a file mapping without making private copies of them.

    Not MAP_POPULATE: on a writable private mapping it copies every page (measured for a cached GiB:
    540-910 ms and a GiB of anonymous memory, against 11-36 ms and none).
    """
    if sys.platform != "linux":
        memory.madvise(mmap.MADV_WILLNEED)
        return
    populate_pages(_address(memory), length)


def populate_pages(address: int, length: int) -> None:
    """Bring in the pages of a mapped range, wherever it starts.

    A page that cannot be read is an `OSError` here; touched later it would be SIGBUS, the end of
    the process. Does nothing where the kernel has no such call (before Linux 5.14).
    """
    if sys.platform != "linux" or not length:
        return
    before = address % mmap.PAGESIZE
    advise = _function("madvise", c_int, c_void_p, c_size_t, c_int)
    while advise(address - before, length + before, _MADV_POPULATE_READ) != 0:
        number = ctypes.get_errno()
        if number == errno.EINTR:
            continue
        if number in _UNSUPPORTED:
            return
        if number in _UNREADABLE:
            raise OSError(errno.EIO, "a page of the mapped file cannot be read")
        raise OSError(number, os.strerror(number))


def _rename_flagged(source: str, target: str, *, linux: int, darwin: int) -> None:
    first, second = os.fsencode(source), os.fsencode(target)
    if sys.platform == "darwin":
        call = _function("renamex_np", c_int, c_char_p, c_char_p, c_uint)
        failed = call(first, second, darwin) != 0
    elif sys.platform == "linux":
        failed = _renameat2(first, second, linux) != 0
    else:
        raise NotImplementedError("no atomic rename with flags here")
    if not failed:
        return
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        raise NotImplementedError("this file system renames without flags only")
    raise OSError(number, os.strerror(number), source, None, target)


def _renameat2(source: bytes, target: bytes, flags: int) -> int:
    arguments = (_AT_FDCWD, source, _AT_FDCWD, target, flags)
    types = (c_int, c_char_p, c_int, c_char_p, c_uint)
    try:
        return _function("renameat2", c_int, *types)(*arguments)
    except NotImplementedError:  # glibc before 2.28, musl: ask the kernel itself
        number = _RENAMEAT2_NUMBERS.get(platform.machine())
        if number is None:
            raise
        return _function("syscall", c_long, c_long, *types)(number, *arguments)


def _function(name: str, result: type, *arguments: type) -> Callable[..., int]:
    prototype = ctypes.CFUNCTYPE(result, *arguments, use_errno=True)
    try:
        return prototype((name, ctypes.CDLL(None)))
    except AttributeError:
        raise NotImplementedError(f"the C library has no {name}") from None


def _address(memory: mmap.mmap) -> int:
    return ctypes.addressof(c_char.from_buffer(memory))
