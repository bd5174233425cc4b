# SPDX-License-Identifier: Apache-2.0
"""Two programs that save into one root: neither harms what the other is doing."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pertinax import Manager
from pertinax._store.leftovers import hidden_name
from pertinax._store.memory import MemoryStore
from pertinax.policies import Latest
from tests.steps.trees import ROOT, Intercepted, fill, hidden, names, same, state

TRAINER = """
import sys
import numpy as np
from pertinax import Manager

root, first = sys.argv[1], int(sys.argv[2])
sys.stdin.readline()
for turn in range(3):  # restarts, which clean
    with Manager(root, keep=3) as manager:
        for step in range(first + 40 * turn, first + 40 * turn + 40, 2):
            manager.save(step, {"w": np.full(3000, step)}).result()
            assert np.all(manager.load(step)["w"] == step)
"""


@pytest.mark.slow
@pytest.mark.crash
def test_two_processes_save_and_delete_and_restart_in_one_root(tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    root = tmp_path / "run"
    trainers = [
        subprocess.Popen(
            [sys.executable, "-c", TRAINER, str(root), str(first)],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for first in (0, 1)
    ]
    for trainer in trainers:
        assert trainer.stdin is not None
        trainer.stdin.write("go\n")
        trainer.stdin.flush()
    told = [trainer.communicate(timeout=240)[1] for trainer in trainers]
    # The other one may delete what is old by its own policy; a step it has not seen it cannot.
    for trainer, text in zip(trainers, told, strict=True):
        assert trainer.returncode == 0 or "CheckpointNotFound" in text.splitlines()[-1], text
    manager = Manager(root)
    steps = manager.steps()
    assert steps
    for step in steps:
        assert np.all(manager.load(step)["w"] == step)
    assert not [path.name for path in root.iterdir() if not path.name.isdigit()]


def test_a_second_manager_leaves_a_save_in_flight_alone() -> None:
    disk, others = MemoryStore(), list[Manager]()

    def second(method: str, path: str) -> None:
        if method == "rename" and path.startswith(f"{ROOT}/2.") and not others:
            others.append(Manager(ROOT, store=disk, keep=1))
            others[0].save(1, state(1)).result()  # type: ignore[union-attr]
            assert others[0].steps() == [1]
            assert len(hidden(disk)) >= 1

    fill(disk, [0])
    with Manager(ROOT, store=Intercepted(disk, second), keep=5) as first:  # type: ignore[arg-type]
        first.save(2, state(2))
    for manager in others:
        manager.close()
    assert first.steps() == [1, 2]
    assert names(disk) == ["1", "2"]
    assert same(first.load(2), state(2))


def test_two_that_delete_the_same_steps_do_not_disturb_each_other() -> None:
    disk, others = MemoryStore(), list[Manager]()

    def second(method: str, path: str) -> None:
        if method == "rename" and path == f"{ROOT}/2" and not others:
            others.append(Manager(ROOT, store=disk, keep=1))
            others[0].save(11, state(11)).result()  # type: ignore[union-attr]

    fill(disk, [1, 2, 3])
    with Manager(ROOT, store=Intercepted(disk, second), keep=Latest(1)) as first:  # type: ignore[arg-type]
        first.save(10, state(10))
    for manager in others:
        manager.close()
    # Both were the newest when they were made, and neither manager has judged the other's since.
    assert first.steps() in ([10, 11], [11])
    assert first.statistics().failures == 0
    assert hidden(disk) == []


@pytest.mark.usefixtures("dead_owners")
def test_a_half_deleted_step_is_never_listed_and_goes_at_the_next_start() -> None:
    disk = MemoryStore()
    fill(disk, [1, 2])
    gone = hidden_name(f"{ROOT}/1")
    disk.rename(f"{ROOT}/1", gone)
    disk.remove_file(f"{gone}/default/pertinax.json")
    before = Manager.watch(ROOT, timeout=0, store=disk, latest_only=False)
    assert list(before) == [2]
    assert Manager(ROOT, store=disk).steps() == [2]
    assert names(disk) == ["2"]
