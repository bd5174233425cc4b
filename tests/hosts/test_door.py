# SPDX-License-Identifier: Apache-2.0
"""Programs of Orbax's API on several processes: checkpointers, items, managers."""

import os
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import pertinax
from pertinax import checkpoint as ocp
from tests.hosts import processes, states

pytestmark = pytest.mark.slow


def _use_checkpointers(root: str) -> Any:
    mesh = states.mesh_of()
    state, target = states.state_on(mesh), states.target_on(mesh)
    arrays, wanted = state["arrays"], target["arrays"]
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(f"{root}/standard", arrays)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(f"{root}/standard", wanted)
    wrong = [name for name in arrays if not states.same(name, restored[name], 0)]
    with ocp.PyTreeCheckpointer(use_ocdbt=False) as checkpointer:
        checkpointer.save(f"{root}/tree", state)
        args = ocp.checkpoint_utils.construct_restore_args(target)
        again = checkpointer.restore(f"{root}/tree", item=target, restore_args=args)
    wrong += states.differences(again)
    try:
        ocp.PyTreeCheckpointer().save(f"{root}/tree", state)
    except ValueError as error:
        return wrong, "already exists" in str(error)
    return wrong, "saved twice"


def test_checkpointers(tmp_path: Path) -> None:
    root = tmp_path / "run"
    answers = processes.run(_use_checkpointers, 2, str(root), folder=tmp_path / "job", devices=2)
    assert answers == [([], True)] * 2
    assert sorted(os.listdir(root)) == ["standard", "tree"]
    assert pertinax.verify(root / "standard").ok
    assert pertinax.verify(root / "tree").ok


def _use_a_manager(root: str) -> Any:
    os.makedirs(root, exist_ok=True)
    mesh = states.mesh_of()
    options = ocp.CheckpointManagerOptions(max_to_keep=2, save_interval_steps=2)
    with ocp.CheckpointManager(root, options=options) as manager:
        for step in range(7):
            items = ocp.args.Composite(
                state=ocp.args.PyTreeSave(states.state_on(mesh, step)),
                notes=ocp.args.JsonSave({"step": step}),
            )
            manager.save(step, args=items)
        manager.wait_until_finished()
        steps = list(manager.all_steps())
        target = states.target_on(mesh)
        wanted = ocp.args.Composite(
            state=ocp.args.PyTreeRestore(
                target, restore_args=ocp.checkpoint_utils.construct_restore_args(target)
            ),
            notes=ocp.args.JsonRestore(),
        )
        found = manager.restore(manager.latest_step(), args=wanted)
    return steps, states.differences(found["state"], 6), found["notes"]


def test_a_manager_with_items(tmp_path: Path) -> None:
    root = tmp_path / "run"
    answers = processes.run(_use_a_manager, 3, str(root), folder=tmp_path / "job", devices=2)
    assert answers == [([4, 6], [], {"step": 6})] * 3
    assert sorted(os.listdir(root)) == ["4", "6"]
    assert pertinax.verify(root / "6").ok


def _save_on_some(root: str) -> Any:
    me = jax.process_index()
    if me in (0, 3):
        return None
    devices = np.array([d for d in jax.devices() if d.process_index in (1, 2)])
    mesh = jax.sharding.Mesh(devices.reshape(2, -1), ("x", "y"))
    options = ocp.options.MultiprocessingOptions(
        primary_host=2, active_processes={1, 2}, barrier_sync_key_prefix="some"
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=options)
    with ocp.AsyncCheckpointer(handler, multiprocessing_options=options) as checkpointer:
        state = states.state_on(mesh)
        state["host"]["table"] = np.full((2,), me)  # the primary's is the one that counts
        checkpointer.save(f"{root}/some", args=ocp.args.PyTreeSave(state))
        checkpointer.wait_until_finished()
    return pertinax.load(f"{root}/some", select="host/**")["host"]["table"].tolist()


@pytest.mark.wd("Kw-06")
@pytest.mark.row("R178")
def test_some_of_the_processes_with_a_leader_of_their_own(tmp_path: Path) -> None:
    answers = processes.run(
        _save_on_some, 4, str(tmp_path / "run"), folder=tmp_path / "job", devices=2
    )
    assert answers == [None, [2, 2], [2, 2], None]
    assert pertinax.verify(tmp_path / "run" / "some").ok


def _save_what_is_mine(root: str) -> Any:
    mine = jax.numpy.ones(3)  # on this process's own device
    with (
        pytest.raises(ValueError, match="host local") as caught,
        ocp.PyTreeCheckpointer() as checkpointer,
    ):
        checkpointer.save(f"{root}/mine", {"mine": mine})
    every = ocp.utils.fully_replicated_host_local_array_to_global_array(mine)
    ocp.PyTreeCheckpointer().save(f"{root}/all", {"all": every})
    return str(caught.value)


@pytest.mark.row("R057")
def test_an_array_of_one_process_is_a_value_error_that_names_the_way_out(tmp_path: Path) -> None:
    root = tmp_path / "run"
    first, second = processes.run(
        _save_what_is_mine, 2, str(root), folder=tmp_path / "job", devices=1
    )
    for told in (first, second):
        assert "host local arrays" in told
        assert "fully_replicated_host_local_array_to_global_array" in told
    assert pertinax.load(root / "all")["all"].tolist() == [1, 1, 1]
    assert os.listdir(root) == ["all"]


def _fail_on_one(root: str) -> Any:
    mesh = states.mesh_of()
    state: Any = states.state_on(mesh)
    with ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        if jax.process_index() == 1:
            state["odd"] = object()
        try:
            checkpointer.save(f"{root}/first", args=ocp.args.PyTreeSave(state))
            checkpointer.wait_until_finished()
        except Exception as error:
            told = type(error).__name__, "process 1 failed" in str(error)
        state.pop("odd", None)
        checkpointer.save(f"{root}/second", args=ocp.args.PyTreeSave(state))
    return told


def test_a_failure_is_known_to_all_and_the_next_save_works(tmp_path: Path) -> None:
    root = tmp_path / "run"
    answers = processes.run(
        _fail_on_one, 2, str(root), folder=tmp_path / "job", devices=2, limit_s=60
    )
    assert answers == [("PeerFailed", True), ("NoTypeHandler", False)]
    assert os.listdir(root) == ["second"]
    assert pertinax.verify(root / "second").ok


def _directories_of_a_save(root: str) -> Any:
    made: list[str] = []

    def note(event: str, args: Any) -> None:
        if event == "os.mkdir":
            made.append(os.fsdecode(args[0]))

    sys.addaudithook(note)
    os.makedirs(root, exist_ok=True)
    made.clear()
    mesh = states.mesh_of()
    with ocp.CheckpointManager(root) as manager:
        items = {
            name: ocp.args.PyTreeSave(states.state_on(mesh, 0)["arrays"]) for name in ("a", "b")
        }
        manager.save(0, args=ocp.args.Composite(**items))
        manager.wait_until_finished()
    return [path.rpartition("/")[2].partition(".")[0] for path in made]


@pytest.mark.row("R237")
def test_a_directory_is_asked_for_once_in_the_whole_job(tmp_path: Path) -> None:
    answers = processes.run(_directories_of_a_save, 2, str(tmp_path / "run"), folder=tmp_path / "j")
    for name in ("a", "b"):
        assert [made.count(name) for made in answers] == [1, 0], name
