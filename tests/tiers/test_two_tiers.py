# SPDX-License-Identifier: Apache-2.0
"""Two tiers on four real processes, each with a directory of its own: what is lost comes back from
wherever it still is, exactly.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import pertinax
from pertinax._tiers.manager import TieredManager
from tests.hosts import processes

pytestmark = pytest.mark.slow

SAME = (0, 1, 2, 3)
SPECS = {
    "w": ((8, 6), "float32", ("data",)),
    "b": ((6,), "bfloat16", ()),
    "m": ((4, 8), "int8", (None, "data")),
    "big": ((1024, 256), "float32", ("data",)),
    "n": ((), "int32", ()),
    "nibbles": ((8,), "int4", ("data",)),
    "truth": ((16,), "bool", ("data",)),
}


def mesh_of() -> Mesh:
    """Two replicas of two processes each."""
    return Mesh(np.array(jax.devices()).reshape(2, -1), ("replica", "data"))


def values(name: str, step: int) -> np.ndarray[Any, Any]:
    shape, dtype, _ = SPECS[name]
    raw = (np.arange(int(np.prod(shape))) * 5 + len(name) + step) % 11 - 4
    if dtype == "bool":
        return (raw % 2 == 0).reshape(shape)
    host = raw.astype(jnp.dtype(dtype)).reshape(shape)
    if dtype == "float32":
        host.reshape(-1).view(np.uint32)[:2] = 0x80000000, 0x7FC00001
    return host


def state_at(step: int) -> dict[str, Any]:
    mesh = mesh_of()
    arrays: dict[str, Any] = {
        name: jax.make_array_from_callback(
            shape,
            NamedSharding(mesh, PartitionSpec(*spec)),
            lambda index, name=name: values(name, step)[index],
        )
        for name, (shape, _, spec) in SPECS.items()
    }
    key = jax.jit(jax.random.key, out_shardings=NamedSharding(mesh, PartitionSpec()))(step)
    return {"arrays": arrays, "key": key, "host": [np.arange(3) + step, step, "run", 2**80]}


def wrong_in(state: dict[str, Any], step: int) -> list[str]:
    """The leaves that differ, in a bit or in their layout, from those of that step."""
    out: list[str] = []
    for name, (_, _, spec) in SPECS.items():
        array, whole = state["arrays"][name], values(name, step)
        same = array.sharding == NamedSharding(mesh_of(), PartitionSpec(*spec))
        for shard in array.addressable_shards:
            own = np.ascontiguousarray(whole[shard.index])
            same = same and np.asarray(shard.data).tobytes() == own.tobytes()
        out += [] if same and array.dtype == whole.dtype else [name]
    data = np.asarray(jax.random.key_data(state["key"]).addressable_data(0)).tolist()
    out += [] if data == jax.random.key_data(jax.random.key(step)).tolist() else ["key"]
    numbers, *rest = state["host"]
    right = numbers.tolist() == [step, step + 1, step + 2] and rest == [step, "run", 2**80]
    return out if right else [*out, "host"]


def manager_of(folder: str, places: Sequence[int], **options: Any) -> TieredManager:
    local = f"{folder}/local/{places[jax.process_index()]}"
    how = {"save_local": 2, "save": 6, "keep_local": 2} | options
    return TieredManager(local, f"{folder}/durable", **how)


def train(folder: str, places: Sequence[int], stop: int) -> Any:
    """Resume and go on; who sat where, and what came from where."""
    with manager_of(folder, places) as manager:
        steps = manager.steps()
        if steps:
            found = manager.restore(state_at(0))
            start, wrong = found.step, wrong_in(found.tree, found.step)
            sources = (found.own_bytes > 0, found.peer_bytes > 0, found.durable_bytes > 0)
        else:
            start, state = manager.resume(state_at(0))
            wrong, sources = wrong_in(state, 0), (False, False, False)
        for step in range(start + 1, stop + 1):
            manager.save(step, state_at(step))
        manager.wait()
        return (
            start,
            wrong,
            sources,
            sorted(os.listdir(f"{folder}/local/{places[jax.process_index()]}")),
        )


OWN, PEER, OWN_AND_PEER = (True, False, False), (False, True, False), (True, True, False)
DURABLE = (False, False, True)


def run(folder: Path, name: str, *args: Any, work: Any = train, **kwargs: Any) -> list[Any]:
    return processes.run(work, 4, str(folder), *args, folder=folder / f"job-{name}", **kwargs)


def test_pieces_come_from_wherever_they_are(tmp_path: Path) -> None:
    """One restart after the other, each with another loss; the state is always exact. (Many more
    ways to lose hosts: `tests/checkpoint/emergency`.)
    """
    local, durable = tmp_path / "local", tmp_path / "durable"
    assert run(tmp_path, "begin", SAME, 9) == [(0, [], (False,) * 3, ["6", "8"])] * 4
    assert os.listdir(durable) == ["6"]
    for process in SAME:
        assert pertinax.verify(local / str(process) / "8").ok
        assert pertinax.describe(local / str(process) / "8").partial

    # A whole replica is lost, and what is left of the job sits in other places.
    shutil.rmtree(local / "0")
    shutil.rmtree(local / "1")
    answers = run(tmp_path, "replica-lost", (2, 1, 0, 3), 12)
    assert [one[:2] for one in answers] == [(8, [])] * 4
    assert [one[2] for one in answers] == [OWN, PEER, PEER, OWN]
    # Now 0 and 2 have changed places: each finds half of what it needs, and gets the other half.
    answers = run(tmp_path, "turned", (3, 2, 1, 0), 12)
    assert [one[:3] for one in answers] == [(12, [], OWN_AND_PEER)] * 4

    # The durable tier went on without the local one, which is older now.
    for process in SAME:
        shutil.rmtree(local / str(process) / "12")
    answers = run(tmp_path, "durable-newer", SAME, 12)
    assert [one[:3] for one in answers] == [(12, [], DURABLE)] * 4


def lose_and_damage(folder: str) -> Any:
    with manager_of(folder, SAME, keep_local=1) as manager:
        manager.save(6, state_at(6))
        manager.wait()
    return None


def restore_only(folder: str, step: int | None) -> Any:
    with manager_of(folder, SAME, keep_local=1) as manager:
        try:
            found = manager.restore(state_at(0), step)
        except pertinax.errors.PertinaxError as error:
            return type(error).__name__, str(error)
        return (
            found.step,
            wrong_in(found.tree, found.step),
            (found.own_bytes > 0, found.peer_bytes > 0, found.durable_bytes > 0),
        )


def flip(item: Path) -> None:
    """Damage the largest data file of an item, where values are."""
    file = max((item / "default" / "d").iterdir(), key=lambda one: one.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


def test_what_is_damaged_is_taken_from_elsewhere_and_never_believed(tmp_path: Path) -> None:
    local = tmp_path / "local"
    run(tmp_path, "begin", work=lose_and_damage)
    flip(local / "0" / "6")
    answers = run(tmp_path, "damaged", None, work=restore_only)
    assert answers[0] == (6, [], OWN_AND_PEER)
    assert answers[1:] == [(6, [], OWN)] * 3
    # Both copies of a shard are bad: the durable tier has the same save.
    flip(local / "2" / "6")
    answers = run(tmp_path, "both-damaged", None, work=restore_only)
    assert [one[:2] for one in answers] == [(6, [])] * 4
    assert answers[0][2] == answers[2][2] == (True, False, True)
    # And without that there is no such step, and nothing is made up.
    shutil.rmtree(tmp_path / "durable" / "6")
    answers = run(tmp_path, "hopeless", 6, work=restore_only)
    assert {one[0] for one in answers} == {"CheckpointNotFound"}
    assert "neither" in answers[0][1]


def fail_on_one(folder: str) -> Any:
    with manager_of(folder, SAME, keep_local=1) as manager:
        manager.save(2, state_at(2))
        manager.wait()
        state = state_at(4)
        if jax.process_index() == 2:
            state["odd"] = object()
        try:
            manager.save(4, state)
            manager.wait()
        except pertinax.errors.PertinaxError as error:
            told = type(error).__name__, "process 2" in str(error)
        state.pop("odd", None)
        kept = manager.steps()
        manager.save(6, state_at(6))
        return told, kept, manager.steps()


def test_the_failure_of_one_costs_no_older_step_and_the_next_save_works(tmp_path: Path) -> None:
    answers = run(tmp_path, "job", work=fail_on_one)
    for process, (told, kept, after) in enumerate(answers):
        assert told == (("UnsupportedLeaf", False) if process == 2 else ("PeerFailed", True))
        assert (kept, after) == ([2], [6])
