# SPDX-License-Identifier: Apache-2.0
"""What only real files show: reservations, failing disks, mappings, descriptors."""

import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pertinax._store import local, system
from pertinax._store.local import LocalStore
from pertinax._store.memory import MemoryStore

STORE = LocalStore()


def anonymous_kib() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    raise AssertionError


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[str]:
    where = str(tmp_path / "tiny")
    os.mkdir(where)
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=256k", "none", where], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted: {done.stderr.strip()}")
    yield where
    subprocess.run(["umount", where], check=True)


def test_no_room_to_reserve_leaves_no_file(tiny_disk: str) -> None:
    with pytest.raises(OSError, match="space") as caught:
        STORE.create(f"{tiny_disk}/f", 1 << 20)
    assert caught.value.errno == errno.ENOSPC
    assert os.listdir(tiny_disk) == []
    assert STORE.free_bytes(tiny_disk) == 256 * 1024


def test_a_full_disk_poisons_the_writer(tiny_disk: str) -> None:
    writer = STORE.create(f"{tiny_disk}/f")
    with pytest.raises(OSError, match="space") as caught:
        writer.write_at(0, [bytes(1 << 19)])
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == f"{tiny_disk}/f"
    for call in (writer.sync, writer.close, writer.close):
        with pytest.raises(OSError, match="earlier"):
            call()


def test_a_file_system_that_reserves_nothing_still_gives_the_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, length: int) -> None:
        raise NotImplementedError

    monkeypatch.setattr(system, "reserve", refuse)
    STORE.create(str(tmp_path / "f"), 12_345).close()
    assert (tmp_path / "f").read_bytes() == bytes(12_345)


def test_reserved_room_is_real(tmp_path: Path) -> None:
    STORE.create(str(tmp_path / "f"), 1 << 20).close()
    assert os.stat(tmp_path / "f").st_blocks * 512 >= 1 << 20


def test_after_a_failed_sync_nothing_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = STORE.create(str(tmp_path / "f"))
    writer.write_at(0, [b"x"])

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(local, "_sync", fail)
        with pytest.raises(OSError, match="I/O error"):
            writer.sync()
    for call in (writer.sync, lambda: writer.write_at(1, [b"y"]), writer.close):
        with pytest.raises(OSError, match="earlier") as caught:
            call()
        assert caught.value.errno == errno.EIO


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pwritev

    def short(descriptor: int, views: Sequence[memoryview], offset: int) -> int:
        return whole(descriptor, [views[0][: max(1, views[0].nbytes // 2)]], offset)

    monkeypatch.setattr(os, "pwritev", short)
    pieces = [bytes([i]) * (i + 1) for i in range(40)]
    with STORE.create(str(tmp_path / "f")) as writer:
        writer.write_at(7, pieces)
    assert (tmp_path / "f").read_bytes() == bytes(7) + b"".join(pieces)


def test_short_reads_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytes(range(251)) * 9
    (tmp_path / "f").write_bytes(content)
    one, many = os.pread, os.preadv

    def short(descriptor: int, length: int, offset: int) -> bytes:
        return one(descriptor, max(1, length // 2), offset)

    def short_into(descriptor: int, views: Sequence[memoryview], offset: int) -> int:
        return many(descriptor, [views[0][: max(1, views[0].nbytes // 2)]], offset)

    monkeypatch.setattr(os, "pread", short)
    monkeypatch.setattr(os, "preadv", short_into)
    with STORE.open(str(tmp_path / "f")) as reader:
        assert reader.read(5, 2000) == content[5:2005]


def test_a_file_that_shrinks_is_an_error_not_a_crash(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(10_000))
    with STORE.open(str(tmp_path / "f")) as reader:
        os.truncate(tmp_path / "f", 100)
        with pytest.raises(EOFError):
            reader.read(0, 10_000)
        with pytest.raises(EOFError):
            reader.map()


def test_a_planted_fifo_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "f")
    with pytest.raises(OSError, match="regular"):
        STORE.open(str(tmp_path / "f"))


def test_create_does_not_write_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        STORE.create(str(tmp_path / "link"))
    assert not (tmp_path / "elsewhere").exists()


def test_exchange_works_here(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text(name)
    STORE.exchange(str(tmp_path / "a"), str(tmp_path / "b"))
    assert (tmp_path / "a" / "f").read_text() == "b"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_populated_map_takes_no_memory_of_its_own_and_no_descriptor(tmp_path: Path) -> None:
    size = 32 << 20
    with STORE.create(str(tmp_path / "f"), size) as writer:
        writer.write_at(0, [b"\1" * size])
    before, descriptors = anonymous_kib(), len(os.listdir("/proc/self/fd"))
    with STORE.open(str(tmp_path / "f")) as reader:
        view = reader.map(populate=True)
    assert view is not None
    assert view[::4096] == b"\1" * (size // 4096)
    # The strided comparison above allocates little; a copied mapping would be 32 MiB.
    assert anonymous_kib() - before < 8 << 10
    assert len(os.listdir("/proc/self/fd")) == descriptors
    view[: 16 << 20] = b"\2" * (16 << 20)
    assert anonymous_kib() - before > 12 << 10
    assert (tmp_path / "f").read_bytes() == b"\1" * size


def test_a_map_goes_away_with_its_last_view(tmp_path: Path) -> None:
    def maps() -> int:
        return Path("/proc/self/maps").read_text().count(str(tmp_path))

    (tmp_path / "f").write_bytes(bytes(100_000))
    with STORE.open(str(tmp_path / "f")) as reader:
        view = reader.map()
        assert view is not None
        part = view[5:10]
    del view
    assert maps() == 1
    os.unlink(tmp_path / "f")
    assert bytes(part) == bytes(5)
    del part
    assert maps() == 0


def test_two_threads_fill_one_file(tmp_path: Path) -> None:
    half = 3_000_001
    with STORE.create(str(tmp_path / "f"), 2 * half) as writer:
        threads = [
            threading.Thread(target=writer.write_at, args=(i * half, [bytes([65 + i]) * half]))
            for i in range(2)
        ]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        writer.sync()
    assert (tmp_path / "f").read_bytes() == b"A" * half + b"B" * half


def test_free_room_is_that_of_the_file_system(tmp_path: Path) -> None:
    room = STORE.free_bytes(str(tmp_path))
    assert room is not None
    assert room > 0
    with pytest.raises(FileNotFoundError):
        STORE.free_bytes(str(tmp_path / "none"))


def test_a_directory_that_cannot_be_synced_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(local, "_sync", fail)
    with pytest.raises(OSError, match="I/O error") as caught:
        STORE.sync_dir(str(tmp_path))
    assert caught.value.filename == str(tmp_path)


def test_memory_paths_are_plain_and_absolute() -> None:
    for path in ("relative", "/a/../b", "/./a"):
        with pytest.raises(ValueError, match="path"):
            MemoryStore().make_dir(path)
    with pytest.raises(OSError, match="busy"):
        MemoryStore().remove_dir("/")
    store = MemoryStore()
    store.make_dir("/a")
    with pytest.raises(OSError, match="Invalid"):
        store.rename("/a", "/a/b")
