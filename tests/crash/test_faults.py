# SPDX-License-Identifier: Apache-2.0
"""A store that fails at its n-th call: a typed error, the old checkpoint intact, and the next
save works.
"""

import errno
import os
import threading

import numpy as np
import pytest

import pertinax
from pertinax._store.leftovers import clean_leftovers
from pertinax._store.memory import MemoryStore
from pertinax.errors import CheckpointNotFound, PertinaxError, StorageError, StorageFull
from pertinax.testing import FaultyStore
from pertinax.testing.trees import differences
from tests.crash.scenes import (
    NEW,
    OLD,
    PATH,
    clean_and_save_again,
    disk,
    replace,
    save,
    save_async,
    seen,
)

pytestmark = pytest.mark.crash

FULL = {errno.ENOSPC, errno.EDQUOT}
NUMBERS = [
    errno.EIO,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EINTR,
    errno.EACCES,
    errno.EROFS,
    errno.ENOENT,
    errno.ESTALE,
]


def failure(number):
    return OSError(number, os.strerror(number), "/some/file")


def calls_of(program, before):
    store = FaultyStore(before, fail_at=None, error=failure(errno.EIO))
    program(store)
    return store.calls


PROGRAMS = [
    pytest.param(None, save, id="save"),
    pytest.param(None, save_async, id="save_async"),
    pytest.param(OLD, replace, id="replace"),
]


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize("number", NUMBERS, ids=lambda n: errno.errorcode[n])
@pytest.mark.parametrize(("old", "program"), PROGRAMS)
def test_an_error_at_any_call_is_typed_and_costs_nothing(old, program, number, lasting):
    total = calls_of(program, disk(old))
    assert total > 20
    told = 0
    step = 1 if number in (errno.EIO, errno.ENOSPC) else 3
    for call in range(NUMBERS.index(number) % step, total, step):
        store = disk(old)
        faulty = FaultyStore(store, fail_at=call, error=failure(number), lasting=lasting)
        try:
            program(faulty)
            failed = None  # what happens after publishing is the cleaner's business
        except BaseException as error:
            failed = error
        told += failed is not None
        words = f"{call}: {faulty.log[call]}: {failed!r}"
        assert failed is None or isinstance(failed, PertinaxError), words
        if faulty.log[call].startswith(("create ", "write_at ", "sync ", "sync_dir ")):
            assert failed is not None, words  # nobody knows what a power cut would leave
        if isinstance(failed, OSError) and number in FULL and isinstance(failed, StorageError):
            assert isinstance(failed, StorageFull), words
        state = seen(store)
        if failed is None:
            assert state == "new", words
        else:
            assert state in {"old" if old is not None else None, "new"}, words
        if call % 4 == 0:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("pertinax._store.leftovers.owner_alive", lambda _: False)
                clean_and_save_again(store)
        else:
            pertinax.save(PATH, NEW, store=store, exists="replace")
            assert seen(store) == "new"
    assert told > total // step // 2  # what is done for tidiness alone may fail
    assert not [t for t in threading.enumerate() if t.name.startswith("pertinax")]


@pytest.mark.parametrize(
    "failing", [MemoryError("no room"), KeyboardInterrupt(), RuntimeError("odd")], ids=repr
)
def test_other_failures_come_through_and_cost_nothing_either(failing):
    total = calls_of(replace, disk(OLD))
    told = 0
    for call in range(0, total, 5):
        store = disk(OLD)
        faulty = FaultyStore(store, fail_at=call, error=failing)
        try:
            replace(faulty)
        except type(failing):
            told += 1
        assert seen(store) in ("old", "new")
        pertinax.save(PATH, NEW, store=store, exists="replace")
        assert seen(store) == "new"
    assert told > total // 5 // 2
    assert not [t for t in threading.enumerate() if t.name.startswith("pertinax")]


@pytest.mark.parametrize(
    "number",
    [errno.EIO, errno.EACCES, errno.ENOENT, errno.ESTALE],
    ids=lambda n: errno.errorcode[n],
)
@pytest.mark.parametrize(
    "verb", ["load", "load without mmap", "describe", "verify", "verify and report"]
)
def test_an_error_while_reading_is_typed(verb, number):
    verbs = {
        "load": lambda store: pertinax.load(PATH, store=store),
        "load without mmap": lambda store: pertinax.load(PATH, store=store, mmap=False),
        "describe": lambda store: pertinax.describe(PATH, store=store),
        "verify": lambda store: pertinax.verify(PATH, store=store),
        "verify and report": lambda store: pertinax.verify(PATH, store=store, on_damage="report"),
    }
    store = disk(OLD)
    total = calls_of(verbs[verb], store)
    assert total > 3
    for call in range(total):
        faulty = FaultyStore(store, fail_at=call, error=failure(number))
        try:
            result = verbs[verb](faulty)
        except PertinaxError:
            continue
        except BaseException as error:
            raise AssertionError(f"{call}: {faulty.log[call]}: {error!r}") from error
        if verb.startswith("load"):
            assert differences(OLD, result) == []
    assert not [t for t in threading.enumerate() if t.name.startswith("pertinax")]


def test_nothing_is_left_when_the_disk_was_full_from_the_first_byte():
    store = MemoryStore()
    store.make_dir("/runs")
    faulty = FaultyStore(store, fail_at=3, error=failure(errno.ENOSPC), lasting=True)
    with pytest.raises(StorageFull):
        save(faulty)
    with pytest.raises(CheckpointNotFound):
        pertinax.load(PATH, store=store)
    assert store.list_dir("/runs") == []
    assert clean_leftovers(store, "/runs") == []


def test_fifty_failing_saves_leak_neither_files_nor_threads(tmp_path):
    tree = {"a": np.arange(100_000), "b": np.arange(9)}
    from pertinax._store.local import LocalStore

    pertinax.save(tmp_path / "warm", tree)
    files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    told = 0
    for i in range(50):
        store = FaultyStore(LocalStore(), fail_at=4 + i, error=failure(errno.EIO))
        try:
            if i % 2:
                pertinax.save(str(tmp_path / "c"), tree, store=store, exists="replace")
            else:
                pertinax.save_async(
                    str(tmp_path / "c"), tree, store=store, exists="replace"
                ).result()
        except PertinaxError:
            told += 1
    assert told > 20
    assert len(os.listdir("/proc/self/fd")) == files
    assert threading.active_count() == threads
    for _ in range(3):
        pertinax.save(tmp_path / "c", tree, exists="replace")
    assert differences(tree, pertinax.load(tmp_path / "c")) == []
