# SPDX-License-Identifier: Apache-2.0
"""A save that fails is told once, listed never, and costs nothing that was there."""

import errno
import gc
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pertinax import Manager
from pertinax._steps.deletion import Deleter
from pertinax._store.contract import Store
from pertinax._store.leftovers import REPLACED, hidden_name
from pertinax._store.memory import MemoryStore
from pertinax.errors import (
    CheckpointExists,
    CheckpointNotFound,
    StorageError,
    StorageFull,
)
from pertinax.policies import StepRecord
from pertinax.testing import FaultyStore
from tests.steps.trees import ROOT, Intercepted, fill, hidden, names, same, state, told

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Switch:
    """Fails calls of some methods while it is on."""

    def __init__(self, *methods: str) -> None:
        self.methods = methods
        self.on = True

    def __call__(self, method: str, path: str) -> None:
        if self.on and method in self.methods:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def breaking(disk: MemoryStore, *methods: str) -> tuple[Store, Switch]:
    switch = Switch(*methods)
    return Intercepted(disk, switch), switch  # type: ignore[return-value]


def ended(manager: Manager, step: int) -> Any:
    """Save and wait for the end without asking how it went."""
    pending = manager.save(step, state(step))
    assert pending is not None
    pending._thread.join()
    return pending


def test_the_next_save_raises_the_failure_and_the_one_after_works() -> None:
    disk = MemoryStore()
    fill(disk, [1])
    store, switch = breaking(disk, "create")
    manager = Manager(ROOT, store=store, keep=1)
    ended(manager, 2)
    switch.on = False
    with pytest.raises(StorageFull) as caught:
        manager.save(3, state(3))
    assert "while saving step 2 to /runs/a/2" in told(caught.value)
    assert names(disk) == ["1"]
    manager.save(3, state(3))
    manager.close()
    assert manager.steps() == [3]


def test_a_save_that_the_policy_refuses_still_tells_of_the_failure() -> None:
    store, switch = breaking(MemoryStore(), "create")
    manager = Manager(ROOT, store=store, save=1000)
    ended(manager, 1000)
    switch.on = False
    with pytest.raises(StorageFull):
        manager.save(1001, state(1001))
    assert manager.save(1001, state(1001)) is None


def test_a_failure_that_was_asked_for_is_not_told_again() -> None:
    store, switch = breaking(MemoryStore(), "create")
    with Manager(ROOT, store=store) as manager:
        pending = manager.save(1, state(1))
        assert pending is not None
        with pytest.raises(StorageFull):
            pending.result()
        switch.on = False
        manager.wait()
        manager.save(1, state(1))
    assert manager.steps() == [1]


@pytest.mark.parametrize("ask", ["wait", "close", "load", "resume"])
def test_who_waits_is_told(ask: str) -> None:
    store, _ = breaking(MemoryStore(), "create")
    manager = Manager(ROOT, store=store)
    manager.save(1, state(1))
    with pytest.raises(StorageFull) as caught:
        manager.resume(state(0)) if ask == "resume" else getattr(manager, ask)()
    assert "while saving step 1" in told(caught.value)
    manager.close()
    assert manager.steps() == []


def test_all_who_wait_are_told() -> None:
    disk, go = MemoryStore(), threading.Event()

    def fail_late(method: str, path: str) -> None:
        if method == "create":
            assert go.wait(60)
            raise OSError(errno.EIO, "broken", path)

    manager = Manager(ROOT, store=Intercepted(disk, fail_late))  # type: ignore[arg-type]
    manager.save(1, state(1))
    failures: list[BaseException] = []

    def wait() -> None:
        try:
            manager.wait()
        except StorageError as error:
            failures.append(error)

    threads = [threading.Thread(target=wait) for _ in range(4)]
    for thread in threads:
        thread.start()
    go.set()
    for thread in threads:
        thread.join()
    # Who came after somebody was told finds nothing to tell; somebody was.
    assert failures
    assert {str(error) for error in failures} == {str(failures[0])}
    manager.close()


def test_a_save_in_the_foreground_raises_at_once() -> None:
    store, switch = breaking(MemoryStore(), "create")
    manager = Manager(ROOT, store=store, background=False)
    with pytest.raises(StorageFull) as caught:
        manager.save(1, state(1))
    assert "while saving step 1" in told(caught.value)
    switch.on = False
    manager.save(1, state(1))
    manager.close()


def test_the_block_that_ends_well_raises_the_failure_and_releases_all() -> None:
    store, _ = breaking(MemoryStore(), "create")
    with pytest.raises(StorageFull), Manager(ROOT, store=store) as manager:
        manager.save(1, state(1))
    with pytest.raises(RuntimeError, match="closed"):
        manager.save(2, state(2))
    manager.close()


def save_then_divide(manager: Manager) -> None:
    with manager:
        manager.save(1, state(1))
        _ = 1 // 0


def test_the_exception_of_the_block_is_not_masked_and_tells_of_both() -> None:
    store, _ = breaking(MemoryStore(), "create")
    with pytest.raises(ZeroDivisionError) as caught:
        save_then_divide(Manager(ROOT, store=store))
    assert "StorageFull" in told(caught.value)


def test_a_failed_step_is_due_again() -> None:
    from pertinax.policies import EverySeconds

    store, switch = breaking(MemoryStore(), "create")
    manager = Manager(ROOT, store=store, save=EverySeconds(60), clock=lambda: 1e9)
    ended(manager, 1)
    assert manager.should_save(2)
    switch.on = False
    with pytest.raises(StorageFull):
        manager.save(2, state(2))
    manager.save(2, state(2))
    assert not manager.should_save(3)
    manager.close()


def test_old_steps_stay_until_the_new_one_is_there() -> None:
    disk = MemoryStore()
    fill(disk, [1, 2])
    store, _ = breaking(disk, "create")
    manager = Manager(ROOT, store=store, keep=1)
    ended(manager, 3)
    assert manager.steps() == [1, 2]
    with pytest.raises(StorageFull):
        manager.close()


@pytest.mark.parametrize("lasting", [False, True])
def test_whatever_call_fails_the_history_is_exact(lasting: bool) -> None:
    """Save 3, which drives out 1, with an error at each call of the store in turn."""
    disk = MemoryStore()
    fill(disk, [1, 2])
    probe = FaultyStore(_copy(disk), fail_at=None, error=FULL)
    _save_third(probe)
    failed = 0
    for call in range(probe.calls):
        disk_now = _copy(disk)
        store = FaultyStore(disk_now, fail_at=call, error=FULL, lasting=lasting)
        failure = _save_third(store)
        where = (call, store.log[call])
        after = Manager(ROOT, store=disk_now)
        if failure is None:
            assert after.steps()[-2:] == [2, 3], where
        else:
            failed += 1
            assert isinstance(failure, StorageError), where
            assert after.steps()[:2] == [1, 2], where
            assert "while saving step 3" in told(failure) or not _has(disk_now, 3), where
        for step in after.steps():
            assert same(after.load(step), state(step)), where
            assert after.metrics(step) == {"loss": float(step)}, where
    assert failed > probe.calls // 3


def _save_third(store: Store) -> BaseException | None:
    """The failure, if there was one; checks what this manager says about it."""
    try:
        manager = Manager(ROOT, store=store, keep=2)
        pending = manager.save(3, state(3), metrics={"loss": 3.0})
    except StorageError as error:
        return error
    assert pending is not None
    failure = pending.exception()
    manager._deleter.close()
    disk = store._inner  # type: ignore[attr-defined]
    listed = Manager(ROOT, store=disk).steps()
    if failure is None:
        assert 3 in listed
    elif 3 in listed:  # visible although the last sync failed: whole, but nobody was promised it
        assert 3 in manager._writer.doubtful
        assert "power cut" in told(failure)
    return failure


def _copy(disk: MemoryStore) -> MemoryStore:
    from pertinax.testing._journal import copy_tree

    return MemoryStore(copy_tree(disk.root))


def _has(disk: MemoryStore, step: int) -> bool:
    return disk.stat(f"{ROOT}/{step}") is not None


def test_a_step_that_failed_after_it_became_visible_is_not_listed_and_can_be_removed() -> None:
    manager, moved, _ = _without_the_last_sync()
    pending = ended(manager, 2)
    assert "power cut" in told(pending.exception())
    assert (manager.steps(), manager.latest()) == ([1], 1)
    assert [one.step for one in manager.history()] == [1]
    with pytest.raises(CheckpointExists, match=r"although its save failed; delete\(2\)"):
        manager.save(2, state(2), exists="skip")  # it is not safe there, so this is not skipped
    assert same(manager.load(2), state(2))
    moved.append("")
    manager.delete(2)
    manager.save(2, state(2))
    manager.close()
    assert manager.steps() == [2]


def test_a_step_that_somebody_else_saved_anew_is_in_doubt_no_more() -> None:
    manager, moved, disk = _without_the_last_sync()
    assert ended(manager, 2).exception() is not None
    moved.append("")
    with Manager(ROOT, store=disk) as other:
        other.delete(2)
        other.save(2, state(22))
    assert manager.steps() == [1, 2]
    assert same(manager.load(), state(22))


def _without_the_last_sync() -> tuple[Manager, list[str], MemoryStore]:
    """A manager of a root with step 1, whose next save becomes visible and is not synced."""
    disk = MemoryStore()
    fill(disk, [1])
    moved: list[str] = []

    def lose_the_last_sync(method: str, path: str) -> None:
        if method == "rename":
            moved.append(path)
        elif method == "sync_dir" and path == ROOT and len(moved) == 1:
            raise OSError(errno.EIO, "broken", path)

    store: Any = Intercepted(disk, lose_the_last_sync)
    return Manager(ROOT, store=store, keep=1), moved, disk


# ----------------------------------------------------------------------------- deletions that fail


def test_a_deletion_that_fails_fails_no_save_and_is_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    disk = MemoryStore()
    fill(disk, [1])
    broken = {"on": True}

    def refuse(method: str, path: str) -> None:
        if broken["on"] and method == "rename" and path == f"{ROOT}/1":
            raise OSError(errno.EACCES, "not yours", path)

    manager = Manager(ROOT, store=Intercepted(disk, refuse), keep=1)  # type: ignore[arg-type]
    manager.save(2, state(2))
    manager.wait()
    assert manager.steps() == [1, 2]
    assert "a checkpoint stays path=/runs/a/1" in caplog.text
    broken["on"] = False
    manager.save(3, state(3))
    manager.close()
    assert manager.steps() == [3]


def test_bytes_that_cannot_be_removed_do_not_stop_the_others() -> None:
    disk = MemoryStore()
    fill(disk, [1, 2, 3])

    def refuse(method: str, path: str) -> None:
        if method == "remove_file" and path.startswith(f"{ROOT}/2."):
            raise OSError(errno.EACCES, "not yours", path)

    deleter = Deleter(Intercepted(disk, refuse))  # type: ignore[arg-type]
    assert [deleter.delete(f"{ROOT}/{step}") for step in (1, 2, 3)] == [True] * 3
    deleter.close()
    deleter.close()
    (left,) = names(disk)
    assert left.startswith("2.")
    assert hidden(disk) == [left]
    assert [str(error) for error in deleter.failures]


def test_deleting_what_somebody_else_deleted_is_fine() -> None:
    disk = MemoryStore()
    fill(disk, [1])
    deleter = Deleter(disk)
    assert deleter.delete(f"{ROOT}/9")
    with pytest.raises(CheckpointNotFound):
        deleter.delete_or_raise(f"{ROOT}/9")
    assert deleter.failures == []
    assert names(disk) == ["1"]


def test_deletions_are_out_of_sight_at_once_and_done_in_order() -> None:
    disk, go = MemoryStore(), threading.Event()
    fill(disk, list(range(6)))
    order: list[str] = []

    def hold(method: str, path: str) -> None:
        if method == "remove_file" and path.count("/") == 3:
            assert go.wait(60)
            order.append(path.rpartition("/")[2].partition(".")[0])

    deleter = Deleter(Intercepted(disk, hold))  # type: ignore[arg-type]
    for step in (3, 1, 5):
        assert deleter.delete(f"{ROOT}/{step}")
    assert Manager(ROOT, store=disk).steps() == [0, 2, 4]
    assert not deleter.wait(timeout_s=0)
    go.set()
    deleter.close()
    assert order == ["3", "1", "5"]
    assert deleter.delete(f"{ROOT}/0")  # the thread begins anew
    deleter.close()
    assert names(disk) == ["2", "4"]


def test_a_policy_that_breaks_on_the_writer_thread_fails_no_save(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class BreaksTheSecondTime:
        asked = 0

        def keep(self, history: Sequence[StepRecord]) -> set[int]:
            self.asked += 1
            if self.asked == 2:
                raise LookupError("moody")
            return set()

    disk = MemoryStore()
    with Manager(ROOT, store=disk, keep=BreaksTheSecondTime()) as manager:
        manager.save(1, state(1))
    assert manager.steps() == [1]
    assert "nothing was deleted after step=1" in caplog.text


def test_a_disk_that_is_full_of_steps_that_are_going_is_not_full() -> None:
    """Old steps are out of sight at once, and take room until they are removed."""
    disk, go = MemoryStore(), threading.Event()

    def hold(method: str, path: str) -> None:
        if method == "remove_file" and path.startswith(f"{ROOT}/1."):
            assert go.wait(60)
        if method == "create" and path.startswith(f"{ROOT}/3.") and not go.is_set():
            go.set()
            raise OSError(errno.ENOSPC, "full", path)

    manager = Manager(ROOT, store=Intercepted(disk, hold), keep=1)  # type: ignore[arg-type]
    for step in (1, 2, 3):
        manager.save(step, state(step))
    manager.close()
    assert names(disk) == ["3"]
    assert same(manager.load(), state(3))


def test_many_old_steps_go_at_the_price_of_one_sync() -> None:
    disk, calls = MemoryStore(), list[tuple[str, str]]()
    fill(disk, list(range(20)))
    store: Any = Intercepted(disk, lambda method, path: calls.append((method, path)))
    with Manager(ROOT, store=store, keep=1) as manager:
        manager.save(20, state(20))
    begun = max(i for i, call in enumerate(calls) if call == ("rename", f"{ROOT}/19"))
    assert calls[begun + 1] == ("sync_dir", ROOT)
    assert calls.count(("sync_dir", ROOT)) == 2  # the new step's, and that of all old ones
    assert names(disk) == ["20"]


def test_of_many_old_steps_those_go_that_can(caplog: pytest.LogCaptureFixture) -> None:
    disk = MemoryStore()
    fill(disk, [1, 2, 3])
    disk.rename(f"{ROOT}/3", hidden_name(f"{ROOT}/3") + REPLACED)  # somebody is replacing it

    def refuse(method: str, path: str) -> None:
        if method == "rename" and path == f"{ROOT}/1":
            raise OSError(errno.EACCES, "not yours", path)

    deleter = Deleter(Intercepted(disk, refuse))  # type: ignore[arg-type]
    hidden_now = deleter.hide([f"{ROOT}/{step}" for step in (1, 2, 3, 9)])
    assert {path[-1]: len(left.names) for path, left in hidden_now.items()} == {
        "2": 1,
        "3": 1,
        "9": 0,
    }
    assert Manager(ROOT, store=disk).steps() == [1]
    assert f"a checkpoint stays path={ROOT}/1" in caplog.text
    assert deleter.hide([]) == {}


def test_what_cannot_be_hidden_for_good_keeps_its_bytes() -> None:
    disk = MemoryStore()
    fill(disk, [1])

    def refuse(method: str, path: str) -> None:
        if method == "sync_dir":
            raise OSError(errno.EIO, "broken", path)

    deleter = Deleter(Intercepted(disk, refuse))  # type: ignore[arg-type]
    assert not deleter.delete(f"{ROOT}/1")
    deleter.close()
    (left,) = hidden(disk)
    assert disk.stat(f"{ROOT}/{left}/default/pertinax.json") is not None


# ------------------------------------------------------------------------------ nobody closes it


def test_a_forgotten_manager_tells_of_its_failure(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    store, _ = breaking(MemoryStore(), "create")
    caplog.set_level(logging.CRITICAL)
    manager = Manager(ROOT, store=store)
    pending = manager.save(1, state(1))
    assert pending is not None
    pending._thread.join()
    del manager, pending
    gc.collect()
    assert "the save to /runs/a/1 FAILED" in capfd.readouterr().err


CHILD = """
import errno, sys
import numpy as np
from pertinax import Manager
from pertinax._store.local import LocalStore
from tests.steps.trees import Intercepted, state

def fail(method, path):
    if {fail} and method == "create":
        raise OSError(errno.ENOSPC, "full", path)

manager = Manager(sys.argv[1], keep=1, store=Intercepted(LocalStore(), fail))
for step in range(3):
    manager.save(step, state(step))
    if {fail}: break
"""


def run_child(root: Path, *, fail: bool) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    return subprocess.run(
        [sys.executable, "-c", CHILD.format(fail=fail), str(root)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.slow
def test_a_program_that_ends_without_closing_finishes_its_save(tmp_path: Path) -> None:
    run = run_child(tmp_path / "run", fail=False)
    assert (run.returncode, run.stderr) == (0, "")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["2"]
    assert same(Manager(tmp_path / "run").load(), state(2))


@pytest.mark.slow
def test_a_program_that_ends_without_closing_tells_of_a_failure(tmp_path: Path) -> None:
    run = run_child(tmp_path / "run", fail=True)
    assert f"the save to {tmp_path}/run/0 FAILED and nobody asked" in run.stderr
    assert list((tmp_path / "run").iterdir()) == []
