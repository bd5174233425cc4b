# SPDX-License-Identifier: Apache-2.0
"""A disk that does not come back: every wait of the Orbax door ends, says why, and may be repeated
once it is there again.
"""

import re
import threading
import time
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

    def has_stopped(self) -> None:
        """Wait for it; from then on the program has little patience."""
        assert self.reached.wait(60)
        self._patch.setattr("pertinax._core.pending.STILL_S", 0.1)

    def go_on(self) -> None:
        self._patch.setattr("pertinax._core.pending.STILL_S", 60.0)
        self._back.set()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
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
    disk.has_stopped()
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
    disk.has_stopped()
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
    disk.has_stopped()
    refused(manager.wait_until_finished, manager.close)
    assert manager.all_steps() == [2]
    disk.go_on()
    manager.close()
    assert not [one for one in tmp_path.iterdir() if one.name.startswith("1")]


def test_each_segment_that_is_written_begins_the_time_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a save that moves is waited for, however long it takes."""
    reached, back, real = threading.Event(), threading.Event(), LocalStore.create
    written = 0

    class Slowly:
        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def write_at(self, *args: Any) -> None:
            nonlocal written
            written += 1
            if written > 16:
                reached.set()
                assert back.wait(60)
            self._inner.write_at(*args)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *error: object) -> None:
            self._inner.__exit__(*error)

    with ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        checkpointer.save(tmp_path / "a", args=ocp.args.StandardSave(TREE))
        checkpointer.wait_until_finished()
        monkeypatch.setattr(LocalStore, "create", lambda *args: Slowly(real(*args)))
        begun_s = time.monotonic()
        checkpointer.save(tmp_path / "b", args=ocp.args.StandardSave({"w": np.zeros(16 << 20)}))
        assert reached.wait(60)
        pending = checkpointer._pending
        assert pending is not None
        assert checkpointer.moved.at_s > begun_s
        assert pending._moved_s() == checkpointer.moved.at_s
        back.set()
        checkpointer.wait_until_finished()
    assert (tmp_path / "b").exists()


def test_notes_that_are_not_written_end_the_wait(tmp_path: Path, disk: Disk) -> None:
    disk.stop("create", "/a/")
    (tmp_path / "a").mkdir()
    store = checkpoint_metadata_store(enable_write=True, blocking_write=False)
    store.write(tmp_path / "a", ocp.metadata.StepMetadata(init_timestamp_nsecs=1))
    disk.has_stopped()
    refused(store.wait_until_finished, store.close)
    disk.go_on()
    store.close()
    found = store.read(tmp_path / "a")
    assert found is not None
    assert found.init_timestamp_nsecs == 1
