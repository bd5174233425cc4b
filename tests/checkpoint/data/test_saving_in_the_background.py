# SPDX-License-Identifier: Apache-2.0
"""`AsyncCheckpointer`: what the program waits for, what it does not, and how failures reach it."""

import asyncio
import concurrent.futures
import threading
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pertinax import checkpoint as ocp
from tests.checkpoint.data.twins import same


class Gate:
    """A future that is done when the test says so."""

    def __init__(self, error: Exception | None = None) -> None:
        self.open = threading.Event()
        self.error = error

    def result(self, timeout: float | None = None) -> None:
        assert self.open.wait(60)
        if self.error is not None:
            raise self.error


class Gated(ocp.StandardCheckpointHandler):
    """The Standard handler, whose saves wait at a gate."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.gate = gate
        self.events: list[str] = []

    async def async_save(self, directory: Any, *args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(0)
        futures = await super().async_save(directory, *args, **kwargs)
        return [futures, [None, self.gate]]

    def finalize(self, directory: Any) -> None:
        self.events.append("finalize")
        super().finalize(directory)


def failing() -> ocp.AsyncCheckpointer:
    gate = Gate(RuntimeError("the disk is on fire"))
    gate.open.set()
    return ocp.AsyncCheckpointer(Gated(gate))


def test_a_save_is_invisible_until_it_is_whole(tmp_path: Path):
    gate = Gate()
    with ocp.AsyncCheckpointer(Gated(gate)) as checkpointer:
        checkpointer.save(tmp_path / "it", {"a": jnp.arange(3)})
        assert not (tmp_path / "it").exists()
        gate.open.set()
        checkpointer.wait_until_finished()
        assert (tmp_path / "it").exists()


def test_what_was_passed_in_may_change_at_once(tmp_path: Path):
    gate = Gate()
    tree = {"n": np.arange(1 << 18), "j": jnp.arange(1 << 18)}
    with ocp.AsyncCheckpointer(Gated(gate)) as checkpointer:
        checkpointer.save(tmp_path / "it", tree)
        tree["n"][:] = -1
        tree["j"].delete()
        gate.open.set()
        found = checkpointer.restore(tmp_path / "it")
    same(found, {"n": np.arange(1 << 18), "j": jnp.arange(1 << 18)})


@pytest.mark.parametrize("call", ["wait_until_finished", "close", "restore", "save"])
def test_a_failure_is_raised_once(call: str, tmp_path: Path):
    checkpointer = failing()
    checkpointer.save(tmp_path / "it", {"a": 1})
    arguments = {"restore": (tmp_path / "it",), "save": (tmp_path / "other", {"a": 1})}
    with pytest.raises(RuntimeError, match="on fire"):
        getattr(checkpointer, call)(*arguments.get(call, ()))
    checkpointer.wait_until_finished()
    checkpointer.check_for_errors()
    assert list(tmp_path.iterdir()) == []


def test_checking_for_errors_never_waits(tmp_path: Path):
    gate = Gate(RuntimeError("the disk is on fire"))
    checkpointer = ocp.AsyncCheckpointer(Gated(gate))
    checkpointer.save(tmp_path / "it", {"a": 1})
    checkpointer.check_for_errors()
    gate.open.set()
    with pytest.raises(RuntimeError, match="on fire"):
        checkpointer.wait_until_finished()


def test_an_error_in_the_first_part_is_raised_at_once_and_leaves_nothing(tmp_path: Path):
    with ocp.StandardCheckpointer() as checkpointer:
        with pytest.raises(ValueError, match="Unsupported type"):
            checkpointer.save(tmp_path / "it", {"a": "text"})
        assert list(tmp_path.iterdir()) == []
        checkpointer.save(tmp_path / "it", {"a": 1})
    assert (tmp_path / "it").exists()


def test_a_taken_name_is_refused_and_replaced_on_demand(tmp_path: Path):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "it", {"a": 1})
        with pytest.raises(ValueError, match="already exists"):
            checkpointer.save(tmp_path / "it", {"a": 2})
        assert checkpointer.restore(tmp_path / "it") == {"a": 1}
        checkpointer.save(tmp_path / "it", {"a": 2}, force=True)
        assert checkpointer.restore(tmp_path / "it") == {"a": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


@pytest.mark.wd("WD-24")
def test_a_forced_save_that_fails_leaves_the_old_checkpoint(tmp_path: Path):
    ocp.PyTreeCheckpointer().save(tmp_path / "it", {"a": 1})
    checkpointer = failing()
    checkpointer.save(tmp_path / "it", {"a": 2}, force=True)
    with pytest.raises(RuntimeError, match="on fire"):
        checkpointer.close()
    assert ocp.PyTreeCheckpointer().restore(tmp_path / "it") == {"a": 1}


@pytest.mark.row("R184")
def test_the_callback_comes_before_the_checkpoint_is_visible(tmp_path: Path):
    seen: list[Any] = []
    gate = Gate()
    handler = Gated(gate)
    gate.open.set()

    def callback() -> None:
        seen.append((list(handler.events), (tmp_path / "it").exists()))

    options = ocp.AsyncOptions(post_finalization_callback=callback)
    with ocp.AsyncCheckpointer(handler, async_options=options) as checkpointer:
        checkpointer.save(tmp_path / "it", {"a": 1})
    assert seen == [(["finalize"], False)]
    assert (tmp_path / "it").exists()


@pytest.mark.row("R040", "R098")
def test_all_calls_work_inside_a_running_loop(tmp_path: Path):
    async def notebook() -> Any:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(tmp_path / "it", {"a": jnp.arange(3)})
            found = checkpointer.restore(tmp_path / "it")
        ocp.PyTreeCheckpointer().save(tmp_path / "other", found)
        return ocp.PyTreeCheckpointer().restore(tmp_path / "other")

    same(asyncio.run(notebook()), {"a": jnp.arange(3)})


def test_a_handler_that_only_waits_is_refused():
    class Plain(ocp.CheckpointHandler):
        def save(self, directory: Any, *args: Any, **kwargs: Any) -> None: ...

        def restore(self, directory: Any, *args: Any, **kwargs: Any) -> Any: ...

    with pytest.raises(TypeError, match="in the background"):
        ocp.AsyncCheckpointer(Plain())


@pytest.mark.row("R224", "R244")
@pytest.mark.parametrize("handler", [ocp.StandardCheckpointHandler, ocp.PyTreeCheckpointHandler])
def test_the_metadata_of_a_tree_is_made_in_the_background(
    handler: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from pertinax._formats import item

    encode, threads, go = item.encode_tree, [], threading.Event()

    def slowly(*args: Any, **kwargs: Any) -> Any:
        threads.append(threading.current_thread())
        assert go.wait(60)
        return encode(*args, **kwargs)

    monkeypatch.setattr(item, "encode_tree", slowly)
    with ocp.AsyncCheckpointer(handler()) as checkpointer:
        checkpointer.save(tmp_path / "it", {"a": jnp.arange(3)})  # returns, or waits for ever
        go.set()
        same(checkpointer.restore(tmp_path / "it"), {"a": jnp.arange(3)})
    assert len(threads) == 1
    assert threads[0] is not threading.current_thread()


@pytest.mark.row("R051")
def test_one_checkpointer_restores_from_threads_in_turn_and_at_once(tmp_path: Path):
    tree = {"a": jnp.arange(1 << 16), "n": np.arange(1 << 16), "s": 1}
    limited = ocp.PyTreeCheckpointHandler(save_concurrent_gb=1, restore_concurrent_gb=1)
    checkpointer = ocp.Checkpointer(limited)
    checkpointer.save(tmp_path / "it", tree)
    for _ in range(2):
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            same(thread.submit(checkpointer.restore, tmp_path / "it").result(60), tree)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for found in [pool.submit(checkpointer.restore, tmp_path / "it") for _ in range(8)]:
            same(found.result(60), tree)
    same(checkpointer.restore(tmp_path / "it"), tree)


def test_two_checkpointers_at_once_do_not_meet(tmp_path: Path):
    gates = [Gate(), Gate()]
    checkpointers = [ocp.AsyncCheckpointer(Gated(gate)) for gate in gates]
    for i, checkpointer in enumerate(checkpointers):
        checkpointer.save(tmp_path / str(i), {"a": i})
    for gate in reversed(gates):
        gate.open.set()
    for i, checkpointer in enumerate(checkpointers):
        assert checkpointer.restore(tmp_path / str(i)) == {"a": i}
        checkpointer.close()


def test_relative_paths_are_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save("runs/first", {"a": jax.numpy.ones(2)})
        same(checkpointer.restore("runs/first"), {"a": jax.numpy.ones(2)})
    assert (tmp_path / "runs" / "first").is_dir()
