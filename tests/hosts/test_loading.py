# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of one process is loaded by several, each reading what its devices need."""

from pathlib import Path
from typing import Any

import jax
import pytest

import pertinax
from tests.hosts import processes, states

pytestmark = pytest.mark.slow


def _load(path: str) -> Any:
    loaded = pertinax.load(path, states.target_on(states.mesh_of()))
    placed = {
        name: array.sharding == states.sharding_of(name, states.mesh_of())
        for name, array in loaded["arrays"].items()
    }
    return states.differences(loaded), all(placed.values()), jax.device_count()


@pytest.mark.parametrize(("count", "devices"), [(2, 2), (4, 1)])
def test_what_one_process_saved_several_load(tmp_path: Path, count: int, devices: int) -> None:
    mesh = states.mesh_of()
    pertinax.save(tmp_path / "state", states.state_on(mesh))
    answers = processes.run(
        _load, count, str(tmp_path / "state"), folder=tmp_path / "job", devices=devices
    )
    assert answers == [([], True, count * devices)] * count
