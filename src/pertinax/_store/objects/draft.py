# SPDX-License-Identifier: Apache-2.0
"""The draft of a checkpoint in an object store: it lies where the checkpoint will be, and nobody
sees it until its marker is there.

Knows the order in which an attempt ends (design note 004). Knows nothing of formats: whatever is
called like a marker is held back until all else is there.
"""

import errno
import logging
import re
import threading
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Final, Self, final

from pertinax._store.contract import Buffer, Entry, Reader, Stat, Store, Writer
from pertinax._store.failures import storage_errors
from pertinax._store.memory import MemoryStore
from pertinax._store.objects.attempts import Attempt, Attempts, End, Holding, is_attempt, is_probe
from pertinax._store.objects.delegating import Delegating
from pertinax._store.objects.requests import Requests
from pertinax._store.objects.store import MARKER, ObjectStore
from pertinax._store.objects.writer import ObjectWriter
from pertinax.errors import CheckpointExists, WriterConflict

_LOOKS: Final = 10
_PAUSE_S: Final = 0.3
_OURS_ALONE: Final = re.compile(r"[0-9a-f]{32}")
_LOG: Final = logging.getLogger(__name__)


@final
class ObjectDraft:
    """A checkpoint in the making. As a context manager it abandons what was not committed.

    Attributes:
        store: writes below the draft, and keeps markers back.
        final, path: where it lies, now and later.
    """

    def __init__(
        self,
        base: ObjectStore,
        final: str,
        holding: Holding | None,
        attempts: Attempts,
        *,
        shared: bool,
        window_bytes: int | None,
    ) -> None:
        """`holding`: the attempt, if this process is the one who commits. `shared`: others write
        here as well.
        """
        self.final: Final = final
        self.path: Final = final
        self._kept: Final = DraftStore(base, final, holding, window_bytes)
        self.store: Final[Store] = self._kept
        self._requests = base.requests
        self._place = base.key(final)
        self._holding = holding
        self._attempts = attempts
        self._shared = shared
        self._over = holding is None

    @property
    def write_id(self) -> str | None:
        """What the marker must say, so that we know it again."""
        return None if self._holding is None else self._holding.attempt.write_id

    def make_dir(self, name: str) -> None:
        """Nothing: there are no directories."""
        self.locate(name)

    def write_file(self, name: str, content: Buffer) -> int:
        """Write a whole file and make its bytes durable. Returns its length."""
        path = self.locate(name)
        with storage_errors("write a file", path), self.store.create(path) as writer:
            writer.write_at(0, [content])
            writer.sync()
        return memoryview(content).nbytes

    def locate(self, name: str) -> str:
        """The path of `name` inside the draft."""
        if not name or {"", ".", ".."} & set(name.split("/")):
            raise ValueError(f"not a name inside a checkpoint: {name!r}")
        return f"{self.path}/{name}"

    def commit(self, *, replace: bool) -> None:  # noqa: ARG002 - refused before anything is written
        """Make the checkpoint visible, whole and durable.

        Raises `WriterConflict` if somebody has taken this process for dead, and `CheckpointExists`
        if a marker is there that is not ours. Another error may come after it has become certain
        that the checkpoint will be visible: then whoever comes next makes it so.
        """
        if self._over or self._holding is None:
            raise RuntimeError(f"already over, or not ours to commit: {self.final}")
        with storage_errors("publish the checkpoint", self.final, names_too=True):
            self._holding.renew()
            attempt = self._holding.attempt
            end = End("complete", attempt.write_id, self._kept.objects(), self._kept.markers())
            # From here on nobody may clean up but who knows how it ended.
            self._over = True
            found = self._attempts.close(attempt, end)
            if found.by != attempt.write_id:
                self._holding.stop()
                self._remove_unique()
                raise self._holding.conflict()
            self._look_around(end)
            if not mark(self._requests, attempt, end):
                self._holding.release()
                raise CheckpointExists(f"there is a checkpoint at {self.final}")
            try:
                self._holding.release()
            except OSError as error:
                _LOG.warning("attempt stays, and is over key=%s error=%s", attempt.key, error)

    def abandon(self) -> None:
        """Remove everything, as far as the store lets us. Never raises an error of the store."""
        if self._holding is None:
            return
        if self._over:
            self._holding.stop()
            return
        self._over = True
        try:
            self._holding.renew()
            remove_below(self._requests, self._place, self._holding)
            self._holding.release()
        except WriterConflict:
            self._remove_unique()
        except OSError as error:  # the reason for giving up matters more than the litter
            _LOG.warning("abandoned draft stays path=%s error=%s", self.path, error)
        finally:
            self._holding.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abandon()

    def _look_around(self, end: End) -> None:
        """Is all there, and is nobody else? Then what a writer before us sent after it had been
        taken for dead is removed.

        Raises `WriterConflict` if we are the one who was taken for dead, so long ago that what told
        of our attempt is gone.
        """
        assert self._holding is not None  # noqa: S101 - else nobody commits
        lengths = listed(self._requests, self._place)
        for _ in range(_LOOKS):
            if not self._others(lengths):
                break
            self._attempts.pause(_PAUSE_S)  # who comes after us looks around, and goes away
            lengths = listed(self._requests, self._place)
        if self._others(lengths) or not is_whole(self._requests, self._place, end, lengths):
            self._holding.release()
            self._remove_unique()
            raise self._holding.conflict()
        if not self._shared:
            known = {f"{self._place}/{name}" for name in end.objects}
            self._requests.delete([k for k in lengths if k not in known and not is_attempt(k)])

    def _others(self, keys: Iterable[str]) -> list[str]:
        """What tells of attempts that are neither ours nor over."""
        known = set[str]() if self._holding is None else self._holding.keys
        return [k for k in keys if is_attempt(k) and not is_probe(k) and k not in known]

    def _remove_unique(self) -> None:
        """Remove what nobody else can have written, for the place belongs to somebody else."""
        keys = [f"{self._place}/{name}" for name in self._kept.objects()]
        try:
            self._requests.delete([k for k in keys if _OURS_ALONE.fullmatch(k.rpartition("/")[2])])
        except OSError as error:
            _LOG.warning("objects stay path=%s error=%s", self.path, error)


def finish(requests: Requests, attempt: Attempt, end: End) -> bool:
    """Bring another's complete attempt to its end; whether the checkpoint is there.

    False if objects are missing (all was removed long ago), or another checkpoint is there.
    """
    place = attempt.place
    return is_whole(requests, place, end, listed(requests, place)) and mark(requests, attempt, end)


def listed(requests: Requests, place: str) -> dict[str, int]:
    """The lengths of all objects below a place, by key."""
    return {one.key: one.length for page in requests.list(place) for one in page}


def is_whole(requests: Requests, place: str, end: End, lengths: Mapping[str, int]) -> bool:
    """Whether all objects of a complete attempt are there, by a listing."""
    for name, length in end.objects.items():
        key = f"{place}/{name}"
        if lengths.get(key) == length:
            continue
        found = requests.head(key)  # a listing may be behind
        if found is None or found.length != length:
            return False
    return True


def mark(requests: Requests, attempt: Attempt, end: End) -> bool:
    """Make the markers of a complete attempt; False if others are there."""
    return all(
        _mark(requests, f"{attempt.place}/{name}", text) for name, text in end.markers.items()
    )


def _mark(requests: Requests, key: str, text: str) -> bool:
    """Whether the marker with this text is there, also if the reply was lost."""
    data = text.encode("utf-8", "surrogateescape")
    try:
        requests.create(key, data)
    except OSError as error:
        try:
            return requests.get(key) == data
        except FileNotFoundError:
            raise error from None
    return True


def remove_below(requests: Requests, place: str, holding: Holding) -> None:
    """Remove all that lies at a place that we hold, but for what tells of attempts: the markers of
    the checkpoint first, then those of items.
    """
    keys = [one.key for page in requests.list(place) for one in page if not is_attempt(one.key)]
    own = f"{place}/{MARKER}"
    markers = [key for key in keys if key.endswith(f"/{MARKER}") and key != own]
    rest = [key for key in keys if not key.endswith(f"/{MARKER}")]
    for some in ([own] if own in keys else [], markers, rest):
        for start in range(0, len(some), _BATCH):
            holding.check()
            requests.delete(some[start : start + _BATCH])


_BATCH: Final = 1000


@final
class DraftStore(Delegating):
    """A store in which markers are held back, and what is written is noted."""

    def __init__(
        self,
        base: ObjectStore,
        final: str,
        holding: Holding | None,
        window_bytes: int | None,
    ) -> None:
        super().__init__(base)
        self._final = final
        self._holding = holding
        self._window_bytes = window_bytes
        self._turn = threading.Lock()
        self._lengths: dict[str, int] = {}
        self._kept: dict[str, MemoryStore] = {}  # one file each, `/marker`

    def objects(self) -> Mapping[str, int]:
        """The lengths of all that was written, by name below the draft."""
        with self._turn:
            return dict(self._lengths)

    def markers(self) -> Mapping[str, str]:
        """The texts of markers, by name; the one of the checkpoint itself comes last."""
        own = f"{self._final}/{MARKER}"
        paths = [path for path in self._kept if path != own]
        texts: dict[str, str] = {}
        for path in [*paths, own]:
            name = path[len(self._final) + 1 :]
            texts[name] = self._text(path) if path in self._kept else self._unsaid()
        return texts

    def create(self, path: str, length: int = 0) -> Writer:
        if self._holding is not None:
            self._holding.check()
        if path.endswith(f"/{MARKER}"):
            with self._turn:
                if path in self._kept:
                    raise FileExistsError(errno.EEXIST, "there is a marker", path)
                self._kept[path] = MemoryStore()
            return self._kept[path].create("/marker")

        def stored(length: int) -> None:
            with self._turn:
                self._lengths[path[len(self._final) + 1 :]] = length

        return ObjectWriter(
            self.base.requests,
            self.base.key(path),
            length,
            window_bytes=self._window_bytes,
            done=stored,
        )

    def remove_file(self, path: str) -> None:
        if self._kept.pop(path, None) is None:
            self.base.remove_file(path)
        with self._turn:
            self._lengths.pop(path[len(self._final) + 1 :], None)

    def list_dir(self, path: str) -> list[Entry]:
        kept = f"{path.rstrip('/')}/{MARKER}" in self._kept
        try:
            found = self.base.list_dir(path)
        except FileNotFoundError:
            if not kept and path != self._final:
                raise
            found = []
        return [*found, Entry(MARKER, is_dir=False)] if kept else found

    def stat(self, path: str) -> Stat | None:
        kept = self._kept.get(path)
        found = self.base.stat(path) if kept is None else kept.stat("/marker")
        if found is None and path == self._final:
            return Stat(is_dir=True, length=0, mtime_ns=0)
        return found

    def open(self, path: str) -> Reader:
        kept = self._kept.get(path)
        return self.base.open(path) if kept is None else kept.open("/marker")

    def _unsaid(self) -> str:
        """The marker of a checkpoint whose writer made none."""
        write_id = "" if self._holding is None else self._holding.attempt.write_id
        return f"Finished by attempt {write_id}"

    def _text(self, path: str) -> str:
        with self._kept[path].open("/marker") as reader:
            return reader.read(0, reader.length).decode("utf-8", "surrogateescape")
