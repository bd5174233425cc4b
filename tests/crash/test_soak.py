# SPDX-License-Identifier: Apache-2.0
"""Thousands of small saves: memory, open files, threads and the disk stay as they were."""

import gc
import mmap
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import pertinax
from pertinax import checkpoint as ocp
from tests.steps.trees import same

pytestmark = [pytest.mark.crash, pytest.mark.slow]

SAVES = int(os.environ.get("PERTINAX_SAVES", "10000"))
PAGE = os.sysconf("SC_PAGESIZE")


@pytest.fixture
def root() -> Iterator[Path]:
    """In memory where there is such a file system: the disk is not what is tested."""
    shared = "/dev/shm"
    place = shared if os.access(shared, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place) as name:
        yield Path(name)


def tree(step: int) -> dict[str, Any]:
    return {"w": np.full(200, step, np.float32), "b": jnp.full(3, step), "text": str(step)}


def resident_bytes() -> int:
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * PAGE


def taken(root: Path) -> tuple[int, int]:
    """Names below `root`, and bytes in its files."""
    found = [path for path in root.rglob("*") if ".pertinax" not in path.parts]
    return len(found), sum(path.stat().st_size for path in found if path.is_file())


def front(root: Path) -> tuple[Callable[[int], None], Any]:
    manager = pertinax.Manager(root, keep=3)
    return lambda step: manager.save(step, tree(step), metrics={"loss": step % 7}), manager


class Replaced:
    """One path, replaced in the background again and again; a save waits for the one before."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pending: pertinax.Pending | None = None

    def save(self, step: int) -> None:
        self.wait_until_finished()
        self._pending = pertinax.save_async(self._path, tree(step), exists="replace")

    def wait_until_finished(self) -> None:
        if self._pending is not None:
            self._pending.result()

    close = wait_until_finished


def replaced(root: Path) -> tuple[Callable[[int], None], Any]:
    manager = Replaced(root)
    return manager.save, manager


def door(root: Path) -> tuple[Callable[[int], None], Any]:
    manager = ocp.CheckpointManager(root, options=ocp.CheckpointManagerOptions(max_to_keep=3))

    def save(step: int) -> None:
        leaves = {key: value for key, value in tree(step).items() if key != "text"}
        manager.save(step, args=ocp.args.StandardSave(leaves))

    return save, manager


def door_by_metrics(root: Path) -> tuple[Callable[[int], None], Any]:
    options = ocp.CheckpointManagerOptions(max_to_keep=3, best_fn=lambda metrics: metrics["loss"])
    manager = ocp.CheckpointManager(root, options=options)

    def save(step: int) -> None:
        args = ocp.args.StandardSave({"w": tree(step)["w"]})
        manager.save(step, args=args, metrics={"loss": step})

    return save, manager


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="asks Linux")
@pytest.mark.parametrize("saves", [50, pytest.param(SAVES, marks=pytest.mark.campaign)])
@pytest.mark.parametrize("way", [front, replaced, door, door_by_metrics])
def test_many_saves_leave_nothing_behind(
    root: Path, way: Any, saves: int, campaign_size: Callable[..., None]
) -> None:
    save, manager = way(root / "run")
    warm = 30
    for step in range(warm):
        save(step)
    (manager.wait if way is front else manager.wait_until_finished)()
    before = resident_bytes(), len(os.listdir("/proc/self/fd")), threading.active_count()
    names, size = taken(root)
    for step in range(warm, warm + saves):
        save(step)
    (manager.wait if way is front else manager.wait_until_finished)()
    grown = resident_bytes() - before[0]
    campaign_size(f"soak: saves, {way.__name__}", saves)
    campaign_size(f"soak: KiB of memory more after them, {way.__name__}", grown >> 10)
    # Allocators keep some memory of the largest moment.
    assert grown < (16 << 20)
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before[1:]
    after = taken(root)
    assert after[0] == names
    assert abs(after[1] - size) < 2000  # numbers of steps and times have become longer
    manager.close()
    if way is front:
        last = warm + saves - 1
        assert manager.steps() == [last - 2, last - 1, last]
        assert same(manager.load(last), tree(last))


def test_a_leak_would_be_seen(root: Path) -> None:
    names, _ = taken(root)
    pertinax.save(root / "a", tree(1))
    assert taken(root)[0] > names
    before = resident_bytes()
    with mmap.mmap(-1, 32 << 20) as kept:  # fresh pages: an allocator may have some to spare
        kept.write(b"x" * len(kept))
        assert resident_bytes() - before > len(kept) // 2
