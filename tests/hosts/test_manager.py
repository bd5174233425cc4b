# SPDX-License-Identifier: Apache-2.0
"""One manager on several processes: the primary decides, all know, and nobody is left waiting."""

import os
from pathlib import Path
from typing import Any

import jax
import pytest

import pertinax
from pertinax import policies
from tests.hosts import processes, states

pytestmark = pytest.mark.slow


def _train(root: str) -> Any:
    mesh = states.mesh_of()
    clock = [1000.0 * (1 + jax.process_index())]  # no two processes have the same time
    policy = policies.EverySteps(2) | policies.EverySeconds(60)
    with pertinax.Manager(
        root,
        save=policy,
        keep=policies.Latest(2) | policies.Best(1, "loss"),
        clock=lambda: clock[0],
    ) as manager:
        saved = []
        for step in range(1, 8):
            clock[0] += 61 if step == 5 and jax.process_index() == 0 else 1
            metrics = {"loss": abs(step - 4)}
            if manager.save(step, states.state_on(mesh, step), metrics=metrics) is not None:
                saved.append(step)
        manager.wait()
        left = manager.steps()
        with pytest.raises(pertinax.errors.CheckpointExists):
            manager.save(6, states.state_on(mesh), force=True)
        assert manager.save(6, states.state_on(mesh), exists="skip") is None
        manager.pin(6, "keep")
        with pytest.raises(pertinax.errors.InvalidOption, match="pinned"):
            manager.delete(6)
        step, state = manager.resume(states.target_on(mesh))
    return saved, left, step, states.differences(state, step)


def test_all_processes_save_the_same_steps_and_the_primary_deletes(tmp_path: Path) -> None:
    root = tmp_path / "run"
    answers = processes.run(_train, 3, str(root), folder=tmp_path / "job", devices=2)
    assert answers == [([1, 2, 4, 5, 6], [4, 5, 6], 6, [])] * 3
    assert pertinax.Manager(root).history()[-1].pins == ("keep",)
    assert pertinax.Manager(root).best("loss") == 4
    for step in (4, 5, 6):
        assert pertinax.verify(root / str(step)).ok


def _restart(root: str) -> Any:
    mesh = states.mesh_of()
    with pertinax.Manager(root) as manager:
        found = manager.restore(states.target_on(mesh), fallback=True)
        differences = states.differences(found.tree, found.step)
        manager.save(found.step + 1, states.state_on(mesh, found.step + 1))
        passed = [(one.step, type(one.error).__name__) for one in found.passed_over]
    return found.step, passed, differences, manager.steps()


def _save_two(root: str) -> None:
    mesh = states.mesh_of()
    with pertinax.Manager(root) as manager:
        for step in (1, 2):
            manager.save(step, states.state_on(mesh, step))


def test_all_go_back_when_one_reads_a_damaged_part(tmp_path: Path) -> None:
    root = tmp_path / "run"
    processes.run(_save_two, 4, str(root), folder=tmp_path / "job", devices=1)
    # Only the process that needs these bytes can notice.
    *_, victim = sorted((root / "2" / "default" / "d").iterdir(), key=lambda f: f.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[3] ^= 1
    victim.write_bytes(data)
    answers = processes.run(_restart, 2, str(root), folder=tmp_path / "job2", devices=2)
    assert answers == [(1, [(2, "CorruptCheckpoint")], [], [1, 2])] * 2
    assert pertinax.verify(root / "2").ok


def _fail_then_go_on(root: str) -> Any:
    mesh = states.mesh_of()
    with pertinax.Manager(root, background=False) as manager:
        manager.save(1, states.state_on(mesh, 1))
        state: Any = states.state_on(mesh, 2)
        if jax.process_index() == 1:
            state["odd"] = object()
        try:
            manager.save(2, state)
        except (pertinax.errors.PeerFailed, pertinax.errors.UnsupportedLeaf) as error:
            told = type(error).__name__
        manager.save(3, states.state_on(mesh, 3))
    return told, manager.steps()


def test_a_failed_step_is_no_step_anywhere_and_the_next_one_is(tmp_path: Path) -> None:
    root = tmp_path / "run"
    answers = processes.run(_fail_then_go_on, 2, str(root), folder=tmp_path / "job", devices=2)
    assert answers == [("PeerFailed", [1, 3]), ("UnsupportedLeaf", [1, 3])]
    assert not [name for name in os.listdir(root) if "tmp" in name]
