# SPDX-License-Identifier: Apache-2.0
"""What a save or a restore costs in operations, counted where they happen.

Knows the engine's store, through which all of them go. Knows nothing of seconds: who is slow here
waits at a barrier that opens when enough others have come.
"""

import collections
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pertinax
from pertinax import checkpoint as ocp
from pertinax._store.local import LocalStore

GOLDEN = Path(__file__).parents[2] / "golden"
MANY = {f"leaf{i}": jnp.arange(4) + i for i in range(50)}
PATIENCE_S = 30


def count(monkeypatch: pytest.MonkeyPatch, *methods: str) -> dict[str, collections.Counter[str]]:
    """Counts calls of methods of the local store by the last part of the path."""
    counts: dict[str, collections.Counter[str]] = {}

    def counted(method: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, path: str, *args: Any) -> Any:
            counts[method][path.rpartition("/")[2]] += 1
            return inner(self, path, *args)

        return call

    for method in methods:
        counts[method] = collections.Counter()
        monkeypatch.setattr(LocalStore, method, counted(method, getattr(LocalStore, method)))
    return counts


@pytest.mark.row("R149")
def test_all_shardings_of_a_save_are_one_file_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = count(monkeypatch, "create")
    ocp.PyTreeCheckpointer().save(tmp_path / "c", MANY)
    assert counts["create"]["_sharding"] == 1
    stored = ocp.PyTreeCheckpointer().metadata(tmp_path / "c")
    assert all(leaf.sharding is not None for leaf in stored.values())


@pytest.mark.row("R050")
@pytest.mark.parametrize("whose", ["ours", "Orbax's"])
def test_what_container_it_is_is_found_out_once_for_a_restore(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whose: str
) -> None:
    place = GOLDEN / "orbax-0.8.0" / "dtypes-ocdbt-zarr2"
    if whose == "ours":
        place = tmp_path / "c"
        ocp.PyTreeCheckpointer().save(place, MANY)
    counts = count(monkeypatch, "stat", "open")
    restored = ocp.PyTreeCheckpointer().restore(place)
    assert len(jax.tree.leaves(restored)) > 5
    # Of ours the ledger says it; of others the file is looked for, once.
    looks = sum(counted["manifest.ocdbt"] for counted in counts.values())
    assert looks == (0 if whose == "ours" else 1)


@pytest.mark.row("R267")
@pytest.mark.parametrize("use_ocdbt", [True, False])
def test_no_more_than_the_limit_is_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use_ocdbt: bool
) -> None:
    now = most = 0
    lock = threading.Lock()
    create = LocalStore.create

    class Metered:
        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def write_at(self, offset: int, buffers: Any) -> None:
            nonlocal now, most
            length = sum(memoryview(one).nbytes for one in buffers)
            with lock:
                now += length
                most = max(most, now)
            try:
                self._inner.write_at(offset, buffers)
            finally:
                with lock:
                    now -= length

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *error: object) -> None:
            self._inner.__exit__(*error)

    monkeypatch.setattr(LocalStore, "create", lambda *args: Metered(create(*args)))
    tree = {f"shard{i}": np.full(1 << 17, i, np.float64) for i in range(8)}  # 1 MiB each
    handler = ocp.PyTreeCheckpointHandler(save_concurrent_gb=2 / 1024, use_ocdbt=use_ocdbt)
    ocp.Checkpointer(handler).save(tmp_path / "c", args=ocp.args.PyTreeSave(tree))
    assert 1 << 20 <= most <= 2 << 20
    assert pertinax.verify(tmp_path / "c").ok


@pytest.mark.row("R251")
def test_no_file_is_opened_while_the_program_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    returned = threading.Event()
    create = LocalStore.create

    def late(self: LocalStore, path: str, *args: int) -> Any:
        assert returned.wait(PATIENCE_S), "a file is opened before `save` has returned"
        return create(self, path, *args)

    monkeypatch.setattr(LocalStore, "create", late)
    with ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        checkpointer.save(tmp_path / "c", args=ocp.args.PyTreeSave(MANY))
        returned.set()
        checkpointer.wait_until_finished()
    assert pertinax.verify(tmp_path / "c").ok


@pytest.mark.row("R258")
def test_directories_of_items_are_made_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [f"item{i}" for i in range(10)]
    together = threading.Barrier(len(items))
    make_dir = LocalStore.make_dir

    def slow(self: LocalStore, path: str, mode: int = 0o777) -> None:
        if path.rpartition("/")[2] in items:
            together.wait(PATIENCE_S)
        make_dir(self, path, mode)

    monkeypatch.setattr(LocalStore, "make_dir", slow)
    args = {name: ocp.args.StandardSave({"a": np.arange(3)}) for name in items}
    with ocp.CheckpointManager(tmp_path / "run") as manager:
        manager.save(0, args=ocp.args.Composite(**args))
        manager.wait_until_finished()
        assert manager.all_steps() == [0]


@pytest.mark.row("R264")
def test_directories_of_leaves_come_with_their_files_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    returned = threading.Event()
    made: list[bool] = []
    make_dir = LocalStore.make_dir

    def noted(self: LocalStore, path: str, mode: int = 0o777) -> None:
        if path.rpartition("/")[2].startswith("leaf"):
            made.append(returned.wait(PATIENCE_S))
        make_dir(self, path, mode)

    monkeypatch.setattr(LocalStore, "make_dir", noted)
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False)
    with ocp.AsyncCheckpointer(handler) as checkpointer:
        checkpointer.save(tmp_path / "c", args=ocp.args.PyTreeSave(MANY))
        returned.set()
        checkpointer.wait_until_finished()
    assert made == [True] * len(MANY)


@pytest.mark.row("R315")
def test_candidates_for_steps_are_looked_at_together() -> None:
    together = threading.Barrier(4)

    def slow(path: Any) -> int:
        together.wait(PATIENCE_S)
        return int(path.name)

    paths = [ocp.step.epath.Path(f"/run/{i}") for i in range(48)]
    found = ocp.step.build_step_metadatas(iter(paths), slow)
    assert sorted(found) == list(range(48))
