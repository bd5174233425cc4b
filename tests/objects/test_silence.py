# SPDX-License-Identifier: Apache-2.0
"""A server that takes requests and never answers, met by the processes of a job: each of them gets
an error that says what happened, in bounded time, and whatever was whole stays so.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import pytest

import pertinax
from pertinax import checkpoint as ocp
from tests.hosts import processes, states
from tests.objects.faults import Fault, FaultProxy, Rule
from tests.objects.servers import ObjectServer

pytestmark = [pytest.mark.slow, pytest.mark.interop]

# What is done, and which keys are not answered from the moment on that it is done.
SILENCES: Mapping[str, str] = {
    "save": "run/2/",
    "data": "run/2/.*/d/",
    "door save": "run/2/",
    "door checkpointer": "run/2/",
    "restore": "run/1/.*/d/",
    "door restore": "run/1/",
    "open": "run",
    "door open": "run",
    "tiers open": "run",
    "delete": "run/1/",
}


def _opened(what: str, root: str, store: Any, folder: str) -> Callable[[], Any]:
    """Save step 1, if there is to be one, and return what is done next."""
    mesh = states.mesh_of()
    state, target = states.state_on(mesh, 1)["arrays"], states.target_on(mesh)["arrays"]
    if what == "open":
        return lambda: pertinax.Manager(root, store=store)
    if what == "tiers open":
        return lambda: pertinax.TieredManager(f"{folder}/{jax.process_index()}", root, store=store)
    if what == "door open":
        return lambda: ocp.CheckpointManager(root)
    if what in ("door save", "door restore"):
        door = ocp.CheckpointManager(root)
        door.save(1, args=ocp.args.StandardSave(state))
        door.wait_until_finished()
        if what == "door restore":
            return lambda: door.restore(1, args=ocp.args.StandardRestore(target))

        def save() -> None:
            door.save(2, args=ocp.args.StandardSave(state))
            door.wait_until_finished()

        return save
    if what == "door checkpointer":
        checkpointer = ocp.PyTreeCheckpointer()
        checkpointer.save(f"{root}/1", state)
        return lambda: checkpointer.save(f"{root}/2", state)
    front = pertinax.Manager(root, store=store)
    front.save(1, state)
    front.wait()
    if what == "restore":
        return lambda: front.restore(target)
    if what == "delete":
        return lambda: front.delete(1)
    return lambda: front.save(2, state) and front.wait()


def _meet_silence(
    environment: dict[str, str], root: str, folder: str, what: str, short: Mapping[str, Any] | None
) -> Any:
    os.environ.update(environment)
    store = None if short is None else pertinax.ObjectStore(root.rpartition("/")[0], **short)
    do = _opened(what, root, store, folder)
    ocp.multihost.sync_global_processes("ready")
    processes.tell(Path(folder), f"ready-{jax.process_index()}")
    Path(folder, f"silent-{jax.process_index()}").read_text()  # waits for the one who writes there
    begun_s = time.monotonic()
    try:
        do()
    except Exception as error:
        return type(error).__name__, str(error), time.monotonic() - begun_s
    return "", "", time.monotonic() - begun_s


def _run_all(
    server: ObjectServer,
    tmp_path: Path,
    names: Iterable[str],
    short: Mapping[str, Any] | None = None,
) -> Iterator[tuple[str, list[Any], str]]:
    """What was done, how each process ended, and the root, which answers again."""
    jobs: dict[str, tuple[processes.Job, str]] = {}
    with FaultProxy(server.port) as proxy:
        environment = server.behind(proxy.port).environment
        for name in names:
            root = f"{server.new_root()}/run"
            folder = tmp_path / name
            folder.mkdir()
            for process in range(2):
                os.mkfifo(folder / f"silent-{process}")
            job = processes.start(
                *(_meet_silence, 2, environment, root, str(folder), name, short),
                folder=folder,
                limit_s=400,
            )
            jobs[name] = job, root
        for job, _ in jobs.values():
            for process in range(2):
                job.wait_for(f"ready-{process}")
        proxy.rules = [
            Rule(Fault.SILENCE, key=f"{root.split('/')[2]}.*{SILENCES[name]}")
            for name, (_, root) in jobs.items()
        ]
        for name in jobs:
            for process in range(2):
                (tmp_path / name / f"silent-{process}").write_text("now")
        ended = {name: job.end() for name, (job, _) in jobs.items()}
    for name, (_, root) in jobs.items():
        yield name, ended[name], root


def _judge(name: str, ended: list[Any], root: str, limit_s: float) -> None:
    told = [one.value for one in ended]
    assert [one.error for one in ended] == ["", ""], name
    kinds = [kind for kind, _, _ in told]
    assert "StorageStalled" in kinds, (name, told)
    assert {*kinds} <= {"StorageStalled", "PeerFailed"}, (name, told)
    for _, text, seconds in told:
        assert "did not answer" in text, name
        assert seconds < limit_s, (name, seconds)
    if "open" in name:
        return
    assert pertinax.verify(f"{root}/1").ok, name
    with pertinax.Manager(root) as manager:
        assert manager.steps() == [1], name


SHORT = {"client_options": {"timeout": "3s", "read_timeout": "3s"}, "retry_s": 0}


def test_who_has_little_patience_is_told_soon(tmp_path: Path, s3: ObjectServer) -> None:
    for name, ended, root in _run_all(s3, tmp_path, ("data", "restore", "tiers open"), SHORT):
        _judge(name, ended, root, 60)


@pytest.mark.campaign
def test_nothing_waits_for_ever(tmp_path: Path, cloud: ObjectServer) -> None:
    for name, ended, root in _run_all(cloud, tmp_path, SILENCES):
        # A request that carries data is tried for two minutes, all others for half of one.
        _judge(name, ended, root, 240 if name in ("data", "restore") else 60)
