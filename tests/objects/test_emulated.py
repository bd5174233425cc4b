# SPDX-License-Identifier: Apache-2.0
"""On the published `gcp-storage-emulator`, behind a thin proxy: what we write there Orbax and
TensorStore read, and what Orbax writes there we read, also when jobs of two processes write it.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import pertinax
from pertinax import checkpoint as ocp
from pertinax.errors import CheckpointExists
from tests.hosts import processes, states
from tests.objects.servers import ObjectServer, running

pytestmark = pytest.mark.interop

TREE: dict[str, Any] = {
    "w": np.arange(600_000, dtype=np.float32).reshape(600, 1000),
    "deep": {"b": np.arange(5), "n": 3},
    "many": {f"leaf{i:03d}": np.full(4, i, np.int32) for i in range(60)},
}


@pytest.fixture(scope="module")
def emulator() -> Iterator[ObjectServer]:
    with running("gs", "tests.objects.emulated") as server:
        yield server


@pytest.fixture
def gcs(emulator: ObjectServer) -> Iterator[ObjectServer]:
    with emulator.in_environment():
        yield emulator


def assert_same(found: Any, wanted: Any = TREE) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for mine, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(theirs))


def test_the_promise_is_kept_on_the_emulator(gcs):
    url = f"{gcs.new_root()}/run/a"
    large = {**TREE, "large": np.random.default_rng(0).integers(0, 255, 20 << 20, np.uint8)}
    pertinax.save(url, large)
    assert_same(pertinax.load(url), large)
    assert pertinax.verify(url).ok
    with pytest.raises(CheckpointExists):
        pertinax.save(url, TREE)
    root = f"{gcs.new_root()}/run"
    with pertinax.Manager(root, keep=2) as manager:
        for step in range(4):
            manager.save(step, {"n": step})
        manager.wait()
        manager.pin(3)
        assert manager.steps() == [2, 3]
        manager.unpin(3)
    assert {key.partition("/")[0] for key in gcs.keys(root)} <= {"2", "3", ".pertinax"}


@pytest.mark.parametrize(
    "given", [{"use_zarr3": True}, {"ocdbt_target_data_file_size": 1 << 20}, {"use_ocdbt": False}]
)
def test_orbax_and_tensorstore_read_what_we_wrote(gcs, given):
    import orbax.checkpoint as theirs
    import tensorstore as ts

    url = f"{gcs.new_root()}/tree"
    size = {name: given[name] for name in given if name == "ocdbt_target_data_file_size"}
    made = {name: given[name] for name in given if name not in size}
    args = ocp.args.PyTreeSave(TREE, **size)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**made)) as checkpointer:
        checkpointer.save(url, args=args)
    data = [key for key in gcs.keys(url) if key.startswith("d/")]
    assert len(data) > (1 if size else -1)
    with theirs.PyTreeCheckpointer() as reader:
        assert_same(reader.restore(url))
    kvstore: Any = {"driver": "gcs", "bucket": url.split("/")[2], "path": "tree/w/"}
    if "use_ocdbt" not in made:
        kvstore = {"driver": "ocdbt", "base": f"{url}/", "path": "w/"}
    driver = "zarr3" if "use_zarr3" in made else "zarr"
    found = ts.open({"driver": driver, "kvstore": kvstore}, open=True, read=True).result()
    np.testing.assert_array_equal(found.read().result(), TREE["w"])


def test_managers_read_each_others_steps(gcs):
    import orbax.checkpoint as theirs

    root = f"{gcs.new_root()}/run"
    with ocp.CheckpointManager(root) as mine:
        mine.save(1, args=ocp.args.StandardSave(TREE))
        mine.wait_until_finished()
    with theirs.CheckpointManager(root) as other:
        assert_same(other.restore(1, args=theirs.args.StandardRestore(TREE)))
        other.save(2, args=theirs.args.StandardSave(TREE))
        other.wait_until_finished()
    with ocp.CheckpointManager(root) as mine:
        assert list(mine.all_steps()) == [1, 2]
        assert_same(mine.restore(2, args=ocp.args.StandardRestore(TREE)))
    with pertinax.Manager(root) as manager:
        assert_same(manager.load(1))
        assert_same(manager.load(2))


# -------------------------------------------------------------------------------- several processes


def _without_empty(arrays: dict[str, Any]) -> dict[str, Any]:
    """Orbax refuses arrays of no elements."""
    return {name: one for name, one in arrays.items() if one.size}


def _save(environment: dict[str, str], bucket: str) -> None:
    os.environ.update(environment)
    import orbax.checkpoint as theirs

    state = _without_empty(states.state_on(states.mesh_of())["arrays"])
    with pertinax.Manager(f"{bucket}/front") as front:
        front.save(1, state)
    for who, library in {"door": ocp, "orbax": theirs}.items():
        with library.CheckpointManager(f"{bucket}/{who}") as manager:
            manager.save(1, args=library.args.StandardSave(state))
            manager.wait_until_finished()


def _load(environment: dict[str, str], steps: dict[str, str]) -> list[str]:
    os.environ.update(environment)
    target = _without_empty(states.target_on(states.mesh_of(turned=True))["arrays"])
    wrong: list[str] = []
    for who, step in steps.items():
        found = pertinax.load(f"{step}/default", target)
        wrong += [f"{who} {name}" for name in target if not states.same(name, found[name], 0)]
    return wrong


@pytest.mark.slow
def test_jobs_of_two_processes_read_what_such_jobs_wrote(gcs, tmp_path: Path):
    import orbax.checkpoint as theirs

    bucket = gcs.new_root()
    where = (gcs.environment, bucket)
    processes.run(_save, 2, *where, folder=tmp_path / "save", devices=2, limit_s=200)
    steps = {who: f"{bucket}/{who}/1" for who in ("front", "door", "orbax")}
    answers = processes.run(
        _load, 2, gcs.environment, steps, folder=tmp_path / "load", devices=2, limit_s=200
    )
    assert answers == [[], []]
    target = _without_empty(states.target_on(states.mesh_of())["arrays"])
    for who in ("front", "door"):
        with theirs.CheckpointManager(f"{bucket}/{who}") as reader:
            found = reader.restore(1, args=theirs.args.StandardRestore(target))
        assert [name for name in target if not states.same(name, found[name], 0)] == []
