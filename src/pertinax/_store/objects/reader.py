# SPDX-License-Identifier: Apache-2.0
"""Readers of objects: ranges, each one request.

Knows that the object must stay the same while it is read. Knows nothing of what is in it. Opening
asks for the first bytes and learns the length along with them, so that a small object costs one
request in all.
"""

import errno
import os
from types import TracebackType
from typing import Final, Self, final

from pertinax._store.objects.requests import Meta, Requests

HEAD_BYTES: Final = 1 << 16


@final
class ObjectReader:
    """An object open for reading."""

    __slots__ = ("_closed", "_head", "_key", "_meta", "_requests")

    def __init__(self, requests: Requests, key: str, *, known: Meta | None = None) -> None:
        """`known`: what a listing said of the object; then nothing is asked yet."""
        self._requests = requests
        self._key = key
        self._closed = False
        self._head = memoryview(b"")
        self._meta = self._look() if known is None or known.length <= HEAD_BYTES else known

    @property
    def length(self) -> int:
        return self._meta.length

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._check(offset, buffer.nbytes)
        if buffer.nbytes:
            flat = buffer.cast("B")
            flat[:] = self._range(offset, buffer.nbytes)

    def read(self, offset: int, length: int) -> bytes:
        self._check(offset, length)
        return bytes(self._range(offset, length)) if length else b""

    def map(self, *, populate: bool = True) -> memoryview | None:  # noqa: ARG002
        return None if self._meta.length else memoryview(bytearray())

    def close(self) -> None:
        self._closed = True
        self._head = memoryview(b"")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _look(self) -> Meta:
        try:
            data, meta = self._requests.get_range(self._key, 0, HEAD_BYTES)
        except EOFError:
            found = self._requests.head(self._key)
            if found is None:
                raise FileNotFoundError(errno.ENOENT, "no such object", self._url) from None
            return found
        self._head = memoryview(data)
        if self._head.nbytes != min(meta.length, HEAD_BYTES):
            raise OSError(errno.EIO, "the store gave fewer bytes than it said", self._url)
        return meta

    def _range(self, offset: int, length: int) -> memoryview:
        if self._closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), self._url)
        if offset + length <= self._head.nbytes:
            return self._head[offset : offset + length]
        data, meta = self._requests.get_range(self._key, offset, offset + length)
        view = memoryview(data)
        if meta.length != self._meta.length or _differ(meta.etag, self._meta.etag):
            raise EOFError(f"{self._url} was replaced while it was read")
        if view.nbytes != length:
            raise OSError(errno.EIO, f"{view.nbytes} of {length} bytes came", self._url)
        return view

    @property
    def _url(self) -> str:
        return f"{self._requests.front}/{self._key}"

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0:
            raise ValueError(f"not a range: offset={offset} length={length}")
        if offset + length > self._meta.length:
            raise EOFError(
                f"{self._url} has {self._meta.length} bytes, {offset}..{offset + length} were "
                "asked for"
            )


def _differ(one: str | None, other: str | None) -> bool:
    return one is not None and other is not None and one != other
