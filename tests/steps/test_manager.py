# SPDX-License-Identifier: Apache-2.0
"""The life of a manager: saving, resuming, deleting, closing."""

import inspect
import threading
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, get_type_hints

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import pertinax
from pertinax import Manager
from pertinax._steps.reading import LoadChoices
from pertinax._store.leftovers import hidden_name
from pertinax._store.memory import MemoryStore
from pertinax.errors import (
    CheckpointExists,
    CheckpointNotFound,
    CorruptCheckpoint,
    InvalidOption,
    RestoreMismatch,
    UnsupportedLeaf,
)
from pertinax.policies import AtSteps, Best, EverySeconds, EverySteps, Latest, StepRecord
from tests.steps.trees import ROOT, Intercepted, fill, hidden, names, same, state


class Clock:
    now = 1e9

    def __call__(self) -> float:
        return self.now


def rich_state(step: int) -> dict[str, Any]:
    key = jax.random.fold_in(jax.random.key(0), step)
    return {
        "params": {"w": jax.random.normal(key, (3, 4)), "b": jnp.zeros(4, jnp.bfloat16) + step},
        "opt": (jnp.int32(step), [np.float64(step), np.arange(5)]),
        "key": key,
        "empty": {},
    }


# --------------------------------------------------------------------------------------- saving


def test_ten_lines_of_training(tmp_path: Path) -> None:
    def train(stop: int) -> tuple[int, Any]:
        with Manager(tmp_path / "run", save=2, keep=2) as manager:
            start, model = manager.resume(rich_state(0))
            for step in range(start + 1, stop + 1):
                model = jax.tree.map(lambda x: x, rich_state(step))
                manager.save(step, model, metrics={"loss": jnp.float32(1 / step)})
        return start, model

    assert train(5)[0] == 0
    start, model = train(9)
    assert start == 4
    assert same(model, rich_state(9))
    with Manager(tmp_path / "run") as manager:
        assert manager.steps() == [6, 8]
        step, model = manager.resume(rich_state(1))
        assert step == 8
        assert same(model, rich_state(8))


def test_resume_without_a_step_gives_the_tree_back_untouched(tmp_path: Path) -> None:
    tree = state(7)
    step, back = Manager(tmp_path).resume(tree)
    assert step == 0
    assert back is tree


def test_resume_is_strict_and_never_goes_back_in_silence(tmp_path: Path) -> None:
    with Manager(tmp_path, background=False) as manager:
        manager.save(1, state(1))
        manager.save(2, state(2))
        with pytest.raises(RestoreMismatch):
            manager.resume({"w": np.zeros((2, 3), np.float32)})
        damaged = next(path for path in (tmp_path / "2" / "default" / "d").iterdir())
        content = bytearray(damaged.read_bytes())
        content[:] = bytes(len(content))
        damaged.write_bytes(content)
        with pytest.raises(CorruptCheckpoint) as caught:
            manager.resume(state(0))
        assert "step 2 is damaged. There are 1" in " ".join(caught.value.__notes__)
        assert same(manager.load(1), state(1))


def test_the_policy_decides_and_force_overrules(tmp_path: Path) -> None:
    with Manager(tmp_path, save=EverySteps(3) | AtSteps([1])) as manager:
        saved = [step for step in range(7) if manager.save(step, state(step))]
        assert saved == [0, 1, 3, 6]
        assert manager.should_save(9)
        assert not manager.should_save(10)
        assert manager.save(10, state(10), force=True) is not None
    assert manager.steps() == [0, 1, 3, 6, 10]


def test_seconds_go_by_the_clock_that_was_given_and_survive_a_restart() -> None:
    disk, clock = MemoryStore(), Clock()

    def due(manager: Manager, at_s: float) -> bool:
        clock.now = at_s
        return manager.should_save(99)

    with Manager(ROOT, store=disk, save=EverySeconds(60), clock=clock) as manager:
        assert due(manager, 1e9)
        manager.save(1, state(1))
        assert not due(manager, 1e9 + 59)
        assert due(manager, 1e9 + 60)
    finished_s = manager.history()[0].time_ns / 1e9
    again = Manager(ROOT, store=disk, save=EverySeconds(60), clock=clock)
    assert not due(again, finished_s + 59)
    assert due(again, finished_s + 60)


def test_should_save_looks_at_no_file() -> None:
    calls: list[str] = []
    store: Any = Intercepted(MemoryStore(), lambda method, path: calls.append(method))
    manager = Manager(ROOT, store=store, save=10)
    calls.clear()
    assert [manager.should_save(step) for step in (9, 10, 11)] == [False, True, False]
    assert calls == []


def test_a_step_that_exists_is_not_saved_again(tmp_path: Path) -> None:
    with Manager(tmp_path) as manager:
        manager.save(5, state(5))
        with pytest.raises(CheckpointExists, match="step 5"):
            manager.save(5, state(6))
        with pytest.raises(CheckpointExists):
            manager.save(np.int32(5), state(6), force=True)
        assert same(manager.load(5), state(5))


def test_the_end_of_a_run_is_saved_if_no_policy_has_done_so() -> None:
    for last in (6, 7):
        with Manager(ROOT, save=3, store=MemoryStore()) as manager:
            for step in range(1, last + 1):
                manager.save(step, state(step))
            saved = manager.save(last, state(last), force=True, exists="skip")
            assert (saved is None) == (last == 6)  # even while it is being written
            manager.wait()
            assert manager.steps() == [3, 6, 7][: last - 4]
            assert same(manager.load(last), state(last))
            with pytest.raises(InvalidOption, match="'skip'"):
                manager.save(9, state(9), exists="replace")  # type: ignore[arg-type]


def test_a_step_with_another_owner_is_not_overwritten() -> None:
    disk = MemoryStore()
    late = Manager(ROOT, store=disk)
    fill(disk, [5])
    with pytest.raises(CheckpointExists):
        late.save(5, state(6))
    assert same(late.load(5), state(5))


@pytest.mark.parametrize("kind", [int, np.int64, np.uint16, jnp.int32, np.array])
def test_steps_of_any_integer_type_become_plain(kind: Any) -> None:
    disk, step = MemoryStore(), kind(3)
    with Manager(ROOT, store=disk) as manager:
        assert manager.should_save(step)
        manager.save(step, state(3))
    assert names(disk) == ["3"]
    assert type(manager.latest()) is int
    assert same(manager.load(step), state(3))


@pytest.mark.parametrize("step", [-1, 1.0, "1", True, None])
def test_what_is_no_step_is_refused(step: Any) -> None:
    manager = Manager(ROOT, store=MemoryStore())
    with pytest.raises(InvalidOption, match="step"):
        manager.save(step, state(0))
    assert manager.steps() == []


def test_names_have_prefix_and_width() -> None:
    disk = MemoryStore()
    fill(disk, [7, 12345], prefix="run", width=4)
    assert names(disk) == ["run_0007", "run_12345"]
    assert Manager(ROOT, store=disk, prefix="run", width=4).steps() == [7, 12345]
    assert Manager(ROOT, store=disk).steps() == []


def test_the_options_of_save_have_the_same_names_here() -> None:
    ours = inspect.signature(Manager).parameters
    theirs = inspect.signature(pertinax.save_async).parameters
    assert {"compression", "snapshot", "chunk_bytes", "store"} <= set(ours) & set(theirs)
    loads = inspect.signature(pertinax.load).parameters
    assert set(get_type_hints(LoadChoices)) == set(loads) - {"path", "target", "store"}
    with pytest.raises(InvalidOption, match="compression"):
        Manager(ROOT, store=MemoryStore(), compression="gzip")  # type: ignore[arg-type]


def test_compressed_steps_come_back() -> None:
    disk = MemoryStore()
    fill(disk, [1], compression="zstd", chunk_bytes=8)
    assert same(Manager(ROOT, store=disk).load(), state(1))


def test_what_the_caller_does_after_save_does_not_matter(tmp_path: Path) -> None:
    with Manager(tmp_path) as manager:
        tree = state(1)
        manager.save(1, tree)
        tree["w"][:] = -1
    assert same(manager.load(1), state(1))


def test_an_unsupported_leaf_leaves_nothing(tmp_path: Path) -> None:
    with Manager(tmp_path) as manager, pytest.raises(UnsupportedLeaf, match="bad"):
        manager.save(1, {"bad": object()})
    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------------------------- metrics


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (1, 1),
        (True, True),
        (0.25, 0.25),
        (np.float32(0.5), 0.5),
        (np.float64(0.1), 0.1),
        (np.int8(-3), -3),
        (np.uint64(2**64 - 1), 2**64 - 1),
        (np.bool_(True), True),
        (np.array(2.5), 2.5),
        (np.longdouble(1.5), 1.5),
        (ml_dtypes.bfloat16(1.5), 1.5),
        (ml_dtypes.float8_e4m3fn(2), 2.0),
        (ml_dtypes.int4(-3), -3),
        (10**40, 10**40),
        (float("inf"), float("inf")),
    ],
)
def test_metrics_of_any_real_type_are_kept(value: Any, stored: Any) -> None:
    disk = MemoryStore()
    with Manager(ROOT, store=disk) as manager:
        manager.save(1, state(1), metrics={"m": value, "j": jnp.asarray(3.5, jnp.bfloat16)})
    found = manager.metrics(1)
    assert found == {"m": stored, "j": 3.5}
    assert type(found["m"]) is type(stored)


def test_nan_is_kept() -> None:
    disk = MemoryStore()
    with Manager(ROOT, store=disk) as manager:
        manager.save(1, state(1), metrics={"m": jnp.float32("nan")})
    assert np.isnan(manager.metrics(1)["m"])


@pytest.mark.parametrize(
    "metrics",
    [
        *[{"ok": 1, "m": bad} for bad in (Decimal(1), Fraction(1, 2), "1", None, 1j, [1.0])],
        *[{"ok": 1, "m": bad} for bad in (np.zeros(1), np.datetime64(1, "s"))],
        {"m": {"nested": 1}},
        {3: 1.0},
        [("m", 1)],
        5,
    ],
)
def test_bad_metrics_are_refused_before_anything_is_written(metrics: Any) -> None:
    refused(metrics)


def test_an_array_of_several_numbers_is_no_metric() -> None:
    refused({"ok": 1, "m": jnp.ones((2,))})


def refused(metrics: Any) -> None:
    disk = MemoryStore()
    manager = Manager(ROOT, store=disk)
    with pytest.raises(InvalidOption, match="metrics"):
        manager.save(1, state(1), metrics=metrics)
    assert names(disk) == []
    manager.save(1, state(1))
    manager.close()


def test_metrics_without_a_save_are_not_looked_at() -> None:
    with Manager(ROOT, store=MemoryStore(), save=10) as manager:
        assert manager.save(1, state(1), metrics={"m": "never computed"}) is None  # type: ignore[dict-item]


def test_a_step_without_metrics_has_none() -> None:
    with Manager(ROOT, store=MemoryStore(), background=False) as manager:
        manager.save(1, state(1))
        manager.save(2, state(2), metrics={})
        assert manager.metrics(1) is None
        assert manager.metrics(2) == {}
        assert manager.best("loss") is None
        with pytest.raises(CheckpointNotFound, match=r"no step 3 in .*\. There are 1, 2"):
            manager.metrics(3)


def test_the_best_step() -> None:
    with Manager(ROOT, store=MemoryStore(), background=False) as manager:
        for step, loss in enumerate([5, 2, float("nan"), 2, 9]):
            manager.save(step, state(step), metrics={"loss": loss})
        manager.save(5, state(5), metrics={"accuracy": 1})
        assert manager.best("loss") == 3
        assert manager.best("loss", "max") == 4
        assert manager.best("accuracy", mode="max") == 5
        assert manager.best("unheard") is None
        with pytest.raises(InvalidOption, match="mode"):
            manager.best("loss", "least")  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------- reading


def test_loading_takes_a_step_a_target_and_options() -> None:
    disk = MemoryStore()
    fill(disk, [1, 2])
    manager = Manager(ROOT, store=disk)
    assert same(manager.load(), state(2))
    assert same(manager.load(1), state(1))
    assert same(manager.load(1, select="step"), {"step": 1})
    target = {"w": jax.ShapeDtypeStruct((2, 3), jnp.float32)}
    part = manager.load(1, target, extra="ignore")
    assert same(part, {"w": jnp.asarray(state(1)["w"])})
    with pytest.raises(CheckpointNotFound, match=r"no step 3 in .*\. There are 1, 2"):
        manager.load(3)
    with pytest.raises(TypeError, match="colour"):
        manager.load(1, colour="red")  # type: ignore[call-arg]


def test_an_empty_root_says_so() -> None:
    manager = Manager(ROOT, store=MemoryStore())
    assert (manager.steps(), manager.latest(), manager.history()) == ([], None, [])
    for ask in (manager.load, lambda: manager.load(3), lambda: manager.delete(3)):
        with pytest.raises(CheckpointNotFound):
            ask()


def test_another_manager_sees_new_steps_at_once() -> None:
    disk = MemoryStore()
    reader = Manager(ROOT, store=disk)
    fill(disk, [3])
    assert reader.steps() == [3]
    assert reader.latest() == 3
    assert same(reader.load(), state(3))


def test_the_latest_step_is_the_largest() -> None:
    with Manager(ROOT, store=MemoryStore(), background=False) as manager:
        for step in (10, 30, 20):
            manager.save(step, state(step))
            assert manager.latest() == max(manager.steps())
        assert manager.steps() == [10, 20, 30]


def test_paths_of_all_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for root in ("run", tmp_path / "run", "~/run", f"file://{tmp_path}/run"):
        assert Manager(root).root == str(tmp_path / "run")


# ------------------------------------------------------------------------------------- deletion


def test_the_policy_keeps_and_the_rest_goes() -> None:
    disk = MemoryStore()
    with Manager(ROOT, store=disk, keep=Latest(2) | Best(1, "loss") | EverySteps(4)) as manager:
        for step, loss in enumerate([9, 9, 9, 1, 9, 9, 9, 9]):
            manager.save(step, state(step), metrics={"loss": loss})
    assert manager.steps() == [0, 3, 4, 6, 7]
    assert names(disk) == ["0", "3", "4", "6", "7"]


def test_a_finished_save_means_that_old_steps_are_out_of_sight() -> None:
    with Manager(ROOT, store=MemoryStore(), keep=2) as manager:
        for step in range(5):
            pending = manager.save(step, state(step))
            assert pending is not None
            pending.result()
            assert manager.steps() == [max(0, step - 1), step][-min(2, step + 1) :]


def test_retention_after_a_restart_judges_all_steps() -> None:
    disk = MemoryStore()
    fill(disk, [1, 2, 3, 4])
    with Manager(ROOT, store=disk, keep=Best(1, "loss", "max")) as manager:
        assert manager.steps() == [1, 2, 3, 4]  # nothing goes before something new is there
        manager.save(5, state(5), metrics={"loss": 0})
    assert manager.steps() == [4, 5]


def test_a_step_saved_below_the_newest_is_not_deleted_at_once() -> None:
    with Manager(ROOT, store=MemoryStore(), keep=1, background=False) as manager:
        manager.save(30, state(30))
        manager.save(10, state(10))
        assert manager.steps() == [10, 30]
        manager.save(20, state(20))
        assert manager.steps() == [20, 30]


def test_deleting_by_hand() -> None:
    disk = MemoryStore()
    fill(disk, [1, 2, 3])
    with Manager(ROOT, store=disk) as manager:
        manager.delete(3)
        assert manager.steps() == [1, 2]
        manager.save(3, state(33))
        manager.delete(np.int64(1))
        with pytest.raises(CheckpointNotFound, match="no step 1"):
            manager.delete(1)
    assert names(disk) == ["2", "3"]
    assert same(manager.load(3), state(33))


def test_a_policy_that_raises_does_so_before_anything_is_written() -> None:
    class Moody:
        def keep(self, history: Sequence[StepRecord]) -> set[int]:
            return {min(history, key=lambda one: one.metrics["loss"]).step}

    disk = MemoryStore()
    manager = Manager(ROOT, store=disk, keep=Moody())
    manager.save(1, state(1), metrics={"loss": 1.0})
    with pytest.raises(KeyError, match="loss"):
        manager.save(2, state(2), metrics={"lost": 1.0})
    manager.save(3, state(3), metrics={"loss": 2.0})
    manager.close()
    assert names(disk) == ["1", "3"]


def test_what_others_are_writing_is_left_alone() -> None:
    disk = MemoryStore()
    fill(disk, [1])
    draft = hidden_name(f"{ROOT}/2")
    disk.make_dir(draft)
    with Manager(ROOT, store=disk, keep=1) as manager:
        manager.save(3, state(3))
    assert names(disk) == sorted([draft.rpartition("/")[2], "3"])


# -------------------------------------------------------------------------------------- closing


def test_after_close_it_reads_but_does_not_save() -> None:
    disk = MemoryStore()
    with Manager(ROOT, store=disk) as manager:
        manager.save(1, state(1))
    manager.close()
    assert same(manager.load(), state(1))
    with pytest.raises(RuntimeError, match="closed"):
        manager.save(2, state(2))
    assert manager.steps() == [1]


def save_then_divide(manager: Manager) -> None:
    with manager:
        manager.save(1, state(1))
        _ = 1 // 0


def test_an_exception_in_the_block_comes_out_and_the_save_is_finished() -> None:
    disk = MemoryStore()
    manager = Manager(ROOT, store=disk)
    with pytest.raises(ZeroDivisionError) as caught:
        save_then_divide(manager)
    assert not hasattr(caught.value, "__notes__")
    assert manager.steps() == [1]
    with pytest.raises(RuntimeError, match="closed"):
        manager.save(2, state(2))


def test_no_thread_outlives_close() -> None:
    before = set(threading.enumerate())
    with Manager(ROOT, store=MemoryStore(), keep=1) as manager:
        for step in range(4):
            manager.save(step, state(step))
    left = [t for t in threading.enumerate() if t not in before]
    for thread in left:
        thread.join(10)
    assert not [t for t in left if t.is_alive()]


# -------------------------------------------------------------------------------------- threads


def test_threads_save_one_after_the_other() -> None:
    disk = MemoryStore()
    with Manager(ROOT, store=disk) as manager:
        threads = [
            threading.Thread(target=manager.save, args=(step, state(step))) for step in range(12)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert manager.steps() == list(range(12))
    assert all(same(manager.load(step), state(step)) for step in range(12))
    assert hidden(disk) == []


def test_threads_that_save_the_same_step_save_it_once() -> None:
    with Manager(ROOT, store=MemoryStore()) as manager:
        outcomes: list[object] = []

        def attempt(number: int) -> None:
            try:
                outcomes.append(manager.save(1, state(number)))
            except CheckpointExists as error:
                outcomes.append(error)

        threads = [threading.Thread(target=attempt, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sum(isinstance(one, CheckpointExists) for one in outcomes) == 5
    assert manager.steps() == [1]


def test_while_a_save_is_in_flight() -> None:
    disk, go, begun = MemoryStore(), threading.Event(), threading.Event()

    def hold(method: str, path: str) -> None:
        if method == "rename" and path.startswith(f"{ROOT}/2."):
            begun.set()
            assert go.wait(60)

    fill(disk, [1])
    manager = Manager(ROOT, store=Intercepted(disk, hold), save=2)  # type: ignore[arg-type]
    pending = manager.save(2, state(2))
    assert pending is not None
    assert begun.wait(60)
    assert manager.steps() == [1]
    assert [one.step for one in manager.history()] == [1]
    assert same(manager.load(1), state(1))
    assert manager.save(3, state(3)) is None  # a step nobody wants waits for nothing
    with pytest.raises(TimeoutError):
        manager.wait(timeout_s=0)
    with pytest.raises(CheckpointNotFound):
        manager.metrics(2)
    waiters = [threading.Thread(target=manager.wait) for _ in range(3)]
    loaded: list[Any] = []
    waiters.append(threading.Thread(target=lambda: loaded.append(manager.load())))
    for thread in waiters:
        thread.start()
    go.set()
    for thread in waiters:
        thread.join()
    assert same(loaded, [state(2)])
    assert manager.steps() == [1, 2]
    manager.close()


def test_a_step_that_is_being_written_is_waited_for_by_its_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk, go = MemoryStore(), threading.Event()

    def hold(method: str, path: str) -> None:
        if method == "rename" and path.startswith(f"{ROOT}/2."):
            assert go.wait(60)

    fill(disk, [1])
    with Manager(ROOT, store=Intercepted(disk, hold)) as manager:  # type: ignore[arg-type]
        manager.save(2, state(2))
        assert same(manager.load(1), state(1))  # which waits for nothing
        assert not go.is_set()
        settle = manager._line.settle

        def settled(*args: Any) -> None:
            go.set()
            settle(*args)

        monkeypatch.setattr(manager._line, "settle", settled)
        assert same(manager.load(2), state(2))
