# SPDX-License-Identifier: Apache-2.0
"""The Orbax door from several processes in buckets: managers and checkpointers of a job."""

import os
from pathlib import Path
from typing import Any

import jax
import pytest

import pertinax
from pertinax import checkpoint as ocp
from tests.hosts import processes, states
from tests.objects.servers import ObjectServer
from tests.objects.test_front_door import MARKER, keys

pytestmark = [pytest.mark.slow, pytest.mark.interop]


def _manage(environment: dict[str, str], root: str) -> Any:
    os.environ.update(environment)
    mesh = states.mesh_of()
    target = states.target_on(mesh)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=2,
        save_interval_steps=2,
        best_fn=lambda metrics: metrics["loss"],
        best_mode="min",
        keep_checkpoints_without_metrics=False,
        todelete_subdir="gone",  # ignored there
        cleanup_tmp_directories=True,
    )
    out: dict[str, Any] = {}
    with ocp.CheckpointManager(root, options=options, metadata={"run": 7}) as manager:
        for step, loss in enumerate((5.0, 0.0, 3.0, 0.0, 1.0, 0.0, 4.0)):
            items = ocp.args.Composite(
                state=ocp.args.PyTreeSave(states.state_on(mesh, step)),
                notes=ocp.args.JsonSave({"step": step}),
            )
            manager.save(step, args=items, metrics={"loss": loss})
        manager.wait_until_finished()
        out["steps"] = manager.all_steps(), manager.latest_step(), manager.best_step()
        wishes = ocp.checkpoint_utils.construct_restore_args(target)
        wanted = ocp.args.Composite(
            state=ocp.args.PyTreeRestore(target, restore_args=wishes),
            notes=ocp.args.JsonRestore(),
        )
        found = manager.restore(4, args=wanted)
        out["found"] = states.differences(found["state"], 4), found["notes"]
        manager.delete(2)
        out["after"] = manager.all_steps()
    with ocp.CheckpointManager(root, options=options) as manager:
        out["again"] = manager.all_steps(), manager.metrics(4), dict(manager.metadata())
    return out


@pytest.mark.row("R115")
def test_a_manager_of_a_job(tmp_path: Path, cloud: ObjectServer) -> None:
    count = 3 if cloud.scheme == "gs" else 2
    root = f"{cloud.new_root()}/run"
    folder = tmp_path / "job"
    answers = processes.run(_manage, count, cloud.environment, root, folder=folder, devices=2)
    wanted = {
        "steps": ([2, 4], 4, 4),
        "found": ([], {"step": 4}),
        "after": [4],
        "again": ([4], {"loss": 1.0}, {"run": 7}),
    }
    assert answers == [wanted] * count
    there = keys(cloud, root)
    assert {key.partition("/")[0] for key in there} <= {"4", "metadata", ".pertinax"}
    assert {f"4/{MARKER}", *(f"4/{item}/{MARKER}" for item in ("state", "notes", "metrics"))} <= {
        *there
    }
    assert not [key for key in there if "attempt" in key or "tmp" in key]
    assert pertinax.verify(f"{root}/4").ok


def _use_checkpointers(environment: dict[str, str], root: str) -> Any:
    os.environ.update(environment)
    mesh = states.mesh_of()
    target = states.target_on(mesh)
    before, after = (states.state_on(mesh, step) for step in (0, 1))
    wrong: list[str] = []

    def look(found: Any, step: int) -> None:
        wrong.extend(name for name in found if not states.same(name, found[name], step))

    with ocp.StandardCheckpointer() as checkpointer:
        place = f"{root}/standard"
        checkpointer.save(place, before["arrays"])
        checkpointer.wait_until_finished()
        look(checkpointer.restore(place, target["arrays"]), 0)
        with pytest.raises(ValueError, match="already exists"):
            checkpointer.save(place, after["arrays"])
        checkpointer.save(place, after["arrays"], force=True)
        checkpointer.wait_until_finished()
        look(checkpointer.restore(place, target["arrays"]), 1)
    wishes = ocp.checkpoint_utils.construct_restore_args(target)
    for ocdbt in (True, False):
        place = f"{root}/tree-{ocdbt}"
        with ocp.PyTreeCheckpointer(use_ocdbt=ocdbt) as tree:
            tree.save(place, before)
            found = tree.restore(place, item=target, restore_args=wishes)
        wrong += states.differences(found)
    with ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler()) as background:
        for step, state in enumerate((before, after)):  # the second waits for the first
            background.save(f"{root}/async{step}", args=ocp.args.PyTreeSave(state))
        background.wait_until_finished()
        args = ocp.args.PyTreeRestore(target, restore_args=wishes)
        wrong += states.differences(background.restore(f"{root}/async1", args=args), 1)
    return wrong, ocp.utils.tmp_checkpoints(root)


def test_checkpointers_of_a_job(tmp_path: Path, cloud: ObjectServer) -> None:
    count = 2 if cloud.scheme == "gs" else 3
    root = f"{cloud.new_root()}/run"
    folder = tmp_path / "job"
    where = (cloud.environment, root)
    answers = processes.run(_use_checkpointers, count, *where, folder=folder, devices=2)
    assert answers == [([], [])] * count
    there = keys(cloud, root)
    names = {"standard", "tree-True", "tree-False", "async0", "async1"}
    assert {key.partition("/")[0] for key in there} == names
    assert names <= {key.partition(f"/{MARKER}")[0] for key in there}
    assert not [key for key in there if "attempt" in key or "part." in key]
    assert pertinax.verify(f"{root}/standard").ok


def _fail_and_go_on(environment: dict[str, str], root: str) -> Any:
    """One process has what cannot be saved."""
    os.environ.update(environment)
    mesh = states.mesh_of()
    told: list[str] = []
    with ocp.CheckpointManager(root) as manager:
        for step in range(2):
            state: Any = states.state_on(mesh, step)
            if step == 0 and jax.process_index() == 1:
                state["odd"] = object()
            try:
                manager.save(step, args=ocp.args.PyTreeSave(state))
                manager.wait_until_finished()
            except Exception as error:
                told.append(type(error).__name__)
        return told, manager.all_steps()


def test_a_save_that_fails_in_one_process_leaves_nothing(tmp_path: Path, s3: ObjectServer) -> None:
    root = f"{s3.new_root()}/run"
    answers = processes.run(
        _fail_and_go_on, 2, s3.environment, root, folder=tmp_path / "job", devices=2
    )
    assert answers == [(["PeerFailed"], [1]), (["NoTypeHandler"], [1])]
    assert {key.partition("/")[0] for key in keys(s3, root)} <= {"1", ".pertinax"}
