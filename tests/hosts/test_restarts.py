# SPDX-License-Identifier: Apache-2.0
"""The process that leads is killed at each phase of a step's life; then the job is started again.

What was whole before is what is there: the restarted job lists it, restores it, sees nothing of
what was left, and removes that when it may.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest

import pertinax
from pertinax import checkpoint as ocp
from pertinax._store.local import LocalStore
from pertinax._store.owner import TMP_MARK
from tests.hosts import processes, states

pytestmark = [pytest.mark.slow, pytest.mark.crash]

LEADER = 1  # JAX's own service lives in process 0


def _of_step(path: str, step: int) -> bool:
    return f"/{step}{TMP_MARK}" in path


# The operation of the store before which the leader dies while it saves step 2, whether a path is
# the one, and the steps that are there afterwards.
DEATHS: dict[str, tuple[str, Callable[[str], bool], list[int]]] = {
    "creation": ("make_dir", lambda path: _of_step(path, 2) and "/items" in path, [0, 1]),
    "write": ("create", lambda path: _of_step(path, 2) and "/d/" in path, [0, 1]),
    "merge": ("create", lambda path: _of_step(path, 2) and path.endswith(".ocdbt"), [0, 1]),
    "between": ("rename", lambda path: _of_step(path, 2), [0, 1]),
    "deletion": ("remove_file", lambda path: _of_step(path, 0) and "/d/" in path, [1, 2]),
}


def _options(**more: Any) -> Any:
    led = ocp.options.MultiprocessingOptions(primary_host=LEADER)
    return ocp.CheckpointManagerOptions(multiprocessing_options=led, **more)


def _train_until_killed(root: str, folder: str, death: str) -> None:
    method, is_there, _ = DEATHS[death]
    inner = getattr(LocalStore, method)

    def deadly(self: LocalStore, path: str, *args: Any) -> Any:
        if is_there(path):
            processes.tell(Path(folder), "dying")
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(self, path, *args)

    if jax.process_index() == LEADER:
        setattr(LocalStore, method, deadly)
    mesh = states.mesh_of()
    manager = ocp.CheckpointManager(root, options=_options(max_to_keep=2))
    for step in range(3):
        arrays = states.state_on(mesh, step)["arrays"]
        manager.save(step, args=ocp.args.Composite(items=ocp.args.StandardSave(arrays)))
        manager.wait_until_finished()
    signal.pause()  # the parent ends who was not killed


def _restart(roots: dict[str, str]) -> Any:
    mesh = states.mesh_of()
    target = states.target_on(mesh)["arrays"]
    told = {}
    for death, root in roots.items():
        with ocp.CheckpointManager(root, options=_options(read_only=True)) as looking:
            ignored = list(looking.all_steps())
        with ocp.CheckpointManager(root, options=_options(cleanup_tmp_directories=True)) as manager:
            latest = manager.latest_step()
            args = ocp.args.Composite(items=ocp.args.StandardRestore(target))
            found = manager.restore(latest, args=args)["items"]
            wrong = [name for name in target if not states.same(name, found[name], latest)]
            left = sorted(name for name in os.listdir(root) if TMP_MARK in name)
            manager.save(9, args=ocp.args.Composite(items=ocp.args.StandardSave(found)))
            manager.wait_until_finished()
            told[death] = ignored, latest, wrong, left, list(manager.all_steps())
    return told


def test_after_a_death_in_any_phase_the_job_goes_on_from_what_was_whole(tmp_path: Path) -> None:
    roots = {death: str(tmp_path / death / "run") for death in DEATHS}
    jobs: dict[str, processes.Job] = {}
    for death, root in roots.items():
        os.makedirs(root)
        folder = tmp_path / death / "job"
        jobs[death] = processes.start(
            *(_train_until_killed, 2, root, str(folder), death),
            folder=folder,
            devices=2,
            recoverable=True,
        )
    for death, job in jobs.items():
        job.wait_for("dying")
        job.signal(1 - LEADER)  # a scheduler ends the others
        assert [ended.code for ended in job.end()] == [-9, -9], death
        assert any(TMP_MARK in name for name in os.listdir(roots[death])), death
    answers = processes.run(_restart, 2, roots, folder=tmp_path / "again", devices=2)
    for death, (_, _, steps) in DEATHS.items():
        wanted = (steps, steps[-1], [], [], [*steps, 9])
        assert [answer[death] for answer in answers] == [wanted, wanted], death
        for step in (*steps, 9):
            assert pertinax.verify(Path(roots[death]) / str(step)).ok
