# SPDX-License-Identifier: Apache-2.0
"""Draft: a directory nobody sees, that becomes a checkpoint in one step or not at all.

Knows the order of syncs and renames that makes a save atomic. Knows nothing of formats, steps or
processes: where several take part, one of them commits, after the others have synced what they
wrote.

At each instant, and after a crash at each instant, `find_visible` leads to the old checkpoint or to
the new one, whole. What a crash can leave besides is invisible and names its owner.
"""

import logging
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Literal, Self, final

from pertinax._store.contract import Buffer, Store
from pertinax._store.failures import storage_errors
from pertinax._store.leftovers import (
    REPLACED,
    displaced,
    hidden_name,
    join_path,
    parent_of,
    remove_tree,
    restore_displaced,
    retire_displaced,
)
from pertinax._store.workers import Workers
from pertinax.errors import CheckpointExists

Exists = Literal["error", "replace", "skip"]

_LOG: Final = logging.getLogger(__name__)
# Each try loses only to another process that published, deleted or restored the same checkpoint
# meanwhile.
_TRIES: Final = 3
_MANY_DIRECTORIES: Final = 64
_SYNC_THREADS: Final = 16


def open_draft(store: Store, final: str, *, mode: int = 0o777, path: str | None = None) -> "Draft":
    """Make an invisible directory beside `final`, and the parents it needs, durably.

    A checkpoint that an interrupted replacement left set aside gets its name back first. Its own
    name is new unless the caller has chosen `path`.
    """
    final = final.rstrip("/")
    with storage_errors("make a directory for the checkpoint", final):
        make_dirs(store, parent_of(final))
        restore_displaced(store, final)
        path = path or hidden_name(final)
        store.make_dir(path, mode)
    return Draft(store, final, path)


@final
class Draft:
    """A checkpoint in the making. As a context manager it abandons what was not committed."""

    __slots__ = ("_moved", "final", "path", "store")

    write_id: str | None = None
    """A name makes it visible, and no marker."""

    def __init__(self, store: Store, final: str, path: str) -> None:
        self.store: Final = store
        self.final: Final = final
        self.path: Final = path
        self._moved = False

    def make_dir(self, name: str) -> None:
        """Make a directory in the draft; its parent must be there."""
        with storage_errors("make a directory", self.locate(name)):
            self.store.make_dir(self.locate(name))

    def write_file(self, name: str, content: Buffer) -> int:
        """Write a whole file and make its bytes durable. Returns its length."""
        path = self.locate(name)
        with storage_errors("write a file", path), self.store.create(path) as writer:
            writer.write_at(0, [content])
            writer.sync()
        return memoryview(content).nbytes

    def locate(self, name: str) -> str:
        """The path of `name` inside the draft, for those who write through the store themselves."""
        parts = name.split("/")
        if not name or any(part in {"", ".", ".."} for part in parts):
            raise ValueError(f"not a name inside a checkpoint: {name!r}")
        return join_path(self.path, name)

    def commit(self, *, replace: bool) -> None:
        """Make the draft visible as `final`, whole and durable. Every file must have been synced.

        Raises `CheckpointExists` if `final` is taken and `replace` is false; the draft is then
        unharmed. Another error may come after the step itself, when its durability is in doubt:
        then `final` is the new checkpoint, whole, and a power cut may bring the old state back,
        whole as well.
        """
        if self._moved:
            raise RuntimeError(f"already committed: {self.final}")
        with storage_errors("publish the checkpoint", self.final):
            _sync_tree(self.store, self.path)
            try:
                self._appear(replace)
            except FileExistsError as error:
                raise CheckpointExists(f"there is a checkpoint at {self.final}") from error

    def abandon(self) -> None:
        """Remove everything, as far as the store lets us. Never raises an error of the store."""
        if self._moved:
            return
        try:
            remove_tree(self.store, self.path)
        except FileNotFoundError:
            pass
        except OSError as error:  # the reason for giving up matters more than the litter
            _LOG.warning("abandoned draft stays path=%s error=%s", self.path, error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abandon()

    def _appear(self, replace: bool) -> None:  # noqa: FBT001
        if not replace:
            if displaced(self.store, self.final) is not None:
                raise FileExistsError(self.final)
            self._publish()
            return
        left = _TRIES
        while True:
            left -= 1
            try:
                if self.store.stat(self.final) is None:
                    self._publish()
                else:
                    self._replace()
                return
            except (FileExistsError, FileNotFoundError):
                if self._moved or not left:
                    raise

    def _publish(self) -> None:
        self.store.rename(self.path, self.final)
        self._moved = True
        self.store.sync_dir(parent_of(self.final))
        # The new checkpoint supersedes one that was set aside by somebody else.
        self._tidy()

    def _replace(self) -> None:
        try:
            self.store.exchange(self.path, self.final)
        except NotImplementedError:
            self._displace()
        else:
            # From here on `path` is the old checkpoint. If the sync fails, a power cut may still
            # bring it back as `final`: it must stay whole, so nobody abandons it any more.
            self._moved = True
            self.store.sync_dir(parent_of(self.final))
            self._tidy(self.path)

    def _displace(self) -> None:
        """Replace in two steps; in between the old checkpoint is found under its other name."""
        store, aside = self.store, self.path + REPLACED
        # At most one is ever set aside, so that "the old one" has one meaning.
        retired = retire_displaced(store, self.final)
        if retired:
            self._tidy(*retired)
        store.rename(self.final, aside)
        # No sync in between: if a power cut keeps the second name only, `final` is the new one.
        try:
            store.rename(self.path, self.final)
        except OSError:
            self._put_back(aside)
            raise
        self._moved = True
        store.sync_dir(parent_of(self.final))
        self._tidy()

    def _put_back(self, aside: str) -> None:
        try:
            self.store.rename(aside, self.final)
            self.store.sync_dir(parent_of(self.final))
        except OSError as error:  # readers find it where it is, the next writer restores it
            _LOG.warning("old checkpoint stays aside path=%s error=%s", aside, error)

    def _tidy(self, *hidden: str) -> None:
        """Remove `hidden`, or else what is set aside.

        The save is decided: what fails here is invisible, and cleaned later.
        """
        try:
            for path in hidden or retire_displaced(self.store, self.final):
                remove_tree(self.store, path)
        except OSError as error:
            _LOG.warning("replaced checkpoint stays final=%s error=%s", self.final, error)


def make_dirs(store: Store, path: str) -> None:
    """Make a directory and the parents that it lacks, durably."""
    missing: list[str] = []
    while store.stat(path) is None:
        missing.append(path)
        path = parent_of(path)
    for one in reversed(missing):
        try:
            store.make_dir(one)
        except FileExistsError:  # another process was faster, but perhaps has not synced it yet
            found = store.stat(one)
            if found is None or not found.is_dir:
                raise
        store.sync_dir(parent_of(one))


def _sync_tree(store: Store, path: str) -> None:
    # Walks the disk instead of a list of its own: also directories that somebody else made get
    # their sync.
    directories = list(_directories(store, path))
    if len(directories) <= _MANY_DIRECTORIES:
        for one in directories:
            store.sync_dir(one)
        return
    # Each sync is a wait, and file systems serve many waiting threads with one commit.
    with Workers(_SYNC_THREADS, "pertinax-sync") as workers:
        workers.run_all([lambda one=one: store.sync_dir(one) for one in directories])


def _directories(store: Store, path: str) -> Iterator[str]:
    """A directory and those below, itself last."""
    for entry in store.list_dir(path):
        if entry.is_dir:
            yield from _directories(store, join_path(path, entry.name))
    yield path
