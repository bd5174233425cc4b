# SPDX-License-Identifier: Apache-2.0
"""Tiers that the real Orbax has written: the persistent one goes on, local ones are passed over.

The files are those that `tests/golden/make_emergency.py` and `make_orbax.py` had Orbax write.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pertinax import checkpoint as ocp
from pertinax.checkpoint.experimental.emergency import checkpoint_manager as emergency
from tests.golden.make_emergency import SPECS, values
from tests.hosts import processes

pytestmark = [pytest.mark.slow, pytest.mark.interop]
GOLDEN = Path(__file__).parents[2] / "golden"


def mesh_of() -> Mesh:
    return Mesh(np.array(jax.devices()).reshape(2, -1), ("replica", "data"))


def spread(host: np.ndarray[Any, Any], *spec: Any) -> jax.Array:
    layout = NamedSharding(mesh_of(), PartitionSpec(*spec))
    return jax.make_array_from_callback(host.shape, layout, lambda index: host[index])


def state_at(step: int) -> dict[str, jax.Array]:
    return {name: spread(values(name, step), *spec) for name, (_, _, spec) in SPECS.items()}


def exact(found: dict[str, Any], want: dict[str, Any]) -> bool:
    host = {name for name, value in want.items() if isinstance(value, np.ndarray)}
    if not all(np.array_equal(found[name], want[name]) for name in host):
        return False
    return found.keys() == want.keys() and all(
        found[name].sharding == array.sharding
        and found[name].dtype == array.dtype
        and all(
            np.asarray(one.data).tobytes() == np.asarray(other.data).tobytes()
            for one, other in zip(
                found[name].addressable_shards, array.addressable_shards, strict=True
            )
        )
        for name, array in want.items()
        if name not in host
    )


def go_on(folder: str) -> Any:
    local = f"{folder}/local/{jax.process_index()}"
    options = emergency.CheckpointManagerOptions(
        local=emergency.LocalCheckpointOptions(save_interval_steps=2, max_to_keep=1),
        persistent=emergency.PersistentCheckpointOptions(save_interval_steps=5, max_to_keep=2),
    )
    where = (local, f"{folder}/persistent", mesh_of(), state_at(0))
    with emergency.CheckpointManager(*where, options=options) as manager:
        begun = manager.all_steps(), sorted(os.listdir(local))
        right = [exact(manager.restore(5), state_at(5))]
        right.append(exact(manager.restore(5, directory=f"{folder}/persistent"), state_at(5)))
        for step in range(6, 11):
            manager.save(step, ocp.args.PyTreeSave(state_at(step)))
        manager.wait_until_finished()
        right += [exact(manager.restore(step), state_at(step)) for step in (5, 10)]
        return begun, right, manager.all_steps(), sorted(os.listdir(local))


def test_a_run_of_orbax_goes_on_from_its_persistent_step(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(GOLDEN / "emergency-0.12.8", folder)
    for process in range(4):  # git keeps no empty directories
        (folder / "local" / str(process)).mkdir(exist_ok=True)
    answers = processes.run(go_on, 4, str(folder), folder=tmp_path / "job")
    for process, (begun, right, steps, held) in enumerate(answers):
        # Step 8 is Orbax's, on two hosts. It goes when its room is needed.
        assert begun == ([5], ["8"] if process >= 2 else [])
        assert right == [True] * 4
        assert (steps, held) == ([5, 10], ["10"])


def restore_older(persistent: str, local: str, layouts: dict[str, Any]) -> Any:
    os.makedirs(mine := f"{local}/{jax.process_index()}")
    want = {
        name: spread(host, *(("data",) if host.ndim and host.shape[0] % 2 == 0 else ()))
        for name, host in layouts.items()
        if name != "numpy"
    }
    want["numpy"] = layouts["numpy"]
    with emergency.CheckpointManager(mine, persistent, mesh_of(), want) as manager:
        return manager.all_steps(), exact(manager.restore(7), want)


def test_a_persistent_step_of_the_release_that_we_follow_is_restored(tmp_path: Path) -> None:
    case = GOLDEN / "orbax-0.8.0" / "layouts-ocdbt-zarr3"
    (tmp_path / "persistent").mkdir()
    shutil.copytree(case, tmp_path / "persistent" / "7" / "default")
    bytes_of = np.load(case.with_suffix(".npz"))
    layouts = {
        row["path"][0][1]: np.frombuffer(
            bytes_of[str(i)].tobytes(), jax.numpy.dtype(row["dtype"])
        ).reshape(row["shape"])
        for i, row in enumerate(json.loads(case.with_suffix(".json").read_text()))
    }
    where = (str(tmp_path / "persistent"), str(tmp_path / "local"), layouts)
    answers = processes.run(restore_older, 2, *where, folder=tmp_path / "job")
    assert answers == [([7], True)] * 2
