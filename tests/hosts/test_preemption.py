# SPDX-License-Identifier: Apache-2.0
"""SIGTERM to one process: all save the same extra step, once, and can go on from it."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import pertinax
from pertinax import checkpoint as ocp
from tests.hosts import processes

pytestmark = pytest.mark.slow

INTERVAL = 1000
LAST = 3000


def state(step: int) -> dict[str, Any]:
    mesh = jax.sharding.Mesh(jax.devices(), ("x",))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    big = np.full((8, 512), step, np.float32)
    return {"w": jax.make_array_from_callback(big.shape, spread, lambda index: big[index])}


def train(root: str, folder: str) -> Any:
    """With the front door. Ends when the job shall end, in the middle of a save if need be."""
    me = jax.process_index()
    saved: list[int] = []
    with pertinax.Manager(root, save=INTERVAL, keep=3) as manager:
        start, tree = manager.resume(state(0))
        for step in range(start + 1, start + LAST):
            time.sleep(0.02 * (1 + me))  # they do not run at one speed
            if manager.save(step, state(step)) is not None:
                saved.append(step)
            if step == start + 3:
                processes.tell(Path(folder), f"running-{me}")
            assert not manager.should_save(step) or manager.preempted
            if manager.preempted:
                break
    return start, saved, manager.steps(), float(tree["w"].addressable_data(0)[0, 0])


def job_of(work: Any, tmp_path: Path, name: str, *args: Any, **config: Any) -> processes.Job:
    folder = tmp_path / name
    return processes.start(work, 2, *args, str(folder), folder=folder, config=config)


def preempt(job: processes.Job, *victims: int) -> list[Any]:
    for process in (0, 1):
        job.wait_for(f"running-{process}")
    for victim in victims:
        job.signal(victim, signal.SIGTERM)
    ended = job.end()
    assert [one.error for one in ended] == ["", ""]
    return [one.value for one in ended]


def test_one_more_step_is_saved_and_the_next_job_goes_on_from_it(tmp_path: Path) -> None:
    root = str(tmp_path / "run")
    first = preempt(job_of(train, tmp_path, "first", root), 1)
    assert first[0] == first[1]
    start, (step,), steps, _ = first[0]
    assert (start, steps) == (0, [step])
    assert 3 < step < INTERVAL
    assert pertinax.verify(f"{root}/{step}").ok
    # The next one is preempted as well: both processes are told at once.
    second = preempt(job_of(train, tmp_path, "second", root), 0, 1)
    assert second[0] == second[1]
    again, (other,), steps, value = second[0]
    assert (again, value, steps) == (step, step, [step, other])
    assert other > step + 3


def train_with_orbax(root: str, slow: bool, folder: str) -> Any:
    """The same through the door; `slow`: a save takes longer than some steps."""
    me = jax.process_index()
    os.makedirs(root, exist_ok=True)
    finishing = ocp.AsyncOptions(
        post_finalization_callback=(lambda: time.sleep(0.7)) if slow else None
    )
    options = ocp.CheckpointManagerOptions(
        save_interval_steps=20, max_to_keep=2, async_options=finishing
    )
    saved: list[int] = []
    events: list[str] = []
    jax.monitoring.register_event_listener(lambda name, **_: events.append(name))
    jax.monitoring.register_event_duration_secs_listener(lambda name, _, **__: events.append(name))
    stop = None
    with ocp.CheckpointManager(root, options=options) as manager:
        for step in range(LAST):
            time.sleep(0.02 * (1 + me))
            if manager.save(step, args=ocp.args.StandardSave(state(step))):
                saved.append(step)
            if step == 21:
                processes.tell(Path(folder), f"running-{me}")
            if manager.reached_preemption(step):
                assert stop is None  # at one step only
                stop = step
            if stop is not None and step >= stop + 25:
                break  # as if the grace were long: what comes after it is as before
        manager.wait_until_finished()
        steps = manager.all_steps()
    noted = events.count("/jax/orbax/write/preemption")
    told = "/jax/checkpoint/write/preempt/duration_saved_secs" in events
    return stop, saved, steps, noted >= 1, told


@pytest.mark.wd("Kw-01")
@pytest.mark.parametrize("slow", [False, True])
def test_a_program_of_orbax_saves_one_step_more_and_keeps_its_interval(
    tmp_path: Path, slow: bool
) -> None:
    root = str(tmp_path / "run")
    job = job_of(train_with_orbax, tmp_path, "job", root, slow)
    answers = preempt(job, 1)
    stop, saved, steps, *_ = answers[0]
    assert [answer[:4] for answer in answers] == [(stop, saved, steps, True)] * 2
    assert answers[0][4]  # the primary tells how much work was saved
    regular = [step for step in range(stop + 26) if step % 20 == 0]
    assert saved == sorted({*regular, stop})
    assert steps == saved[-2:]
    for step in steps:
        assert pertinax.verify(f"{root}/{step}").ok


def ask_without_service(folder: str) -> Any:
    with pertinax.Manager(f"{folder}/run", save=2) as manager:
        for step in range(4):
            manager.save(step, state(step))
    return manager.preempted, manager.steps(), ocp.multihost.reached_preemption(3)


def test_without_the_service_nobody_is_told(tmp_path: Path) -> None:
    job = job_of(ask_without_service, tmp_path, "job", jax_enable_preemption_service=False)
    assert [one.value for one in job.end()] == [(False, [0, 2], False)] * 2
