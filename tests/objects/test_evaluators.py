# SPDX-License-Identifier: Apache-2.0
"""Evaluators in two processes follow a run in a bucket that a trainer in a third one makes, and
that keeps one step only: what they look at is whole as long as they do.
"""

import contextlib
import itertools
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import pertinax
from pertinax import checkpoint as ocp
from tests.hosts import processes
from tests.objects.servers import ObjectServer
from tests.objects.test_front_door import keys

pytestmark = [pytest.mark.slow, pytest.mark.interop]

ENOUGH = 3


def _value(step: int) -> dict[str, Any]:
    return {"w": np.full(5000, step, np.int32), "n": step}


def _right(state: Any, step: int) -> bool:
    return state["n"] == step and np.array_equal(state["w"], _value(step)["w"])


def _train(environment: dict[str, str], root: str, folder: str, door: str) -> int:
    """Save one step after the other until all evaluators have seen enough."""
    os.environ.update(environment)
    with contextlib.ExitStack() as open_:
        if door == "front":
            front = open_.enter_context(pertinax.Manager(root, keep=1))
        else:
            options = ocp.CheckpointManagerOptions(max_to_keep=1)
            orbax = open_.enter_context(ocp.CheckpointManager(root, options=options))
        for step in itertools.count(1):
            if door == "front":
                front.save(step, _value(step))
            else:
                orbax.save(step, args=ocp.args.StandardSave(_value(step)))
            if len([*Path(folder).glob("told-enough-*")]) == 2:
                return step
    raise AssertionError


def _tell_when_enough(seen: list[int], folder: str) -> None:
    if len(seen) == ENOUGH:
        processes.tell(Path(folder), f"enough-{jax.process_index()}")


def _evaluate(environment: dict[str, str], root: str, folder: str, door: str) -> Any:
    os.environ.update(environment)
    try:
        return _watch(root, folder) if door == "front" else _iterate(root, folder)
    finally:
        processes.tell(Path(folder), f"enough-{jax.process_index()}")


def _watch(root: str, folder: str) -> Any:
    """Each for itself: a step that it looks at is held."""
    seen: list[int] = []
    wrong: list[int] = []
    steps = pertinax.Manager.watch(root, timeout=60, poll_s=0.01, protect=True)
    for step in steps:
        wrong += [] if _right(step.load(), step) else [int(step)]
        seen.append(int(step))
        _tell_when_enough(seen, folder)
        if len(seen) == ENOUGH:
            break
    steps.close()
    return seen, wrong


def _iterate(root: str, folder: str) -> Any:
    """Together, through the Orbax door: process 0 looks, both get the same steps."""
    seen: list[int] = []
    wrong: list[int] = []
    steps = ocp.checkpoint_utils.checkpoints_iterator(root, timeout=60, seconds_to_sleep=0.01)
    for step in steps:
        held = ocp.checkpoint_utils.get_snapshot_dir_from_step_dir(f"{root}/{step}")
        with ocp.StandardCheckpointer() as checkpointer:
            state = checkpointer.restore(held / "default")
        wrong += [] if _right(state, step) else [step]
        seen.append(step)
        _tell_when_enough(seen, folder)
        if len(seen) == ENOUGH:
            break
    steps.close()
    later = ocp.checkpoint_utils.wait_for_new_checkpoint(
        root, until_step=seen[-1], timeout=60, seconds_to_sleep=0.01
    )
    with later as step:
        held = ocp.checkpoint_utils.get_snapshot_dir_from_step_dir(f"{root}/{step}")
        wrong += [] if _right(pertinax.load(held / "default"), step) else [step]
        later_ok = step >= seen[-1]
    return seen, wrong, later_ok


@pytest.mark.parametrize("door", ["front", "orbax"])
def test_two_evaluators_follow_a_trainer(tmp_path: Path, cloud: ObjectServer, door: str) -> None:
    root = f"{cloud.new_root()}/run"
    folder = tmp_path / "evaluators"
    where = (cloud.environment, root, str(folder), door)
    evaluators = processes.start(_evaluate, 2, *where, folder=folder)
    (last,) = processes.run(_train, 1, *where, folder=tmp_path / "trainer")
    ended = evaluators.end()
    assert [one.error for one in ended] == ["", ""]
    for one in ended:
        seen, wrong, *later = one.value
        assert wrong == []
        assert len(seen) == ENOUGH
        assert seen == sorted({*seen})
        assert seen[-1] <= last
        assert all(later)
    if door == "orbax":
        assert ended[0].value[0] == ended[1].value[0]
    left = keys(cloud, root)
    assert {key.partition("/")[0] for key in left} <= {str(last), ".pertinax"}, left
    assert not [key for key in left if "pins" in key or "attempt" in key], left
