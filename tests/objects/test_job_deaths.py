# SPDX-License-Identifier: Apache-2.0
"""A process of a job is killed at each request that decides something; then the job is started
again.

What was reported done is there; what was not is invisible, unless all of it had been decided, and
then the next one makes it appear; nothing is left of it; and the job goes on.
"""

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import pytest

import pertinax
from pertinax import checkpoint as ocp
from pertinax._store.objects.requests import Bucket
from tests.hosts import processes, states
from tests.objects.servers import ObjectServer
from tests.objects.test_front_door import MARKER, keys

pytestmark = [pytest.mark.slow, pytest.mark.crash]

LEADER = 1  # JAX's own service lives in process 0
OTHER = 0


@dataclass(frozen=True)
class Death:
    """A kill before the first request `method` with such a key, while step 2 is saved.

    `done`: whether step 2 appears all the same, for it had been decided.
    """

    method: str
    key: str
    victim: int = LEADER
    done: bool = False
    step: int = 2

    def meets(self, method: str, key: str) -> bool:
        """Whether this is the request."""
        place, _, name = key.partition(f"run/{self.step}/")
        there = name == MARKER if self.key == MARKER else self.key in f"/{name}"
        return method == self.method and not place and bool(name) and there


DEATHS: Mapping[str, Death] = {
    "nothing but the claim": Death("put", "/_CHECKPOINT_METADATA"),
    "data": Death("create", "/d/"),
    "data of another": Death("create", "/d/", OTHER),
    "word of another": Death("create", "/part.0", OTHER),
    "merge": Death("create", "/manifest.ocdbt"),
    "item's marker": Death("create", f"/items/{MARKER}"),
    "decision": Death("create", ".end"),
    "marker": Death("create", MARKER, done=True),
    "end": Death("delete", "/pertinax.attempt.", done=True),
    "deletion": Death("delete", f"/items/{MARKER}", done=True, step=0),
}
SAMPLE: Mapping[str, tuple[str, ...]] = {"gs": ("merge", "marker"), "s3": ("data of another",)}
"""What CI tries: one death of each kind."""


def _options(**more: Any) -> Any:
    led = ocp.options.MultiprocessingOptions(primary_host=LEADER)
    return ocp.CheckpointManagerOptions(multiprocessing_options=led, **more)


def _lie_in_wait(death: Death, folder: str) -> None:
    def watch(method: str) -> None:
        inner = getattr(Bucket, method)

        def deadly(self: Bucket, key: Any, *args: Any) -> Any:
            if death.meets(method, key if isinstance(key, str) else key[0]):
                processes.tell(Path(folder), "dying")
                os.kill(os.getpid(), signal.SIGKILL)
            return inner(self, key, *args)

        setattr(Bucket, method, deadly)

    for method in ("put", "create", "delete"):
        watch(method)


def _train_until_killed(environment: dict[str, str], root: str, folder: str, death: Death) -> None:
    os.environ.update(environment)
    if jax.process_index() == death.victim:
        _lie_in_wait(death, folder)
    mesh = states.mesh_of()
    manager = ocp.CheckpointManager(root, options=_options(max_to_keep=2))
    for step in range(3):
        arrays = states.state_on(mesh, step)["arrays"]
        manager.save(step, args=ocp.args.Composite(items=ocp.args.StandardSave(arrays)))
        manager.wait_until_finished()
    signal.pause()  # the parent ends who was not killed


def _restart(environment: dict[str, str], roots: dict[str, str]) -> Any:
    os.environ.update(environment)
    mesh = states.mesh_of()
    target = states.target_on(mesh)["arrays"]
    told = {}
    for death, root in roots.items():
        with ocp.CheckpointManager(root, options=_options(read_only=True)) as looking:
            ignored = list(looking.all_steps())
        options = _options(max_to_keep=2, cleanup_tmp_directories=True)
        with ocp.CheckpointManager(root, options=options) as manager:
            steps, latest = list(manager.all_steps()), manager.latest_step()
            args = ocp.args.Composite(items=ocp.args.StandardRestore(target))
            found = manager.restore(latest, args=args)["items"]
            wrong = [name for name in target if not states.same(name, found[name], latest)]
            saved = [  # the same step again, as a job does that goes on from the one before
                manager.save(step, args=ocp.args.Composite(items=ocp.args.StandardSave(found)))
                for step in (2, 9)
            ]
            manager.wait_until_finished()
            told[death] = ignored, steps, wrong, saved, list(manager.all_steps())
    return told


@pytest.mark.row("R063", "R093", "R122")
@pytest.mark.parametrize("names", [SAMPLE, pytest.param(None, marks=pytest.mark.campaign)])
def test_after_a_death_at_any_request_the_job_goes_on(
    tmp_path: Path, cloud: ObjectServer, names: Mapping[str, tuple[str, ...]] | None
) -> None:
    chosen = DEATHS if names is None else names.get(cloud.scheme, names["s3"])
    deaths = {name: DEATHS[name] for name in chosen}
    roots = {name: f"{cloud.new_root()}/run" for name in deaths}
    jobs: dict[str, processes.Job] = {}
    for name, root in roots.items():
        folder = tmp_path / name / "job"
        jobs[name] = processes.start(
            *(_train_until_killed, 2, cloud.environment, root, str(folder), deaths[name]),
            folder=folder,
            devices=2,
            recoverable=True,
            limit_s=240,
        )
    for name, job in jobs.items():
        job.wait_for("dying")
        job.signal(1 - deaths[name].victim)  # a scheduler ends the others
        codes = [ended.code for ended in job.end()]
        assert codes[deaths[name].victim] == -9, name
        assert codes[1 - deaths[name].victim] in (-9, -6), name  # without JAX's service: aborted
    answers = processes.run(
        _restart, 2, cloud.environment, roots, folder=tmp_path / "again", devices=2, limit_s=300
    )
    for name, death in deaths.items():
        before = [1, 2] if death.step == 0 else [0, 1, 2] if death.done else [0, 1]
        for ignored, steps, wrong, saved, after in (answer[name] for answer in answers):
            assert ignored in (before, [step for step in before if step != 2]), name
            assert steps == before, name
            assert wrong == [], name
            assert saved == [not death.done, True], name
            assert after == [2, 9], name
        there = keys(cloud, roots[name])
        assert {key.partition("/")[0] for key in there} <= {"2", "9", ".pertinax"}, name
        assert not [key for key in there if "attempt" in key or "part." in key], name
        assert pertinax.verify(f"{roots[name]}/2").ok
