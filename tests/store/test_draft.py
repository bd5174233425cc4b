# SPDX-License-Identifier: Apache-2.0
"""Drafts, deletion and cleaning on disks that live; and errors at each call."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from pertinax._store import draft as draft_module
from pertinax._store.draft import open_draft
from pertinax._store.leftovers import (
    REPLACED,
    clean_leftovers,
    discard,
    displaced,
    find_visible,
    hidden_name,
    remove_tree,
)
from pertinax._store.local import LocalStore
from pertinax._store.memory import MemoryStore
from pertinax._store.owner import TMP_MARK
from pertinax.errors import CheckpointExists, StorageError, StorageFull
from pertinax.testing import CrashingStore, FaultyStore
from tests.store.scenes import FINAL, NEW, OLD, disk_with, save, seen


def names(store: MemoryStore | CrashingStore, path: str = "/runs") -> list[str]:
    return sorted(entry.name for entry in store.list_dir(path))


def test_a_draft_is_invisible_until_it_is_committed() -> None:
    disk = disk_with(None)
    draft = open_draft(disk, FINAL)
    assert draft.path.startswith(FINAL + TMP_MARK)
    assert draft.write_file("array", b"12345") == 5
    assert seen(disk) is None
    draft.commit(replace=False)
    assert seen(disk) == {"array": b"12345"}
    assert names(disk) == ["step"]
    with pytest.raises(RuntimeError, match="already"):
        draft.commit(replace=False)
    draft.abandon()
    assert seen(disk) == {"array": b"12345"}


def test_leaving_a_draft_without_commit_removes_it() -> None:
    disk = disk_with(None)
    with open_draft(disk, FINAL) as draft:
        draft.make_dir("d")
        draft.write_file("d/f", b"1")
    assert names(disk) == []


def test_a_taken_path_is_refused_and_stays() -> None:
    disk = disk_with(OLD)
    with pytest.raises(CheckpointExists, match="/runs/step"):
        save(disk, NEW, replace=False)
    assert seen(disk) == OLD
    assert names(disk) == ["step"]


@pytest.mark.parametrize("exchange", [True, False])
def test_a_replacement_leaves_no_litter(exchange: bool) -> None:
    disk = CrashingStore(disk_with(OLD), exchange=exchange)
    save(disk, NEW, replace=True)
    assert seen(disk) == NEW
    assert names(disk) == ["step"]


@pytest.mark.parametrize("name", ["", "/x", "../x", "a/../b", "a//b", ".", "a/"])
def test_names_cannot_leave_the_draft(name: str) -> None:
    draft = open_draft(disk_with(None), FINAL)
    with pytest.raises(ValueError, match="inside"):
        draft.write_file(name, b"")


def test_a_checkpoint_set_aside_is_found_and_counts_as_existing() -> None:
    disk = disk_with(OLD)
    disk.rename(FINAL, hidden_name(FINAL) + REPLACED)
    assert seen(disk) == OLD
    assert displaced(disk, FINAL) == find_visible(disk, FINAL)
    with pytest.raises(CheckpointExists):
        save(disk, NEW, replace=False)
    save(disk, NEW, replace=True)
    assert seen(disk) == NEW
    assert names(disk) == ["step"]


def test_a_new_draft_restores_what_a_dead_owner_set_aside() -> None:
    disk = disk_with(OLD)
    disk.rename(FINAL, f"{FINAL}{TMP_MARK}17{REPLACED}")
    store = CrashingStore(disk)
    open_draft(store, FINAL).abandon()
    assert names(store) == ["step"]
    assert all(after.stat(FINAL) is not None for after in store.crash_states())


def test_a_new_draft_does_not_disturb_a_living_owner() -> None:
    disk = disk_with(OLD)
    disk.rename(FINAL, hidden_name(FINAL) + REPLACED)
    open_draft(disk, FINAL).abandon()
    assert disk.stat(FINAL) is None
    assert seen(disk) == OLD


def test_cleaning_takes_only_what_is_proven_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = disk_with(OLD)
    fates = {"dead": False, "alive": True, "unknown": None}
    monkeypatch.setattr("pertinax._store.leftovers.owner_alive", fates.get)
    for token in [*fates, "1700000000"]:
        disk.make_dir(f"/runs/other{TMP_MARK}{token}")
        disk.make_dir(f"/runs/step{TMP_MARK}{token}{REPLACED}")
    disk.make_dir(f"/runs/{TMP_MARK}dead")
    before = names(disk)
    dead = [f"/runs/other{TMP_MARK}dead", f"/runs/step{TMP_MARK}dead{REPLACED}"]
    assert clean_leftovers(disk, "/runs", dry_run=True) == dead
    assert names(disk) == before
    assert clean_leftovers(disk, "/runs") == dead
    assert len(names(disk)) == len(before) - 2
    assert clean_leftovers(disk, "/runs") == []


def test_discarding_nothing_says_so() -> None:
    with pytest.raises(FileNotFoundError):
        discard(disk_with(None), FINAL)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EACCES])
@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("lasting", [True, False])
def test_an_error_at_any_call_leaves_old_or_new_and_is_ours(
    number: int, exchange: bool, lasting: bool
) -> None:
    counted = FaultyStore(
        CrashingStore(disk_with(OLD), exchange=exchange), fail_at=None, error=OSError()
    )
    save(counted, NEW, replace=True)
    for call in range(counted.calls):
        disk = CrashingStore(disk_with(OLD), exchange=exchange)
        error = OSError(number, os.strerror(number))
        store = FaultyStore(disk, fail_at=call, error=error, lasting=lasting)
        try:
            save(store, NEW, replace=True)
        except StorageError as caught:
            assert caught.errno == number  # noqa: PT017
            assert isinstance(caught, StorageFull) == (number == errno.ENOSPC)  # noqa: PT017
            assert seen(disk) in (OLD, NEW), store.log[call]
            # One fault alone never leaves the old one aside.
            assert lasting or disk.stat(FINAL) is not None, store.log[call]
        else:
            assert seen(disk) == NEW, store.log[call]
        # And the same once the power has gone.
        for after in disk.crash_states(24, seed=call):
            assert seen(after) in (OLD, NEW), store.log[call]
        if not lasting and seen(disk) == OLD:
            save(disk, NEW, replace=True)
            assert seen(disk) == NEW


def test_a_lost_race_for_the_name_is_told(tmp_path: Path) -> None:
    store, final = LocalStore(), str(tmp_path / "step")
    first, second = open_draft(store, final), open_draft(store, final)
    first.write_file("f", b"1")
    second.write_file("f", b"2")
    first.commit(replace=False)
    with pytest.raises(CheckpointExists):
        second.commit(replace=False)
    second.abandon()
    assert os.listdir(tmp_path) == ["step"]


def test_links_are_cut_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "f").write_bytes(b"1")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "link").symlink_to(tmp_path / "precious")
    (tmp_path / "top").symlink_to(tmp_path / "precious")
    remove_tree(LocalStore(), str(tmp_path / "tree"))
    remove_tree(LocalStore(), str(tmp_path / "top"))
    assert os.listdir(tmp_path) == ["precious"]
    assert (tmp_path / "precious" / "f").read_bytes() == b"1"


@pytest.mark.parametrize("renames", ["flags", "plain"])
def test_replacement_on_a_real_disk(
    tmp_path: Path, renames: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if renames == "plain":

        def refuse(*paths: str) -> None:
            raise NotImplementedError

        monkeypatch.setattr("pertinax._store.system.rename_exchange", refuse)
        monkeypatch.setattr("pertinax._store.system.rename_no_replace", refuse)
    store, final = LocalStore(), str(tmp_path / "a" / "b" / "step")
    save(store, OLD, replace=True, final=final)
    assert seen(store, final) == OLD
    save(store, NEW, replace=True, final=final)
    assert seen(store, final) == NEW
    assert os.listdir(tmp_path / "a" / "b") == ["step"]
    with pytest.raises(CheckpointExists):
        save(store, OLD, replace=False, final=final)
    discard(store, final)
    assert os.listdir(tmp_path / "a" / "b") == []


def test_a_killed_process_leaves_a_draft_that_the_next_one_cleans(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pertinax._store.draft import open_draft;"
        "from pertinax._store.local import LocalStore;"
        "d = open_draft(LocalStore(), sys.argv[1]); d.write_file('f', b'1');"
        "print(d.path, flush=True); sys.stdin.read(); os._exit(9)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "step")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert child.stdout is not None
    path = child.stdout.readline().strip()
    store = LocalStore()
    assert clean_leftovers(store, str(tmp_path)) == []
    child.communicate("")
    assert clean_leftovers(store, str(tmp_path), dry_run=True) == [path]
    assert clean_leftovers(store, str(tmp_path)) == [path]
    assert os.listdir(tmp_path) == []


def test_a_file_too_large_for_the_process_is_a_storage_error(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    store = LocalStore()
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        with (
            open_draft(store, str(tmp_path / "step")) as draft,
            pytest.raises(StorageError) as caught,
        ):
            draft.write_file("f", bytes(20_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename.endswith("/f")
    assert os.listdir(tmp_path) == []


def test_abandoning_says_what_it_could_not_remove(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError(errno.EACCES, "no")

    draft = open_draft(disk_with(None), FINAL)
    monkeypatch.setattr(draft_module, "remove_tree", refuse)
    draft.abandon()
    assert draft.path in caplog.text


def test_of_many_directories_each_is_durable_before_anything_is_visible():
    store = CrashingStore(MemoryStore())
    with open_draft(store, "/runs/c") as draft:
        draft.make_dir("a")
        for i in range(100):
            draft.make_dir(f"a/{i}")
        draft.commit(replace=False)
    renamed = next(i for i, words in enumerate(store.log) if words.startswith("rename"))
    synced = {words.split()[-1] for words in store.log[:renamed] if words.startswith("sync_dir")}
    assert {f"{draft.path}/a/{i}" for i in range(100)} | {draft.path} <= synced
    for after in store.crash_states(20):
        assert len(after.list_dir("/runs/c/a")) == 100
