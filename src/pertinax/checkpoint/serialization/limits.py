# SPDX-License-Identifier: Apache-2.0
"""Byte limits: how many bytes may be on their way at once.

Knows who waits for how much. Knows nothing of arrays or files.

A limiter may be made anywhere and be shared by loops and threads: its own state is under a lock,
and each waiting coroutine waits on a future of its own loop.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterator
from typing import NamedTuple, Protocol


class ByteLimiter(Protocol):
    """Says when the next bytes may be read or written."""

    async def wait_for_bytes(self, requested_bytes: int) -> None:
        """Return once so many bytes may be used."""
        ...

    async def release_bytes(self, requested_bytes: int) -> None:
        """Give so many bytes back."""
        ...


class UnlimitedInFlightBytes(ByteLimiter):
    """Everything may be on its way at once."""

    async def wait_for_bytes(self, requested_bytes: int) -> None:
        """Return at once."""

    async def release_bytes(self, requested_bytes: int) -> None:
        """Do nothing."""


class _Waiter(NamedTuple):
    wanted: int
    loop: asyncio.AbstractEventLoop
    granted: "asyncio.Future[None]"


class LimitInFlightBytes(ByteLimiter):
    """At most `num_bytes` bytes on their way at once, given out in the order of asking.

    A request is granted while more than it is free. One as large as the limit waits until
    everything is free, and then runs alone.
    """

    def __init__(self, num_bytes: int) -> None:
        """Raises `ValueError` unless `num_bytes` is positive."""
        if num_bytes <= 0:
            raise ValueError(f"Must provide positive `num_bytes`: {num_bytes}")
        self._max_bytes = num_bytes
        self._available_bytes = num_bytes
        self._lock = threading.Lock()
        self._waiters: deque[_Waiter] = deque()

    @property
    def max_bytes(self) -> int:
        """The limit."""
        return self._max_bytes

    async def wait_for_bytes(self, requested_bytes: int) -> None:
        """Return once the bytes are ours. Raises `ValueError` for more than the whole limit."""
        if requested_bytes > self._max_bytes:
            raise ValueError(
                f"Requested more bytes than the limit allows: {requested_bytes} > "
                f"{self._max_bytes}; give a larger limit"
            )
        loop = asyncio.get_running_loop()
        with self._lock:
            if not self._waiters and self._fits(requested_bytes):
                self._available_bytes -= requested_bytes
                return
            waiter = _Waiter(requested_bytes, loop, loop.create_future())
            self._waiters.append(waiter)
        try:
            await waiter.granted
        except asyncio.CancelledError:
            self._withdraw(waiter)
            raise

    async def release_bytes(self, requested_bytes: int) -> None:
        """Give bytes back. Raises `ValueError` for more than are out."""
        self._give_back(requested_bytes)

    def _fits(self, wanted: int) -> bool:
        return wanted < self._available_bytes or self._available_bytes == self._max_bytes

    def _give_back(self, count: int) -> None:
        with self._lock:
            if self._available_bytes + count > self._max_bytes:
                out = self._max_bytes - self._available_bytes
                raise ValueError(f"released {count} bytes, but only {out} are in flight")
            self._available_bytes += count
            self._grant()

    def _grant(self) -> None:
        """Serve those who wait, first come first served: nobody starves. Holds the lock."""
        while self._waiters and self._fits(self._waiters[0].wanted):
            waiter = self._waiters.popleft()
            self._available_bytes -= waiter.wanted
            try:
                waiter.loop.call_soon_threadsafe(_wake, waiter.granted)
            except RuntimeError:  # its loop was closed while it waited: nobody will give it back
                self._available_bytes += waiter.wanted

    def _withdraw(self, waiter: _Waiter) -> None:
        with self._lock:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
                self._grant()  # those behind it may fit
                return
        self._give_back(waiter.wanted)  # it was granted just before it was cancelled


def _wake(granted: "asyncio.Future[None]") -> None:
    if not granted.done():
        granted.set_result(None)


def get_byte_limiter(concurrent_bytes: int | None = None) -> ByteLimiter:
    """A limiter for so many bytes; None: without limit. `ValueError` if it is not positive."""
    if concurrent_bytes is None:
        return UnlimitedInFlightBytes()
    if concurrent_bytes <= 0:
        raise ValueError(f"Must provide positive `concurrent_bytes`: {concurrent_bytes}")
    return LimitInFlightBytes(concurrent_bytes)


@contextlib.asynccontextmanager
async def reserved_bytes(byte_limiter: ByteLimiter, nbytes: int) -> AsyncIterator[None]:
    """Hold `nbytes` of the limiter inside the block."""
    await byte_limiter.wait_for_bytes(nbytes)
    try:
        yield
    finally:
        await byte_limiter.release_bytes(nbytes)


def limiter_or_none(byte_limiter: ByteLimiter | None) -> ByteLimiter:
    """The limiter, or one that never waits."""
    return UnlimitedInFlightBytes() if byte_limiter is None else byte_limiter
