# SPDX-License-Identifier: Apache-2.0
"""A process is killed or stopped in the middle of something: all others are told which, and soon.

Jobs of two processes, all at once, for most of the time is spent listening: a process that has a
pulse no more is given ten seconds. JAX itself ends a job whose process 0 is killed.
"""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import pertinax
from pertinax import checkpoint as ocp
from tests.hosts import processes

pytestmark = [pytest.mark.slow, pytest.mark.crash]


@dataclass(frozen=True)
class Loss:
    """Process `victim` gets signal `number` while all do `what`."""

    what: str
    victim: int
    number: int


LOSSES = {
    "save_async, another killed": Loss("async", 1, signal.SIGKILL),
    "Manager.save, another stopped": Loss("front", 1, signal.SIGSTOP),
    "Manager.restore, another killed": Loss("restore", 1, signal.SIGKILL),
    "CheckpointManager.save, the primary killed": Loss("led", 1, signal.SIGKILL),
    "CheckpointManager.restore, another stopped": Loss("door restore", 1, signal.SIGSTOP),
    "AsyncCheckpointer.save, process 0 stopped": Loss("background", 0, signal.SIGSTOP),
    "save, process 0 killed": Loss("save", 0, signal.SIGKILL),
}


QUOTED = {
    "save_async, another killed",
    "Manager.save, another stopped",
    "CheckpointManager.restore, another stopped",
    "AsyncCheckpointer.save, process 0 stopped",
}
PAGE = Path(__file__).resolve().parents[2] / "docs" / "multihost.md"


def state() -> dict[str, Any]:
    mesh = jax.sharding.Mesh(jax.devices(), ("x",))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    big = np.arange(16384, dtype=np.float32).reshape(128, 128)
    return {"w": jax.make_array_from_callback(big.shape, spread, lambda index: big[index])}


def things_to_do(root: str, what: str) -> Callable[[int], None]:
    """A call that all make, by number."""
    led = ocp.options.MultiprocessingOptions(primary_host=1)
    if what in ("front", "restore"):
        front = pertinax.Manager(f"{root}/steps")
        if what == "restore":
            front.save(0, state())
            return lambda _: front.restore(state()) and None
        return lambda step: front.save(step, state()) and front.wait()
    if what in ("led", "door restore"):
        os.makedirs(f"{root}/steps", exist_ok=True)
        options = ocp.CheckpointManagerOptions(
            multiprocessing_options=led if what == "led" else ocp.options.MultiprocessingOptions()
        )
        door = ocp.CheckpointManager(f"{root}/steps", options=options)

        def save(step: int) -> None:
            door.save(step, args=ocp.args.StandardSave(state()))
            door.wait_until_finished()

        if what == "led":
            return save
        save(0)
        return lambda _: door.restore(0, args=ocp.args.StandardRestore(state()))
    if what == "background":
        checkpointer = ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler())

        def save_in_background(step: int) -> None:
            checkpointer.save(f"{root}/steps/{step}", args=ocp.args.StandardSave(state()))
            checkpointer.wait_until_finished()

        return save_in_background
    if what == "async":
        return lambda step: pertinax.save_async(f"{root}/steps/{step}", state()).result() and None
    return lambda step: pertinax.save(f"{root}/steps/{step}", state()) and None


def lose_one(root: str, folder: str, loss: Loss) -> Any:
    do = things_to_do(root, loss.what)
    do(1)
    begun_s = time.monotonic()
    if jax.process_index() == loss.victim:

        def end(*_: Any) -> Any:
            processes.tell(Path(folder), "victim")
            os.kill(os.getpid(), loss.number)
            time.sleep(120)  # the parent ends who was stopped

        if "restore" in loss.what:
            end()
        os.pwritev = end  # the first bytes of its part
        do(2)
    try:
        do(2)
    except pertinax.errors.PeerFailed as error:
        seconds = time.monotonic() - begun_s
        processes.tell(Path(folder), "told")
        return error.process, error.phase, str(error), seconds
    return None


@pytest.mark.wd("Kw-04")
def test_who_is_lost_is_named_within_seconds_and_nothing_is_visible(tmp_path: Path) -> None:
    jobs: dict[str, processes.Job] = {}
    for i, (name, loss) in enumerate(LOSSES.items()):
        folder = tmp_path / f"job{i}"
        root = str(tmp_path / f"root{i}")
        jobs[name] = processes.start(
            lose_one, 2, root, str(folder), loss, folder=folder, recoverable=True, limit_s=100
        )
    for i, (name, job) in enumerate(jobs.items()):
        loss = LOSSES[name]
        if loss == LOSSES["save, process 0 killed"]:
            job.wait_for("victim")
        else:
            job.wait_for("told")
            job.signal(loss.victim)  # the stopped as well
        ended = job.end()
        assert ended[loss.victim].code == -9, name
        other = ended[1 - loss.victim]
        steps = Path(tmp_path / f"root{i}/steps")
        visible = [entry for entry in os.listdir(steps) if entry.isdigit()]
        assert visible == (["0"] if "restore" in loss.what else ["1"]), name
        assert pertinax.verify(steps / visible[0]).ok
        if loss.victim == 0 and loss.number == signal.SIGKILL:
            assert other.code in (-6, 0), name  # as a rule JAX is faster than we are
            continue
        assert not other.error, (name, other.error)
        process, phase, text, seconds = other.value
        print(f"{name}: {seconds:.1f} s, phase {phase!r}: {text}")
        if name in QUOTED:  # the page quotes it, word for word
            assert text.replace(str(steps), "/runs/a") in PAGE.read_text("utf-8"), text
        assert process == loss.victim, name
        if loss.victim == 0:
            assert "the coordination service" in text, name
        else:
            assert "nothing was heard of it for" in text, name
        assert seconds < 60, name
