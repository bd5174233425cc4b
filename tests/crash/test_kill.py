# SPDX-License-Identifier: Apache-2.0
"""Programs that train are killed at random moments, again and again: no step that was reported done
is lost, and what goes on from there has the bits of a run that was never killed.
"""

import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pertinax
from pertinax import checkpoint as ocp
from pertinax._store.leftovers import clean_leftovers
from pertinax._store.local import LocalStore
from tests.crash.nursery import PROGRAMS, Nursery, follow, state, turn
from tests.hosts import processes

pytestmark = [pytest.mark.crash, pytest.mark.slow]

SEED = int(os.environ.get("PERTINAX_SEED", "7"))
KILLS = int(os.environ.get("PERTINAX_KILLS", "250"))


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    found = Nursery()
    yield found
    found.close()


class Truth:
    """The run that was never killed, a step further at each question."""

    def __init__(self) -> None:
        self.tree = state(0)

    def at(self, step: int) -> dict[str, Any]:
        assert step >= self.tree["n"], "a step that had been there is lost"
        self.tree = follow(self.tree, step - self.tree["n"])
        return self.tree


def newest(program: str, path: Path) -> dict[str, Any]:
    """What a program that resumes would go on with."""
    if program.startswith("replacing"):
        assert pertinax.verify(path).ok
        return pertinax.load(path)
    if program == "managed":
        return pertinax.Manager(path).resume(state(0))[1]
    with ocp.CheckpointManager(path, options=ocp.CheckpointManagerOptions(read_only=True)) as found:
        step = found.latest_step()
        args = ocp.args.StandardRestore({"n": 0, "a": np.zeros_like(state(0)["a"])})
        return state(0) if step is None else found.restore(step, args=args)


@pytest.mark.parametrize("kills", [4, pytest.param(KILLS, marks=pytest.mark.campaign)])
@pytest.mark.parametrize("program", list(PROGRAMS))
def test_a_killed_run_loses_nothing_that_was_reported(
    tmp_path: Path,
    nursery: Nursery,
    program: str,
    kills: int,
    campaign_size: Callable[[str], None],
) -> None:
    path, rng, truth = tmp_path / "c", random.Random(f"{SEED} {program}"), Truth()
    said = 0
    for life in range(kills):
        pid = nursery.begin(program, path)
        for _ in range(rng.randrange(1, 4)):
            said = int(nursery.hear().removeprefix("done "))
        turn(rng.randrange(400_000))
        os.kill(pid, signal.SIGKILL)
        while (words := nursery.hear()) != "ended":
            said = int(words.removeprefix("done "))
        found = newest(program, path)
        step = int(found["n"])
        # A save in flight may have come through, and one more may have been asked for meanwhile.
        assert said <= step <= said + 2, life
        assert np.array_equal(found["a"], truth.at(step)["a"]), (life, step)
        campaign_size("kills: one process")
    clean_leftovers(LocalStore(), str(tmp_path))
    assert os.listdir(tmp_path) == ["c"]
    if program == "managed":
        pertinax.Manager(path).close()  # which tidies
        assert sorted(name for name in os.listdir(path) if name != ".pertinax") == [
            str(step) for step in pertinax.Manager(path).steps()
        ]


# -------------------------------------------------------------------------------- two processes


def train_together(path: str, told: str) -> None:
    """In each of two processes: resume, and save in the background until killed."""
    import jax

    me = jax.process_index()
    with pertinax.Manager(path, keep=2) as manager, open(f"{told}-{me}", "a", buffering=1) as out:
        _, tree = manager.resume(state(0))
        before: Any = None
        while True:
            tree = follow(tree, 1)
            pending = manager.save(tree["n"], tree)
            if before is not None:
                before.result()
                print(tree["n"] - 1, file=out)
            before = pending
            processes.tell(Path(told).parent / "job", "saving")


def last_said(told: Path) -> int:
    said = [
        line
        for me in (0, 1)
        if (file := Path(f"{told}-{me}")).exists()
        for line in file.read_text().splitlines(keepends=True)
        if line.endswith("\n")
    ]
    return max(map(int, said), default=0)


@pytest.mark.parametrize("kills", [1, pytest.param(KILLS // 5, marks=pytest.mark.campaign)])
def test_a_job_of_two_loses_nothing_that_was_reported(
    tmp_path: Path, kills: int, campaign_size: Callable[[str], None]
) -> None:
    """Both are killed, one after the other, in either order."""
    rng, truth, root = random.Random(SEED), Truth(), tmp_path / "run"
    for life in range(kills):
        (tmp_path / "job" / "told-saving").unlink(missing_ok=True)
        job = processes.start(
            train_together, 2, str(root), str(tmp_path / "told"), folder=tmp_path / "job"
        )
        job.wait_for("saving")
        turn(rng.randrange(8_000_000))
        for process in rng.sample((0, 1), 2):
            job.signal(process)
            turn(rng.randrange(400_000))
        job.end()
        said = last_said(tmp_path / "told")
        step, found = pertinax.Manager(root).resume(state(0))
        assert said <= step <= said + 2, life
        assert np.array_equal(found["a"], truth.at(step)["a"]), (life, step)
        campaign_size("kills: two processes")
