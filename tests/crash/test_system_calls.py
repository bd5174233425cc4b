# SPDX-License-Identifier: Apache-2.0
"""The n-th system call fails, or does less than it was asked: a typed error or none, nothing that
was there is lost, nothing leaks, and the next save works.

Knows which calls of the operating system the local store makes. On a real file system.
"""

import errno
import gc
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import pertinax
from pertinax._store import local, system
from pertinax.errors import CheckpointNotFound, PertinaxError, StorageFull
from pertinax.testing.trees import differences

pytestmark = pytest.mark.crash

CALLS = frozenset(
    "open close mkdir unlink rmdir scandir stat fstat lstat statvfs pwritev preadv pread fsync "
    "ftruncate link rename".split()
)
SYSTEM = ("rename_no_replace", "rename_exchange", "reserve", "map_private", "populate_for_reading")
FULL = {errno.ENOSPC, errno.EDQUOT}
NUMBERS = [
    errno.EIO,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EINTR,
    errno.EXDEV,
    errno.EACCES,
    errno.EMFILE,
    errno.ENOMEM,
]


class Calls:
    """Stands for the module `os` in the local store, and spoils one of its calls."""

    def __init__(self, fail_at: int | None, spoil: Callable[[str, Any], Any]) -> None:
        self.log: list[str] = []
        self._fail_at = fail_at
        self._spoil = spoil
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        found = getattr(os, name)
        return self.watched(name, found) if name in CALLS else found

    def watched(self, name: str, call: Any) -> Any:
        def one(*arguments: Any, **options: Any) -> Any:
            with self._lock:
                self.log.append(name)
                mine = len(self.log) - 1 == self._fail_at
            if not mine:
                return call(*arguments, **options)
            return self._spoil(name, lambda: call(*arguments, **options))

        return one


def failing(number: int) -> Callable[[str, Any], Any]:
    def spoil(name: str, call: Any) -> Any:
        if name == "close":  # POSIX: the descriptor is gone all the same
            call()
        raise OSError(number, os.strerror(number))

    return spoil


@pytest.fixture
def root() -> Iterator[Path]:
    """In memory where there is such a file system: thousands of syncs are not what is tested."""
    shared = "/dev/shm"
    place = shared if os.access(shared, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place) as name:
        yield Path(name)


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    gc.collect()  # files of earlier tests that nobody has closed
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    assert not [t for t in threading.enumerate() if t.name.startswith("pertinax")]
    assert sorted(os.listdir("/proc/self/fd")) == before


def tree(mark: int) -> dict[str, Any]:
    return {"a": np.full(30_000, mark), "b": jnp.full((5, 7), mark), "c": f"text {mark}"}


def run(program: Callable[[], Any], calls: Calls) -> BaseException | None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "os", calls)
        for name in SYSTEM:
            patch.setattr(system, name, calls.watched(name, getattr(system, name)))
        try:
            program()
        except BaseException as error:
            return error
    return None


def count(program: Callable[[], Any]) -> int:
    calls = Calls(None, failing(0))
    assert run(program, calls) is None
    return len(calls.log)


def replace(root: Path, mark: int) -> None:
    pertinax.save(root / "c", tree(mark), exists="replace")


def replace_behind(root: Path, mark: int) -> None:
    pertinax.save_async(root / "c", tree(mark), exists="replace").result()


def manage(root: Path, mark: int) -> None:
    with pertinax.Manager(root / "run", keep=1, background=False) as manager:
        pending = manager.save(mark, tree(mark), metrics={"loss": 1.0})
        assert pending is not None
        pending.result()


def seen(root: Path, program: Any) -> int:
    """Which of the states is there, whole."""
    if program is manage:
        found = pertinax.Manager(root / "run", keep=1).resume(tree(0))
        assert differences(tree(found[0]), found[1]) == []
        return found[0]
    loaded = pertinax.load(root / "c")
    mark = int(loaded["a"][0])
    assert differences(tree(mark), loaded) == []
    return mark


@pytest.mark.slow
@pytest.mark.parametrize("every", [19, pytest.param(1, marks=pytest.mark.campaign)])
@pytest.mark.parametrize("number", NUMBERS, ids=lambda n: errno.errorcode[n])
@pytest.mark.parametrize("program", [replace, replace_behind, manage])
def test_a_failing_call_is_typed_and_costs_nothing(
    root: Path, program: Any, number: int, every: int, campaign_size: Callable[[str], None]
) -> None:
    program(root, 1)
    total = count(lambda: program(root, 2))
    assert total > 60
    mark = 2
    for call in range(NUMBERS.index(number) % every, total + 1, every):
        calls = Calls(call, failing(number))
        failed = run(lambda mark=mark: program(root, mark + 1), calls)
        words = f"{call}: {calls.log[call] if call < len(calls.log) else 'end'}: {failed!r}"
        assert failed is None or isinstance(failed, PertinaxError), words
        if number in FULL and isinstance(failed, OSError):
            assert isinstance(failed, StorageFull), words
        found = seen(root, program)
        assert found == mark + 1 or (failed is not None and found == mark), words
        mark = found
        campaign_size("errors from below: system calls")
    mark += 1
    program(root, mark)
    assert seen(root, program) == mark


@pytest.mark.parametrize("program", [replace, manage])
def test_short_writes_and_reads_change_nothing(root: Path, program: Any) -> None:
    """Each call moves no more than 1,000 bytes."""

    class Short(Calls):
        moved = 0

        def __getattr__(self, name: str) -> Any:
            if name == "pwritev":
                return lambda fd, buffers, offset: os.pwrite(fd, self.cut(buffers), offset)
            if name == "preadv":
                return lambda fd, buffers, offset: os.preadv(fd, [self.cut(buffers)], offset)
            if name == "pread":
                return lambda fd, length, offset: os.pread(fd, min(length, 1000), offset)
            return super().__getattr__(name)

        def cut(self, buffers: Any) -> memoryview:
            Short.moved += 1
            return memoryview(buffers[0]).cast("B")[:1000]

    assert run(lambda: program(root, 1), Short(None, failing(0))) is None
    assert Short.moved > 240
    assert seen(root, program) == 1

    def read() -> None:
        place = root / ("c" if program is replace else "run/1")
        assert differences(tree(1), pertinax.load(place, mmap=False)) == []
        assert pertinax.verify(place).ok

    assert run(read, Short(None, failing(0))) is None


def test_a_disk_that_takes_no_bytes_is_no_endless_loop(root: Path) -> None:
    def nothing(name: str, call: Any) -> Any:
        return 0 if name == "pwritev" else call()

    replace(root, 1)
    total = count(lambda: replace(root, 2))
    failures = 0
    for at in range(total):
        calls = Calls(at, nothing)
        failures += run(lambda: replace(root, 2), calls) is not None
    assert failures >= 5
    assert seen(root, replace) == 2


def test_a_failed_sync_is_never_tried_again(root: Path) -> None:
    """The kernel may have dropped the pages: only a new file can help."""
    replace(root, 1)
    total = count(lambda: replace(root, 2))
    tried = 0
    for at in range(total):
        calls = SyncCalls(at, failing(errno.EIO))
        before = seen(root, replace)
        error = run(lambda: replace(root, 3), calls)
        for path in calls.failed:
            tried += 1
            if path != str(root):  # the parent is synced again by whoever cleans
                assert calls.synced.count(path) == 1
                assert error is not None
        assert seen(root, replace) in (before, 3)
    assert tried > 5


class SyncCalls(Calls):
    """Notes which files were synced, and which could not be."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.synced: list[str] = []
        self.failed: list[str] = []

    def fsync(self, descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        self.synced.append(path)
        try:
            self.watched("fsync", os.fsync)(descriptor)
        except OSError:
            self.failed.append(path)
            raise


@pytest.mark.parametrize("verb", ["load", "verify", "describe"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES, errno.EMFILE])
def test_a_failing_read_is_typed(root: Path, verb: str, number: int) -> None:
    replace(root, 1)
    verbs: dict[str, Callable[[], Any]] = {
        "load": lambda: pertinax.load(root / "c"),
        "verify": lambda: pertinax.verify(root / "c"),
        "describe": lambda: pertinax.describe(root / "c"),
    }
    total = count(verbs[verb])
    for call in range(total):
        error = run(verbs[verb], Calls(call, failing(number)))
        assert error is None or isinstance(error, PertinaxError), (call, error)
        assert not isinstance(error, CheckpointNotFound), call


# --------------------------------------------------------------------------------- memory, threads


@pytest.mark.parametrize("program", [replace, replace_behind, manage])
def test_no_memory_at_any_call(root: Path, program: Any) -> None:
    def spoil(name: str, call: Any) -> Any:
        if name == "close":
            call()
        raise MemoryError("no room")

    program(root, 1)
    mark = 1
    for call in range(0, 150, 5):
        error = run(lambda mark=mark: program(root, mark + 1), Calls(call, spoil))
        assert error is None or isinstance(error, MemoryError | PertinaxError), (call, error)
        found = seen(root, program)
        assert found == mark + 1 or (error is not None and found == mark)
        mark = found
    program(root, mark + 1)
    assert seen(root, program) == mark + 1


@pytest.mark.parametrize("program", [replace, replace_behind, manage])
def test_no_thread_can_be_had(root: Path, program: Any) -> None:
    """Whichever start of a thread fails."""
    program(root, 1)
    start, begun, fail_at = threading.Thread.start, 0, 0

    def sometimes(thread: threading.Thread) -> None:
        nonlocal begun
        begun += 1
        if begun - 1 == fail_at:
            raise RuntimeError("can't start new thread")
        start(thread)

    mark, failures = 1, 0
    for fail_at in range(20):
        begun = 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(threading.Thread, "start", sometimes)
            try:
                program(root, mark + 1)
                failed = False
            except RuntimeError:
                failed = True
        failures += failed
        found = seen(root, program)
        assert found == mark + (not failed), fail_at
        mark = found
        place = root / "run" if program is manage else root
        assert not [name for name in os.listdir(place) if "tmp" in name], fail_at
    assert failures >= 1


# ----------------------------------------------------------------------------------- a full disk

ON_A_FULL_DISK = """
import os, sys
import numpy as np
import pertinax
from pertinax._store.local import LocalStore
from pertinax.errors import StorageFull

root, told = sys.argv[1], 0


class Blind:
    '''Does not say how much room there is, so that it is found out the hard way.'''

    def __getattr__(self, name):
        return (lambda path: None) if name == "free_bytes" else getattr(LocalStore(), name)


def tree(mark):
    return {"a": np.full(20_000, mark), "b": np.arange(7) * mark}


def free():
    found = os.statvfs(root)
    return found.f_bavail * found.f_frsize


mark = 1
pertinax.save(root + "/c", tree(mark), store=Blind())
for room in range(0, 460_000, 12_288):
    with open(root + "/balloon", "wb") as balloon:
        balloon.write(bytes(max(0, free() - room)))
    before = free()
    try:
        how = {"store": Blind(), "exists": "replace"}
        if room % 8192:
            pertinax.save_async(root + "/c", tree(mark + 1), **how).result()
        else:
            pertinax.save(root + "/c", tree(mark + 1), **how)
        mark += 1
    except StorageFull as error:
        told += 1
        assert free() == before, (room, free(), before, os.listdir(root))
    os.remove(root + "/balloon")
    assert (pertinax.load(root + "/c")["a"] == mark).all()
    assert sorted(os.listdir(root)) == ["c"], os.listdir(root)
assert told >= 5 and mark >= 5, (told, mark)
pertinax.save(root + "/d", tree(1))
try:
    pertinax.save(root + "/e", {"large": np.zeros(1 << 22)})
except StorageFull as error:
    assert "are free" in str(error)
print("told", told, "saved", mark)
"""


@pytest.mark.slow
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """A file system of 4 MB, with ever more room in it: told or done, and never in between."""
    place = tmp_path / "small"
    place.mkdir()
    mount = f"mount -t tmpfs -o size=4m tmpfs {place}"
    # In a mount namespace of its own: gone with the process, and no root is needed for it.
    enter = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if (
        not shutil.which("unshare")
        or subprocess.run([*enter, mount], capture_output=True).returncode
    ):
        pytest.skip("this machine lets nobody mount a small tmpfs")
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(ON_A_FULL_DISK))
    path = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    ended = subprocess.run(
        [*enter, f"{mount} && exec {sys.executable} {script} {place}"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        timeout=240,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("told")


def test_a_limit_on_the_length_of_files_is_a_storage_error(root: Path) -> None:
    replace(root, 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(pertinax.errors.StorageError) as caught:
            replace(root, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == errno.EFBIG
    assert os.listdir(root) == ["c"]
    assert seen(root, replace) == 1
