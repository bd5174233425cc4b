# SPDX-License-Identifier: Apache-2.0
"""Several processes save one checkpoint: whole, each byte once, whatever happens to one of them."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import pertinax
from pertinax._formats.ledger import LEDGER_FILE, decode_ledger
from pertinax._store.local import LocalStore
from pertinax.testing import FaultyStore
from tests.hosts import processes, states
from tests.steps.trees import Lying

pytestmark = pytest.mark.slow


def _save(path: str) -> None:
    state = states.state_on(states.mesh_of())
    pertinax.save(path, state)
    pending = pertinax.save_async(path + "-async", state)
    for leaf in jax.tree.leaves(state["arrays"]):
        leaf.delete()
    pending.result()


def _load(path: str, turned: bool) -> list[str]:
    loaded = pertinax.load(path, states.target_on(states.mesh_of(turned=turned)))
    return states.differences(loaded)


@pytest.mark.wd("Kw-22")
@pytest.mark.row("R114")
@pytest.mark.parametrize(("savers", "devices", "loaders"), [(2, 2, 4), (4, 2, 2), (3, 2, 1)])
def test_saved_by_some_loaded_by_others(
    tmp_path: Path, savers: int, devices: int, loaders: int
) -> None:
    path = tmp_path / "state"
    processes.run(_save, savers, str(path), folder=tmp_path / "job", devices=devices)
    assert sorted(os.listdir(tmp_path)) == ["job", "state", "state-async"]
    for name in ("state", "state-async"):
        here = pertinax.load(tmp_path / name, states.target_on(states.mesh_of()))
        assert states.differences(here) == []
        assert pertinax.verify(tmp_path / name).ok
    answers = processes.run(
        _load, loaders, str(path), True, folder=tmp_path / "job2", devices=4 // loaders
    )
    assert answers == [[]] * loaders


@pytest.mark.interop
def test_orbax_reads_what_several_processes_saved(tmp_path: Path) -> None:
    from orbax import checkpoint as ocp

    processes.run(_save, 4, str(tmp_path / "state"), folder=tmp_path / "job", devices=2)
    target = states.target_on(states.mesh_of())
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        args = ocp.args.PyTreeRestore(
            target, restore_args=ocp.checkpoint_utils.construct_restore_args(target)
        )
        assert states.differences(checkpointer.restore(tmp_path / "state", args=args)) == []


def _save_replicated(path: str) -> None:
    mesh = states.mesh_of()
    big = jax.make_array_from_callback(
        (1024, 1024), NamedSharding(mesh, PartitionSpec()), lambda index: _numbers()[index]
    )
    pertinax.save(path, {"big": big, "copy": np.zeros(4)})


def _numbers() -> np.ndarray[Any, Any]:
    return np.arange(1024 * 1024, dtype=np.float32).reshape(1024, 1024)


@pytest.mark.row("R080")
def test_host_arrays_are_those_of_the_primary_alone(tmp_path: Path) -> None:
    path = tmp_path / "state"
    processes.run(_save_host_arrays, 3, str(path), folder=tmp_path / "job")
    (one_file,) = (path / "d").iterdir()
    ledger = decode_ledger((path / LEDGER_FILE).read_bytes())
    assert ledger.chunks.files == (f"d/{one_file.name}",)
    assert pertinax.load(path) == {"who": 0, "many": [0, 0]}


def _save_host_arrays(path: str) -> None:
    me = jax.process_index()
    pertinax.save(path, {"who": me, "many": [np.float32(me), np.int8(me)]})


def test_replicas_share_the_writing(tmp_path: Path) -> None:
    path = tmp_path / "state"
    processes.run(_save_replicated, 4, str(path), folder=tmp_path / "job")
    sizes = sorted(file.stat().st_size for file in (path / "d").iterdir())
    assert len(sizes) == 4
    assert sum(sizes) < 1.02 * 4 * 1024 * 1024
    assert sizes[-1] < 1.05 * 1024 * 1024
    assert np.array_equal(pertinax.load(path)["big"], _numbers())


def _save_with(path: str, failing: int, what: str) -> Any:
    state: Any = states.state_on(states.mesh_of())
    me = jax.process_index()
    store: Any = None
    if me == failing and what == "leaf":
        state["odd"] = object()
    if me == failing and what == "disk":
        store = FaultyStore(LocalStore(), fail_at=6, error=OSError(28, "no room"), lasting=True)
    try:
        pertinax.save(path, state, store=store)
    except Exception as error:
        state.pop("odd", None)
        pertinax.save(path + "-next", state)
        return type(error).__name__, str(error)
    return None


@pytest.mark.parametrize("what", ["leaf", "disk"])
@pytest.mark.parametrize("failing", [0, 2])
def test_the_failure_of_one_is_the_failure_of_all_and_the_next_save_works(
    tmp_path: Path, failing: int, what: str
) -> None:
    path = tmp_path / "run" / "state"
    answers = processes.run(
        _save_with, 3, str(path), failing, what, folder=tmp_path / "job", devices=2, limit_s=60
    )
    own = "UnsupportedLeaf" if what == "leaf" else "Storage"
    for process, (kind, text) in enumerate(answers):
        if process == failing:
            assert kind.startswith(own)
        else:
            assert kind == "PeerFailed"
            assert f"process {failing} failed" in text
            assert own in text
    assert os.listdir(tmp_path / "run") == ["state-next"]
    assert pertinax.verify(tmp_path / "run" / "state-next").ok


def _save_and_lose_one(path: str, folder: str, number: int) -> Any:
    state = states.state_on(states.mesh_of())
    pertinax.save(path + "-before", state)
    if jax.process_index() == 1:

        def progress(done: int, total: int) -> None:
            processes.tell(Path(folder), "writing")
            os.kill(os.getpid(), number)

        pertinax.save(path, state, progress=progress)
        return None
    try:
        pertinax.save(path, state)
    except pertinax.errors.PeerFailed as error:
        processes.tell(Path(folder), f"told-{jax.process_index()}")
        return error.process, str(error)
    return None


@pytest.mark.crash
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_one_that_is_killed_or_stopped_is_named_within_seconds(tmp_path: Path, number: int) -> None:
    path = tmp_path / "state"
    job = processes.start(
        _save_and_lose_one,
        3,
        str(path),
        str(tmp_path / "job"),
        number,
        folder=tmp_path / "job",
        devices=2,
        recoverable=True,
        limit_s=50,
    )
    job.wait_for("told-0")
    job.wait_for("told-2")
    job.signal(1)
    ended = job.end()
    assert ended[1].code == -9
    for process in (0, 2):
        assert ended[process].error == ""
        assert ended[process].value[0] == 1
        assert "nothing was heard of it" in ended[process].value[1]
    assert pertinax.verify(tmp_path / "state-before").ok
    assert not path.exists()
    pertinax.save(path, {"w": jnp.ones(3)})
    assert not [name for name in os.listdir(tmp_path) if "tmp" in name]


def _save_several(path: str) -> None:
    mesh = states.mesh_of()
    pendings = [
        pertinax.save_async(f"{path}/{step}", states.state_on(mesh, step)) for step in range(4)
    ]
    for pending in reversed(pendings):
        pending.result()
    with pytest.raises(pertinax.errors.CheckpointExists):
        pertinax.save(f"{path}/2", states.state_on(mesh))
    pertinax.save(f"{path}/2", states.state_on(mesh), exists="skip")
    pertinax.save(f"{path}/3", states.state_on(mesh, 9), exists="replace")


def test_several_saves_may_be_in_flight(tmp_path: Path) -> None:
    processes.run(_save_several, 2, str(tmp_path / "run"), folder=tmp_path / "job", devices=2)
    target = states.target_on(states.mesh_of())
    for step in (0, 1, 2):
        assert states.differences(pertinax.load(tmp_path / "run" / str(step), target), step) == []
    assert states.differences(pertinax.load(tmp_path / "run" / "3", target), 9) == []


def _save_local(path: str) -> str:
    try:
        pertinax.save(path, {"mine": jnp.ones(3)})
    except (pertinax.errors.UnsupportedLeaf, pertinax.errors.PeerFailed) as error:
        return str(error)
    return ""


def test_an_array_of_one_process_is_refused_with_advice(tmp_path: Path) -> None:
    # Each fails by itself, or hears first that the other one did.
    for answer in processes.run(_save_local, 2, str(tmp_path / "s"), folder=tmp_path / "job"):
        assert "host local arrays" in answer
        assert "fully_replicated_host_local_array_to_global_array" in answer
    assert os.listdir(tmp_path) == ["job"]


def _save_on_a_disk_that_lies(path: str, liar: int | None) -> Any:
    me, store = jax.process_index(), LocalStore()
    lying: Any = Lying(store, lambda _, name: me == liar and "/d/" in name)
    try:
        pertinax.save(path, states.state_on(states.mesh_of()), store=lying, read_back=True)
    except pertinax.errors.PertinaxError as error:
        return type(error).__name__
    return "saved"


def test_all_read_back_what_all_have_written(tmp_path: Path) -> None:
    path = str(tmp_path / "state")
    answers = processes.run(
        _save_on_a_disk_that_lies, 3, path, None, folder=tmp_path / "job", devices=2
    )
    assert answers == ["saved"] * 3
    assert pertinax.verify(path).ok


@pytest.mark.parametrize("liar", [0, 2])
def test_what_one_process_could_not_keep_is_published_by_none(tmp_path: Path, liar: int) -> None:
    path = str(tmp_path / "state")
    answers = processes.run(
        _save_on_a_disk_that_lies, 3, path, liar, folder=tmp_path / "job", devices=2
    )
    assert "CorruptCheckpoint" in answers
    assert set(answers) <= {"CorruptCheckpoint", "PeerFailed"}
    assert os.listdir(tmp_path) == ["job"]


class _Slow:
    """A local disk that reads when the checkpoint is visible, or after a second."""

    def __init__(self, final: str) -> None:
        self._final, self._inner = final, LocalStore()
        self.end_s, self.was_visible = 0.0, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def open(self, path: str) -> Any:
        self.end_s = self.end_s or time.monotonic() + 1.0
        while not self.was_visible and time.monotonic() < self.end_s:
            self.was_visible = os.path.exists(self._final)
        return self._inner.open(path)


def _save_with_one_slow_reader(path: str) -> tuple[bool, bool]:
    store: Any = _Slow(path) if jax.process_index() == 1 else LocalStore()
    pertinax.save(path, states.state_on(states.mesh_of()), store=store, read_back=True)
    return getattr(store, "end_s", 0.0) > 0.0, getattr(store, "was_visible", False)


def test_nothing_is_visible_before_the_last_process_has_read_its_share(tmp_path: Path) -> None:
    path = str(tmp_path / "state")
    answers = processes.run(_save_with_one_slow_reader, 2, path, folder=tmp_path / "job", devices=2)
    assert answers == [(False, False), (True, False)]
    assert pertinax.verify(path).ok
