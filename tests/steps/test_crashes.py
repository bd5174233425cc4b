# SPDX-License-Identifier: Apache-2.0
"""Power cuts and kills: every step that was reported done is there, whole, or was let go."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pertinax import Manager
from pertinax._store.memory import MemoryStore
from pertinax._store.owner import TMP_MARK
from pertinax.testing import CrashingStore, SimulatedDeath
from tests.steps.trees import ROOT, fill, hidden, names, same, state

pytestmark = pytest.mark.crash
SEED = int(os.environ.get("PERTINAX_SEED", "0"))
MANY = int(os.environ.get("PERTINAX_STATES", "30"))


def disk_with(*steps: int) -> MemoryStore:
    disk = MemoryStore()
    fill(disk, list(steps))
    return disk


def save_two_more(store: CrashingStore, *, background: bool) -> list[int]:
    """Steps 3 and 4, which drive out 1 and 2; returns those that were reported done."""
    done: list[int] = []
    manager = None
    try:
        manager = Manager(ROOT, store=store, keep=2, background=background)
        for step in (3, 4):
            pending = manager.save(step, state(step), metrics={"loss": float(step)})
            assert pending is not None
            pending.result()
            done.append(step)
    except SimulatedDeath:
        pass
    finally:
        if manager is not None:
            manager._deleter.close()
    return done


def check(after: MemoryStore, done: list[int], where: object) -> None:
    """What a new process finds, opens and can go on with."""
    manager = Manager(ROOT, store=after, keep=2)
    steps = manager.steps()
    newest = steps[-1]
    assert newest >= max(done, default=2), where
    # Steps are made in order: whatever the newest is, the policy never let go the one before.
    assert steps[-2:] == [newest - 1, newest], where
    assert not [gone for gone in range(1, max(done, default=0) - 1) if gone in steps], where
    for step in steps:
        assert same(manager.load(step), state(step)), where
        assert manager.metrics(step) == {"loss": float(step)}, where
    assert hidden(after) == [], where
    manager.close()


def cuts(background: bool, every: int = 1) -> Iterator[tuple[CrashingStore, list[int]]]:
    disk = disk_with(1, 2)
    whole = CrashingStore(disk)
    assert save_two_more(whole, background=background) == [3, 4]
    for cut in range(0, whole.operations, every):
        store = CrashingStore(disk, die_at=cut)
        yield store, save_two_more(store, background=background)
    yield whole, [3, 4]


@pytest.mark.wd("W-28", "W-36")
@pytest.mark.slow
@pytest.mark.usefixtures("dead_owners")
@pytest.mark.parametrize("background", [True, False])
def test_a_power_cut_at_every_operation_of_a_save_with_retention(
    background: bool, campaign_size: Callable[[str], None]
) -> None:
    seen: set[tuple[int, ...]] = set()
    for store, done in cuts(background):
        for after in store.crash_states(4, seed=store.operations):
            check(after, done, (store.operations, store.log[-1]))
            campaign_size("power cuts: Manager with retention")
            seen.add(tuple(Manager(ROOT, store=after).steps()))
    assert {(1, 2), (2, 3), (3, 4)} <= seen


@pytest.mark.campaign
@pytest.mark.slow
@pytest.mark.usefixtures("dead_owners")
@pytest.mark.parametrize("background", [True, False])
def test_a_power_cut_at_every_operation_with_many_remains(
    background: bool, campaign_size: Callable[[str], None]
) -> None:
    for store, done in cuts(background):
        for after in store.crash_states(MANY, seed=store.operations + 1000 * SEED + 1):
            check(after, done, (store.operations, store.log[-1]))
            campaign_size("power cuts: Manager with retention")


@pytest.mark.usefixtures("dead_owners")
def test_training_goes_on_after_a_cut() -> None:
    for store, _ in cuts(background=True, every=5):
        for after in store.crash_states(2, seed=1):
            with Manager(ROOT, store=after, keep=2) as manager:
                newest, tree = manager.resume(state(0))
                assert same(tree, state(newest)), store.log[-1]
                for step in range(newest + 1, 6):
                    manager.save(step, state(step), metrics={"loss": float(step)})
            assert names(after) == ["4", "5"], store.log[-1]


@pytest.mark.slow
@pytest.mark.usefixtures("dead_owners")
def test_a_second_cut_while_recovering_loses_nothing(
    campaign_size: Callable[[str], None],
) -> None:
    for store, done in cuts(background=True, every=6):
        (disk,) = store.crash_states(1)
        again = CrashingStore(disk)
        Manager(ROOT, store=again)
        for cut in range(again.operations):
            dying = CrashingStore(disk, die_at=cut)
            with pytest.raises(SimulatedDeath):
                Manager(ROOT, store=dying)
            for after in dying.crash_states(2, seed=cut):
                check(after, done, (store.log[-1], dying.log[-1]))
                campaign_size("power cuts: recovery")


# ------------------------------------------------------------------------------------ real kills

CHILD = """
import sys
from pertinax import Manager
from pertinax._store.local import LocalStore
from tests.steps.trees import Intercepted, state

def stop(method, path):
    if step == 3 and method == {method!r} and {part!r} in path:
        print("here", flush=True)
        sys.stdin.read()

step = 0
manager = Manager(sys.argv[1], keep=2, store=Intercepted(LocalStore(), stop))
for step in range(1, 4):
    manager.save(step, state(step), metrics={{"loss": step}})
    manager.wait()
"""
MOMENTS = [("create", "/3."), ("sync_dir", "/3."), ("rename", "/3."), ("remove_file", "/1.")]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "part"), MOMENTS)
def test_a_killed_process_leaves_whole_steps_and_what_the_next_one_removes(
    tmp_path: Path, method: str, part: str
) -> None:
    root = tmp_path / "run"
    command = [sys.executable, "-c", CHILD.format(method=method, part=part), str(root)]
    path = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    with subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "here\n"
        # While it lives, its work in progress is nobody else's business.
        litter = sorted(p.name for p in root.iterdir() if TMP_MARK in p.name)
        assert litter
        before = Manager(root, keep=2)
        expected = [2, 3] if method == "remove_file" else [1, 2]
        assert before.steps() == expected
        assert sorted(p.name for p in root.iterdir() if TMP_MARK in p.name) == litter
        child.send_signal(signal.SIGKILL)
    with Manager(root, keep=2) as manager:
        assert sorted(p.name for p in root.iterdir()) == [str(step) for step in expected]
        newest, tree = manager.resume(state(0))
        assert newest == expected[-1]
        assert same(tree, state(newest))
        manager.save(4, state(4))
    assert manager.steps() == [newest, 4]
