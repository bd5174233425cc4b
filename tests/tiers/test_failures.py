# SPDX-License-Identifier: Apache-2.0
"""A save that failed is raised on all processes at the same step, whenever each knew of it."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import pertinax
from pertinax._store.local import LocalStore
from tests.hosts import processes

pytestmark = pytest.mark.slow

STATE = {"table": np.arange(6.0)}


def hear_of_it(folder: str) -> Any:
    """Each tier fails once, on one process, while the job goes on and saves in the other tier."""
    me = jax.process_index()
    create, broken = LocalStore.create, ""

    def failing(store: LocalStore, path: str, length: int = 0) -> Any:
        if me == 1 and broken and f"/{broken}/" in path:
            raise OSError(28, "no room")
        return create(store, path, length)

    LocalStore.create = failing  # for good: this process ends with the job
    heard: list[tuple[int, str]] = []
    kept: list[list[int]] = []
    near, durable = f"{folder}/near/{me}", f"{folder}/durable"
    with pertinax.TieredManager(near, durable, save_local=1, save=1000) as manager:
        step = 0
        for broken, tiers in (("durable", (True, True)), ("near", (True, False))):
            step += 1
            manager.save(step, STATE, tiers=tiers)
            # From here on only the other tier saves. Who fails knows it at once, others later.
            others = tiers if broken == "near" else (True, False)
            before = len(heard)
            while len(heard) == before and step < 2000:
                step += 1
                try:
                    manager.save(step, STATE, tiers=others)
                except (pertinax.errors.PertinaxError, OSError) as error:
                    heard.append((step, type(error).__name__))
            broken = ""  # noqa: PLW2901 - what comes next succeeds
            manager.wait()
            kept.append(manager.steps())
        return heard, kept


def test_a_failure_is_raised_on_all_processes_at_the_same_step(tmp_path: Path) -> None:
    told = processes.run(hear_of_it, 3, str(tmp_path), folder=tmp_path / "job")
    for process, (heard, kept) in enumerate(told):
        assert [step for step, _ in heard] == [step for step, _ in told[0][0]]
        kinds = ["StorageFull"] * 2 if process == 1 else ["PeerFailed"] * 2
        assert [kind for _, kind in heard] == kinds
        assert kept == told[0][1]
        assert all(kept), "a step that was whole before is still there"
