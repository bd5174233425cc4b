# SPDX-License-Identifier: Apache-2.0
"""Bytes of a job: each is written once, shared by those who have it; each process reads its own."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import pertinax
from pertinax import checkpoint as ocp
from pertinax._hosts.board import Board
from pertinax._hosts.cluster import Conversation
from tests.hosts import counting, processes, states

pytestmark = pytest.mark.slow


def _move(path: str) -> Any:
    return [
        (
            name,
            *counting.save_and_load(f"{path}/{name}", name),
            counting.save_by_orbax_door(f"{path}/{name}-door", name),
        )
        for name in counting.LAYOUTS
    ]


@pytest.mark.parametrize("count", [2, 4])
def test_each_of_n_processes_writes_an_nth_and_reads_what_it_needs(
    tmp_path: Path, count: int
) -> None:
    answers = processes.run(
        _move, count, str(tmp_path / "c"), folder=tmp_path / "job", devices=4 // count
    )
    for rows in zip(*answers, strict=True):
        layout = counting.LAYOUTS[rows[0][0]]
        size = sum(counting.host_of(shape, dtype).nbytes for shape, dtype, _ in layout.values())
        spare = 0.02 * size + 100_000  # the primary's nodes and notes
        assert sum(row[1] for row in rows) <= size + spare
        for name, written, read, needed, right, by_door in rows:
            assert right, name
            assert written <= size / count + spare
            assert by_door <= size / count + spare
            assert needed <= read <= 1.05 * needed


def _load_on_another_mesh(path: str) -> tuple[int, int]:
    """Halves of what was saved in one piece, cut along the first dimension."""
    mesh = counting.mesh_of()
    target = {
        "w": jax.ShapeDtypeStruct(
            (4096, 1024),
            jnp.float32,
            sharding=NamedSharding(mesh, PartitionSpec(("data", "model"))),
        )
    }
    store = counting.CountingStore()
    loaded = pertinax.load(path, target, store=store)
    whole = counting.host_of((4096, 1024), "float32")
    for shard in loaded["w"].addressable_shards:
        assert np.array_equal(shard.data, whole[shard.index])
    return store.read, counting.held(loaded)


def test_of_an_array_saved_in_one_piece_each_reads_its_part(tmp_path: Path) -> None:
    pertinax.save(tmp_path / "c", {"w": counting.host_of((4096, 1024), "float32")})
    for read, needed in processes.run(
        _load_on_another_mesh, 4, str(tmp_path / "c"), folder=tmp_path / "job"
    ):
        assert needed <= read <= 1.05 * needed


@pytest.mark.parametrize("axis", [0, 1])
def test_one_replica_reads_for_all_bit_for_bit(tmp_path: Path, axis: int) -> None:
    path = tmp_path / "c"
    pertinax.save(path, counting.odd_state(axis))
    answers = processes.run(
        counting.restore_by_one_replica, 4, str(path), axis, folder=tmp_path / "job"
    )
    assert [wrong for *_, wrong in answers] == [[]] * 4
    reads = [read / needed for read, needed, _ in answers]
    assert all(share <= 1.05 for share in reads[:2])
    assert reads[2:] == [0, 0]


def _save_without_collectives(path: str) -> Any:
    mesh = states.mesh_of()
    state = states.state_on(mesh)
    try:
        jax.block_until_ready(jnp.sum(state["arrays"]["rows"]))
        return "a computation over processes went well, so this proves nothing"
    except Exception:
        pass
    pertinax.save(f"{path}/one", state)
    with pertinax.Manager(f"{path}/run", keep=1) as manager:
        manager.save(0, state, metrics={"loss": 1.0})
        manager.save(1, state)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(f"{path}/door", state["arrays"])
    return states.differences(pertinax.load(f"{path}/one", states.target_on(mesh)))


def test_a_save_computes_nothing_on_devices_together(tmp_path: Path) -> None:
    """In this job no computation can span processes."""
    answers = processes.run(
        _save_without_collectives,
        2,
        str(tmp_path / "c"),
        folder=tmp_path / "job",
        config={"jax_cpu_collectives_implementation": None},
    )
    assert answers == [[], []]


def _count_talk(path: str) -> Any:
    phases: list[str] = []
    puts = 0
    agree, collect, put = Conversation.agree, Conversation.collect, Board.put

    def count_agree(self: Any, phase: str, decide: Any) -> Any:
        phases.append(phase)
        return agree(self, phase, decide)

    def count_collect(self: Any, phase: str, value: Any, decide: Any) -> Any:
        phases.append(phase)
        return collect(self, phase, value, decide)

    def count_put(self: Any, name: str, text: str) -> None:
        nonlocal puts
        puts += 1
        put(self, name, text)

    Conversation.agree, Conversation.collect = count_agree, count_collect  # type: ignore[method-assign]
    Board.put = count_put  # type: ignore[method-assign]
    out: list[Any] = []
    for leaves in (1, 300):
        phases.clear()
        puts = 0
        replicated = NamedSharding(states.mesh_of(), PartitionSpec())
        state = {
            f"w{i}": jax.make_array_from_callback((8,), replicated, lambda _: np.ones(8))
            for i in range(leaves)
        }
        pertinax.save(f"{path}/{leaves}", state)
        out.append((list(phases), puts))
    return out


def test_a_save_meets_four_times_however_many_leaves_there_are(tmp_path: Path) -> None:
    answers = processes.run(_count_talk, 2, str(tmp_path / "c"), folder=tmp_path / "job")
    for few, many in answers:
        assert few[0] == many[0] == ["look at the target", "open a draft", "write", "publish"]
        assert few[1] == many[1] <= 4


def _train(root: str, folder: str, door: bool) -> Any:
    """As a stranger would: five steps, a save after each, and process 2 dies in the fifth."""
    mesh = states.mesh_of()
    with _opened(root, door) as manager:
        for step in range(5):
            state = states.state_on(mesh, step)
            if step == 4 and jax.process_index() == 2:
                processes.tell(Path(folder), "dying")
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                if door:
                    manager.save(step, args=ocp.args.PyTreeSave(state))
                    manager.wait_until_finished()
                else:
                    manager.save(step, state).result()
            except Exception as error:
                processes.tell(Path(folder), f"heard-{jax.process_index()}")
                _wait_for_all(Path(folder))
                return step, type(error).__name__
    return None


def _wait_for_all(folder: Path) -> None:
    """With process 0 ends the service by which the others hear."""
    never, end_s = threading.Event(), time.monotonic() + 60
    while not all((folder / f"told-heard-{i}").exists() for i in (0, 1, 3)):
        assert time.monotonic() < end_s
        never.wait(0.05)


def _opened(root: str, door: bool) -> Any:
    if not door:
        return pertinax.Manager(root, keep=2)
    os.makedirs(root, exist_ok=True)
    return ocp.CheckpointManager(root, options=ocp.CheckpointManagerOptions(max_to_keep=2))


def _resume(root: str, door: bool) -> Any:
    mesh = states.mesh_of(turned=True)
    target = states.target_on(mesh)
    with _opened(root, door) as manager:
        if door:
            step = manager.latest_step()
            args = ocp.checkpoint_utils.construct_restore_args(target)
            found = manager.restore(step, args=ocp.args.PyTreeRestore(target, restore_args=args))
            found["layers"] = [found["layers"][0]]
        else:
            step, found = manager.resume(target)
        return step, states.differences(found, step)


@pytest.mark.crash
@pytest.mark.parametrize("door", [False, True])
def test_a_strangers_program_saves_is_killed_and_restores_on_other_counts(
    tmp_path: Path, door: bool
) -> None:
    root, folder = tmp_path / "run", tmp_path / "job"
    job = processes.start(
        _train, 4, str(root), str(folder), door, folder=folder, recoverable=True, limit_s=100
    )
    for process in (0, 1, 3):
        job.wait_for(f"heard-{process}")
    ended = job.end()
    assert ended[2].code == -9
    for process in (0, 1, 3):
        assert ended[process].value[0] == 4, ended[process].error
    assert sorted(name for name in os.listdir(root) if name.isdigit()) == ["2", "3"]
    for count in (1, 2, 8):
        answers = processes.run(
            _resume, count, str(root), door, folder=tmp_path / "after", devices=8 // count
        )
        assert answers == [(3, [])] * count
