# SPDX-License-Identifier: Apache-2.0
"""Requests: what we ask of a bucket, one method for each kind of request.

Knows `obstore`. Knows nothing of checkpoints. Keys have no slash in front. Errors come out as
`OSError`s, with the URL.
"""

import contextlib
import datetime as dt
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self, final

from pertinax._store.contract import Buffer
from pertinax._store.objects.replies import NoSuchRangeError, as_os_error
from pertinax._store.objects.urls import Address, client

_BATCH: Final = 1000
_RETRIES: Final = 4
_RETRY_S: Final = 12.0


@dataclass(frozen=True, slots=True)
class Meta:
    """An object: its key, length in bytes, and when it was written by the store's own clock."""

    key: str
    length: int
    modified_ns: int
    etag: str | None = None


class Requests(Protocol):
    """A bucket. Each method is one request, or as many of one kind as its answer has pages.

    A request that fails may have been carried out all the same.
    """

    @property
    def front(self) -> str:
        """The URL of the bucket."""
        ...

    def head(self, key: str) -> Meta | None:
        """What is there, or None."""
        ...

    def get(self, key: str) -> bytes:
        """A whole small object. `FileNotFoundError` if there is none."""
        ...

    def get_range(self, key: str, start: int, stop: int) -> tuple[Buffer, Meta]:
        """Bytes `start` to `stop`, or to the end, and what the object is.

        `FileNotFoundError`; `EOFError` if the object ends at `start` or before.
        """
        ...

    def put(self, key: str, data: Buffer) -> None:
        """Write an object, whatever is there."""
        ...

    def create(self, key: str, data: Buffer) -> None:
        """Write an object, unless there is another: `FileExistsError`."""
        ...

    def upload(
        self, key: str, pieces: Iterator[Buffer], part_bytes: int, parts_at_once: int
    ) -> None:
        """Write a large object in parts, whatever is there. If `pieces` raises, nothing is left."""
        ...

    def list(self, prefix: str) -> Iterator[Sequence[Meta]]:
        """All objects below a key (the key itself is not), page by page."""
        ...

    def list_level(self, prefix: str) -> tuple[Sequence[str], Sequence[Meta]]:
        """The prefixes and the objects directly below a key."""
        ...

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; what is not there is no error."""
        ...


@final
class Bucket:
    """A bucket that `obstore` talks to."""

    def __init__(
        self,
        address: Address,
        config: Mapping[str, Any],
        client_options: Mapping[str, Any],
        retry_s: float | None = None,
    ) -> None:
        self.front: Final = address.front
        self._retry_s = _RETRY_S if retry_s is None else retry_s
        given = {"config": config, "client": client_options, "retry": {"retry_s": retry_s}}
        self._control = client(address, given, data=False)
        self._data = client(address, given, data=True)

    def head(self, key: str) -> Meta | None:
        import obstore

        try:
            with self._errors(key):
                return _meta(obstore.head(self._control, key))
        except FileNotFoundError:
            return None

    def get(self, key: str) -> bytes:
        import obstore

        with self._errors(key):
            return obstore.get(self._data, key).bytes().to_bytes()

    def get_range(self, key: str, start: int, stop: int) -> tuple[Buffer, Meta]:
        import obstore

        try:
            with self._errors(key):
                found = obstore.get(self._data, key, options={"range": (start, stop)})
                return memoryview(found.bytes()), _meta(found.meta)
        except NoSuchRangeError as error:
            raise EOFError(f"{self.front}/{key} ends before byte {start + 1}") from error

    def put(self, key: str, data: Buffer) -> None:
        import obstore

        with self._errors(key):
            obstore.put(self._control, key, _flat(data), use_multipart=False)

    def create(self, key: str, data: Buffer) -> None:
        import obstore

        view = _flat(data)
        through = self._control if view.nbytes < 1 << 20 else self._data
        again = _Again(self._retry_s)
        while True:
            try:
                with self._errors(key):
                    obstore.put(through, key, view, use_multipart=False, mode="create")
                return
            except PermissionError:
                raise
            except FileExistsError:
                # It may be ours: of a try before, or of one that the client below has repeated
                # because a gateway had lost the reply.
                if self.get(key) == bytes(view):
                    return
                raise
            except OSError:
                # Nobody below repeats, after a broken connection, what is not the same when it is
                # done twice. This is.
                if not again.pause():
                    raise

    def upload(
        self, key: str, pieces: Iterator[Buffer], part_bytes: int, parts_at_once: int
    ) -> None:
        import obstore

        again = _Again(self._retry_s)
        taken = _Taken(pieces)
        while True:
            try:
                with self._errors(key):
                    obstore.put(
                        self._data,
                        key,
                        taken,
                        use_multipart=True,
                        chunk_size=part_bytes,
                        max_concurrency=parts_at_once,
                    )
                return
            except OSError:
                if taken.is_over:  # it may be the reply to the last request that was lost
                    found = self.head(key)
                    if found is not None and found.length == taken.total_bytes:
                        return
                # Before the first piece it is the beginning of an upload that failed.
                if taken.is_begun or not again.pause():
                    raise

    def list(self, prefix: str) -> Iterator[Sequence[Meta]]:
        import obstore

        with self._errors(prefix):
            for page in obstore.list(self._control, prefix or None, chunk_size=_BATCH):
                yield [_meta(one) for one in page]

    def list_level(self, prefix: str) -> tuple[Sequence[str], Sequence[Meta]]:
        import obstore

        with self._errors(prefix):
            found = obstore.list_with_delimiter(self._control, prefix or None)
        return found["common_prefixes"], [_meta(one) for one in found["objects"]]

    def delete(self, keys: Sequence[str]) -> None:
        for start in range(0, len(keys), _BATCH):
            batch = list(keys[start : start + _BATCH])
            try:
                self._delete(batch[0], batch)
            except FileNotFoundError:  # some stores say so; then the others may still be there
                for key in batch:
                    with contextlib.suppress(FileNotFoundError):
                        self._delete(key, key)

    def _delete(self, key: str, what: str | Sequence[str]) -> None:
        """One request, or one for each 256 or 1,000 keys where the service has such requests."""
        import obstore

        again = _Again(self._retry_s)
        while True:
            try:
                with self._errors(key):
                    obstore.delete(self._control, what)
                return
            except (FileNotFoundError, PermissionError):
                raise
            except OSError:  # as in `create`: a batch is a POST, and nobody below repeats that
                if not again.pause():
                    raise

    @contextlib.contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        from obstore.exceptions import BaseError

        try:
            yield
        except (BaseError, FileNotFoundError) as error:
            raise as_os_error(error, f"{self.front}/{key}") from None


class _Again:
    """How often, and for how long, a request that fails is tried again."""

    def __init__(self, retry_s: float) -> None:
        self._tried = 0
        self._end_s = time.monotonic() + retry_s

    def pause(self) -> bool:
        """Wait before the next try; False if it is time to give up."""
        pause_s = 0.1 * 2**self._tried
        if self._tried >= _RETRIES or time.monotonic() + pause_s > self._end_s:
            return False
        self._tried += 1
        time.sleep(pause_s)
        return True


class _Taken:
    """Pieces, and how far they were taken."""

    def __init__(self, pieces: Iterator[Buffer]) -> None:
        self.is_begun = False
        self.is_over = False
        self.total_bytes = 0
        self._pieces = pieces

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Buffer:
        self.is_begun = True
        try:
            piece = next(self._pieces)
        except StopIteration:
            self.is_over = True
            raise
        self.total_bytes += memoryview(piece).nbytes
        return piece


def _meta(found: Any) -> Meta:
    when: dt.datetime = found["last_modified"]
    microseconds = (when - _EPOCH) // dt.timedelta(microseconds=1)
    return Meta(found["path"], found["size"], microseconds * 1000, _plain(found["e_tag"]))


def _plain(etag: str | None) -> str | None:
    """An ETag without its quotes: Azure puts them into headers and leaves them out of listings."""
    return None if etag is None else etag.removeprefix("W/").strip('"')


_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def _flat(data: Buffer) -> memoryview:
    view = memoryview(data)
    return view.cast("B") if view.nbytes else memoryview(b"")
