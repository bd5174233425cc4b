# SPDX-License-Identifier: Apache-2.0
"""What the storage did not keep as it was written is found before anybody sees it."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pertinax
from pertinax import Manager
from pertinax._core.rest import Share
from pertinax._store.memory import MemoryStore
from pertinax.errors import CorruptCheckpoint
from pertinax.policies import Latest
from tests.steps.trees import ROOT, Lying, hidden, names, same, state, told

TREE = {"w": np.arange(64, dtype=np.float32), "b": np.ones((3, 5), np.int8), "name": "a run"}


def honest(number: int, path: str) -> bool:
    return False


@pytest.mark.parametrize("layout", ["ocdbt+zarr2", "directory+zarr3"])
def test_one_wrong_byte_in_any_file_stops_the_save(layout: Any) -> None:
    probe: Any = Lying(MemoryStore(), honest)
    pertinax.save("/x/one", TREE, layout=layout, store=probe, read_back=True)
    assert len(probe.created) >= 5
    for wrong, path in enumerate(probe.created):
        disk = MemoryStore()
        store: Any = Lying(disk, lambda number, _, wrong=wrong: number == wrong)
        with pytest.raises(CorruptCheckpoint) as caught:
            pertinax.save("/x/one", TREE, layout=layout, store=store, read_back=True)
        assert "nothing was published" in told(caught.value), path
        assert names(disk, "/x") == []


@pytest.mark.parametrize("of_a_step", [False, True])
def test_a_file_that_is_not_there_stops_the_save(of_a_step: bool) -> None:
    def save(store: Any) -> None:
        if of_a_step:
            with Manager(ROOT, store=store, read_back=True) as manager:
                manager.save(1, TREE, metrics={"loss": 1})
        else:
            pertinax.save(f"{ROOT}/1", TREE, store=store, read_back=True)

    probe: Any = Lying(MemoryStore(), honest)
    save(probe)
    for lost, path in enumerate(probe.created):
        disk = MemoryStore()
        disk.make_dir("/lost+found")
        store: Any = Losing(disk, lost)
        with pytest.raises(CorruptCheckpoint) as caught:
            save(store)
        assert "nothing was published" in told(caught.value), path
        assert Manager(ROOT, store=disk).steps() == []


class Losing:
    """A disk whose `lost`-th file is elsewhere after the next boot, which is at once."""

    def __init__(self, inner: MemoryStore, lost: int) -> None:
        self._inner = inner
        self._left = lost

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def create(self, path: str, length: int = 0) -> Any:
        self._left -= 1
        return self._inner.create("/lost+found/x" if self._left == -1 else path, length)


def test_without_it_the_loads_find_out() -> None:
    store: Any = Lying(MemoryStore(), lambda _, path: "/d/" in path)
    pertinax.save("/x/one", TREE, store=store)
    assert not pertinax.verify("/x/one", store=store, on_damage="report").ok
    with pytest.raises(CorruptCheckpoint):
        pertinax.load("/x/one", store=store)


def test_what_was_to_be_replaced_stays() -> None:
    disk = MemoryStore()
    pertinax.save("/x/one", TREE, store=disk)
    store: Any = Lying(disk, lambda _, path: "/d/" in path)
    pending = pertinax.save_async("/x/one", {"w": 1}, exists="replace", store=store, read_back=True)
    with pytest.raises(CorruptCheckpoint):
        pending.result()
    assert same(pertinax.load("/x/one", store=disk), TREE)
    assert names(disk, "/x") == ["one"]


def test_no_old_step_goes_before_the_new_one_was_read_back() -> None:
    disk = MemoryStore()
    lies = {2, 3}
    store: Any = Lying(disk, lambda _, path: "/d/" in path and _step_of(path) in lies)
    manager = Manager(ROOT, store=store, keep=1, read_back=True)
    manager.save(1, state(1))
    for step in (2, 3):
        handle = manager.save(step, state(step))
        assert handle is not None
        with pytest.raises(CorruptCheckpoint) as caught:
            handle.result()
        assert f"while saving step {step}" in told(caught.value)
        assert manager.steps() == [1]
        assert same(manager.load(), state(1))
    lies.clear()
    manager.save(3, state(3))  # the disk has come round
    manager.close()
    assert manager.steps() == [3]
    assert pertinax.verify(f"{ROOT}/3", store=disk).ok
    assert hidden(disk) == []
    assert manager.statistics().failures == 2


def test_the_failure_is_told_at_the_next_save() -> None:
    store: Any = Lying(MemoryStore(), lambda _, path: "/d/" in path and _step_of(path) == 2)
    with Manager(ROOT, store=store, keep=Latest(1), read_back=True) as manager:
        manager.save(1, state(1))
        manager.save(2, state(2))
        with pytest.raises(CorruptCheckpoint):
            manager.save(3, state(3))
        assert manager.steps() == [1]


def test_the_disk_is_read_and_not_the_memory_of_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel is asked to forget each file, of the draft, when it is whole."""
    asked: dict[str, int] = {}
    advise = os.posix_fadvise

    def look(descriptor: int, *rest: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if rest[-1] == os.POSIX_FADV_DONTNEED:
            asked[os.path.basename(path)] = os.fstat(descriptor).st_size
        advise(descriptor, *rest)

    monkeypatch.setattr(os, "posix_fadvise", look)
    pertinax.save(tmp_path / "one", TREE, read_back=True)
    files = [path for path in (tmp_path / "one").rglob("*") if path.is_file()]
    assert asked == {path.name: path.stat().st_size for path in files}
    assert pertinax.verify(tmp_path / "one").ok


def _step_of(path: str) -> int:
    return int(path.removeprefix(f"{ROOT}/").split("/")[0].split(".")[0])


def test_it_works_for_object_stores() -> None:
    url = "memory://bucket/read-back"
    pertinax.save(url, TREE, read_back=True)
    assert same(pertinax.load(url), TREE)


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_the_shares_of_all_processes_are_everything_once(parts: int) -> None:
    for count in (0, 1, 5, 30):
        shares = [Share(number, parts).of(range(count)) for number in range(parts)]
        assert sorted(one for share in shares for one in share) == list(range(count))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("read_back", [None, False, True])
def test_files_are_opened_again_if_that_is_asked_for(read_back):
    class Watched:
        def __init__(self):
            self.inner, self.opened = MemoryStore(), []

        def open(self, path):
            self.opened.append(path)
            return self.inner.open(path)

        def __getattr__(self, name):
            return getattr(self.inner, name)

    options = {} if read_back is None else {"read_back": read_back}
    for save in (pertinax.save, lambda *a, **k: pertinax.save_async(*a, **k).result()):
        store = Watched()
        save("/c", {"a": 1}, store=store, **options)
        assert bool(store.opened) == bool(read_back)
