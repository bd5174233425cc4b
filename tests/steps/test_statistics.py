# SPDX-License-Identifier: Apache-2.0
"""What saves cost is measured and told; what a policy would do can be asked."""

import itertools
import math
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pertinax import Manager
from pertinax._steps.index import PRIVATE_DIR
from pertinax._store.memory import MemoryStore
from pertinax.errors import InvalidOption, StorageError
from pertinax.policies import Best, EverySteps, Latest, Overhead
from tests.steps.trees import ROOT, Intercepted, fill, names, state


@pytest.mark.wd("Kw-20")
def test_each_save_tells_what_it_cost() -> None:
    manager = Manager(ROOT, store=MemoryStore(), keep=1)
    assert manager.statistics().last is None
    for step in (1, 2, 3):
        manager.save(step, {"w": np.zeros(1000), "step": step})
        manager.wait()
    found = manager.statistics()
    assert (found.saves, found.failures) == (3, 0)
    assert found.total_bytes == 3 * found.last.total_bytes >= 3 * 8000
    assert 0 < found.last.blocked_s < found.blocked_s < found.elapsed_s
    assert 0 < found.last.wrote_s < found.wrote_s
    assert found.last.bytes_per_s == found.last.total_bytes / found.last.wrote_s
    assert (found.last.step, found.last.deleted) == (3, (2,))
    assert found.last.done
    assert found.last.error is None
    assert found.overhead == found.blocked_s / found.elapsed_s
    manager.close()


def test_waiting_for_the_save_before_is_told_apart() -> None:
    disk, begun, go = MemoryStore(), threading.Event(), threading.Event()

    def hold(method: str, path: str) -> None:
        if method == "rename" and path.startswith(f"{ROOT}/1."):
            begun.set()
            assert go.wait(60)

    with Manager(ROOT, store=Intercepted(disk, hold)) as manager:  # type: ignore[arg-type]
        manager.save(1, state(1))
        assert begun.wait(60)
        first = manager.statistics().last
        assert (first.step, first.done, first.wrote_s, first.bytes_per_s) == (1, False, 0, 0)
        saver = threading.Thread(target=manager.save, args=(2, state(2)))
        began_s = time.monotonic()
        saver.start()
        while time.monotonic() - began_s < 0.02:
            pass
        go.set()
        saver.join()
        second = manager.statistics().last
        assert second.step == 2
        assert first.waited_s < second.waited_s <= second.blocked_s


def test_failures_are_counted() -> None:
    def fail(method: str, path: str) -> None:
        if method == "create" and path.startswith(f"{ROOT}/2."):
            raise OSError(5, "broken", path)

    manager = Manager(ROOT, store=Intercepted(MemoryStore(), fail))  # type: ignore[arg-type]
    manager.save(1, state(1))
    manager.wait()
    with pytest.raises(StorageError):
        manager.save(2, state(2)).result()
    found = manager.statistics()
    assert (found.saves, found.failures) == (1, 1)
    assert found.last.step == 2
    assert "StorageError" in found.last.error
    assert found.total_bytes == found.last.total_bytes


def test_a_real_loop_spends_no_more_than_its_share(tmp_path: Path) -> None:
    """One that saves at every chance, in the foreground, so that a save costs what it takes."""
    share, tree = 0.2, {"w": np.zeros(200_000)}
    manager = Manager(tmp_path, save=Overhead(share), keep=1, background=False)
    longest_s, step, saves = 0.0, 0, 0
    while manager.statistics().elapsed_s < 1.0 or saves < 3:
        if manager.save(step, tree) is not None:
            saves += 1
            longest_s = max(longest_s, manager.statistics().last.blocked_s)
        step += 1
    found = manager.statistics()
    manager.close()
    # The last save has not paid yet.
    assert found.blocked_s <= share * found.elapsed_s + longest_s * 1.05
    assert found.saves == saves


@pytest.mark.parametrize("write_s", [[1.0], [4.0], [0.1, 2.0, 0.5]])
@pytest.mark.parametrize("share", [0.02, 0.2])
def test_a_manager_measures_its_saves_and_keeps_to_the_share(
    write_s: list[float], share: float
) -> None:
    """By a clock of ours, which the disk and the training move on."""
    now, made, training_s = [1e9], [0], 0.5

    def take_time(method: str, path: str) -> None:
        if method == "rename" and PRIVATE_DIR not in path:  # once for each save that is published
            now[0] += write_s[made[0] % len(write_s)]
            made[0] += 1

    store: Any = Intercepted(MemoryStore(), take_time)
    policy = Overhead(share)
    manager = Manager(ROOT, store=store, save=policy, background=False, clock=lambda: now[0])
    saved_s = list[float]()
    for step in range(2500):
        begun_s = now[0]
        if manager.save(step, {"step": step}) is not None:
            saved_s.append(begun_s)
            assert manager.statistics().last.blocked_s == pytest.approx(now[0] - begun_s)
        now[0] += training_s
    found = manager.statistics()
    assert found.saves == len(saved_s) == made[0] > 3
    assert found.blocked_s <= share * found.elapsed_s + max(write_s)  # the last has not paid yet
    assert found.overhead > share * 0.7
    for i, (one, following) in enumerate(itertools.pairwise(saved_s)):
        cost_s = write_s[i % len(write_s)]
        assert cost_s / share <= following - one + 1e-6
        assert following - one <= max(cost_s / share, cost_s) + training_s + 1e-6


def test_who_knows_how_often_the_job_fails_loses_least_time() -> None:
    """Saves that cost two seconds in a job that fails every hour come every two minutes."""
    now = [1e9]

    def take_time(method: str, path: str) -> None:
        now[0] += 2.0 * (method == "rename" and PRIVATE_DIR not in path)

    store: Any = Intercepted(MemoryStore(), take_time)
    policy = Overhead(0.05, mean_failure_s=3600)
    manager = Manager(ROOT, store=store, save=policy, background=False, clock=lambda: now[0])
    saved_s = list[float]()
    for step in range(1200):
        begun_s = now[0]
        if manager.save(step, {"step": step}) is not None:
            saved_s.append(begun_s)
        now[0] += 1.0
    best_s = math.sqrt(2 * 2.0 * 3600)
    assert len(saved_s) > 5
    apart_s = [after - one for one, after in itertools.pairwise(saved_s)]
    assert all(best_s <= one <= best_s + 1.0 for one in apart_s)


# ------------------------------------------------------------------------------------------ plans


def test_a_plan_says_what_would_go_and_touches_nothing() -> None:
    disk = MemoryStore()
    fill(disk, [1, 2, 3, 4])
    keep = Latest(1) | Best(1, "loss")
    manager = Manager(ROOT, store=disk, save=EverySteps(5), keep=keep)
    now = manager.plan()
    assert (now.step, now.due) == (None, None)
    assert (now.kept, now.deleted) == ([1, 4], [2, 3])
    then = manager.plan(5, metrics={"loss": np.float32(0.5)})
    assert then.due is True
    assert (then.kept, then.deleted) == ([5], [1, 2, 3, 4])
    assert str(then).splitlines()[0] == "the policy saves step 5"
    assert "just saved" in str(then)
    assert manager.plan(6).due is False
    assert str(manager.plan(6)).splitlines()[0] == "the policy does not save step 6"
    assert manager.plan(6).deleted == [2, 3, 4]
    assert names(disk) == ["1", "2", "3", "4"]
    with pytest.raises(InvalidOption):
        manager.plan(7, metrics={"loss": "low"})
    manager.save(5, state(5), metrics={"loss": 0.5})
    manager.close()
    assert manager.steps() == then.kept
