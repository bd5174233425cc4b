# SPDX-License-Identifier: Apache-2.0
"""What is still promised when the steps around a commit fail, and how a commit goes about them."""

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from pertinax._store.draft import open_draft
from pertinax._store.failures import storage_errors
from pertinax._store.local import LocalStore
from pertinax._store.memory import MemoryStore
from pertinax._store.publishing import publishing
from pertinax.errors import StorageError, StorageFull
from pertinax.testing import CrashingStore
from tests.store.scenes import FINAL, NEW, OLD, disk_with, save, seen


class Failing:
    """A store one of whose methods raises these errors in turn; None lets a call pass."""

    def __init__(self, inner: Any, method: str, *errors: int | None) -> None:
        self.inner, self.method, self.errors = inner, method, list(errors)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        if name != self.method:
            return found

        def call(*arguments: Any) -> Any:
            number = self.errors.pop(0) if self.errors else None
            if number is not None:
                raise OSError(number, os.strerror(number))
            return found(*arguments)

        return call


@pytest.mark.parametrize("exchange", [True, False])
def test_what_was_committed_cannot_be_committed_again(exchange: bool) -> None:
    draft = open_draft(CrashingStore(disk_with(OLD), exchange=exchange), FINAL)
    draft.commit(replace=True)
    with pytest.raises(RuntimeError, match="already committed: /runs/step"):
        draft.commit(replace=True)


def test_the_old_one_has_its_name_again_durably_when_the_new_one_cannot_have_it() -> None:
    disk = CrashingStore(disk_with(OLD), exchange=False)
    store: Any = Failing(disk, "rename", None, errno.EIO)
    with pytest.raises(StorageError):
        save(store, NEW, replace=True)
    for after in disk.crash_states():
        assert after.stat(FINAL) is not None
        assert seen(after) == OLD


def test_why_the_new_one_could_not_have_the_name_is_told_and_not_what_failed_next(
    caplog: pytest.LogCaptureFixture,
) -> None:
    disk = CrashingStore(disk_with(OLD), exchange=False)
    store: Any = Failing(disk, "rename", None, errno.ENOSPC, errno.EIO)
    with pytest.raises(StorageFull):
        save(store, NEW, replace=True)
    assert "aside" in caplog.text
    assert seen(disk) == OLD


@pytest.mark.parametrize("exchange", [True, False])
def test_a_replaced_one_that_cannot_be_removed_makes_no_failure_of_a_save(
    exchange: bool, caplog: pytest.LogCaptureFixture
) -> None:
    disk = CrashingStore(disk_with(OLD), exchange=exchange)
    store: Any = Failing(disk, "remove_file", errno.EACCES)
    save(store, NEW, replace=True)
    assert seen(disk) == NEW
    assert "replaced checkpoint stays" in caplog.text


@pytest.mark.parametrize(("count", "helped"), [(3, False), (100, True)])
def test_many_directories_are_synced_by_several_threads_and_few_by_ours(
    count: int, helped: bool
) -> None:
    threads = set[str]()

    class Watched(MemoryStore):
        def sync_dir(self, path: str) -> None:
            threads.add(threading.current_thread().name)
            super().sync_dir(path)

    with open_draft(Watched(), "/step") as draft:
        for i in range(count):
            draft.make_dir(f"{i}")
        draft.commit(replace=False)
    assert any(name.startswith("pertinax-sync") for name in threads) == helped


def test_who_may_read_a_draft_is_for_the_umask_to_say(tmp_path: Path) -> None:
    before = os.umask(0o020)
    try:
        drafts = [
            open_draft(LocalStore(), str(tmp_path / "step")),
            publishing(LocalStore()).open_draft(str(tmp_path / "other")),
        ]
    finally:
        os.umask(before)
    assert [os.stat(one.path).st_mode & 0o7777 for one in drafts] == [0o757, 0o757]


@pytest.mark.parametrize(
    ("error", "said", "kind", "number"),
    [
        (OSError(errno.EIO, "bad disk"), "could not dig: bad disk", StorageError, errno.EIO),
        (OSError("nothing else"), "could not dig: nothing else", StorageError, errno.EIO),
        (OSError(errno.EDQUOT, "enough"), "could not dig: enough", StorageFull, errno.EDQUOT),
    ],
)
def test_an_error_of_the_system_is_told_in_our_words(
    error: OSError, said: str, kind: type[StorageError], number: int
) -> None:
    with pytest.raises(StorageError) as caught, storage_errors("dig", "/here"):
        raise error
    assert type(caught.value) is kind
    assert (caught.value.errno, caught.value.filename) == (number, "/here")
    assert said in str(caught.value)
    assert caught.value.__cause__ is error


def test_the_file_that_the_system_names_is_the_one_that_is_told() -> None:
    with pytest.raises(StorageError) as caught, storage_errors("dig", "/here"):
        raise OSError(errno.EIO, "bad disk", "/there")
    assert caught.value.filename == "/there"


@pytest.mark.parametrize("error", [FileExistsError(17, "there"), FileNotFoundError(2, "gone")])
def test_names_that_are_taken_or_missing_are_for_the_caller_to_judge(error: OSError) -> None:
    with pytest.raises(type(error)) as caught, storage_errors("dig", "/here"):
        raise error
    assert caught.value is error
    with pytest.raises(StorageError), storage_errors("dig", "/here", names_too=True):
        raise error


def test_our_own_errors_pass_as_they_are() -> None:
    error = StorageFull(errno.ENOSPC, "could not plant: full", "/there")
    with pytest.raises(StorageFull) as caught, storage_errors("dig", "/here"):
        raise error
    assert caught.value is error
