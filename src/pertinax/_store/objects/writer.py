# SPDX-License-Identifier: Apache-2.0
"""Writers of objects: pieces come in at any offset, an object goes out in order.

Knows parts, and what must not be in memory at a time. Knows nothing of what is written. A small
object is one request, made only if the name is free. A large one is a stream of parts; its pieces
are copied as they come, for the bytes must hold still until they have left, and a gap must be
announced (`leave`) or be behind all else, for a stream cannot skip.
"""

import errno
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Final, Self, final

from pertinax._store.contract import Buffer
from pertinax._store.objects.requests import Requests

PART_BYTES: Final = 16 << 20
_LEAST_PART_BYTES: Final = 5 << 20  # smaller ones S3 refuses
_PART_STEP_BYTES: Final = 1 << 20
_MOST_PARTS: Final = 9_000  # S3 allows 10,000; what is announced may not be all
_AT_ONCE: Final = 8
_PIECE_BYTES: Final = 4 << 20
_UNKNOWN_BYTES: Final = 4 << 30


@final
class ObjectWriter:
    """One object in the making. See `Writer` of the contract; `leave` is told of gaps.

    `done` is called with the length when the object is there.
    """

    def __init__(
        self,
        requests: Requests,
        key: str,
        length: int,
        *,
        window_bytes: int | None = None,
        done: Callable[[int], None] | None = None,
    ) -> None:
        self._requests: Final = requests
        self._key: Final = key
        self._planned: Final = length
        self._part_bytes, self._at_once = _parts(length, window_bytes)
        # Parts cannot be completed "only if absent". What is not announced as large may be a note
        # that others write under the same name, and goes in one request as long as it is bearable.
        self._streams_from = self._part_bytes if length else 4 * self._part_bytes
        self._done = done
        self._turn = threading.Lock()
        self._order = _Order()
        self._stream: _Stream | None = None
        self._failed: OSError | None = None
        self._state = "open"

    def write_at(self, offset: int, buffers: Sequence[Buffer]) -> None:
        data = b"".join(memoryview(one).cast("B") for one in buffers if memoryview(one).nbytes)
        with self._turn:
            self._refuse()
            if not data:
                return
            if offset < self._order.next:
                text = f"byte {offset} is on its way already"
                raise self._fail(OSError(errno.EINVAL, text, self._url))
            self._order.add(offset, data)
            stream = self._send()
        if stream is None:
            return
        try:
            stream.pace()
        except OSError as error:
            with self._turn:
                raise self._fail(error) from None

    def leave(self, offset: int, length: int) -> None:
        """Nobody will write these bytes: they are zero."""
        with self._turn:
            if length > 0 and self._failed is None and self._state == "open":
                self._order.add(offset, length)
                self._send()

    def sync(self) -> None:
        with self._turn:
            self._refuse()
            if self._state == "stored":
                return
            double = self._order.fill(self._planned)
            if double is not None:
                text = f"byte {double} was written twice"
                raise self._fail(OSError(errno.EINVAL, text, self._url))
            self._send()
            self._state = "stored"
        try:
            if self._stream is None:
                self._create(b"".join(self._order.take()))
            else:
                self._stream.finish()
                self._confirm()
        except OSError as error:
            raise self._fail(error) from None
        if self._done is not None:
            self._done(self._order.length)

    def close(self) -> None:
        """Finishes what was written, unless something has failed."""
        if self._state == "open" and self._failed is None:
            self.sync()
        failed, self._failed = self._failed, None
        if self._state != "closed":
            self._state = "closed"
            self._stop()
        if failed is not None:
            raise OSError(failed.errno, failed.strerror, self._url)

    def abandon(self) -> None:
        """Leave nothing behind of an object that is not finished."""
        self._state = "closed"
        self._stop()

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
        else:
            self.abandon()

    @property
    def _url(self) -> str:
        return f"{self._requests.front}/{self._key}"

    def _refuse(self) -> None:
        if self._failed is not None:
            text = f"an earlier write failed: {self._failed.strerror}"
            raise OSError(self._failed.errno, text, self._url)
        if self._state == "closed":
            raise OSError(errno.EBADF, "Bad file descriptor", self._url)

    def _fail(self, error: OSError) -> OSError:
        self._failed = error
        return error

    def _create(self, data: bytes) -> None:
        """One request. The object may be there all the same, if only the reply was lost."""
        try:
            self._requests.create(self._key, data)
        except OSError as error:
            try:
                same = self._requests.get(self._key) == data
            except OSError:
                same = False
            if not same:
                raise error from None

    def _confirm(self) -> None:
        found = self._requests.head(self._key)
        if found is None or found.length != self._order.length:
            there = "nothing" if found is None else f"{found.length} bytes"
            text = f"{self._order.length} bytes were sent, {there} arrived"
            raise OSError(errno.EIO, text, self._url)

    def _send(self) -> "_Stream | None":
        """Hand on what is in order, as soon as it is too much for one request. Our turn it is."""
        if self._stream is None and self._order.held_bytes > self._streams_from:
            self._stream = _Stream(self._requests, self._key, self._part_bytes, self._at_once)
        if self._stream is not None:
            for piece in self._order.take():
                self._stream.give(piece)
        return self._stream

    def _stop(self) -> None:
        """End the stream; if it was not finished, nothing stays of it."""
        self._order = _Order()
        if self._stream is not None:
            self._stream.abort(OSError(errno.ECANCELED, "the file was given up", self._url))


class _Order:
    """Pieces by their offsets, given out in order; a piece is bytes, or the length of a gap.

    Attributes:
        next: all before is in order.
        length: where the last byte of it ends; a gap counts when bytes have come behind it.
        held_bytes: how much is in order and was not taken.
    """

    def __init__(self) -> None:
        self.next = 0
        self.length = 0
        self.held_bytes = 0
        self._waiting: dict[int, bytes | int] = {}
        self._ordered: list[bytes] = []

    def add(self, offset: int, piece: bytes | int) -> None:
        """One piece more; of two at the same place the last counts."""
        self._waiting[offset] = piece
        while (found := self._waiting.pop(self.next, None)) is not None:
            if isinstance(found, int):
                self.next += found
                continue
            self._reach(self.next)
            self._put(found)
            self.next += len(found)

    def fill(self, length: int) -> int | None:
        """No more will come: what nobody wrote is zero, up to `length` at least. Returns the offset
        of a piece that has no place, for others cover where it begins.
        """
        for offset in sorted(self._waiting):
            if offset > self.next:
                self.add(self.next, offset - self.next)
        self._reach(length)
        self.next = self.length
        return min(
            (at for at, piece in self._waiting.items() if isinstance(piece, bytes)), default=None
        )

    def take(self) -> list[bytes]:
        """All that is in order."""
        taken, self._ordered, self.held_bytes = self._ordered, [], 0
        return taken

    def _reach(self, end: int) -> None:
        for start in range(self.length, end, _PIECE_BYTES):
            self._put(bytes(min(_PIECE_BYTES, end - start)))

    def _put(self, data: bytes) -> None:
        self._ordered.append(data)
        self.held_bytes += len(data)
        self.length += len(data)


@final
class _Stream:
    """A thread that uploads what it is given, in order."""

    def __init__(self, requests: Requests, key: str, part_bytes: int, at_once: int) -> None:
        self._requests = requests
        self._key = key
        self._part_bytes = part_bytes
        self._at_once = at_once
        self._pieces: queue.SimpleQueue[Buffer | OSError | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._queued = 0
        self._error: BaseException | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._upload, name="pertinax-upload", daemon=False)
        self._thread.start()

    def give(self, piece: Buffer) -> None:
        with self._changed:
            self._queued += memoryview(piece).nbytes
        self._pieces.put(piece)

    def pace(self) -> None:
        """Wait while more than a part is queued. Raises what the upload raised."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._queued <= self._part_bytes)
        self._raise()

    def finish(self) -> None:
        self._pieces.put(None)
        self._thread.join()
        self._raise()

    def abort(self, error: OSError) -> None:
        """End it; what was sent is forgotten, unless it was all."""
        self._pieces.put(error)
        self._thread.join()

    def _raise(self) -> None:
        error = self._error
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, error.filename)
        if error is not None:
            raise OSError(errno.EIO, f"{type(error).__name__}: {error}")

    def _upload(self) -> None:
        try:
            self._requests.upload(self._key, self._take(), self._part_bytes, self._at_once)
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever writes
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _take(self) -> Iterator[Buffer]:
        while (piece := self._pieces.get()) is not None:
            if isinstance(piece, OSError):
                raise piece
            yield piece
            with self._changed:
                self._queued -= memoryview(piece).nbytes
                self._changed.notify_all()


def _parts(length: int, window_bytes: int | None) -> tuple[int, int]:
    """Bytes of a part, and how many are on their way at a time, within `window_bytes` if it can be:
    beside those on their way one is being filled and one is queued.
    """
    expected = max(length, _UNKNOWN_BYTES)
    needed = -(-expected // _MOST_PARTS)
    part = max(PART_BYTES, -(-needed // _PART_STEP_BYTES) * _PART_STEP_BYTES)
    if window_bytes is None:
        return part, _AT_ONCE
    if needed <= PART_BYTES:
        part = min(part, max(_LEAST_PART_BYTES, window_bytes // 4))
    return part, max(1, min(_AT_ONCE, window_bytes // part - 2))
