# SPDX-License-Identifier: Apache-2.0
"""A store of objects: the contract of a store, as far as a bucket can keep it.

Knows keys and prefixes. Knows nothing of checkpoints. What differs from a disk: paths are URLs; a
directory is there as long as something is in it, so that making one does nothing; a file is durable
and has its name when it is synced, not before, and only then is it known whether the name was
taken; nothing can be renamed, which is why `publishing` is another than that of a disk.
"""

import errno
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, final

from pertinax._store.contract import Entry, Reader, Stat, Traits, Writer
from pertinax._store.objects.reader import ObjectReader
from pertinax._store.objects.requests import Bucket, Meta, Requests
from pertinax._store.objects.urls import parse_url
from pertinax._store.objects.writer import ObjectWriter
from pertinax.errors import InvalidOption

if TYPE_CHECKING:
    from pertinax._store.objects.publishing import MarkerPublishing

ATTEMPT: Final = "pertinax.attempt."
"""How the keys begin that say who writes a checkpoint; no listing of a directory shows them."""
MARKER: Final = "commit_success.txt"
"""What makes a checkpoint visible. Orbax looks for it, and so do we."""
LEASE_S: Final = 60.0
_TRAITS: Final = Traits(
    read_gap_bytes=1 << 20,
    read_threads=16,
    file_bytes=2 << 30,
    keeps_times=False,
    keeps_names=False,
    has_room=False,
)


class _Bare:
    """What a disk does and a bucket has no need of, or cannot do."""

    def make_dir(self, path: str, mode: int = 0o777) -> None:
        """Nothing: a directory is there when something is in it."""

    def sync_dir(self, path: str) -> None:
        """Nothing: what is stored is durable."""

    def remove_dir(self, path: str) -> None:
        """Nothing: a directory is gone when nothing is in it."""

    def rename(self, source: str, target: str) -> None:
        """Raises `NotImplementedError`."""
        raise NotImplementedError(f"nothing can be renamed in an object store: {source}")

    def exchange(self, one: str, other: str) -> None:
        """Raises `NotImplementedError`."""
        raise NotImplementedError(f"nothing can be renamed in an object store: {one}")

    def free_bytes(self, path: str) -> int | None:  # noqa: ARG002
        """None: there is as much as is paid for."""
        return None


@final
class ObjectStore(_Bare):
    """A bucket, or a part of one, as a store: for `store=`, where a URL alone says too little.

    The verbs take URLs as they are (`pertinax.save("s3://bucket/runs/a", state)`), with settings
    from the environment. With a store of your own you give settings by hand, and paths relative to
    its URL:

        store = pertinax.ObjectStore("s3://bucket/runs", config={"endpoint": "https://..."})
        pertinax.save("a", state, store=store)

    Args:
        url: `s3://bucket/key`, `gs://bucket/key`, `az://container/key` (`abfs://` as well) or
            `memory://name/key`, which lives as long as the process.
        config: settings of the service, with the names that `obstore` gives them: `endpoint`,
            `region`, `access_key_id`, ... What is not said comes from the environment.
        client_options: settings of the HTTP client: `timeout`, `connect_timeout`, `proxy_url`, ...
        retry_s: for how many seconds a request that failed is tried again; None: 12, and 120 for
            those that carry data.
        lease_s: after so many seconds without a sign of life a writer on another host counts as
            dead. All who write to the same place must agree on it. More than 30 s, unless the store
            is this process's own.

    Raises `InvalidOption` if `obstore` is missing or a setting makes no sense.
    """

    __module__ = "pertinax"

    def __init__(
        self,
        url: str,
        *,
        config: Mapping[str, Any] | None = None,
        client_options: Mapping[str, Any] | None = None,
        retry_s: float | None = None,
        lease_s: float = LEASE_S,
    ) -> None:
        address = parse_url(url)
        if not lease_s > 0 or (retry_s is not None and not retry_s >= 0):
            raise InvalidOption(
                f"lease_s={lease_s!r}, retry_s={retry_s!r}: more than 0 seconds, and not negative"
            )
        self.requests: Requests = Bucket(address, config or {}, client_options or {}, retry_s)
        self.lease_s = lease_s
        self._base = address.url

    @classmethod
    def on(cls, requests: Requests, url: str, *, lease_s: float = LEASE_S) -> "ObjectStore":
        """A store on requests of another kind: for tests, which cut and delay them."""
        made = cls.__new__(cls)
        made.requests, made.lease_s = requests, lease_s
        made._base = parse_url(url).url  # noqa: SLF001 - our own
        return made

    def __repr__(self) -> str:
        return f"ObjectStore({self._base!r})"

    @property
    def traits(self) -> Traits:
        return _TRAITS

    def absolute(self, text: str) -> str:
        """The URL that people mean by `text`: a URL in this bucket, or a path below our own."""
        if "://" in text:
            address = parse_url(text)
            if address.front != self.requests.front:
                raise InvalidOption(f"{text!r} is not in the store {self._base}")
            return address.url
        return f"{self._base}/{text.strip('/')}".rstrip("/")

    def publishing(self) -> "MarkerPublishing":
        """How checkpoints appear here."""
        from pertinax._store.objects.publishing import MarkerPublishing

        return MarkerPublishing(self)

    def key(self, path: str) -> str:
        """The key of a path. Raises `ValueError` for a path outside."""
        front = self.requests.front
        if path != front and not path.startswith(f"{front}/"):
            raise ValueError(f"not in {front}: {path!r}")
        parts = [part for part in path[len(front) :].split("/") if part]
        if ".." in parts or "." in parts:
            raise ValueError(f"not a plain path: {path!r}")
        return "/".join(parts)

    def create(self, path: str, length: int = 0) -> Writer:
        return ObjectWriter(self.requests, self.key(path), length)

    def remove_file(self, path: str) -> None:
        self.requests.delete([self.key(path)])

    def list_dir(self, path: str) -> list[Entry]:
        prefixes, objects = self.requests.list_level(self.key(path))
        if not prefixes and not objects:
            if self.key(path) and self.requests.head(self.key(path)) is not None:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            if self.key(path):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return entries_of(prefixes, objects)

    def stat(self, path: str) -> Stat | None:
        key = self.key(path)
        found = self.requests.head(key) if key else None
        if found is not None:
            return Stat(is_dir=False, length=found.length, mtime_ns=found.modified_ns)
        prefixes, objects = self.requests.list_level(key)
        if not prefixes and not objects:
            return Stat(is_dir=True, length=0, mtime_ns=0) if not key else None
        return Stat(is_dir=True, length=0, mtime_ns=time_of(objects))

    def open(self, path: str) -> Reader:
        return self.open_known(path, None)

    def open_known(self, path: str, known: Meta | None) -> Reader:
        """As `open`; what a listing has said of the file need not be asked again."""
        try:
            return ObjectReader(self.requests, self.key(path), known=known)
        except FileNotFoundError:
            prefixes, objects = self.requests.list_level(self.key(path))
            if prefixes or objects:
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path) from None
            raise


def entries_of(prefixes: Sequence[str], objects: Sequence[Meta]) -> list[Entry]:
    """What a directory shows. Some tools put empty objects in place of directories."""
    found = [Entry(prefix.rstrip("/").rpartition("/")[2], is_dir=True) for prefix in prefixes]
    names = (one.key.rpartition("/")[2] for one in objects)
    found += [Entry(name, is_dir=False) for name in names if name and not name.startswith(ATTEMPT)]
    return found


def time_of(objects: Sequence[Meta]) -> int:
    """The time of a directory, in nanoseconds since the epoch: of its marker, if it has one, else
    of the newest of its own files.
    """
    times = {one.key.rpartition("/")[2]: one.modified_ns for one in objects}
    return times.get(MARKER) or max(times.values(), default=0)
