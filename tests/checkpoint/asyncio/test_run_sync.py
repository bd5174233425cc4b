# SPDX-License-Identifier: Apache-2.0
"""Public calls from scripts, coroutines and nested loops; nobody's event loop is patched."""

import asyncio
import contextvars
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from pertinax import checkpoint as ocp
from pertinax.checkpoint.asyncio_utils import as_async_function, run_sync
from pertinax.checkpoint.path import async_utils
from tests.checkpoint.data.twins import same

TREE = {"w": np.arange(6.0), "b": 3}


async def double(x: int) -> int:
    await asyncio.sleep(0)
    return 2 * x


async def fail() -> None:
    await asyncio.sleep(0)
    raise KeyError("no such leaf")


def loop_functions() -> list[Any]:
    return [
        asyncio.run,
        asyncio.BaseEventLoop.run_until_complete,
        asyncio.BaseEventLoop.run_forever,
        asyncio.get_event_loop,
        asyncio.Task,
        asyncio.Future,
    ]


@pytest.mark.row("R299")
def test_without_a_running_loop_the_coroutine_runs_on_the_callers_thread():
    async def where() -> tuple[int, int]:
        return threading.get_ident(), await double(4)

    assert run_sync(where()) == (threading.get_ident(), 8)


@pytest.mark.row("R299")
def test_inside_a_running_loop_it_runs_too_and_that_loop_goes_on():
    async def main() -> tuple[int, bool]:
        mine = asyncio.get_running_loop()
        return run_sync(double(4)), asyncio.get_running_loop() is mine

    assert asyncio.run(main()) == (8, True)


@pytest.mark.row("R301")
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_loops_may_be_nested_to_any_depth(depth: int):
    async def nested(left: int) -> int:
        return await double(1) if left == 0 else 1 + run_sync(nested(left - 1))

    assert run_sync(nested(depth)) == depth + 2


@pytest.mark.parametrize("inside", [False, True])
def test_what_the_coroutine_raises_is_raised(inside: bool):
    async def main() -> None:
        run_sync(fail())

    with pytest.raises(KeyError, match="no such leaf"):
        asyncio.run(main()) if inside else run_sync(fail())


def test_the_coroutine_sees_the_context_of_its_caller():
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

    async def read() -> str:
        return variable.get()

    async def main() -> str:
        variable.set("inner")
        return run_sync(read())

    variable.set("outer")
    assert (run_sync(read()), asyncio.run(main())) == ("outer", "inner")


def test_no_event_loop_is_patched_and_asyncio_still_refuses_to_nest():
    before = loop_functions()

    async def main() -> None:
        run_sync(double(1))
        inner = double(1)
        with pytest.raises(RuntimeError, match="running event loop"):
            asyncio.run(inner)
        inner.close()

    asyncio.run(main())
    run_sync(double(1))
    assert loop_functions() == before


def test_the_loop_that_a_thread_has_set_for_itself_stays_set():
    def program() -> bool:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        run_sync(double(1))
        try:
            return asyncio.get_event_loop() is loop
        finally:
            loop.close()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(program).result()


def test_nesting_can_be_refused():
    async def main() -> None:
        run_sync(double(1), enable_nest_asyncio=False)

    assert run_sync(double(2), enable_nest_asyncio=False) == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the coroutine must not be dropped unawaited
        with pytest.raises(RuntimeError, match="event loop is running"):
            asyncio.run(main())


def test_a_function_becomes_a_coroutine_function_that_leaves_the_thread():
    def where(x: int, *, y: int) -> tuple[int, int]:
        return threading.get_ident(), x + y

    async def main() -> None:
        wrapped = as_async_function(where)
        assert wrapped.__name__ == "where"
        thread, total = await wrapped(1, y=2)
        assert (thread != threading.get_ident(), total) == (True, 3)
        with ThreadPoolExecutor(1) as pool:
            (ours,) = {pool.submit(threading.get_ident).result()}
            loop = asyncio.get_running_loop()
            assert await wrapped(1, y=2, loop=loop, executor=pool) == (ours, 3)

    run_sync(main())


def test_paths_can_be_asked_and_changed_without_holding_up_the_loop(tmp_path: Path):
    root = epath.Path(tmp_path)

    async def main() -> None:
        await async_utils.async_makedirs(root / "a" / "b", parents=True)
        await async_utils.async_makedirs(root / "a" / "b")
        with pytest.raises(FileExistsError):
            await async_utils.async_makedirs(root / "a", exist_ok=False)
        with pytest.raises(FileNotFoundError):
            await async_utils.async_makedirs(root / "x" / "y")
        await async_utils.async_write_bytes(root / "a" / "f", b"12345")
        assert (await async_utils.async_stat(root / "a" / "f")).length == 5
        assert not await async_utils.async_is_tmp_checkpoint(root / "a")
        await async_utils.async_makedirs(root / "3.orbax-checkpoint-tmp-7")
        assert await async_utils.async_is_tmp_checkpoint(root / "3.orbax-checkpoint-tmp-7")
        await async_utils.async_rmtree(root / "a")
        assert not await async_utils.async_exists(root / "a")
        assert await async_utils.async_exists(root)

    run_sync(main())


# ------------------------------------------------------------- public calls while a loop is running


def standard(root: Path) -> Any:
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(root / "it", TREE)
        checkpointer.wait_until_finished()
        return checkpointer.restore(root / "it")


def pytree(root: Path) -> Any:
    checkpointer = ocp.PyTreeCheckpointer()
    checkpointer.save(root / "it", TREE)
    assert checkpointer.metadata(root / "it") is not None
    return checkpointer.restore(root / "it")


def asynchronous(root: Path) -> Any:
    with ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        checkpointer.save(root / "it", args=ocp.args.PyTreeSave(TREE))
        checkpointer.check_for_errors()
        checkpointer.wait_until_finished()
        return checkpointer.restore(root / "it")


def handler_alone(root: Path) -> Any:
    handler = ocp.StandardCheckpointHandler()
    (root / "it").mkdir()
    handler.save(epath.Path(root / "it"), args=ocp.args.StandardSave(TREE))
    handler.finalize(epath.Path(root / "it"))
    return handler.restore(epath.Path(root / "it"))


def manager(root: Path) -> Any:
    with ocp.CheckpointManager(root / "steps") as steps:
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(TREE), notes=ocp.args.JsonSave({"epoch": 2})
        )
        steps.save(0, args=args)
        steps.wait_until_finished()
        assert steps.item_metadata(0) is not None
        found = steps.restore(0)
    assert found.notes == {"epoch": 2}
    return found.state


PROGRAMS = [standard, pytree, asynchronous, handler_alone, manager]


@pytest.mark.row("R040", "R098", "R301")
@pytest.mark.parametrize("loops", ["asyncio", "nested", "uvloop"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_checkpoints_are_saved_and_restored_inside_a_coroutine(
    program: Callable[[Path], Any], loops: str, tmp_path: Path
):
    async def main() -> Any:
        return program(tmp_path)

    async def outer() -> Any:
        return run_sync(main())

    if loops == "uvloop":
        uvloop = pytest.importorskip("uvloop")
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            found = runner.run(main())
    else:
        found = asyncio.run(outer() if loops == "nested" else main())
    same({"w": np.asarray(found["w"]), "b": int(found["b"])}, TREE)


@pytest.mark.row("R259")
def test_a_save_makes_a_small_number_of_loops_whatever_the_number_of_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made: list[Any] = []
    make = asyncio.new_event_loop

    def counted() -> Any:
        made.append(make())
        return made[-1]

    monkeypatch.setattr(asyncio, "new_event_loop", counted)
    monkeypatch.setattr(asyncio.events, "new_event_loop", counted)
    counts: list[int] = []
    for leaves in (1, 300):
        made.clear()
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(tmp_path / str(leaves), {str(i): jnp.ones(2) for i in range(leaves)})
        counts.append(len(made))
    assert counts[0] == counts[1] <= 2
