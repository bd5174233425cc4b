# SPDX-License-Identifier: Apache-2.0
"""What programs do to the disk, written down, and done again on a disk that loses power.

Knows the local store and the simulated one. Knows nothing of checkpoints. A recording may span
several processes: operations are done and written down under one lock, so that it has an order.

    with recording(file) as note:
        save(...)
        note("done")
    for step in read_recording(file): ...
"""

import contextlib
import fcntl
import os
import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pertinax._store import local
from pertinax._store.local import LocalStore, _LocalWriter
from pertinax._store.memory import MemoryStore
from pertinax.testing import CrashingStore, read_tree

Step = tuple[str, tuple[Any, ...]]
NAMES = ("make_dir", "sync_dir", "rename", "exchange", "remove_file", "remove_dir")


@contextlib.contextmanager
def recording(file: Path) -> Iterator[Callable[[str], None]]:
    """Append every change that the local store makes in this block, by whichever thread.

    Gives a function that notes a word between them.
    """
    recorder = _Recorder(file)
    with pytest.MonkeyPatch.context() as patch:
        for name in NAMES:
            patch.setattr(LocalStore, name, recorder.watched(name, getattr(LocalStore, name)))
        patch.setattr(LocalStore, "create", recorder.create(LocalStore.create))
        patch.setattr(_LocalWriter, "write_at", recorder.write_at(_LocalWriter.write_at))
        patch.setattr(_LocalWriter, "sync", recorder.sync(_LocalWriter.sync))
        patch.setattr(local, "_sync", recorder.synced_descriptor(local._sync))
        yield lambda words: recorder.write("note", words)


class _Recorder:
    def __init__(self, file: Path) -> None:
        self._file = file
        self._threads = threading.RLock()
        self._depth = 0

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        with self._threads, open(self._file, "ab") as out:
            if not self._depth:  # a second lock of ours would wait for the first
                fcntl.flock(out, fcntl.LOCK_EX)
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1

    def write(self, name: str, *arguments: Any) -> None:
        with self._threads, open(self._file, "ab", buffering=0) as out:
            out.write(pickle.dumps((name, arguments)))

    def watched(self, name: str, method: Any) -> Any:
        def call(store: LocalStore, *arguments: Any) -> None:
            with self.lock():
                method(store, *arguments)
                self.write(name, *arguments)

        return call

    def create(self, method: Any) -> Any:
        def call(store: LocalStore, path: str, length: int = 0) -> Any:
            with self.lock():
                writer = method(store, path, length)
                self.write("create", path, length)
                return writer

        return call

    def write_at(self, method: Any) -> Any:
        def call(writer: Any, offset: int, buffers: Sequence[Any]) -> None:
            with self.lock():
                method(writer, offset, buffers)
                content = b"".join(memoryview(one).cast("B") for one in buffers if len(one))
                self.write("write_at", writer._path, offset, content)

        return call

    def sync(self, method: Any) -> Any:
        def call(writer: Any) -> None:
            with self.lock():
                method(writer)
                self.write("sync", writer._path)

        return call

    def synced_descriptor(self, sync: Any) -> Any:
        """Files that others wrote and the engine makes durable."""

        def call(descriptor: int) -> None:
            with self.lock():
                sync(descriptor)
                path = os.readlink(f"/proc/self/fd/{descriptor}")
                if not os.path.isdir(path):
                    self.write("sync", path)

        return call


def read_recording(file: Path) -> list[Step]:
    """All steps, in order."""
    found: list[Step] = []
    with open(file, "rb") as content, contextlib.suppress(EOFError):
        while True:
            found.append(pickle.load(content))
    return found


def replay(steps: Sequence[Step], root: Path) -> Iterator[tuple[str, CrashingStore]]:
    """The disk after each step, and the step in words. `root` was there at first, and empty."""
    store = CrashingStore(_empty(root))
    writers: dict[str, Any] = {}
    for name, arguments in steps:
        if name == "create":
            writers[arguments[0]] = store.create(*arguments)
        elif name == "write_at":
            path, offset, content = arguments
            writers[path].write_at(offset, [content])
        elif name == "sync":
            store._journal.sync(store._live.find(*arguments))
        elif name != "note":
            getattr(store, name)(*arguments)
        words = [str(one) for one in arguments if not isinstance(one, bytes)]
        yield " ".join([name, *words]), store


def whole(steps: Sequence[Step], root: Path) -> dict[str, bytes]:
    """Everything below `root` after all steps."""
    *_, (_, store) = replay(steps, root)
    return read_tree(store, str(root))


def on_disk(root: Path) -> dict[str, bytes]:
    """Everything that really is below `root`."""
    return read_tree(LocalStore(), str(root))


def dump(store: MemoryStore, root: Path, target: Path) -> None:
    """Put what is below `root` of a simulated disk into a real directory."""
    target.mkdir()
    for name, content in read_tree(store, str(root)).items():
        if name.endswith("/"):
            (target / name).mkdir()
        else:
            (target / name).write_bytes(content)


def _empty(root: Path) -> MemoryStore:
    disk = MemoryStore()
    for one in [*reversed(root.parents), root]:
        if disk.stat(str(one)) is None:
            disk.make_dir(str(one))
    return disk
