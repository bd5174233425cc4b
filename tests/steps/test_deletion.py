# SPDX-License-Identifier: Apache-2.0
"""What is deleted is out of sight at once, goes in its turn, and what stays is told of."""

import errno
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from pertinax import Manager
from pertinax._steps.deletion import Deleter
from pertinax._store.memory import FileNode, MemoryStore
from pertinax.errors import StorageError
from tests.steps.trees import ROOT, Intercepted, fill, names, same, state


def deleter_of(disk: MemoryStore, before: Callable[[str, str], None]) -> Deleter:
    store: Any = Intercepted(disk, before)
    return Deleter(store)


def refusing(*methods: str) -> Callable[[str, str], None]:
    def refuse(method: str, path: str) -> None:
        if method in methods:
            raise OSError(errno.EIO, "broken", path)

    return refuse


def test_what_cannot_be_hidden_for_good_is_told_by_its_first_names(
    caplog: pytest.LogCaptureFixture,
) -> None:
    disk = MemoryStore()
    fill(disk, list(range(5)))
    deleter = deleter_of(disk, refusing("sync_dir"))
    places = [f"{ROOT}/{step}" for step in range(5)]
    assert deleter.hide(places) == {}
    assert f"checkpoints stay path={', '.join(places[:3])} error=OSError" in caplog.text
    assert [type(error) for error in deleter.failures] == [OSError]


def test_of_failures_without_end_the_last_hundred_are_remembered() -> None:
    disk = MemoryStore()
    fill(disk, [1])
    number = 0

    def refuse(method: str, path: str) -> None:
        nonlocal number
        if method == "rename":
            number += 1
            raise OSError(errno.EIO, f"failure {number}", path)

    deleter = deleter_of(disk, refuse)
    for _ in range(103):
        assert not deleter.delete(f"{ROOT}/1")
    assert len(deleter.failures) == 100
    assert "failure 103" in str(deleter.failures[-1])
    assert not deleter.busy


def test_who_deletes_by_hand_is_told_what_the_disk_says() -> None:
    disk = MemoryStore()
    fill(disk, [1])
    store: Any = Intercepted(disk, refusing("rename"))
    with Manager(ROOT, store=store) as manager:
        with pytest.raises(StorageError, match="could not delete the checkpoint: broken"):
            manager.delete(1)
        assert manager.steps() == [1]


def test_where_there_is_nothing_to_remove_nothing_begins() -> None:
    disk = MemoryStore()
    fill(disk, [1])
    deleter = Deleter(disk)
    assert deleter.delete(f"{ROOT}/9")
    deleter.remove([])
    assert deleter.moved_s == 0.0
    assert not deleter.busy


def test_removing_is_the_work_of_one_thread_that_outlives_the_program_and_tells_when_it_moved() -> (
    None
):
    disk = MemoryStore()
    fill(disk, [1, 2])
    reached = {step: threading.Event() for step in "12"}
    go = {step: threading.Event() for step in "12"}
    threads: set[threading.Thread] = set()

    def hold(method: str, path: str) -> None:
        step = path.removeprefix(f"{ROOT}/")[:1]
        if method == "remove_file" and not reached[step].is_set():
            threads.add(threading.current_thread())
            reached[step].set()
            assert go[step].wait(60)

    deleter = deleter_of(disk, hold)
    begun_s = time.monotonic()
    deleter.delete(f"{ROOT}/1")
    deleter.delete(f"{ROOT}/2")
    assert deleter.busy
    first_s = deleter.moved_s
    assert first_s >= begun_s
    assert reached["1"].wait(60)
    assert not reached["2"].is_set()
    go["1"].set()
    assert reached["2"].wait(60)
    assert deleter.moved_s > first_s
    (thread,) = threads
    assert thread is not threading.current_thread()
    assert not thread.daemon
    go["2"].set()
    assert deleter.wait(60)
    assert not deleter.busy
    assert names(disk) == []


def test_a_damaged_step_is_there_until_the_new_one_takes_its_place() -> None:
    disk = MemoryStore()
    fill(disk, [1, 2])
    (entry,) = disk.list_dir(f"{ROOT}/2/default/d")
    node = disk.find(f"{ROOT}/2/default/d/{entry.name}")
    assert isinstance(node, FileNode)
    node.content[0] ^= 1
    seen: list[bool] = []
    store: Any = Intercepted(disk, lambda *_: seen.append(disk.stat(f"{ROOT}/2") is not None))
    with Manager(ROOT, store=store, background=False) as manager:
        manager.resume(state(0), fallback=True)
        manager.save(2, state(22))
        assert same(manager.load(2), state(22))
    assert all(seen)
