# SPDX-License-Identifier: Apache-2.0
"""Another process sees steps as they become visible, and reads them whole or is told why not."""

import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pertinax
from pertinax import Manager
from pertinax._steps.index import PRIVATE_DIR
from pertinax._store.leftovers import hidden_name
from pertinax._store.local import LocalStore
from pertinax._store.memory import MemoryStore
from pertinax.errors import CheckpointNotFound, InvalidOption
from tests.steps.trees import ROOT, Intercepted, fill, names, same, state


class Time:
    """A clock that goes only when somebody sleeps; things happen meanwhile."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []
        self.events: list[tuple[float, Callable[[], object]]] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        while self.events and self.events[0][0] <= self.now:
            self.events.pop(0)[1]()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr("pertinax._steps.watch.time", time)
    return time


def test_what_is_there_comes_first_and_once() -> None:
    disk = MemoryStore()
    fill(disk, [1, 2, 3])
    assert list(Manager.watch(ROOT, timeout=0, store=disk)) == [3]
    assert list(Manager.watch(ROOT, timeout=0, store=disk, latest_only=False)) == [1, 2, 3]
    assert list(Manager.watch(ROOT, timeout=0, store=disk, since=2)) == [3]
    assert list(Manager.watch(ROOT, timeout=0, store=disk, since=3)) == []
    each = Manager.watch(ROOT, timeout=0, store=disk, latest_only=False, until=2)
    assert list(each) == [1, 2]


def test_new_steps_come_as_they_appear_and_the_end_comes_in_time(clock: Time) -> None:
    disk = MemoryStore()
    clock.events = [(at, lambda s=s: fill(disk, [s])) for at, s in [(3, 1), (5, 2), (6, 7)]]
    seen = [(clock.now, int(step)) for step in Manager.watch(ROOT, timeout=10, store=disk)]
    assert seen == [(3, 1), (5, 2), (6, 7)]
    assert clock.now == 16  # ten seconds after the last
    assert set(clock.slept) == {1.0}


def test_the_loop_never_ends_early_and_looks_once_more_at_the_end(clock: Time) -> None:
    disk = MemoryStore()
    clock.events = [(2.5, lambda: fill(disk, [1]))]
    watch = Manager.watch(ROOT, timeout=2.5, store=disk)
    assert next(watch) == 1
    assert clock.slept == [1.0, 1.0, 0.5]
    assert list(watch) == []
    assert clock.now == 5.0


def test_who_is_slow_skips_to_the_newest_or_takes_each(clock: Time) -> None:
    for latest_only, expected in [(True, [1, 4]), (False, [1, 2, 3, 4])]:
        disk = MemoryStore()
        fill(disk, [1])
        seen: list[int] = []
        for step in Manager.watch(ROOT, timeout=1, store=disk, latest_only=latest_only):
            seen.append(int(step))
            if step == 1:
                fill(disk, [2, 3, 4])
        assert seen == expected


def test_the_loop_ends_after_the_step_that_was_named(clock: Time) -> None:
    disk = MemoryStore()
    clock.events = [(at, lambda s=s: fill(disk, [s])) for at, s in [(1, 10), (2, 30), (3, 40)]]
    assert list(Manager.watch(ROOT, store=disk, until=25)) == [10, 30]


def test_the_number_can_be_read() -> None:
    disk = MemoryStore()
    fill(disk, [5])
    (step,) = Manager.watch(ROOT, timeout=0, store=disk)
    assert (f"{step}", step + 1, repr(step)) == ("5", 6, "5")
    assert same(step.load(), state(5))
    assert same(step.load(state(0)), state(5))
    assert step.load(select="step") == {"step": 5}
    assert step.metrics == {"loss": 5.0}
    assert step.path == f"{ROOT}/5"


def test_names_with_prefix_and_width_are_found() -> None:
    disk = MemoryStore()
    fill(disk, [5], prefix="run", width=4)
    (step,) = Manager.watch(ROOT, timeout=0, store=disk, prefix="run", width=4)
    assert same(step.load(), state(5))


@pytest.mark.parametrize(
    "options",
    [{"timeout": -1}, {"timeout": float("nan")}, {"poll_s": 0}, {"since": -2}, {"until": 1.5}],
)
def test_options_are_checked_at_the_call(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        Manager.watch(ROOT, store=MemoryStore(), **options)


def test_looking_on_changes_nothing() -> None:
    disk, calls = MemoryStore(), set[str]()
    fill(disk, [1, 2])
    disk.make_dir(hidden_name(f"{ROOT}/3"))
    before = names(disk)
    store: Any = Intercepted(disk, lambda method, path: calls.add(method))
    for step in Manager.watch(ROOT, timeout=0, store=store, latest_only=False):
        step.load()
    assert names(disk) == before
    assert calls <= {"list_dir", "stat", "open"}


def test_a_step_that_was_deleted_is_told_and_the_next_comes() -> None:
    disk = MemoryStore()
    fill(disk, [1])
    trainer = Manager(ROOT, store=disk)
    told: list[object] = []
    for step in Manager.watch(ROOT, timeout=0, store=disk):
        if step == 1:
            trainer.save(2, state(2))
            trainer.wait()
            trainer.delete(1)
        try:
            told.append(step.load()["step"])
        except CheckpointNotFound as error:
            told.append(type(error))
    assert told == [CheckpointNotFound, 2]


# ------------------------------------------------------------------------------------- protection


@pytest.fixture(params=["disk", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, str]:
    """Links, or copies."""
    return (LocalStore(), str(tmp_path / "r")) if request.param == "disk" else (MemoryStore(), ROOT)


def test_a_protected_step_is_read_whole_although_it_is_deleted(place: tuple[Any, str]) -> None:
    store, root = place
    with Manager(root, store=store, background=False) as trainer:
        trainer.save(1, state(1), metrics={"loss": 0.5})
        watch = Manager.watch(root, timeout=0, store=store, protect=True)
        step = next(watch)
        trainer.save(2, state(2))
        trainer.delete(1)
        trainer.wait()
        assert trainer.steps() == [2]
        assert same(step.load(), state(1))
        assert step.metrics == {"loss": 0.5}
        assert pertinax.verify(step.path, store=store).ok
        assert next(watch) == 2  # which gives the first one up
        with pytest.raises(CheckpointNotFound):
            step.load()
        watch.close()
        assert names(store, f"{root}/{PRIVATE_DIR}") == []
        assert trainer.steps() == [2]


def test_a_protected_step_takes_no_room_and_shares_its_bytes(tmp_path: Path) -> None:
    with Manager(tmp_path, background=False) as trainer:
        trainer.save(1, state(1))
    for step in Manager.watch(tmp_path, timeout=0, protect=True):
        held, own = Path(step.path), tmp_path / "1"
        files = [path.relative_to(held) for path in held.rglob("*") if path.is_file()]
        assert len(files) >= 8
        assert all(os.path.samefile(held / name, own / name) for name in files)


def test_a_step_that_goes_while_it_is_being_held_is_skipped() -> None:
    disk = MemoryStore()
    fill(disk, [1])
    trainer = Manager(ROOT, store=disk)

    def lose(method: str, path: str) -> None:
        if method == "open" and path.startswith(f"{ROOT}/1/default") and 1 in trainer.steps():
            trainer.save(2, state(2))
            trainer.wait()
            trainer.delete(1)
            trainer.wait()

    store: Any = Intercepted(disk, lose)
    steps = Manager.watch(ROOT, timeout=0, store=store, protect=True)
    assert [(int(step), step.load()["step"]) for step in steps] == [(2, 2)]
    assert names(disk, f"{ROOT}/{PRIVATE_DIR}") == []


@pytest.mark.usefixtures("dead_owners")
def test_what_a_killed_evaluator_held_is_removed_by_the_next_who_comes(tmp_path: Path) -> None:
    with Manager(tmp_path, background=False) as trainer:
        trainer.save(1, state(1))
    watch = Manager.watch(tmp_path, timeout=0, protect=True)
    next(watch)
    assert names(LocalStore(), f"{tmp_path}/{PRIVATE_DIR}") != []
    Manager(tmp_path).close()
    assert names(LocalStore(), f"{tmp_path}/{PRIVATE_DIR}") == []


# ---------------------------------------------------------------------------------- real processes

TRAINER = """
import sys
import numpy as np
from pertinax import Manager

last = int(sys.argv[2])
with Manager(sys.argv[1], keep=1) as manager:
    for step in range(1, last + 1):
        manager.save(step, {str(i): np.full(5000, step + i) for i in range(6)})
        manager.wait()
"""


@pytest.fixture
def trainer(tmp_path: Path) -> Iterator[Callable[[int], "subprocess.Popen[bytes]"]]:
    """Starts a process that saves as fast as it can and keeps one step."""
    started: list[subprocess.Popen[bytes]] = []

    def start(steps: int) -> "subprocess.Popen[bytes]":
        path = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
        command = [sys.executable, "-c", TRAINER, str(tmp_path / "run"), str(steps)]
        started.append(subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def is_whole(tree: dict[str, np.ndarray[Any, Any]], step: int) -> bool:
    return all(np.array_equal(tree[str(i)], np.full(5000, step + i)) for i in range(6))


@pytest.mark.slow
def test_a_reader_beside_a_trainer_reads_whole_steps_or_is_told(
    tmp_path: Path, trainer: Callable[[int], "subprocess.Popen[bytes]"]
) -> None:
    last = 120
    process = trainer(last)
    read, gone, before = 0, 0, 0
    for step in Manager.watch(tmp_path / "run", timeout=120, until=last, poll_s=0.001):
        assert step > before
        before = int(step)
        for _ in itertools.repeat(None, 3):
            try:
                assert is_whole(step.load(), step)
                read += 1
            except CheckpointNotFound:
                gone += 1
                break
    assert before == last
    assert read > 5
    assert process.wait(60) == 0


@pytest.mark.slow
def test_a_protected_reader_beside_a_trainer_reads_every_step_it_is_given(
    tmp_path: Path, trainer: Callable[[int], "subprocess.Popen[bytes]"]
) -> None:
    last, outlived = 60, 0
    process = trainer(last)
    root = tmp_path / "run"
    for step in Manager.watch(root, timeout=120, until=last, poll_s=0.001, protect=True):
        if step != last:
            _wait_until_gone(root / str(step), process)
            outlived += not (root / str(step)).exists()
        assert is_whole(step.load(), step)
    assert outlived > 3
    assert process.wait(60) == 0
    left = {path.name for path in root.iterdir()} - {str(last), PRIVATE_DIR}
    assert left == set()


def _wait_until_gone(path: Path, process: "subprocess.Popen[bytes]") -> None:
    pause = threading.Event()
    while path.exists() and process.poll() is None:
        pause.wait(0.001)
