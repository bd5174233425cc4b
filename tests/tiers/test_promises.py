# SPDX-License-Identifier: Apache-2.0
"""The promise, on two tiers: the power is cut or processes are killed while both are written and
trimmed, and files are damaged. No wrong value comes back, and what was reported done is there.
"""

import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import pertinax
from pertinax._core.fetch import Fetcher, Request
from pertinax._hosts import Topology
from pertinax._steps.naming import PlainNaming
from pertinax._steps.writing import StepRoot
from pertinax._store.memory import MemoryStore
from pertinax._tiers.local import LocalTier, Part
from pertinax._tiers.pieces import Pieces
from pertinax._tiers.stock import find_candidates, tell_parts
from pertinax.errors import PertinaxError
from pertinax.testing import read_tree
from tests.corruption.scenes import damages
from tests.crash.nursery import turn
from tests.crash.recording import Step, read_recording, recording, replay
from tests.hosts import processes

pytestmark = [pytest.mark.crash, pytest.mark.slow]

SEED = int(os.environ.get("PERTINAX_SEED", "0"))
MANY = int(os.environ.get("PERTINAX_STATES", "30"))
KILLS = int(os.environ.get("PERTINAX_KILLS", "250"))
COUNT, STEPS = 2, 6


def values(name: str, step: int) -> np.ndarray[Any, Any]:
    """What a leaf is at a step: every element tells the step."""
    if name == "w":
        return (np.arange(16 * 24, dtype=np.uint32) * 2654435761 + step).reshape(16, 24)
    return np.arange(5, dtype=np.int64) * 1000 + step


def state_at(step: int) -> dict[str, Any]:
    """Halves of `w` on two processes of two devices, and the same on each process once more."""
    devices = np.array(jax.devices())
    mesh = Mesh(devices.reshape(COUNT, -1).T, ("replica", "data"))
    spread = NamedSharding(mesh, PartitionSpec("data"))
    w = values("w", step)
    return {
        "w": jax.make_array_from_callback(w.shape, spread, lambda index: w[index]),
        "table": values("table", step),
    }


def exact(found: dict[str, Any], step: int) -> bool:
    shards = found["w"].addressable_shards
    return np.array_equal(found["table"], values("table", step)) and all(
        np.array_equal(np.asarray(one.data), values("w", step)[one.index]) for one in shards
    )


# ---------------------------------------------------------------------------------- power cuts


def save_in_both(folder: str) -> None:
    """In each process: every step near, every third in the durable tier, both in the background."""
    near = f"{folder}/disk/near/{jax.process_index()}"
    with (
        recording(Path(folder) / "steps") as note,
        pertinax.TieredManager(
            near, f"{folder}/disk/durable", save_local=1, save=3, keep=1
        ) as manager,
    ):
        for step in range(1, STEPS + 1):
            manager.save(step, state_at(step))
            if step % 2:
                manager.wait()
                note(f"done {step}")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Step], Path]:
    folder = tmp_path_factory.mktemp("tiers")
    (folder / "disk" / "near").mkdir(parents=True)
    job = processes.run(save_in_both, COUNT, str(folder), folder=folder / "job", devices=2)
    assert job == [None] * COUNT
    first = [("make_dir", (f"{folder}/disk/near",)), ("sync_dir", (f"{folder}/disk",))]
    return [*first, *read_recording(folder / "steps")], folder / "disk"


def tier_of(store: MemoryStore, root: Path, process: int) -> LocalTier:
    apart = Topology(process, (process,), process, apart=True)
    return LocalTier(StepRoot(store, f"{root}/near/{process}", PlainNaming()), 1, apart)


def check_part(part: Part, *, whole: bool = True) -> int:
    """Every piece of it is what the step was, or, unless it must be `whole`, refused; how many."""
    opened, right = part.opened, 0
    pieces = Pieces(opened.manifest.leaves)
    for number in np.flatnonzero(pieces.held(opened.manifest.chunks)).tolist():
        leaf, box = pieces.box(number)
        index = tuple(slice(a, b) for a, b in zip(box.start, box.stop, strict=True))
        how = (opened.store, opened.directory, opened.manifest)
        try:
            with Fetcher(*how, use_map=False, threads=1) as fetcher:
                (found,) = fetcher.fetch([Request(leaf, box)])
        except (PertinaxError, OSError):
            assert not whole, (part.step, number)
            continue
        want = values(opened.manifest.leaves[leaf].name, part.step)[index]
        assert np.array_equal(found, want), (part.step, number)
        right += 1
    return right


def check_tiers(where: str, done: int, store: MemoryStore, root: Path) -> int:
    """What a job that is started on this disk finds: the newest step that it could restore."""
    told: dict[int, Any] = {}
    for process in range(COUNT):
        parts = tier_of(store, root, process).parts()
        listed = [name for name in _names(store, f"{root}/near/{process}") if name.isdigit()]
        assert len(parts) == len(listed), (where, "a step that is visible is whole")
        for part in parts:
            check_part(part)
        told[process] = tell_parts(parts)
    durable: dict[int, str | None] = {}
    for name in filter(str.isdigit, _names(store, f"{root}/durable")):
        place, step = f"{root}/durable/{name}", int(name)
        assert pertinax.verify(place, store=store).ok, where
        found = pertinax.load(f"{place}/default", store=store)
        assert np.array_equal(np.asarray(found["w"]), values("w", step)), where
        durable[step] = None
    steps = [one.step for one in find_candidates(told, durable) if one.whole or one.durable]
    newest = max(steps, default=0)
    assert newest >= done, (where, steps, "a step that was reported done is lost")
    return newest


def _names(store: MemoryStore, path: str) -> list[str]:
    return [one.name for one in store.list_dir(path)] if store.stat(path) else []


def one_host_of(live: MemoryStore, cut: MemoryStore, root: Path, process: int) -> MemoryStore:
    """Only this host lost power: the other one's disk, and the durable tier, have everything."""
    mixed = MemoryStore()
    for one in [*reversed(root.parents), root]:
        if mixed.stat(str(one)) is None:
            mixed.make_dir(str(one))
    own = f"near/{process}/"
    for store in (live, cut):
        for name, content in read_tree(store, str(root)).items():
            if name.startswith(own) != (store is cut):
                continue
            if name.endswith("/"):
                mixed.make_dir(f"{root}/{name}".rstrip("/"))
            else:
                with mixed.create(f"{root}/{name}") as writer:
                    writer.write_at(0, [content])
    return mixed


def states_of(
    steps: Sequence[Step], root: Path, *, every: int, limit: int
) -> Iterator[tuple[str, int, MemoryStore]]:
    """Disks after a cut: of all hosts, or of one of them."""
    done = 0
    for at, (words, store) in enumerate(replay(steps, root)):
        if words.startswith("note done"):
            done = max(done, int(words.split()[-1]))
        if at % every and not words.startswith("note"):
            continue
        for i, after in enumerate(store.crash_states(limit, seed=SEED + at)):
            where = f"{at}: {words}"
            yield where, done, after
            process = (at + i) % COUNT
            if after.stat(f"{root}/near/{process}") and store.stat(f"{root}/near/{process}"):
                yield f"{where}, host {process}", done, one_host_of(store, after, root, process)


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.campaign)])
def test_a_cut_while_two_tiers_are_written_and_trimmed(
    recorded: tuple[list[Step], Path],
    every: int,
    campaign_size: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pertinax._store.leftovers.owner_alive", lambda _: False)
    steps, root = recorded
    seen: set[int] = set()
    limit = 1 if every > 1 else max(1, MANY // 10)
    for where, done, after in states_of(steps, root, every=every, limit=limit):
        seen.add(check_tiers(where, done, after, root))
        campaign_size("power cuts: two tiers")
    assert {1, STEPS} <= seen


def test_the_check_can_fail(recorded: tuple[list[Step], Path]) -> None:
    """A program that never syncs is found out."""
    steps, root = recorded
    careless = [one for one in steps if one[0] not in ("sync", "sync_dir")]

    def check_all() -> None:
        for where, done, after in states_of(careless, root, every=5, limit=3):
            check_tiers(where, done, after, root)

    with pytest.raises((AssertionError, PertinaxError)):
        check_all()


# -------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("limit", [12, pytest.param(MANY * 8, marks=pytest.mark.campaign)])
def test_damage_in_a_tier_is_never_believed(
    recorded: tuple[list[Step], Path], limit: int, campaign_size: Callable[[str], None]
) -> None:
    """Any file of a part, or of a durable step, in all ways that the generator knows."""
    steps, root = recorded
    *_, (_, last) = replay(steps, root)
    newest = max(int(name) for name in _names(last, f"{root}/near/0") if name.isdigit())
    lost = kept = 0
    for place in (f"{root}/near/0/{newest}", f"{root}/durable/{STEPS}"):
        good, stale = MemoryStore(), MemoryStore()
        for store, source in ((good, place), (stale, f"{root}/near/1/{newest}")):
            _copy_step(last, source, store)
        for words, damaged in damages(good, stale, limit, SEED):
            part = _part_in(damaged, newest if "near" in place else STEPS)
            right = 0 if part is None else check_part(part, whole=False)
            lost, kept = (lost + 1, kept) if right == 0 else (lost, kept + 1)
            assert right <= 20, words
            campaign_size("damage: two tiers")
    assert lost
    assert kept


def _copy_step(source: MemoryStore, path: str, target: MemoryStore) -> None:
    target.make_dir("/c")
    for name, content in read_tree(source, path).items():
        if name.endswith("/"):
            target.make_dir(f"/c/{name}".rstrip("/"))
        else:
            with target.create(f"/c/{name}") as writer:
                writer.write_at(0, [content])


def _part_in(store: MemoryStore, step: int) -> Part | None:
    """The step at `/c` as the near tier sees it, if it does."""
    from pertinax._core.open import DEFAULT_ITEM, open_checkpoint

    try:
        opened = open_checkpoint("/c", DEFAULT_ITEM, store)
    except (PertinaxError, OSError):
        return None
    return Part(step, "", 0, opened)


# --------------------------------------------------------------------------------------- kills


def train(folder: str) -> Any:
    """Resume, say what was found, and save in both tiers until killed."""
    me = jax.process_index()
    where = (f"{folder}/near/{me}", f"{folder}/durable")
    with (
        pertinax.TieredManager(*where, save_local=1, save=3, keep=1) as manager,
        open(f"{folder}/told-{me}", "a", buffering=1) as out,
    ):
        step, found = manager.resume(state_at(0))
        print("found", step, int(exact(found, step)), file=out)
        processes.tell(Path(folder) / "job", "found")
        while True:
            step += 1
            manager.save(step, state_at(step))
            processes.tell(Path(folder) / "job", "saving")
            if step % 2:
                manager.wait()
                print("done", step, file=out)


def told_in(folder: Path) -> list[tuple[int, list[str]]]:
    return [
        (me, line.split())
        for me in range(COUNT)
        if (file := folder / f"told-{me}").exists()
        for line in file.read_text().splitlines(keepends=True)
        if line.endswith("\n")
    ]


@pytest.mark.parametrize("kills", [1, pytest.param(KILLS // 8, marks=pytest.mark.campaign)])
def test_a_killed_job_comes_back_from_either_tier(
    tmp_path: Path, kills: int, campaign_size: Callable[[str], None]
) -> None:
    """Both are killed, one after the other. After some lives a near disk is lost too: then the
    durable step is what there is, for each process has half.
    """
    rng, floor = random.Random(SEED), 0
    for life in range(kills + 1):
        for name in ("told-saving", "told-found"):
            (tmp_path / "job" / name).unlink(missing_ok=True)
        for me in range(COUNT):
            (tmp_path / f"told-{me}").unlink(missing_ok=True)
        job = processes.start(train, COUNT, str(tmp_path), folder=tmp_path / "job", devices=2)
        job.wait_for("saving")
        turn(rng.randrange(8_000_000))
        for process in rng.sample(range(COUNT), COUNT):
            job.signal(process)
            turn(rng.randrange(400_000))
        job.end()
        told = told_in(tmp_path)
        found = [(int(words[1]), words[2]) for _, words in told if words[0] == "found"]
        assert {right for _, right in found} == {"1"}, (life, "a wrong value came back")
        assert len({step for step, _ in found}) == 1, life
        assert found[0][0] >= floor, (life, "a step that was reported done is lost")
        floor = max([found[0][0], *(int(words[1]) for _, words in told if words[0] == "done")])
        campaign_size("kills: two tiers")
        if rng.random() < 0.3:
            shutil.rmtree(tmp_path / "near" / str(rng.randrange(COUNT)))
            floor = max(
                (int(one.name) for one in (tmp_path / "durable").iterdir() if one.name.isdigit()),
                default=0,
            )
