# SPDX-License-Identifier: Apache-2.0
"""Two tiers of four real processes: the near one on directories, the durable one in a bucket."""

import os
import shutil
from pathlib import Path
from typing import Any

import jax
import pytest

import pertinax
from pertinax import checkpoint as ocp
from pertinax._tiers.manager import TieredManager
from pertinax.checkpoint.experimental.emergency import checkpoint_manager as emergency
from tests.checkpoint.emergency import test_manager as door
from tests.hosts import processes
from tests.objects.faults import Fault, FaultProxy, Rule
from tests.objects.servers import ObjectServer
from tests.objects.test_front_door import MARKER, keys
from tests.tiers.test_two_tiers import DURABLE, OWN, PEER, state_at, wrong_in

pytestmark = [pytest.mark.slow, pytest.mark.interop]


def manager_of(folder: str, root: str, **options: Any) -> TieredManager:
    local = f"{folder}/local/{jax.process_index()}"
    how = {"save_local": 2, "save": 4, "keep_local": 1, "keep": 2} | options
    return TieredManager(local, root, **how)


def train(
    environment: dict[str, str], folder: str, root: str, stop: int, chosen: int | None = None
) -> Any:
    """Resume, or restore a chosen step, and go on."""
    os.environ.update(environment)
    with manager_of(folder, root) as manager:
        steps = manager.steps()
        start, wrong, sources = 0, [], (False,) * 3
        if steps:
            found = manager.restore(state_at(0), chosen)
            start, wrong = found.step, wrong_in(found.tree, found.step)
            sources = (found.own_bytes > 0, found.peer_bytes > 0, found.durable_bytes > 0)
        for step in range(start + 1, stop + 1):
            manager.save(step, state_at(step))
        manager.wait()
        return start, wrong, sources, manager.steps()


def run(folder: Path, name: str, server: ObjectServer, root: str, *args: Any) -> list[Any]:
    return processes.run(
        train, 4, server.environment, str(folder), root, *args, folder=folder / f"job-{name}"
    )


def steps_of(server: ObjectServer, root: str) -> set[str]:
    there = keys(server, root)
    assert not [key for key in there if "attempt" in key or "/part." in key], there
    names = {key.partition("/")[0] for key in there} - {".pertinax", "process_metadata"}
    assert all(f"{name}/{MARKER}" in there for name in names)
    return names


@pytest.mark.campaign
def test_what_is_lost_comes_back_from_near_or_from_the_bucket(
    tmp_path: Path, cloud: ObjectServer
) -> None:
    root = f"{cloud.new_root()}/run"
    local = tmp_path / "local"
    answers = run(tmp_path, "begin", cloud, root, 14)
    assert answers == [(0, [], (False,) * 3, [8, 12, 14])] * 4
    assert steps_of(cloud, root) == {"8", "12"}  # retention, there as well

    shutil.rmtree(local / "2")  # one host
    answers = run(tmp_path, "one-lost", cloud, root, 14)
    assert [one[:2] for one in answers] == [(14, [])] * 4
    assert [one[2] for one in answers] == [OWN, OWN, PEER, OWN]

    shutil.rmtree(local)  # all of them
    answers = run(tmp_path, "all-lost", cloud, root, 18)
    assert answers == [(12, [], DURABLE, [12, 16, 18])] * 4
    assert steps_of(cloud, root) == {"12", "16"}

    # A step that near storage has let go, while it has a newer one.
    answers = run(tmp_path, "older", cloud, root, 12, 12)
    assert [one[:3] for one in answers] == [(12, [], DURABLE)] * 4
    assert pertinax.verify(f"{root}/16").ok


# ------------------------------------------------------------------------------ by the Orbax door


def _emergency(environment: dict[str, str], folder: str, root: str, stop: int) -> Any:
    os.environ.update(environment)
    local = f"{folder}/local/{jax.process_index()}"
    os.makedirs(local, exist_ok=True)
    options = emergency.CheckpointManagerOptions(
        local=emergency.LocalCheckpointOptions(save_interval_steps=2, max_to_keep=1),
        persistent=emergency.PersistentCheckpointOptions(save_interval_steps=4, max_to_keep=2),
        cleanup_tmp_directories=True,
    )
    mesh, wanted = door.mesh_of(), door.abstract()
    with emergency.CheckpointManager(local, root, mesh, wanted, options=options) as manager:
        latest = manager.latest_step()
        right = None if latest is None else door.exact(manager.restore(latest), latest)
        for step in range(0 if latest is None else latest + 1, stop + 1):
            manager.save(step, ocp.args.PyTreeSave(door.state_at(step)))
        manager.wait_until_finished()
        other = manager.restore(8, directory=root) if stop == 14 else None
        again = other is None or door.exact(other, 8)
        return latest, right, manager.all_steps(read=True), again


def _keep_in_a_bucket(tmp_path: Path, cloud: ObjectServer, *, whole: bool) -> None:
    root = f"{cloud.new_root()}/run"

    def run(name: str, stop: int) -> list[Any]:
        where = (cloud.environment, str(tmp_path), root, stop)
        return processes.run(_emergency, 4, *where, folder=tmp_path / f"job-{name}")

    assert run("begin", 10) == [(None, None, [4, 8, 10], True)] * 4
    assert steps_of(cloud, root) == {"4", "8"}
    assert keys(cloud, f"{root}/process_metadata") == [
        "global_process_metadata.json",
        "mesh_metadata.json",
    ]
    if whole:
        shutil.rmtree(tmp_path / "local" / "1")
        assert run("one-lost", 10) == [(10, True, [4, 8, 10], True)] * 4
    shutil.rmtree(tmp_path / "local")
    assert run("all-lost", 14) == [(8, True, [8, 12, 14], True)] * 4
    assert steps_of(cloud, root) == {"8", "12"}


def test_the_emergency_manager_keeps_its_persistent_steps_in_a_bucket(
    tmp_path: Path, gcs: ObjectServer
) -> None:
    _keep_in_a_bucket(tmp_path, gcs, whole=False)


@pytest.mark.campaign
def test_the_emergency_manager_on_both_servers(tmp_path: Path, cloud: ObjectServer) -> None:
    _keep_in_a_bucket(tmp_path, cloud, whole=True)


# ------------------------------------------------------------------------------ a bucket that fails


def _train_on(environment: dict[str, str], folder: str, root: str) -> Any:
    """A save that raises has begun nothing: it is tried again."""
    os.environ.update(environment)
    told: list[tuple[int, str]] = []
    with manager_of(folder, root, save_local=1, save=3, keep_local=2) as manager:
        for step in range(1, 9):
            try:
                manager.save(step, state_at(step))
            except pertinax.errors.PertinaxError as error:
                told.append((step, type(error).__name__))
                manager.save(step, state_at(step))
        manager.wait()
        return told, manager.steps(), sorted(os.listdir(f"{folder}/local/{jax.process_index()}"))


def test_a_bucket_that_refuses_costs_no_near_step_and_all_are_told_at_the_same_one(
    tmp_path: Path, s3: ObjectServer
) -> None:
    root = f"{s3.new_root()}/run"
    refused = Rule(Fault.DENIED, method="PUT|POST", key="run/3/.*/d/")
    with FaultProxy(s3.port) as proxy, proxy.suffering(refused):
        environment = s3.behind(proxy.port).environment
        answers = processes.run(
            *(_train_on, 4, environment, str(tmp_path), root), folder=tmp_path / "job"
        )
    (told, steps, near), *_ = answers
    assert steps == [6, 7, 8]
    assert near == ["7", "8"]
    assert [one[1:] for one in answers] == [(steps, near)] * 4
    assert [[step for step, _ in one[0]] for one in answers] == [[told[0][0]]] * 4
    kinds = {kind for one in answers for _, kind in one[0]}
    assert "StorageError" in kinds
    assert kinds <= {"StorageError", "PeerFailed"}
    assert steps_of(s3, root) == {"6"}
