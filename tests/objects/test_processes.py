# SPDX-License-Identifier: Apache-2.0
"""Several processes save one checkpoint in a bucket; a killed one is succeeded."""

import os
import signal
from pathlib import Path

import jax
import numpy as np
import pytest

import pertinax
from pertinax._store.objects.store import ATTEMPT
from tests.hosts import processes, states
from tests.objects.servers import ObjectServer

pytestmark = [pytest.mark.slow, pytest.mark.interop]


def _save(environment: dict[str, str], root: str) -> None:
    os.environ.update(environment)
    state = states.state_on(states.mesh_of())
    with pertinax.Manager(root, keep=1) as manager:
        for step in (1, 2):
            manager.save(step, state)


def _load(environment: dict[str, str], root: str) -> list[str]:
    os.environ.update(environment)
    with pertinax.Manager(root) as manager:
        return states.differences(manager.load(2, states.target_on(states.mesh_of(turned=True))))


def test_two_processes_save_a_run_and_two_others_load_it(tmp_path: Path, cloud: ObjectServer):
    root = f"{cloud.new_root()}/run"
    processes.run(_save, 2, cloud.environment, root, folder=tmp_path / "job", devices=2)
    here = pertinax.load(f"{root}/2", states.target_on(states.mesh_of()))
    assert states.differences(here) == []
    assert pertinax.verify(f"{root}/2").ok
    answers = processes.run(_load, 2, cloud.environment, root, folder=tmp_path / "job2", devices=2)
    assert answers == [[], []]
    store = pertinax.ObjectStore(root)
    keys = [one.key for page in store.requests.list("run") for one in page]
    assert not [key for key in keys if ATTEMPT in key or "run/1/" in key or ".part" in key]


def _dies(environment: dict[str, str], root: str) -> None:
    os.environ.update(environment)

    def progress(done: int, total: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    pertinax.save(f"{root}/a", {"w": np.ones(1000)}, progress=progress)


def test_a_writer_that_is_killed_is_succeeded_at_once_on_the_same_machine(
    tmp_path: Path, s3: ObjectServer
):
    root = f"{s3.new_root()}/run"
    (ended,) = processes.start(
        _dies, 1, s3.environment, root, folder=tmp_path / "job", devices=1
    ).end()
    assert ended.code == -signal.SIGKILL
    with pytest.raises(pertinax.errors.UnfinishedCheckpoint, match="its writer has died"):
        pertinax.load(f"{root}/a")
    pertinax.save(f"{root}/a", {"w": np.zeros(1000)})
    assert not np.any(pertinax.load(f"{root}/a")["w"])
    store = pertinax.ObjectStore(root)
    assert not [m.key for page in store.requests.list("run") for m in page if ATTEMPT in m.key]
    assert jax.process_count() == 1
