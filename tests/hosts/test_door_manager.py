# SPDX-License-Identifier: Apache-2.0
"""The manager of the Orbax door in a job: one lists, removes and makes the root for all."""

import itertools
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import jax
import pytest

import pertinax
from pertinax import checkpoint as ocp
from tests.hosts import processes, states

pytestmark = pytest.mark.slow


def _text(step: int) -> Any:
    return ocp.args.Composite(notes=ocp.args.JsonSave({"step": step}))


def _manage(root: str) -> Any:
    me = jax.process_index()
    listed: list[str] = []
    scan = os.scandir

    def counting(path: Any = ".") -> Any:
        if str(path) == root:
            listed.append(str(path))
        return scan(path)

    os.scandir = counting
    options = ocp.CheckpointManagerOptions(
        max_to_keep=2,
        best_fn=lambda metrics: metrics["score"],
        single_host_load_and_broadcast=True,
        todelete_subdir="gone",
        cleanup_tmp_directories=True,
    )
    out: dict[str, Any] = {}
    with ocp.CheckpointManager(root, options=options, metadata={"run": 7}) as manager:
        for step, score in enumerate((3, 1, 2, 5)):
            manager.save(step, args=_text(step), metrics={"score": score})
        manager.wait_until_finished()
        out["gone"] = sorted(os.listdir(f"{root}/gone"))  # when waited for, for all
        out["steps"] = manager.all_steps()
        ocp.multihost.sync_global_processes("both have listed what is gone")
        manager.delete(0)
        out["after"] = (manager.all_steps(), os.path.exists(f"{root}/0"))
        if me == 1:
            os.makedirs(f"{root}/9")  # what the primary has not seen, nobody has
    listed.clear()
    with ocp.CheckpointManager(root, options=options) as manager:
        out["again"] = manager.all_steps() in ([3], [3, 9])
        out["metadata"], out["metrics"] = manager.metadata(), manager.metrics(3)
        out["best"] = manager.best_step()
    out["listed"] = bool(listed)
    return out


@pytest.mark.wd("W-20", "Kw-18")
@pytest.mark.row("R112")
def test_one_process_looks_and_removes_for_all(tmp_path: Path) -> None:
    root = str(tmp_path / "deep" / "run")
    answers = processes.run(_manage, 2, root, folder=tmp_path / "job")
    for process, out in enumerate(answers):
        assert out.pop("listed") is (process == 0)
        assert out == {
            "gone": ["1", "2"],
            "steps": [0, 3],
            "after": ([3], False),
            "again": True,
            "metadata": {"run": 7},
            "metrics": {"score": 5},
            "best": 3,
        }


def _each_for_itself(folder: str) -> Any:
    alone = ocp.options.MultiprocessingOptions(primary_host=None)
    root = f"{folder}/{jax.process_index()}"
    handler = ocp.JsonCheckpointHandler(multiprocessing_options=alone)
    options = ocp.CheckpointManagerOptions(max_to_keep=1, multiprocessing_options=alone)
    with ocp.CheckpointManager(root, options=options, item_handlers=handler) as manager:
        for step in range(3):
            manager.save(step, args=ocp.args.JsonSave({"me": jax.process_index()}))
        manager.wait_until_finished()
        return os.listdir(root), manager.restore(2)


def test_processes_with_a_root_each(tmp_path: Path) -> None:
    answers = processes.run(_each_for_itself, 2, str(tmp_path / "own"), folder=tmp_path / "job")
    assert answers == [(["2"], {"me": 0}), (["2"], {"me": 1})]


def _begin(root: str) -> Any:
    seen: list[str] = []

    def look() -> None:
        seen.extend(sorted(os.listdir(root)))

    chosen = ocp.AsyncOptions(post_finalization_callback=look)
    options = ocp.CheckpointManagerOptions(async_options=chosen)
    with ocp.CheckpointManager(root, options=options) as manager:
        manager.save(0, args=_text(0))
    ocp.multihost.sync_global_processes("all have saved")
    return seen, os.getpid()


@pytest.mark.wd("W-32")
def test_unfinished_steps_of_a_job_say_whose_they_are(tmp_path: Path) -> None:
    other = tmp_path / "root" / "0.orbax-checkpoint-tmp-0"  # of a job that counts
    other.mkdir(parents=True)
    (seen, pid), _ = processes.run(_begin, 2, str(tmp_path / "root"), folder=tmp_path / "job")
    mine = [name for name in seen if name.startswith("0.") and name != other.name]
    assert len(mine) == 1
    assert f"-{pid}-" in mine[0]
    assert sorted(os.listdir(tmp_path / "root")) == ["0", other.name]


def _evaluate(root: str) -> Any:
    with ocp.CheckpointManager(root) as manager:
        for step in (0, 7):
            manager.save(step, args=_text(step))
    seen: list[Any] = []
    steps = ocp.checkpoint_utils.checkpoints_iterator(root, timeout=0, seconds_to_sleep=0)
    for step in steps:
        held = ocp.checkpoint_utils.get_snapshot_dir_from_step_dir(f"{root}/{step}")
        seen.append((step, (held / "notes").is_dir()))
    return seen


@pytest.mark.wd("W-25")
def test_all_processes_get_the_step_that_the_first_has_found(tmp_path: Path) -> None:
    root = str(tmp_path / "run")
    answers = processes.run(_evaluate, 2, root, folder=tmp_path / "job")
    assert answers == [[(7, True)]] * 2
    assert os.listdir(f"{root}/_SNAPSHOTS") == []


def _train_until_preempted(root: str, first: int) -> Any:
    options = ocp.CheckpointManagerOptions(save_interval_steps=10**12)
    with ocp.CheckpointManager(root, options=options) as manager:
        manager.save(first, args=_text(first), force=True)
        if jax.process_index() == 1:
            os.kill(os.getpid(), signal.SIGTERM)  # as a scheduler tells one machine
        for step in itertools.count(first + 1):
            if manager.save(step, args=_text(step)):
                break
            ocp.multihost.sync_global_processes(f"trained {step}")
        manager.wait_until_finished()
        return step, manager.all_steps()


@pytest.mark.row("R054")
@pytest.mark.parametrize("first", [0, 2**31 - 3, 2**40])
def test_a_job_that_is_told_to_stop_saves_the_same_step_everywhere(
    first: int, tmp_path: Path
) -> None:
    root = str(tmp_path / "run")
    one, other = processes.run(_train_until_preempted, 2, root, first, folder=tmp_path / "job")
    assert one == other
    assert one[0] > first
    assert one[1] == [first, one[0]]


def _measure(root: str) -> Any:
    heard: list[tuple[str, int]] = []

    def listen(name: str, **told: Any) -> None:
        if name.endswith("/bytes"):
            heard.append((name.rpartition("/jax/checkpoint/")[2], told["bytes"]))

    jax.monitoring.register_event_listener(listen)
    everything = states.state_on(states.mesh_of())
    tree = {
        "rows": everything["arrays"]["rows"]
    }  # 16 x 3 numbers of 4 bytes, a half on each process
    with ocp.CheckpointManager(root) as manager:
        manager.save(0, args=ocp.args.StandardSave(tree))
        manager.wait_until_finished()
        manager.restore(0, args=ocp.args.StandardRestore(tree))
    return heard


@pytest.mark.row("R257")
def test_each_process_tells_of_its_own_bytes(tmp_path: Path) -> None:
    answers = processes.run(_measure, 2, str(tmp_path / "root"), folder=tmp_path / "job")
    assert answers == [[("write/bytes", 96), ("read/bytes", 96)]] * 2


def _listen(root: str) -> Any:
    """What one process tells `jax.monitoring`, and its log, of a save and a restore."""
    import logging

    heard: dict[str, list[float]] = {}
    jax.monitoring.register_event_listener(lambda name, **_: heard.setdefault(name, []).append(0))
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, value, **_: heard.setdefault(name, []).append(value)
    )
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger = logging.getLogger("pertinax")
    logger.setLevel(logging.INFO)
    logger.addHandler(Keep())
    os.makedirs(root, exist_ok=True)
    state = states.state_on(states.mesh_of())["arrays"]
    with ocp.CheckpointManager(root) as manager:
        manager.save(0, args=ocp.args.StandardSave(state))
        manager.wait_until_finished()
        manager.restore(0, args=ocp.args.StandardRestore(state))
    where = re.compile(r"^\[process=(\d)\]\[thread=([\w-]+)\]")
    tellers = {found.groups() for line in lines if (found := where.match(line))}
    return heard, tellers


def test_each_process_measures_and_logs_what_it_does_itself(tmp_path: Path) -> None:
    root = str(tmp_path / "run")
    answers = processes.run(_listen, 2, root, folder=tmp_path / "job", devices=2)
    write, read, door = "/jax/checkpoint/write/", "/jax/checkpoint/read/", "/jax/orbax/"
    all_tell = {
        *(f"{door}checkpoint_manager/init", f"{door}async_checkpointer/init"),
        *(f"{door}write/async/start", f"{door}write/directory_creation_secs"),
        "/jax/checkpoint/sync_global_devices_duration_sec",
        *(f"{write}blocking_bytes_per_sec", f"{write}bytes_per_sec", f"{write}bytes"),
        *(f"{write}wait_for_prev_duration_secs", f"{write}get_old_steps_duration_secs"),
        *(f"{write}old_steps_examined_count", f"{write}remove_steps_duration_secs"),
        *(f"{write}async/blocking_duration_secs", f"{write}async/commit_future_count"),
        *(f"{write}async/commit_duration_sec", f"{write}async/thread_duration_sec"),
        *(f"{write}async/total_duration_secs", f"{write}async/metadata_write_duration_secs"),
        f"{read}load_all_step_metadata_duration_secs",
        *(f"{read}bytes_per_sec", f"{read}bytes"),
    }
    the_primary_tells = {
        f"{door}write/success",
        f"{write}duration_since_last_checkpoint_secs",
        f"{write}async/ocdbt_merge_duration_secs",
    }
    for process, (heard, tellers) in enumerate(answers):
        assert all_tell - heard.keys() == set()
        assert the_primary_tells & heard.keys() == (set() if process else the_primary_tells)
        assert all(value >= 0 for values in heard.values() for value in values)
        assert heard[f"{write}async/total_duration_secs"][0] < 60
        assert {number for number, _ in tellers} == {str(process)}
        assert {"MainThread", "save_finalize"} <= {thread for _, thread in tellers}
        assert any(thread.startswith("async_save_") for _, thread in tellers)


def _clean(root: str) -> Any:
    removed: list[str] = []
    sys.addaudithook(lambda event, args: removed.append(event) if event == "os.rmdir" else None)
    ocp.step.cleanup_tmp_directories(root, primary_host=1)
    return len(removed), sorted(os.listdir(root))


def test_leftovers_are_removed_by_the_primary_host_and_waited_for(tmp_path: Path) -> None:
    root = tmp_path / "run"
    (root / "3.orbax-checkpoint-tmp-0").mkdir(parents=True)
    (root / "2").mkdir()
    answers = processes.run(_clean, 2, str(root), folder=tmp_path / "j")
    assert answers == [(0, ["2"]), (1, ["2"])]


def _use_several_at_once(root: str) -> Any:
    mesh = states.mesh_of()
    arrays = [states.state_on(mesh, step)["arrays"] for step in range(3)]
    with (
        ocp.CheckpointManager(f"{root}/a") as first,
        ocp.CheckpointManager(f"{root}/b") as second,
        pertinax.Manager(f"{root}/c") as third,
        ocp.StandardCheckpointer() as checkpointer,
    ):
        for step, tree in enumerate(arrays):  # nobody waits for anybody in between
            first.save(step, args=ocp.args.StandardSave(tree))
            second.save(step, args=ocp.args.PyTreeSave(tree))
            third.save(step, tree)
            checkpointer.save(f"{root}/d{step}", tree)
        waits = [
            first.wait_until_finished,
            second.wait_until_finished,
            third.wait,
            checkpointer.wait_until_finished,
        ]
        for wait in waits if jax.process_index() == 0 else reversed(waits):
            wait()
        return first.all_steps(), second.all_steps(), third.steps()


@pytest.mark.row("R222")
def test_several_managers_and_checkpointers_save_at_once(tmp_path: Path) -> None:
    root = tmp_path / "run"
    answers = processes.run(
        _use_several_at_once, 2, str(root), folder=tmp_path / "j", devices=2, limit_s=120
    )
    assert answers == [([0, 1, 2],) * 3] * 2
    for step in range(3):
        wanted = states.state_on(states.mesh_of(), step)["arrays"]
        for place in (f"a/{step}/default", f"b/{step}/default", f"c/{step}", f"d{step}"):
            found = pertinax.load(root / place, arrays="numpy")
            wrong = [n for n in wanted if found[n].tobytes() != states.values_of(n, step).tobytes()]
            assert wrong == [], place
