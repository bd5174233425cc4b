# SPDX-License-Identifier: Apache-2.0
"""A store that does not come back: every wait for it ends, says why, and costs nothing."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

import pertinax
from pertinax import Manager
from pertinax._store.memory import MemoryStore
from pertinax.errors import StorageError, StorageStalled
from tests.steps.trees import ROOT, Intercepted, fill, same, state


class Stall:
    """Calls of one method on paths with a word in them wait until the store comes back."""

    def __init__(self, method: str, part: str) -> None:
        self._method, self._part = method, part
        self.reached, self.back = threading.Event(), threading.Event()

    def __call__(self, method: str, path: str) -> None:
        if method == self._method and self._part in path:
            self.reached.set()
            assert self.back.wait(60)


@pytest.fixture
def impatient(disk: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once there is a disk: to fill one may take a while."""
    monkeypatch.setattr("pertinax._core.pending.STILL_S", 0.1)


@pytest.fixture
def disk() -> MemoryStore:
    found = MemoryStore()
    fill(found, [1])
    return found


@pytest.fixture
def stall(request: pytest.FixtureRequest) -> Iterator[Stall]:
    found = Stall(*request.param)
    yield found
    found.back.set()


WHERE = [("create", "/2."), ("sync_dir", "/2."), ("rename", "/2."), ("create", "/d/")]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("stall", WHERE, indirect=True, ids=" ".join)
def test_each_wait_for_a_stalled_save_ends(disk: MemoryStore, stall: Stall) -> None:
    store: Any = Intercepted(disk, stall)
    manager = Manager(ROOT, store=store, keep=1)
    pending = manager.save(2, state(2))
    assert pending is not None
    assert stall.reached.wait(60)
    for wait in (
        pending.result,
        manager.wait,
        lambda: manager.save(3, state(3)),
        lambda: manager.delete(2),
        lambda: manager.resume(state(0)),
        manager.close,
    ):
        with pytest.raises(StorageStalled, match="has not moved for") as caught:
            wait()
        assert isinstance(caught.value, TimeoutError)
        assert isinstance(caught.value, StorageError)
        assert caught.value.filename == f"{ROOT}/2"
    with pytest.raises(TimeoutError, match="not done after"):
        pending.result(0.01)
    with pytest.raises(TimeoutError, match="not done after"):
        manager.wait(0.01)
    # What was there is there, and can be read meanwhile.
    assert not pending.done()
    assert manager.steps() == [1]
    assert same(manager.load(1), state(1))
    stall.back.set()
    pending.result(60)
    manager.wait(60)
    manager.close()
    assert manager.steps() == [2]
    assert same(manager.load(2), state(2))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("stall", [("remove_file", "/1.")], indirect=True)
def test_each_wait_for_a_stalled_removal_ends(disk: MemoryStore, stall: Stall) -> None:
    store: Any = Intercepted(disk, stall)
    manager = Manager(ROOT, store=store, keep=1)
    manager.save(2, state(2))
    assert stall.reached.wait(60)
    for wait in (manager.wait, manager.close):
        with pytest.raises(StorageStalled, match="nothing was removed for"):
            wait()
    with pytest.raises(TimeoutError, match="not gone after"):
        manager.wait(0.01)
    assert manager.steps() == [2]
    stall.back.set()
    manager.wait(60)
    manager.close()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("stall", [("create", "/c.")], indirect=True)
def test_a_stalled_save_without_a_manager_ends_the_wait_as_well(stall: Stall) -> None:
    disk = MemoryStore()
    store: Any = Intercepted(disk, stall)
    pending = pertinax.save_async("/c", state(1), store=store)
    with pytest.raises(StorageStalled, match=r"after 0 of \d+ bytes"):
        pending.result()
    stall.back.set()
    assert pending.result(60) == "/c"
    assert same(pertinax.load("/c", store=disk), state(1))


def test_a_save_that_moves_is_waited_for(
    disk: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes: each byte that is written begins the time anew."""
    from pertinax._core.pending import Pending

    monkeypatch.setattr("pertinax._core.pending.STILL_S", 0.6)
    turn = threading.Event()

    def work(progress: Any) -> None:
        for i in range(10):
            turn.wait(0.1)
            progress(i, 10)

    assert Pending("/c", work, begun_s=0.0, total_bytes=10).result() == "/c"


def test_removal_that_moves_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step that goes begins the time anew."""
    disk = MemoryStore()
    fill(disk, [1, 2, 3])
    monkeypatch.setattr("pertinax._core.pending.STILL_S", 0.5)
    turn = threading.Event()

    def slowly(method: str, path: str) -> None:
        if method == "remove_file" and path.endswith("/pertinax.json") and "default" in path:
            turn.wait(0.2)

    store: Any = Intercepted(disk, slowly)
    with Manager(ROOT, store=store, keep=1) as manager:
        manager.save(4, state(4))
    assert manager.steps() == [4]


def test_without_a_thread_old_steps_are_removed_by_the_caller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk = MemoryStore()
    fill(disk, [1, 2])
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "pertinax-delete":
            raise RuntimeError("can't start new thread at interpreter shutdown")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    manager = Manager(ROOT, store=disk)
    manager.delete(1)
    assert [one.name for one in disk.list_dir(ROOT) if one.name != ".pertinax"] == ["2"]
    assert "the policy saves step 3" in str(manager.plan(3))
    assert str(manager.plan()).startswith("2: kept")
