# SPDX-License-Identifier: Apache-2.0
"""Whatever goes wrong on one process, all others hear of it at once, with the cause.

Nothing becomes visible, and the next save works.

One job of two processes goes through many failures: an object that cannot be saved (planning), an
array that is gone (staging), a disk that refuses (writing), a name that is taken meanwhile
(publishing).
"""

import contextlib
import os
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import pertinax
from pertinax import checkpoint as ocp
from pertinax._store.local import LocalStore
from tests.hosts import processes, states

pytestmark = pytest.mark.slow

Save = Callable[[str, Any], None]


@contextlib.contextmanager
def small_files() -> Iterator[None]:
    """The system lets this process write no file of more than 2 KiB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def failing_renames() -> Iterator[None]:
    """The store gives no directory of this process another name."""
    store: Any = LocalStore
    rename = store.rename

    def refuse(self: Any, source: str, target: str) -> None:
        if os.path.isdir(source):
            raise OSError(5, "the disk is broken")
        rename(self, source, target)

    store.rename = refuse
    try:
        yield
    finally:
        store.rename = rename


def state() -> dict[str, Any]:
    mesh = states.mesh_of()
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    big = np.arange(16384, dtype=np.float32).reshape(128, 128)
    return {"w": jax.make_array_from_callback(big.shape, spread, lambda index: big[index])}


def fail_in(what: str, save: Save, name: str) -> None:
    """Save on this process, where it must fail."""
    tree = state()
    if what == "planning":
        save(name, {**tree, "odd": object()})
    elif what == "staging":
        tree["w"].delete()
        save(name, tree)
    elif what == "writing":
        with small_files():
            save(name, tree)
    else:
        with failing_renames():
            save(name, tree)


def saves(root: str) -> dict[str, Save]:
    """All ways to save; each waits for the end."""
    front = pertinax.Manager(f"{root}/front")
    os.makedirs(f"{root}/door", exist_ok=True)
    door = ocp.CheckpointManager(f"{root}/door")
    waiting = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    background = ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler())

    def by_manager(name: str, tree: Any) -> None:
        pending = front.save(int(name), tree)
        assert pending is not None
        pending.result()

    def by_orbax_manager(name: str, tree: Any) -> None:
        items = ocp.args.Composite(a=ocp.args.JsonSave({"a": 1}), state=ocp.args.StandardSave(tree))
        door.save(int(name), args=items)
        door.wait_until_finished()

    def in_background(name: str, tree: Any) -> None:
        background.save(f"{root}/background/{name}", args=ocp.args.StandardSave(tree))
        background.wait_until_finished()

    return {
        "save": lambda name, tree: pertinax.save(f"{root}/save/{name}", tree) and None,
        "async": lambda name, tree: (
            pertinax.save_async(f"{root}/async/{name}", tree).result() and None
        ),
        "front": by_manager,
        "waiting": lambda name, tree: waiting.save(
            f"{root}/waiting/{name}", args=ocp.args.PyTreeSave(tree)
        ),
        "background": in_background,
        "door": by_orbax_manager,
    }


CASES = [
    ("planning", 1),
    ("staging", 1),
    ("writing", 0),
    ("writing", 1),
    ("publishing", 0),
]
"""What goes wrong, and on which process."""


def go_through_failures(root: str, ways: list[str]) -> list[Any]:
    known = saves(root)
    told: list[Any] = []
    for way in ways:
        for number, (what, failing) in enumerate(CASES):
            begun_s = time.monotonic()
            try:
                if failing == jax.process_index():
                    fail_in(what, known[way], str(number))
                else:
                    known[way](str(number), state())
            except Exception as error:
                seconds = time.monotonic() - begun_s
                told.append((way, what, failing, type(error).__name__, str(error), seconds))
        known[way]("9", state())
    return told


CAUSES = {
    "planning": "object",
    "staging": "deleted",
    "writing": "File too large",
    "publishing": "the disk is broken",
}


@pytest.mark.wd("Kw-04")
@pytest.mark.parametrize(
    "ways", [["save", "async", "front"], ["waiting", "background", "door"]], ids=["front", "door"]
)
def test_all_hear_of_it_nothing_is_visible_and_the_next_save_works(
    tmp_path: Path, ways: list[str]
) -> None:
    root = tmp_path / "runs"
    answers = processes.run(
        go_through_failures, 2, str(root), ways, folder=tmp_path / "job", devices=1
    )
    expected = [(way, *case) for way in ways for case in CASES]
    for process, told in enumerate(answers):
        assert [one[:3] for one in told] == expected
        for way, what, failing, kind, text, seconds in told:
            assert CAUSES[what] in text, (way, what, process, text)
            if process != failing:
                assert kind == "PeerFailed", (way, what, kind, text)
                assert f"process {failing} failed in phase" in text
            assert seconds < 20, (way, what)  # and not after ten minutes
    for way in ways:
        assert sorted(os.listdir(root / way)) == ["9"], way
        assert pertinax.verify(root / way / "9").ok


# ---------------------------------------------------------------------- calls that do not fit


def save_apart(root: str) -> list[str]:
    """Process 1 is one step ahead of process 0."""
    me = jax.process_index()
    told: list[str] = []
    os.makedirs(f"{root}/door", exist_ok=True)
    with pertinax.Manager(f"{root}/front") as front, ocp.CheckpointManager(f"{root}/door") as door:
        for save in (
            lambda step: front.save(step, state()) and front.wait(),
            lambda step: (
                door.save(step, args=ocp.args.StandardSave(state())) and door.wait_until_finished()
            ),
            lambda step: pertinax.save(f"{root}/alone/{step}", state()),
        ):
            try:
                save(5 + me)
            except (pertinax.errors.PeerFailed, pertinax.errors.UnsupportedTopology) as error:
                told.append(str(error))
            save(7)
    return told


def test_processes_that_are_at_different_steps_are_told_so(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    for told in processes.run(save_apart, 2, str(root), folder=tmp_path / "job"):
        assert len(told) == 3
        for text in told:
            assert "process 1 is at" in text
            assert "/6 where process 0 is at" in text
        page = (Path(__file__).resolve().parents[2] / "docs" / "multihost.md").read_text("utf-8")
        told_by_1 = told[0].replace(str(root / "front"), "/runs/a")
        assert told_by_1 in page  # word for word
    assert {name: os.listdir(root / name) for name in os.listdir(root)} == {
        name: ["7"] for name in ("front", "door", "alone")
    }


def save_other_trees(root: str) -> list[Any]:
    """Process 1 has another name for the array, then another dtype."""
    me = jax.process_index()
    told: list[Any] = []
    half = {"w": state()["w"].astype(jax.numpy.bfloat16)}
    for number, other in enumerate(({"v": state()["w"]}, half)):
        try:
            pertinax.save(f"{root}/{number}", other if me else state())
        except pertinax.errors.PertinaxError as error:
            told.append((type(error).__name__, str(error)))
        pertinax.save(f"{root}/next{number}", state())
    return told


def test_processes_that_save_different_trees_are_told_so(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    first, second = processes.run(save_other_trees, 2, str(root), folder=tmp_path / "job")
    assert [kind for kind, _ in first] == ["UnsupportedTopology"] * 2
    assert [kind for kind, _ in second] == ["PeerFailed"] * 2
    for _, text in (*first, *second):
        assert "processes [1] saved another tree than process 0" in text
    assert sorted(os.listdir(root)) == ["next0", "next1"]


def refuse_before_the_save(root: str) -> list[Any]:
    """One process cannot even begin; what it was to save, it would have been next."""
    me = jax.process_index()
    told: list[Any] = []
    os.makedirs(f"{root}/door", exist_ok=True)
    options = ocp.CheckpointManagerOptions(best_fn=lambda metrics: metrics["loss"])
    with (
        pertinax.Manager(f"{root}/front", save=pertinax.policies.EverySeconds(1e-9)) as front,
        ocp.CheckpointManager(f"{root}/door", options=options) as door,
    ):
        bad: Any = {"loss": "low"} if me else {"loss": 1.0}
        missing: Any = {"loss": object()} if me else {"loss": 1.0}
        calls = (
            lambda: front.save(1, state(), metrics=bad) and front.wait(),
            lambda: door.save(5, args=ocp.args.StandardSave(state()), metrics=missing),
            lambda: door.restore(1 if me else 2),
        )
        for number, call in enumerate(calls):
            try:
                call()
            except Exception as error:
                told.append((type(error).__name__, str(error)))
            good: Any = {"loss": 1.0}
            step = 10 * number + 2
            front.save(step, state(), metrics=good)
            door.save(step, args=ocp.args.StandardSave(state()), metrics=good)
    return told


def test_who_fails_before_the_others_have_begun_fails_for_all(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    first, second = processes.run(refuse_before_the_save, 2, str(root), folder=tmp_path / "job")
    assert [kind for kind, _ in first] == ["PeerFailed"] * 3
    assert [kind for kind, _ in second] == ["InvalidOption", "TypeError", "FileNotFoundError"]
    for (_, text), (_, own) in zip(first, second, strict=True):
        assert "process 1 failed" in text
        assert own in text
    assert sorted(os.listdir(root / "front")) == sorted(os.listdir(root / "door"))
    assert "1" not in os.listdir(root / "front")


def no_thread(root: str) -> Any:
    """Process 1 gets no more threads after its part has been begun."""
    from pertinax.checkpoint import async_checkpointer

    real = async_checkpointer.Pending

    def refuse(*_: Any, **__: Any) -> Any:
        raise RuntimeError("can't start new thread")

    told = ""
    with ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        async_checkpointer.Pending = refuse if jax.process_index() == 1 else real
        try:
            checkpointer.save(f"{root}/a", args=ocp.args.StandardSave(state()))
            checkpointer.wait_until_finished()
        except RuntimeError as error:
            told = str(error)
        async_checkpointer.Pending = real
        left = os.listdir(root) if os.path.isdir(root) else []
        checkpointer.save(f"{root}/b", args=ocp.args.StandardSave(state()))
    return told, [name for name in left if jax.process_index() == 0]


def test_a_save_without_a_thread_leaves_nothing(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    answers = processes.run(no_thread, 2, str(root), folder=tmp_path / "job")
    assert all("can't start new thread" in told for told, _ in answers)
    assert [left for _, left in answers] == [[], []]
    assert os.listdir(root) == ["b"]


def alone_without_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    start = threading.Thread.start

    def refuse(thread: Any) -> None:
        if thread.name == "pertinax-save":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)


def test_alone_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        with monkeypatch.context() as patch:
            alone_without_thread(patch)
            with pytest.raises(RuntimeError, match="new thread"):
                checkpointer.save(tmp_path / "a", args=ocp.args.StandardSave({"w": np.ones(3)}))
        assert os.listdir(tmp_path) == []
        checkpointer.save(tmp_path / "b", args=ocp.args.StandardSave({"w": np.ones(3)}))
    assert os.listdir(tmp_path) == ["b"]


def leave_nothing_on_the_board(root: str) -> Any:
    from jax._src import distributed

    def stays() -> int:
        pairs = distributed.global_state.client.key_value_dir_get("pertinax/")
        return len([key for key, _ in pairs if "/beat/" not in key])

    os.makedirs(root, exist_ok=True)
    counts: list[int] = []
    options = ocp.CheckpointManagerOptions(max_to_keep=1)
    with ocp.CheckpointManager(root, options=options) as manager:
        for step in range(5):
            items = ocp.args.Composite(
                a=ocp.args.JsonSave({"a": 1}), state=ocp.args.StandardSave(state())
            )
            manager.save(step, args=items)
            manager.wait_until_finished()
            ocp.multihost.sync_global_processes(f"counted {step}", timeout=60)
            counts.append(stays())
            ocp.multihost.sync_global_processes(f"counted too {step}", timeout=60)
    return counts


def test_the_service_does_not_fill_up_with_the_names_of_steps(tmp_path: Path) -> None:
    counts, _ = processes.run(
        leave_nothing_on_the_board, 2, str(tmp_path / "runs"), folder=tmp_path / "job"
    )
    assert counts[1:] == [counts[1]] * 4
