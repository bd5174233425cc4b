# SPDX-License-Identifier: Apache-2.0
"""Power cuts in what the Orbax door, deletions and jobs of two processes do to a real disk: it is
written down once, and cut after each operation.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import pertinax
from pertinax import checkpoint as ocp
from pertinax._store.leftovers import clean_leftovers
from pertinax._store.memory import MemoryStore
from pertinax.errors import CheckpointNotFound
from tests.crash.recording import Step, dump, read_recording, recording, replay
from tests.hosts import processes, states
from tests.hosts.states import mesh_of, state_on
from tests.steps.trees import same

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("dead_owners")]

SEED = int(os.environ.get("PERTINAX_SEED", "0"))
MANY = int(os.environ.get("PERTINAX_STATES", "30"))


@pytest.fixture
def dead_owners(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the reboot nobody who wrote tokens lives."""
    monkeypatch.setattr("pertinax._store.leftovers.owner_alive", lambda _: False)


def tree(step: int) -> dict[str, Any]:
    return {"w": jnp.full((40, 50), step, jnp.float32), "n": np.arange(step + 3)}


def disks(
    steps: list[Step], root: Path, *, every: int, limit: int
) -> Iterator[tuple[str, list[int], MemoryStore]]:
    """Disks after a cut, where it was, and the steps that had been reported done by then."""
    done: list[int] = []
    for at, (words, store) in enumerate(replay(steps, root)):
        if words.startswith("note done"):
            done.append(int(words.split()[-1]))
        if at % every == 0 or words.startswith("note"):
            for after in store.crash_states(limit, seed=SEED + at):
                yield f"{at}: {words}", list(done), after


# ----------------------------------------------------------------- managers of the Orbax door


def manage(root: Path, note: Callable[[str], None], **options: Any) -> None:
    options = ocp.CheckpointManagerOptions(max_to_keep=2, **options)
    with ocp.CheckpointManager(root, options=options) as manager:
        for step in range(1, 5):
            items = ocp.args.Composite(
                state=ocp.args.StandardSave(tree(step)), notes=ocp.args.JsonSave({"step": step})
            )
            manager.save(step, args=items)
            manager.wait_until_finished()
            note(f"done {step}")


MANAGERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "blocking": {"enable_async_checkpointing": False, "step_prefix": "at"},
    "moving": {"todelete_subdir": "gone"},
    "deleting behind": {"enable_background_delete": True, "step_format_fixed_length": 4},
}


def check_run(where: str, done: list[int], after: MemoryStore, root: Path) -> list[int]:
    """Each visible step is whole, none that was reported done is lost, none comes back in part."""
    entries = after.list_dir(str(root)) if after.stat(str(root)) else []
    names = [one.name for one in entries if "tmp" not in one.name and one.name != "gone"]
    found = {int(name.removeprefix("at_")): name for name in names}
    newest = max(found, default=0)
    assert newest >= max(done, default=0), where
    assert set(found) >= {newest - 1, newest} - {0, -1}, where
    for step, name in found.items():
        path = f"{root}/{name}"
        assert same(pertinax.load(path, item="state", store=after), tree(step)), where
        assert pertinax.verify(path, store=after).ok, where
    return sorted(found)


@pytest.fixture(scope="module", params=list(MANAGERS))
def managed(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Step], Path, str]:
    folder = tmp_path_factory.mktemp("managed")
    (folder / "disk").mkdir()
    with recording(folder / "steps") as note:
        manage(folder / "disk", note, **MANAGERS[request.param])
    return read_recording(folder / "steps"), folder / "disk", request.param


def test_a_cut_while_an_orbax_manager_saves_and_deletes(
    managed: tuple[list[Step], Path, str], tmp_path: Path, campaign_size: Callable[[str], None]
) -> None:
    steps, root, name = managed
    seen: set[tuple[int, ...]] = set()
    for i, (where, done, after) in enumerate(disks(steps, root, every=5, limit=2)):
        found = check_run(where, done, after, root)
        seen.add(tuple(found))
        if i % 20 == 0:  # and what the door itself makes of it
            dump(after, root, tmp_path / str(i))
            options = ocp.CheckpointManagerOptions(max_to_keep=2, **MANAGERS[name])
            with ocp.CheckpointManager(tmp_path / str(i), options=options) as manager:
                assert manager.all_steps() == found, where
                args = ocp.args.Composite(state=ocp.args.StandardRestore(tree(0)))
                for step in found:
                    whole = manager.restore(step, args=args)["state"]
                    assert np.array_equal(whole["w"], tree(step)["w"]), where
        campaign_size("power cuts: Orbax door")
    assert {(), (1,), (1, 2), (2, 3), (3, 4)} <= seen


@pytest.mark.campaign
@pytest.mark.slow
def test_campaign_a_cut_after_every_operation_of_an_orbax_manager(
    managed: tuple[list[Step], Path, str], campaign_size: Callable[[str], None]
) -> None:
    steps, root, _ = managed
    for where, done, after in disks(steps, root, every=1, limit=MANY // 3):
        check_run(where, done, after, root)
        campaign_size("power cuts: Orbax door")


# ------------------------------------------------------------------------------------- deletions


@pytest.mark.parametrize("limit", [3, pytest.param(MANY, marks=pytest.mark.campaign)])
def test_a_cut_while_steps_are_deleted(
    tmp_path: Path, limit: int, campaign_size: Callable[[str], None]
) -> None:
    """What was deleted stays away once that was reported; until then it is there, whole, or not."""
    (tmp_path / "disk").mkdir()
    root = tmp_path / "disk"
    with recording(tmp_path / "steps") as note, pertinax.Manager(root) as manager:
        for step in range(3):
            manager.save(step, tree(step))
        manager.wait()
        note("begin")
        for step in (2, 0):
            manager.delete(step)
            note(f"done {step}")
    steps = read_recording(tmp_path / "steps")
    begun = steps.index(("note", ("begin",)))
    seen: set[tuple[int, ...]] = set()
    for where, gone, after in disks(steps, root, every=1, limit=limit):
        if int(where.split(":")[0]) < begun:
            continue
        found = pertinax.Manager(root, store=after)
        seen.add(tuple(found.steps()))
        assert 1 in found.steps(), where
        assert not set(found.steps()) & set(gone), where
        for step in found.steps():
            assert same(found.load(step), tree(step)), where
        assert not [one.name for one in after.list_dir(str(root)) if "tmp" in one.name], where
        campaign_size("power cuts: deletion")
    assert seen == {(0, 1, 2), (0, 1), (1,)}


# -------------------------------------------------------------------- replacing, and two processes


def replace_by_orbax(root: Path, note: Callable[[str], None]) -> None:
    with ocp.StandardCheckpointer() as checkpointer:
        for step in (1, 2):
            checkpointer.save(root / "c", tree(step), force=True)
            checkpointer.wait_until_finished()
            note(f"done {step}")


def check_replaced(where: str, done: list[int], after: MemoryStore, root: Path) -> int:
    try:
        found = pertinax.load(root / "c", store=after)
    except CheckpointNotFound:
        assert not done, where
        return 0
    step = int(found["w"][0, 0])
    assert same(found, tree(step)), where
    assert step >= max(done, default=0), where
    return step


@pytest.mark.parametrize("limit", [3, pytest.param(MANY, marks=pytest.mark.campaign)])
def test_a_cut_while_an_orbax_checkpointer_replaces(
    tmp_path: Path, limit: int, campaign_size: Callable[[str], None]
) -> None:
    (tmp_path / "disk").mkdir()
    with recording(tmp_path / "steps") as note:
        replace_by_orbax(tmp_path / "disk", note)
    seen: set[int] = set()
    steps = read_recording(tmp_path / "steps")
    for where, done, after in disks(steps, tmp_path / "disk", every=1, limit=limit):
        seen.add(check_replaced(where, done, after, tmp_path / "disk"))
        campaign_size("power cuts: Orbax door")
    assert seen == {0, 1, 2}


def save_twice(folder: str) -> None:
    """In each of two processes: a save and its replacement, written down together."""
    with recording(Path(folder) / "steps") as note:
        for step in (1, 2):
            pertinax.save(f"{folder}/disk/c", state_on(mesh_of(), step), exists="replace")
            note(f"done {step}")


@pytest.mark.slow
@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.campaign)])
def test_a_cut_while_two_processes_merge(
    tmp_path: Path, every: int, campaign_size: Callable[[str], None]
) -> None:
    """The cut takes both. What one of them was told is done is there."""
    (tmp_path / "disk").mkdir()
    processes.run(save_twice, 2, str(tmp_path), folder=tmp_path / "job", devices=2)
    steps = read_recording(tmp_path / "steps")
    data = [step for step in steps if step[0] == "create" and "/d/" in step[1][0]]
    assert len(data) == 4  # a file of each process in each save
    seen: set[int] = set()
    limit = 3 if every > 1 else MANY
    for where, done, after in disks(steps, tmp_path / "disk", every=every, limit=limit):
        seen.add(check_merged(where, done, after, f"{tmp_path}/disk"))
        campaign_size("power cuts: two processes")
    assert seen == {0, 1, 2}


def check_merged(where: str, done: list[int], after: MemoryStore, root: str) -> int:
    try:
        found = pertinax.load(f"{root}/c", store=after)
    except CheckpointNotFound:
        assert not done, where
        return 0
    step = int(found["host"]["step"])
    assert step >= max(done, default=0), where
    assert states.differences(found, step) == [], where
    assert pertinax.verify(f"{root}/c", store=after).ok, where
    clean_leftovers(after, root)
    assert [one.name for one in after.list_dir(root)] == ["c"], where
    return step


def test_the_check_can_fail(tmp_path: Path) -> None:
    """A step that was reported done and then is not there is noticed."""
    (tmp_path / "disk").mkdir()
    with recording(tmp_path / "steps") as note:
        replace_by_orbax(tmp_path / "disk", note)
    steps = read_recording(tmp_path / "steps")
    careless = [step for step in steps if step[0] != "sync_dir"]

    def check_all() -> None:
        for where, done, after in disks(careless, tmp_path / "disk", every=1, limit=4):
            check_replaced(where, done, after, tmp_path / "disk")

    with pytest.raises((AssertionError, pertinax.errors.PertinaxError)):
        check_all()
