# SPDX-License-Identifier: Apache-2.0
"""Who meets whom in a save of several processes: by which names, who leads, who may come."""

import os
import threading
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import pertinax
from pertinax import checkpoint as ocp
from pertinax.checkpoint import multihost
from pertinax.checkpoint import type_handlers as th
from tests.checkpoint.type_handlers.leaves import with_stock
from tests.hosts import processes, states

pytestmark = pytest.mark.slow


class Client:
    """The client of JAX's coordination service, which notes the barriers of its own kind."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.barriers: list[str] = []

    def wait_at_barrier(self, key: str, *args: Any, **kwargs: Any) -> Any:
        self.barriers.append(key)
        return self._client.wait_at_barrier(key, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def watched() -> tuple[Client, list[str]]:
    """The barriers, and the computations over all devices that only wait, of this process."""
    from jax._src import distributed
    from jax.experimental import multihost_utils

    client = Client(distributed.global_state.client)
    distributed.global_state.client = client
    computed: list[str] = []
    for name in ("sync_global_devices", "process_allgather", "broadcast_one_to_all"):
        real = getattr(multihost_utils, name)

        def note(*args: Any, name: str = name, real: Any = real, **kwargs: Any) -> Any:
            computed.append(f"{name} on {threading.current_thread().name}")
            return real(*args, **kwargs)

        setattr(multihost_utils, name, note)
    return client, computed


def items(step: int) -> Any:
    return ocp.args.Composite(
        state=ocp.args.PyTreeSave(states.state_on(states.mesh_of(), step)),
        notes=ocp.args.JsonSave({"step": step}),
        one=ocp.args.ArraySave(np.arange(3) + step),
    )


def meet(root: str) -> Any:
    assert jax.process_count() == 2  # its devices talk over the client that JAX has made
    client, computed = watched()
    heard: list[tuple[str, int]] = []
    waiting = multihost.get_barrier_sync_fn()

    def barrier(*, key: str, timeout_ms: int) -> None:
        heard.append((key, timeout_ms))
        waiting(key=key, timeout_ms=timeout_ms)

    os.makedirs(root, exist_ok=True)
    with ocp.CheckpointManager(f"{root}/plain") as manager:
        manager.save(0, args=items(0))
        manager.wait_until_finished()
        manager.restore(0)
    unasked = (list(client.barriers), list(computed))

    # From here on the processes do not count alike any more.
    for _ in range(3 * jax.process_index()):
        multihost.counters.async_save_counter()
        multihost.counters.tmp_directory_counter()
    options = ocp.CheckpointManagerOptions(
        max_to_keep=1,
        async_options=ocp.AsyncOptions(timeout_secs=77, barrier_sync_fn=barrier),
        multiprocessing_options=ocp.options.MultiprocessingOptions(barrier_sync_key_prefix="mine"),
    )
    with ocp.CheckpointManager(f"{root}/mine", options=options) as manager:
        for step in range(2):
            manager.save(step, args=items(step))
        manager.wait_until_finished()
        steps = manager.all_steps()
    return unasked, computed, heard, steps


@pytest.mark.row("R072", "R108", "R187")
@pytest.mark.wd("Kw-02", "Kw-03")
def test_a_save_meets_by_itself_and_besides_at_the_programs_own_barriers(tmp_path: Path) -> None:
    answers = processes.run(meet, 2, str(tmp_path / "runs"), folder=tmp_path / "job", devices=2)
    for unasked, computed, heard, steps in answers:
        assert unasked == ([], [])  # no barrier of the service, no computation
        assert computed == []
        assert steps == [1]
        assert heard == answers[0][2]
        assert {timeout_ms for _, timeout_ms in heard} == {77_000}
        keys = [key for key, _ in heard]
        number = keys[0].split("_")[0].removeprefix("mine.")
        saves = [key.rpartition(".")[2] for key in keys if "commit" in key]
        assert number.isdigit()
        assert keys == [
            name
            for step, save in enumerate(saves)
            for name in (
                f"mine.{number}_async_write_complete.{step}.{save}",
                f"mine.{number}_async_commit_complete.{step}.{save}",
                f"mine_CheckpointManager:finalize.{step}",
            )
        ]
        assert int(saves[0]) < int(saves[1])


def test_one_process_alone_calls_the_barrier_at_the_end_of_a_step_as_orbax_does(
    tmp_path: Path,
) -> None:
    heard: list[Any] = []
    options = ocp.CheckpointManagerOptions(
        async_options=ocp.AsyncOptions(
            timeout_secs=77, barrier_sync_fn=lambda **told: heard.append(told)
        )
    )
    with ocp.CheckpointManager(tmp_path, options=options) as manager:
        manager.save(3, args=ocp.args.JsonSave({}))
    assert heard == [{"key": "CheckpointManager:finalize.3", "timeout_ms": 77_000}]


# ------------------------------------------------------------------------------------ who leads


def lead(root: str) -> Any:
    """The numbers of both processes are exchanged, and so are their parts."""
    own = 1 - jax.process_index()
    multihost.process_index = lambda: own
    mesh = states.mesh_of()
    state = states.state_on(mesh)
    state["host"]["table"] = np.full((2,), own)
    handlers = with_stock(ocp, (np.ndarray, th.NumpyHandler(metadata_key="meta")))
    made: list[str] = []
    mkdir = os.mkdir

    def note(path: Any, *args: Any, **kwargs: Any) -> None:
        if os.path.dirname(str(path)) == f"{root}/led":  # that of a step, under whatever name
            made.append(str(path))
        mkdir(path, *args, **kwargs)

    os.mkdir = note
    options = ocp.CheckpointManagerOptions(max_to_keep=1)
    with ocp.CheckpointManager(f"{root}/led", options=options) as manager:
        for step in range(2):
            args = ocp.args.Composite(
                state=ocp.args.PyTreeSave(state), who=ocp.args.JsonSave({"who": own})
            )
            manager.save(step, args=args)
        manager.wait_until_finished()
        who = manager.restore(1, args=ocp.args.Composite(who=ocp.args.JsonRestore()))["who"]
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=handlers)
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(f"{root}/own", {"n": np.full((2,), own), "w": state["arrays"]["rows"]})
    return own, bool(made), who, pertinax.load(f"{root}/led/1/state")["host"]["table"].tolist()


@pytest.mark.row("R207")
def test_who_leads_is_asked_in_one_place(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    answers = processes.run(lead, 2, str(root), folder=tmp_path / "job", devices=2)
    assert answers == [(1, False, {"who": 0}, [0, 0]), (0, True, {"who": 0}, [0, 0])]
    assert sorted(os.listdir(root)) == ["led", "own"]
    assert os.listdir(root / "led") == ["1"]
    # Databases of handlers are called after the processes, too; both hold what they should.
    with ocp.Checkpointer(
        ocp.PyTreeCheckpointHandler(
            type_handler_registry=with_stock(
                ocp, (np.ndarray, th.NumpyHandler(metadata_key="meta"))
            )
        )
    ) as checkpointer:
        assert checkpointer.restore(root / "own")["n"].tolist() == [0, 0]


@pytest.mark.row("R207")
def test_alone_a_process_that_is_not_the_first_leads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in range(2):
        ocp.Checkpointer(ocp.JsonCheckpointHandler()).save(tmp_path / str(step), {"a": step})
    monkeypatch.setattr(multihost, "process_index", lambda: 1)
    options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
    with ocp.CheckpointManager(tmp_path, options=options) as manager:
        manager.delete(0)
        assert (tmp_path / "0").exists()
        ocp.Checkpointer(ocp.JsonCheckpointHandler()).save(tmp_path / "2", {"a": 2})
        assert not (tmp_path / "2").exists()
        led = ocp.options.MultiprocessingOptions(primary_host=1)
        handler = ocp.JsonCheckpointHandler(multiprocessing_options=led)
        ocp.Checkpointer(handler, multiprocessing_options=led).save(tmp_path / "3", {"a": 3})
        assert (tmp_path / "3").exists()


# --------------------------------------------------------------------------- when steps are removed


def decide_late(root: str) -> Any:
    """Process 1 decides what goes only when the new step has long been visible."""
    from pertinax.checkpoint._adapt.known_steps import KnownSteps

    seen: list[Any] = []
    begin = KnownSteps.begin

    def late(self: Any, step: int, metrics: Any) -> Any:
        end_s = time.monotonic() + 60
        while step and not os.path.exists(f"{root}/{step}") and time.monotonic() < end_s:
            threading.Event().wait(0.01)
        for _ in range(50 if step else 0):  # it would go about now
            seen.append(os.path.exists(f"{root}/0"))
            threading.Event().wait(0.01)
        return begin(self, step, metrics)

    options = ocp.CheckpointManagerOptions(max_to_keep=1, best_fn=lambda metrics: metrics["x"])
    with ocp.CheckpointManager(root, options=options) as manager:
        manager.save(0, args=ocp.args.JsonSave({}), metrics={"x": 0})
        if jax.process_index() == 1:
            KnownSteps.begin = late
        manager.save(1, args=ocp.args.JsonSave({}), metrics={"x": 1})
        manager.wait_until_finished()
        return all(seen), len(seen), manager.all_steps(), os.path.exists(f"{root}/0")


@pytest.mark.row("R096")
def test_nothing_is_removed_before_all_have_decided(tmp_path: Path) -> None:
    answers = processes.run(decide_late, 2, str(tmp_path / "run"), folder=tmp_path / "job")
    assert answers == [(True, 0, [1], False), (True, 50, [1], False)]


# --------------------------------------------------------------- handlers that are called directly


def write_alone(root: str) -> Any:
    """Process 2 leads what these handlers write, as each info says."""
    import asyncio

    from etils import epath

    place = epath.Path(root)
    if jax.process_index() == 0:
        place.mkdir(parents=True)
    multihost.sync_global_processes("made", timeout=60)

    def info(name: str, host: int | None) -> th.ParamInfo:
        return th.ParamInfo(
            name=name,
            path=place / name,
            parent_dir=place,
            is_ocdbt_checkpoint=False,
            primary_host=host,
        )

    me = jax.process_index()
    cases = [
        (th.NumpyHandler(), "array", np.full(2, me)),
        (th.ScalarHandler(), "number", me),
        (th.StringHandler(), "text", f"by {me}"),
    ]
    begun: list[Any] = []
    for handler, name, value in cases:
        begun.append(asyncio.run(handler.serialize([value], [info(name, 2)])))
    for futures in begun:
        for future in futures:
            future.result()
    multihost.sync_global_processes("written", timeout=60)
    found = [asyncio.run(h.deserialize([info(name, 2)]))[0] for h, name, _ in cases]
    return [len(futures) for futures in begun], found[0].tolist(), *found[1:]


@pytest.mark.wd("Kw-06")
def test_handlers_write_what_all_have_on_the_primary_host_of_their_infos(tmp_path: Path) -> None:
    answers = processes.run(write_alone, 3, str(tmp_path / "item"), folder=tmp_path / "job")
    for process, (begun, array, number, text) in enumerate(answers):
        assert begun == [process == 2] * 3
        assert (array, number, text) == ([2, 2], 2, "by 2")


# ----------------------------------------------------------------------- options that cannot be


@pytest.mark.wd("Kw-05")
@pytest.mark.parametrize(
    ("host", "active"), [(0, {1, 2}), (3, {0, 1}), (0, set()), (None, set()), (0, {0, -1})]
)
def test_options_that_cannot_be_are_refused_before_anything_is_done(
    tmp_path: Path, host: int | None, active: set[int]
) -> None:
    options = ocp.options.MultiprocessingOptions(primary_host=host, active_processes=active)
    for make in (
        lambda: ocp.Checkpointer(ocp.JsonCheckpointHandler(), multiprocessing_options=options),
        lambda: ocp.StandardCheckpointer(multiprocessing_options=options),
        lambda: ocp.CheckpointManager(
            tmp_path,
            options=ocp.CheckpointManagerOptions(multiprocessing_options=options, create=False),
            item_handlers=ocp.JsonCheckpointHandler(multiprocessing_options=options),
        ),
    ):
        with pytest.raises(ValueError, match="active_processes"):
            make()
    assert os.listdir(tmp_path) == []


def come_uninvited(root: str) -> list[str]:
    some = ocp.options.MultiprocessingOptions(primary_host=1, active_processes={1, 2})
    told: list[str] = []
    for make in (
        lambda: ocp.Checkpointer(ocp.JsonCheckpointHandler(), multiprocessing_options=some),
        lambda: ocp.CheckpointManager(
            root, options=ocp.CheckpointManagerOptions(multiprocessing_options=some, create=False)
        ),
        lambda: ocp.CheckpointManager(
            root, options=ocp.CheckpointManagerOptions(multiprocessing_options=some)
        ),
    ):
        try:
            make()
        except (ValueError, NotImplementedError) as error:
            told.append(str(error))
        else:
            told.append("made")
    return told


@pytest.mark.wd("Kw-05")
def test_outsiders_are_refused_and_a_missing_root_is_told(tmp_path: Path) -> None:
    answers = processes.run(come_uninvited, 3, str(tmp_path / "no"), folder=tmp_path / "job")
    for process, (checkpointer, root, made) in enumerate(answers):
        if process == 0:
            assert "process 0 is none of" in checkpointer
            assert "process 0 is none of" in root
        else:
            assert checkpointer == "made"
            assert "does not exist" in root
        assert "create=True" in made or "process 0 is none of" in made
