# SPDX-License-Identifier: Apache-2.0
"""Disks that fail on purpose: power cuts at every step, errors at every call.

Knows the store contract and its weakest promise. Knows nothing of checkpoints. `CrashingStore`
keeps, beside what a program sees, what would survive a power cut: bytes that were synced, names
whose directory was synced, and any part of the rest.

    calls = CrashingStore()
    save(calls, ...)                                     # count the operations
    for n in range(calls.operations):
        disk = CrashingStore(die_at=n)
        with pytest.raises(SimulatedDeath):
            save(disk, ...)
        for after in disk.crash_states(limit=64):
            ...                                          # a MemoryStore, as found after the reboot
"""

# The contract speaks for the methods of a store.
# ruff: noqa: D102

import threading
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Self, final

from pertinax._store.contract import Buffer, Entry, Reader, Stat, Store, Writer
from pertinax._store.memory import DirNode, FileNode, MemoryStore, join
from pertinax.testing._journal import Journal, copy_tree


@final
class SimulatedDeath(BaseException):
    """The power went. Not an `Exception`, for no program can handle its own death."""


@final
class CrashingStore:
    """A simulated disk that dies at its `die_at`-th operation, counted from 0, before its effect.

    Operations are the calls that change something: make, create, write, sync, rename, exchange,
    remove. After death every call raises `SimulatedDeath`. `disk` is what lies on it at first,
    durable; it is copied. With `exchange=False` the disk cannot swap names. Safe to use from
    several threads.

    Attributes:
        log: the operations so far, in words; the one that died comes last.
    """

    def __init__(
        self, disk: MemoryStore | None = None, *, die_at: int | None = None, exchange: bool = True
    ) -> None:
        root = DirNode() if disk is None else copy_tree(disk.root)
        self._live = MemoryStore(root)
        self._fate = _Fate(die_at)
        self._journal = Journal(root)
        self._can_exchange = exchange
        self.log = self._fate.log

    @property
    def operations(self) -> int:
        """How many operations there were, the deadly one included."""
        return len(self.log)

    def crash_states(self, limit: int = 64, seed: int = 0) -> Iterator[MemoryStore]:
        """Disks that a power cut at this instant may leave; at most `limit`, fixed by `seed`.

        First the one without anything unsynced, then the one with everything; then every
        combination of the pending names if these are six or fewer, else each name lost alone; then
        random ones. Unsynced bytes survive by sector or page, or not, each time anew.
        """
        with self._fate.lock:
            yield from list(self._journal.crash_states(limit, seed))

    def after_kill(self, *, die_at: int | None = None) -> "CrashingStore":
        """The same disk for the next process: nothing was lost, nothing unsynced became durable."""
        after = CrashingStore(die_at=die_at, exchange=self._can_exchange)
        after._live = self._live
        after._journal = self._journal
        return after

    def make_dir(self, path: str, mode: int = 0o777) -> None:
        with self._fate.tick(f"make_dir {path}"):
            self._live.make_dir(path, mode)
            _note(self._journal, self._live, path)

    def create(self, path: str, length: int = 0) -> Writer:
        with self._fate.tick(f"create {path} {length}"):
            inner = self._live.create(path, length)
            _note(self._journal, self._live, path)
            node = self._live.find(path)
            assert isinstance(node, FileNode)
            self._journal.new_file(node)
            return _CrashingWriter(inner, node, path, self._journal, self._fate)

    def sync_dir(self, path: str) -> None:
        with self._fate.tick(f"sync_dir {path}"):
            self._live.sync_dir(path)
            self._journal.sync_dir(self._live.directory(path))

    def rename(self, source: str, target: str) -> None:
        with self._fate.tick(f"rename {source} {target}"):
            self._live.rename(source, target)
            _note(self._journal, self._live, source, target)

    def exchange(self, one: str, other: str) -> None:
        with self._fate.tick(f"exchange {one} {other}"):
            if not self._can_exchange:
                raise NotImplementedError("this disk cannot exchange names")
            self._live.exchange(one, other)
            _note(self._journal, self._live, one, other)

    def remove_file(self, path: str) -> None:
        with self._fate.tick(f"remove_file {path}"):
            self._live.remove_file(path)
            _note(self._journal, self._live, path)

    def remove_dir(self, path: str) -> None:
        with self._fate.tick(f"remove_dir {path}"):
            self._live.remove_dir(path)
            _note(self._journal, self._live, path)

    def list_dir(self, path: str) -> list[Entry]:
        self._fate.check()
        return self._live.list_dir(path)

    def stat(self, path: str) -> Stat | None:
        self._fate.check()
        return self._live.stat(path)

    def open(self, path: str) -> Reader:
        self._fate.check()
        return self._live.open(path)

    def free_bytes(self, path: str) -> int | None:
        self._fate.check()
        return self._live.free_bytes(path)


@final
class FaultyStore:
    """Any store, whose `fail_at`-th call, counted from 0, raises `error` and does nothing.

    Every call counts, also those on writers and readers. With `lasting` all later calls that
    change something fail too, as on a full disk. A writer whose write or sync failed never succeeds
    again.

    Attributes:
        log: the calls so far, in words.
    """

    def __init__(
        self, inner: Store, *, fail_at: int | None, error: OSError, lasting: bool = False
    ) -> None:
        self._inner = inner
        self._faults = _Faults(fail_at, error, lasting)
        self.log = self._faults.log

    @property
    def calls(self) -> int:
        """How many calls there were."""
        return len(self.log)

    def make_dir(self, path: str, mode: int = 0o777) -> None:
        self._faults.change(f"make_dir {path}")
        self._inner.make_dir(path, mode)

    def create(self, path: str, length: int = 0) -> Writer:
        self._faults.change(f"create {path} {length}")
        return _FaultyWriter(self._inner.create(path, length), path, self._faults)

    def sync_dir(self, path: str) -> None:
        self._faults.change(f"sync_dir {path}")
        self._inner.sync_dir(path)

    def rename(self, source: str, target: str) -> None:
        self._faults.change(f"rename {source} {target}")
        self._inner.rename(source, target)

    def exchange(self, one: str, other: str) -> None:
        self._faults.change(f"exchange {one} {other}")
        self._inner.exchange(one, other)

    def remove_file(self, path: str) -> None:
        # A full disk still deletes.
        self._faults.look(f"remove_file {path}")
        self._inner.remove_file(path)

    def remove_dir(self, path: str) -> None:
        self._faults.look(f"remove_dir {path}")
        self._inner.remove_dir(path)

    def list_dir(self, path: str) -> list[Entry]:
        self._faults.look(f"list_dir {path}")
        return self._inner.list_dir(path)

    def stat(self, path: str) -> Stat | None:
        self._faults.look(f"stat {path}")
        return self._inner.stat(path)

    def open(self, path: str) -> Reader:
        self._faults.look(f"open {path}")
        return _FaultyReader(self._inner.open(path), path, self._faults)

    def free_bytes(self, path: str) -> int | None:
        self._faults.look(f"free_bytes {path}")
        return self._inner.free_bytes(path)


def read_tree(store: Store, path: str) -> dict[str, bytes]:
    """All files below `path` by their name in it; directories end in `/` and have no bytes."""
    found: dict[str, bytes] = {}
    for entry in store.list_dir(path):
        child = f"{path.rstrip('/')}/{entry.name}"
        if entry.is_dir:
            found[f"{entry.name}/"] = b""
            inner = read_tree(store, child)
            found.update({f"{entry.name}/{name}": content for name, content in inner.items()})
        else:
            with store.open(child) as reader:
                found[entry.name] = reader.read(0, reader.length)
    return found


def _note(journal: Journal, live: MemoryStore, *paths: str) -> None:
    """Note what the names now stand for. Two names in one directory change as one."""
    journal.name([live.parent(path) for path in paths])


@final
class _Fate:
    """Counts operations, one at a time, and says when it is over."""

    def __init__(self, die_at: int | None) -> None:
        self.lock = threading.RLock()
        self.log: list[str] = []
        self._die_at = die_at
        self._dead = False

    def check(self) -> None:
        if self._dead:
            raise SimulatedDeath(f"the disk died at operation {len(self.log) - 1}: {self.log[-1]}")

    def tick(self, words: str, last_gasp: "Callable[[], None] | None" = None) -> "_Fate":
        """Begin an operation; `with` it, nothing else happens. `last_gasp` is what death leaves."""
        with self.lock:
            self.check()
            self.log.append(words)
            if len(self.log) - 1 == self._die_at:
                self._dead = True
                if last_gasp is not None:
                    last_gasp()
                self.check()
            self.lock.acquire()  # handed on to `with`, released by `__exit__`
        return self

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.lock.release()


@final
class _CrashingWriter:
    def __init__(
        self, inner: Writer, node: FileNode, path: str, journal: Journal, fate: _Fate
    ) -> None:
        self._inner = inner
        self._node = node
        self._path = path
        self._journal = journal
        self._fate = fate

    def write_at(self, offset: int, buffers: Sequence[Buffer]) -> None:
        content = join(buffers)

        def note() -> None:
            self._journal.write(self._node, offset, content)

        # A write under way when the power goes may reach the disk in part, like any unsynced one.
        with self._fate.tick(f"write_at {self._path} {offset} +{len(content)}", note):
            self._inner.write_at(offset, [content])
            note()

    def sync(self) -> None:
        with self._fate.tick(f"sync {self._path}"):
            self._inner.sync()
            self._journal.sync(self._node)

    def close(self) -> None:
        self._fate.check()
        self._inner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@final
class _Faults:
    """Counts calls and raises at the chosen one."""

    def __init__(self, fail_at: int | None, error: OSError, lasting: bool) -> None:  # noqa: FBT001
        self.log: list[str] = []
        self._lock = threading.Lock()
        self._fail_at = fail_at
        self._error = error
        self._lasting = lasting

    def look(self, words: str) -> None:
        self._count(words, lasting=False)

    def change(self, words: str) -> None:
        self._count(words, lasting=self._lasting)

    def _count(self, words: str, *, lasting: bool) -> None:
        with self._lock:
            self.log.append(words)
            call = len(self.log) - 1
        if self._fail_at is None:
            return
        if call == self._fail_at or (lasting and call > self._fail_at):
            # A fresh one each time: a shared exception would collect everybody's traceback.
            raise type(self._error)(*self._error.args)


@final
class _FaultyWriter:
    def __init__(self, inner: Writer, path: str, faults: _Faults) -> None:
        self._inner = inner
        self._path = path
        self._faults = faults
        self._broken: OSError | None = None

    def write_at(self, offset: int, buffers: Sequence[Buffer]) -> None:
        self._try(f"write_at {self._path} {offset}")
        self._inner.write_at(offset, buffers)

    def sync(self) -> None:
        self._try(f"sync {self._path}")
        self._inner.sync()

    def close(self) -> None:
        self._inner.close()
        self._try(f"close {self._path}")

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
            self._inner.close()

    def _try(self, words: str) -> None:
        if self._broken is not None:
            raise self._broken
        try:
            self._faults.change(words)
        except OSError as error:
            self._broken = error
            raise


@final
class _FaultyReader:
    def __init__(self, inner: Reader, path: str, faults: _Faults) -> None:
        self._inner = inner
        self._path = path
        self._faults = faults

    @property
    def length(self) -> int:
        return self._inner.length

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._faults.look(f"read_into {self._path} {offset}")
        self._inner.read_into(offset, buffer)

    def read(self, offset: int, length: int) -> bytes:
        self._faults.look(f"read {self._path} {offset}")
        return self._inner.read(offset, length)

    def map(self, *, populate: bool = True) -> memoryview | None:
        self._faults.look(f"map {self._path}")
        return self._inner.map(populate=populate)

    def close(self) -> None:
        self._inner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
