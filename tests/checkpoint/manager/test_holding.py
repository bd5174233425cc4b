# SPDX-License-Identifier: Apache-2.0
"""Readers that share a snapshot: in whatever order they come and go, nobody loses what he holds."""

import os
import random
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pertinax
from pertinax._core.places import locate
from pertinax._store import leftovers, turns
from pertinax._store.memory import MemoryStore
from pertinax._store.owner import TMP_MARK, new_token
from pertinax._store.publishing import publishing
from pertinax.checkpoint._adapt import copies, holders, holding
from pertinax.errors import CheckpointNotFound
from pertinax.testing import CrashingStore, SimulatedDeath, read_tree
from tests.steps.interleaving import Choose, Interleaving, first_then

ROOT, STEP, PARENT = "/run", "/run/7", "/run/_SNAPSHOTS"
PLACE = f"{PARENT}/7"
FILES = {"a": b"one", "d/b": b"two"}
WHOLE = FILES | {"d/": b""}
CALLS = 40  # more than coming or going takes


def disk_with_the_step() -> MemoryStore:
    disk = MemoryStore()
    for path in (ROOT, STEP, f"{STEP}/d"):
        disk.make_dir(path)
    for name, content in FILES.items():
        with disk.create(f"{STEP}/{name}") as writer:
            writer.write_at(0, [content])
    return disk


def remove_step(disk: MemoryStore) -> None:
    disk.rename(STEP, f"{ROOT}/gone")


def orders() -> Iterator[tuple[str, Choose]]:
    for first in ("leaver", "comer", "cleaner"):
        for calls in range(CALLS):
            yield f"{first} after {calls}", first_then(first, calls)
    for seed in range(150):
        chance = random.Random(seed)
        yield f"seed {seed}", lambda waiting, chance=chance: chance.choice(waiting).name


@pytest.mark.row("R074")
@pytest.mark.parametrize("is_there", [True, False], ids=["step lives", "step is deleted"])
def test_nobody_loses_what_he_holds_when_another_lets_go(
    is_there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"held": 0, "too late": 0}
    for order, choose in orders():
        disk = disk_with_the_step()
        world = Interleaving(disk, choose)
        monkeypatch.setattr(turns.time, "sleep", world.sleep)
        before = holding.held_snapshot(world.store, STEP, PLACE)
        before.__enter__()
        if not is_there:
            disk.rename(STEP, f"{ROOT}/gone")
        results = world.run(
            leaver=lambda hold=before: hold.__exit__(None, None, None),
            comer=lambda world=world, disk=disk: hold_for_a_while(world, disk),
            cleaner=lambda world=world: holding.clean_snapshots(world.store, PARENT),
        )
        assert not results["leaver"], (order, results)
        assert not results["cleaner"], (order, results)
        assert results["comer"] in ("held", "too late"), (order, results)
        assert is_there <= (results["comer"] == "held"), order
        found[results["comer"]] += 1
        assert disk.list_dir(PARENT) == [], order
    assert found["held"] > 20
    assert is_there or found["too late"] > 20


def hold_for_a_while(world: Interleaving, disk: MemoryStore) -> str:
    try:
        with holding.held_snapshot(world.store, STEP, PLACE):
            for _ in range(6):
                world.pause()
                assert read_tree(disk, PLACE) == WHOLE
    except CheckpointNotFound:
        return "too late"
    return "held"


def test_who_dies_while_coming_or_going_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    dead = set[str]()
    for module in (turns, holders, leftovers):
        monkeypatch.setattr(module, "owner_alive", lambda token: token not in dead)
    for cut in range(100):
        store: Any = CrashingStore(disk_with_the_step(), die_at=cut)
        try:
            with holding.held_snapshot(store, STEP, PLACE):
                pass
        except SimulatedDeath:
            after: Any = store.after_kill()
            dead.update(tokens(after, PARENT))
            with holding.held_snapshot(after, STEP, PLACE):
                assert read_tree(after, PLACE) == WHOLE, store.log[-1]
            holding.clean_snapshots(after, PARENT)
            assert after.stat(PARENT) is None or after.list_dir(PARENT) == [], store.log[-1]
        else:
            break
    assert 20 < cut < 99


def tokens(store: Any, path: str) -> set[str]:
    """All who have left something below `path`."""
    if store.stat(path) is None:
        return set()
    found = set[str]()
    for entry in store.list_dir(path):
        found.add(entry.name.rpartition(TMP_MARK)[2])
        if entry.is_dir:
            found |= tokens(store, f"{path}/{entry.name}")
    return found


def test_where_files_have_one_name_only_a_copy_is_held() -> None:
    root = f"memory://{uuid.uuid4().hex}/run"
    pertinax.save(f"{root}/7", {"w": 1})
    store, path = locate(f"{root}/7")
    place = f"{root}/_SNAPSHOTS/7"
    with holding.held_snapshot(store, path, place):
        with holding.held_snapshot(store, path, place):
            publishing(store).remove(publishing(store).hide(path))
        holding.clean_snapshots(store, f"{root}/_SNAPSHOTS")  # as another reader does, at its start
        assert pertinax.load(place) == {"w": 1}
    with pytest.raises(CheckpointNotFound):
        pertinax.load(place)
    with pytest.raises(CheckpointNotFound, match="gone"), holding.held_snapshot(store, path, place):
        raise AssertionError


def test_a_copy_that_the_dead_held_goes_with_the_next_reader() -> None:
    root = f"memory://{uuid.uuid4().hex}/run"
    pertinax.save(f"{root}/7", {"w": 1})
    store, path = locate(f"{root}/7")
    snapshots = f"{root}/_SNAPSHOTS"
    copies.copy_checkpoint(store, path, f"{snapshots}/7")
    # A process of this machine that is no more: the start time is nobody's.
    token = re.sub(r"-\d+-\d+-(\w+)$", r"-1-1-\1", new_token())
    with store.create(f"{snapshots}/.pertinax/7{TMP_MARK}{token}") as mark:
        mark.sync()
    holding.clean_snapshots(store, snapshots)
    with pytest.raises(CheckpointNotFound):
        pertinax.load(f"{snapshots}/7")
    with pytest.raises(FileNotFoundError):
        store.list_dir(snapshots)


TRAIN = """
import sys, threading
import numpy as np
from pertinax import checkpoint as ocp

told = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), told.set()), daemon=True).start()
options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
with ocp.CheckpointManager(sys.argv[1], options=options) as manager:
    for step in range(1, 100_000):
        manager.save(step, args=ocp.args.StandardSave({"w": np.full(3000, step)}))
        if told.is_set():
            break
"""
EVALUATE = """
import sys, threading
import numpy as np
from pertinax import checkpoint as ocp

root, utils, reader, seen = sys.argv[1], ocp.checkpoint_utils, ocp.StandardCheckpointer(), 0
for step in utils.checkpoints_iterator(root, seconds_to_sleep=0.001, timeout=120):
    held = utils.get_snapshot_dir_from_step_dir(f"{root}/{step}")
    for last in (False, True):
        assert np.array_equal(reader.restore(held / "default")["w"], np.full(3000, step)), step
        while not last and (held.parent.parent / str(step)).exists():
            threading.Event().wait(0.001)
    seen += 1
    if seen == 12:
        break
print(seen)
"""


@pytest.mark.slow
@pytest.mark.row("R064", "R074")
def test_evaluators_beside_a_trainer_read_the_steps_that_they_hold_when_these_are_long_gone(
    tmp_path: Path,
) -> None:
    root = str(tmp_path / "run")
    trainer, *evaluators = [
        subprocess.Popen(
            [sys.executable, "-c", program, root],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for program in (TRAIN, EVALUATE, EVALUATE)
    ]
    try:
        for process in evaluators:
            told, complaint = process.communicate(timeout=300)
            assert (told, process.returncode) == ("12\n", 0), complaint
        _, complaint = trainer.communicate(timeout=300)
        assert trainer.returncode == 0, complaint
    finally:
        for process in (trainer, *evaluators):
            process.kill()
            process.wait()
    assert len([name for name in os.listdir(root) if name.isdigit()]) == 1
    assert os.listdir(f"{root}/_SNAPSHOTS") == []
