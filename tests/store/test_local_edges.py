# SPDX-License-Identifier: Apache-2.0
"""The edges of local files: what each call refuses, gives back and leaves behind."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pertinax._store import local, system
from pertinax._store.local import LocalStore
from pertinax._store.memory import MemoryStore
from pertinax.testing import FaultyStore

STORE = LocalStore()


def refusing(number: int) -> Callable[..., None]:
    def refuse(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


def test_a_file_system_that_cannot_sync_directories_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_sync", refusing(errno.EINVAL))
    before = os.listdir("/proc/self/fd")
    STORE.sync_dir(str(tmp_path))
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_sync_is_one_of_the_system_for_this_very_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    with STORE.create(str(tmp_path / "f")) as writer:
        writer.sync()
    STORE.sync_dir(str(tmp_path))
    local.sync_file(STORE, str(tmp_path / "f"))
    assert synced == [str(tmp_path / "f"), str(tmp_path), str(tmp_path / "f")]


def test_whoever_may_write_a_file_is_for_the_umask_to_say(tmp_path: Path) -> None:
    before = os.umask(0o020)
    try:
        STORE.create(str(tmp_path / "f")).close()
        STORE.make_dir(str(tmp_path / "d"))
    finally:
        os.umask(before)
    modes = [os.stat(tmp_path / name).st_mode & 0o7777 for name in "fd"]
    assert modes == [0o646, 0o757]


def test_removing_a_directory_as_a_file_is_told_alike_on_every_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f").write_bytes(b"")
    monkeypatch.setattr(os, "unlink", refusing(errno.EPERM))  # as macOS does
    with pytest.raises(IsADirectoryError):
        STORE.remove_file(str(tmp_path))
    with pytest.raises(PermissionError):
        STORE.remove_file(str(tmp_path / "f"))


def test_what_lies_at_a_path(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(5))
    (tmp_path / "dangling").symlink_to(tmp_path / "none")
    (tmp_path / "link").symlink_to(tmp_path)
    file, directory = STORE.stat(str(tmp_path / "f")), STORE.stat(str(tmp_path))
    assert file is not None
    assert directory is not None
    assert (file.is_dir, file.length) == (False, 5)
    assert (directory.is_dir, directory.length) == (True, 0)
    assert file.mtime_ns == os.stat(tmp_path / "f").st_mtime_ns
    for nothing in ("none", "f/below", "dangling"):
        assert STORE.stat(str(tmp_path / nothing)) is None
    entries = {one.name: one.is_dir for one in STORE.list_dir(str(tmp_path))}
    assert entries == {"f": False, "dangling": False, "link": False}


def test_a_directory_is_not_opened_and_leaves_no_descriptor(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(IsADirectoryError):
        STORE.open(str(tmp_path))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_failed_reservation_leaves_no_descriptor_and_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(local, "_set_length", refusing(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        STORE.create(str(tmp_path / "f"), 1)
    assert len(os.listdir("/proc/self/fd")) == before
    assert os.listdir(tmp_path) == []
    STORE.create(str(tmp_path / "f")).close()  # nothing to reserve
    monkeypatch.setattr(os, "unlink", refusing(errno.EACCES))
    with pytest.raises(OSError, match="Input/output"):
        STORE.create(str(tmp_path / "g"), 1)


def test_more_buffers_than_a_call_takes_are_written_in_order(tmp_path: Path) -> None:
    buffers = [b"%07d\n" % i for i in range(2500)]
    with STORE.create(str(tmp_path / "f")) as writer:
        writer.write_at(3, [b"", *buffers, memoryview(b"")])
    assert (tmp_path / "f").read_bytes() == bytes(3) + b"".join(buffers)


def test_a_disk_that_takes_no_bytes_is_an_error_and_poisons_the_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = STORE.create(str(tmp_path / "f"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", lambda *arguments: 0)
        with pytest.raises(OSError, match="no bytes") as caught:
            writer.write_at(0, [b"x"])
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(tmp_path / "f"))
    with pytest.raises(OSError, match="earlier"):
        writer.write_at(0, [b"x"])
    with pytest.raises(OSError, match="earlier"):
        writer.close()


def test_large_writes_start_their_way_to_the_disk_and_small_ones_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[tuple[int, int]] = []
    monkeypatch.setattr(system, "begin_writeback", lambda _, *where: begun.append(where))
    with STORE.create(str(tmp_path / "f")) as writer:
        writer.write_at(7, [bytes(1 << 19), bytes(1 << 19)])
        writer.write_at(0, [bytes((1 << 20) - 1)])
        writer.write_at(1 << 21, [b"x"])
    assert begun == [(7, 1 << 20)]


def test_a_block_that_fails_closes_the_file_and_its_error_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(local, "_sync", refusing(errno.EIO))
    writer = STORE.create(str(tmp_path / "f")).__enter__()
    with pytest.raises(OSError, match="Input/output"):
        writer.sync()
    writer.__exit__(KeyError, KeyError(), None)  # and nothing about an earlier sync
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_end_of_a_block_closes_the_file_and_tells_of_what_failed_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with STORE.create(str(tmp_path / "f")) as writer:
        writer.write_at(0, [b"x"])
    assert len(os.listdir("/proc/self/fd")) == before
    monkeypatch.setattr(local, "_sync", refusing(errno.EIO))
    writer = STORE.create(str(tmp_path / "g")).__enter__()
    with pytest.raises(OSError, match="Input/output"):
        writer.sync()
    with pytest.raises(OSError, match="earlier"):
        writer.__exit__(None, None, None)
    assert len(os.listdir("/proc/self/fd")) == before


def test_closing_twice_is_closing_once(tmp_path: Path) -> None:
    writer = STORE.create(str(tmp_path / "f"))
    writer.close()
    reader = STORE.open(str(tmp_path / "f"))
    reader.close()
    with open(tmp_path / "f") as other:  # has one of the descriptors now
        writer.close()
        reader.close()
        assert other.read() == ""


@pytest.mark.parametrize(("offset", "length"), [(0, 10), (3, 7), (10, 0), (0, 0), (9, 1)])
def test_ranges_inside_are_read(tmp_path: Path, offset: int, length: int) -> None:
    (tmp_path / "f").write_bytes(b"0123456789")
    with STORE.open(str(tmp_path / "f")) as reader:
        into = bytearray(length)
        reader.read_into(offset, memoryview(into))
        assert reader.read(offset, length) == bytes(into) == b"0123456789"[offset:][:length]
        reader.read_into(offset, memoryview(np.empty((0, 3), np.float32)))  # cannot be cast
        assert reader.length == 10


@pytest.mark.parametrize(("offset", "length"), [(0, 11), (3, 8), (10, 1), (11, 0)])
def test_ranges_beyond_the_end_are_refused(tmp_path: Path, offset: int, length: int) -> None:
    (tmp_path / "f").write_bytes(b"0123456789")
    with STORE.open(str(tmp_path / "f")) as reader:
        with pytest.raises(EOFError, match="10 bytes"):
            reader.read(offset, length)
        with pytest.raises(EOFError, match="10 bytes"):
            reader.read_into(offset, memoryview(bytearray(length)))
        for bad in [(-1, 1), (1, -1)]:
            with pytest.raises(ValueError, match="not a range"):
                reader.read(*bad)


def test_a_file_is_mapped_as_it_is_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f").write_bytes(b"0123456789")
    (tmp_path / "empty").write_bytes(b"")
    brought: list[int] = []
    with STORE.open(str(tmp_path / "empty")) as reader:
        view = reader.map()
        assert view is not None
        assert bytes(view) == b""
        assert not view.readonly
    monkeypatch.setattr(system, "populate_for_reading", lambda _, length: brought.append(length))
    with STORE.open(str(tmp_path / "f")) as reader:
        for populate in (True, False):
            view = reader.map(populate=populate)
            assert view is not None
            assert bytes(view) == b"0123456789"
        assert brought == [10]
        reader.map()
        assert brought == [10, 10]
        for number in (errno.ENODEV, errno.EACCES):
            monkeypatch.setattr(system, "map_private", refusing(number))
            assert reader.map() is None
        monkeypatch.setattr(system, "map_private", refusing(errno.EIO))
        with pytest.raises(OSError, match="Input/output") as caught:
            reader.map()
        assert caught.value.filename == str(tmp_path / "f")

        def lacking(*arguments: object) -> None:
            raise NotImplementedError

        monkeypatch.setattr(system, "map_private", lacking)
        assert reader.map() is None


@pytest.fixture
def plain_renames(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that renames without flags."""

    def lacking(*paths: str) -> None:
        raise NotImplementedError

    monkeypatch.setattr(system, "rename_no_replace", lacking)


@pytest.mark.usefixtures("plain_renames")
def test_without_flags_a_name_that_is_taken_is_refused_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "b" / "f").write_bytes(b"")
    (tmp_path / "dangling").symlink_to(tmp_path / "none")
    for taken in ("b", "dangling", "empty"):
        with pytest.raises(FileExistsError):
            STORE.rename(str(tmp_path / "a"), str(tmp_path / taken))
    STORE.rename(str(tmp_path / "a"), str(tmp_path / "c"))
    looks = iter([False, True])  # it appears after the look
    monkeypatch.setattr(os.path, "lexists", lambda path: next(looks))
    with pytest.raises(FileExistsError) as caught:
        STORE.rename(str(tmp_path / "c"), str(tmp_path / "b"))
    assert caught.value.filename == str(tmp_path / "b")


@pytest.mark.usefixtures("plain_renames")
def test_without_flags_other_failures_of_a_rename_are_told_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"")
    with pytest.raises(FileNotFoundError):
        STORE.rename(str(tmp_path / "none"), str(tmp_path / "b"))
    with pytest.raises(NotADirectoryError):
        STORE.rename(str(tmp_path / "f"), str(tmp_path / "f" / "b"))


def test_a_file_system_without_size_has_room_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = os.statvfs(tmp_path)
    expected = found.f_bavail * found.f_frsize
    room = STORE.free_bytes(str(tmp_path))
    assert room is not None
    assert abs(room - expected) < 1 << 30
    sizeless = os.statvfs_result([*found[:2], 0, *found[3:]])
    monkeypatch.setattr(os, "statvfs", lambda path: sizeless)
    assert STORE.free_bytes(str(tmp_path)) is None


def test_times_are_those_of_the_files_and_none_for_what_is_not_there(tmp_path: Path) -> None:
    memory = MemoryStore()
    memory.make_dir("/r")
    memory.make_dir("/r/a")
    (tmp_path / "a").mkdir()
    for store, root in ((STORE, str(tmp_path)), (memory, "/r")):
        found = store.stat(f"{root}/a")
        assert found is not None
        for path in (root, f"{root}/"):
            times = local.changed_times(store, path, ["a", "none", "a"])
            assert times == [found.mtime_ns, None, found.mtime_ns]
    broken: Any = FaultyStore(memory, fail_at=0, error=OSError(errno.EIO, "no"))
    assert local.changed_times(broken, "/r", ["a"]) == [None]


def test_files_get_second_names_where_that_can_be_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = str(tmp_path / "a"), str(tmp_path / "b")
    Path(one).write_bytes(b"x")
    assert local.link_file(MemoryStore(), one, other) is False
    assert local.link_file(STORE, one, other) is True
    assert os.path.samefile(one, other)
    with pytest.raises(FileExistsError):
        local.link_file(STORE, one, other)
    monkeypatch.setattr(os, "link", refusing(errno.EXDEV))
    assert local.link_file(STORE, one, str(tmp_path / "c")) is False


def test_files_of_this_machine_are_synced_and_forgotten_on_wish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "d").mkdir()
    for name in ("f", "d/g"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "dangling").symlink_to(tmp_path / "none")
    before = len(os.listdir("/proc/self/fd"))
    synced, forgotten = list[int](), list[tuple[int, int, int]]()
    monkeypatch.setattr(local, "_sync", synced.append)
    local.sync_file(STORE, str(tmp_path / "f"))
    local.sync_file(MemoryStore(), "/nowhere")
    assert len(synced) == 1
    monkeypatch.setattr(os, "posix_fadvise", lambda _, *what: forgotten.append(what))
    local.forget_cached(MemoryStore(), str(tmp_path))
    assert forgotten == []
    local.forget_cached(STORE, str(tmp_path))
    assert forgotten == [(0, 0, os.POSIX_FADV_DONTNEED)] * 2
    monkeypatch.delattr(os, "posix_fadvise")
    local.forget_cached(STORE, str(tmp_path))
    assert len(os.listdir("/proc/self/fd")) == before
