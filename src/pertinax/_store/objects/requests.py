# SPDX-License-Identifier: Apache-2.0
"""Requests: what we ask of a bucket, one method for each kind of request.

Knows `obstore` and its errors. Knows nothing of checkpoints. Keys have no slash in front. Errors
come out as `OSError`s, with the URL, and without what a URL may hide behind its question mark.
"""

import contextlib
import datetime as dt
import errno
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, final

from pertinax._store.contract import Buffer
from pertinax._store.objects.urls import Address, client

_BATCH: Final = 1000
_CREATE_RETRIES: Final = 4
_CREATE_RETRY_S: Final = 12.0
_QUERY: Final = re.compile(r"\?[^\s\"')]*")
_SECRET: Final = re.compile(r"(?i)(signature|sig|token|secret|key)=[^\s&\"')]+")
_STATUS: Final = re.compile(r"status code: (\d{3})")
_SHOWN: Final = 300


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
        self._retry_s = _CREATE_RETRY_S if retry_s is None else retry_s
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
        except _NoSuchRangeError as error:
            raise EOFError(f"{self.front}/{key} ends before byte {start + 1}") from error

    def put(self, key: str, data: Buffer) -> None:
        import obstore

        with self._errors(key):
            obstore.put(self._control, key, _flat(data), use_multipart=False)

    def create(self, key: str, data: Buffer) -> None:
        import obstore

        view = _flat(data)
        through = self._control if view.nbytes < 1 << 20 else self._data
        end_s = time.monotonic() + self._retry_s
        tried = 0
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
                pause_s = 0.1 * 2**tried
                if tried >= _CREATE_RETRIES or time.monotonic() + pause_s > end_s:
                    raise
                time.sleep(pause_s)
                tried += 1

    def upload(
        self, key: str, pieces: Iterator[Buffer], part_bytes: int, parts_at_once: int
    ) -> None:
        import obstore

        with self._errors(key):
            obstore.put(
                self._data,
                key,
                pieces,
                use_multipart=True,
                chunk_size=part_bytes,
                max_concurrency=parts_at_once,
            )

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
        import obstore

        for start in range(0, len(keys), _BATCH):
            batch = list(keys[start : start + _BATCH])
            try:
                with self._errors(batch[0]):
                    obstore.delete(self._control, batch)
            except FileNotFoundError:  # some stores say so; then the others may still be there
                for key in batch:
                    with contextlib.suppress(FileNotFoundError), self._errors(key):
                        obstore.delete(self._control, key)

    @contextlib.contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        from obstore.exceptions import BaseError

        try:
            yield
        except (BaseError, FileNotFoundError) as error:
            raise _as_os_error(error, f"{self.front}/{key}") from None


class _NoSuchRangeError(OSError):
    """The object ends before the range begins."""


def _as_os_error(error: Exception, url: str) -> OSError:
    """The error that a disk would raise. The original holds whole requests, and is let go."""
    from obstore import exceptions as theirs

    text = _said(error)
    status = _STATUS.search(text)
    code = int(status[1]) if status else 0
    if isinstance(error, FileNotFoundError | theirs.NotFoundError):
        return FileNotFoundError(errno.ENOENT, "no such object", url)
    if isinstance(error, theirs.AlreadyExistsError | theirs.PreconditionError):
        return FileExistsError(errno.EEXIST, "there is an object", url)
    if isinstance(error, theirs.PermissionDeniedError | theirs.UnauthenticatedError) or code in (
        401,
        403,
    ):
        return PermissionError(errno.EACCES, f"the store refuses: {text}", url)
    if code == 416 or "Invalid range" in text:
        return _NoSuchRangeError(errno.EINVAL, "no such range", url)
    if "timed out" in text or "timeout" in text.lower():
        return TimeoutError(errno.ETIMEDOUT, text, url)
    return OSError(errno.EIO, text, url)


def _said(error: Exception) -> str:
    first = str(error).partition("\n\nDebug source")[0].strip()
    first = _SECRET.sub(r"\1=...", _QUERY.sub("?...", " ".join(first.split())))
    return first if len(first) <= _SHOWN else first[:_SHOWN] + "..."


def _meta(found: Any) -> Meta:
    when: dt.datetime = found["last_modified"]
    microseconds = (when - _EPOCH) // dt.timedelta(microseconds=1)
    return Meta(found["path"], found["size"], microseconds * 1000, found["e_tag"])


_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def _flat(data: Buffer) -> memoryview:
    view = memoryview(data)
    return view.cast("B") if view.nbytes else memoryview(b"")
