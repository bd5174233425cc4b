# SPDX-License-Identifier: Apache-2.0
"""A disk that does not come back: every wait of the Orbax door ends, says why, and may be repeated
once it is there again.
"""

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pertinax import checkpoint as ocp
from pertinax._store.local import LocalStore
from pertinax.checkpoint.metadata.checkpoint import checkpoint_metadata_store
from pertinax.errors import StorageError, StorageStalled

TREE = {"w": np.arange(100_000), "b": np.arange(3)}


class Disk:
    """Calls of one method of the local store wait, from `stop` until `go_on`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self.reached, self._back = threading.Event(), threading.Event()

    def stop(self, method: str, part: str) -> None:
        real = getattr(LocalStore, method)

        def stalled(store: Any, path: str, *args: Any) -> Any:
            if re.search(part, path):
                self.reached.set()
                assert self._back.wait(60)
            return real(store, path, *args)

        self._patch.setattr(LocalStore, method, stalled)

    def go_on(self) -> None:
        self._patch.setattr("pertinax._core.pending.STILL_S", 60.0)
        self._back.set()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    monkeypatch.setattr("pertinax._core.pending.STILL_S", 0.1)
    found = Disk(monkeypatch)
    yield found
    found.go_on()


def refused(*waits: Callable[[], Any]) -> None:
    for wait in waits:
        with pytest.raises(StorageStalled) as caught:
            wait()
        assert isinstance(caught.value, TimeoutError)
        assert isinstance(caught.value, StorageError)


@pytest.mark.parametrize(("method", "part"), [("create", "/b"), ("rename", r"/b\.[^/]*$")])
def test_each_wait_for_a_stalled_checkpointer_ends(
    tmp_path: Path, disk: Disk, method: str, part: str
) -> None:
    checkpointer = ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler())
    args = ocp.args.StandardSave(TREE)
    checkpointer.save(tmp_path / "a", args=args)
    checkpointer.wait_until_finished()
    disk.stop(method, part)
    checkpointer.save(tmp_path / "b", args=args)
    assert disk.reached.wait(60)
    refused(
        checkpointer.wait_until_finished,
        lambda: checkpointer.save(tmp_path / "c", args=args),
        lambda: checkpointer.restore(tmp_path / "a"),
        checkpointer.close,
    )
    checkpointer.check_for_errors()
    disk.go_on()
    checkpointer.wait_until_finished()
    assert np.array_equal(checkpointer.restore(tmp_path / "b")["w"], TREE["w"])
    assert not (tmp_path / "c").exists()
    checkpointer.close()


def test_each_wait_for_a_stalled_manager_ends(tmp_path: Path, disk: Disk) -> None:
    options = ocp.CheckpointManagerOptions(max_to_keep=2)
    manager = ocp.CheckpointManager(tmp_path, options=options)
    args = ocp.args.StandardSave(TREE)
    manager.save(1, args=args)
    manager.wait_until_finished()
    disk.stop("create", r"/2\.")
    manager.save(2, args=args)
    assert disk.reached.wait(60)
    refused(
        manager.wait_until_finished,
        lambda: manager.save(3, args=args),
        lambda: manager.restore(1),
        lambda: manager.delete(2),
        lambda: manager.item_metadata(2),
    )
    assert manager.is_saving_in_progress()
    assert manager.latest_step() == 2  # as Orbax's: what is being saved counts
    refused(manager.close)
    disk.go_on()
    manager.wait_until_finished()
    assert np.array_equal(manager.restore(2)["w"], TREE["w"])
    manager.close()


def test_each_wait_for_a_stalled_removal_ends(tmp_path: Path, disk: Disk) -> None:
    options = ocp.CheckpointManagerOptions(max_to_keep=1)
    manager = ocp.CheckpointManager(tmp_path, options=options)
    args = ocp.args.StandardSave(TREE)
    manager.save(1, args=args)
    manager.wait_until_finished()
    disk.stop("remove_file", r"/1\.")
    manager.save(2, args=args)
    assert disk.reached.wait(60)
    refused(manager.wait_until_finished, manager.close)
    assert manager.all_steps() == [2]
    disk.go_on()
    manager.close()
    assert not [one for one in tmp_path.iterdir() if one.name.startswith("1")]


def test_a_save_that_moves_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it takes: each segment that is written begins the time anew."""
    monkeypatch.setattr("pertinax._core.pending.STILL_S", 0.5)
    turn, real = threading.Event(), LocalStore.create

    class Slowly:
        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def write_at(self, *args: Any) -> None:
            turn.wait(0.1)
            self._inner.write_at(*args)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *error: object) -> None:
            self._inner.__exit__(*error)

    def create(store: LocalStore, path: str, *args: Any) -> Any:
        return Slowly(real(store, path, *args))

    monkeypatch.setattr(LocalStore, "create", create)
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(0, args=ocp.args.StandardSave({"w": np.zeros(16 << 20)}))  # 32 segments
        manager.wait_until_finished()
    assert (tmp_path / "0").exists()


def test_notes_that_are_not_written_end_the_wait(tmp_path: Path, disk: Disk) -> None:
    disk.stop("create", "/a/")
    (tmp_path / "a").mkdir()
    store = checkpoint_metadata_store(enable_write=True, blocking_write=False)
    store.write(tmp_path / "a", ocp.metadata.StepMetadata(init_timestamp_nsecs=1))
    assert disk.reached.wait(60)
    refused(store.wait_until_finished, store.close)
    disk.go_on()
    store.close()
    found = store.read(tmp_path / "a")
    assert found is not None
    assert found.init_timestamp_nsecs == 1
