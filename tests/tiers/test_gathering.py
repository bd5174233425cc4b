# SPDX-License-Identifier: Apache-2.0
"""Two processes of a job, played by threads of this one: what one lacks comes from the other, or
from the durable tier, and what came damaged is not believed. (With real processes, and the devices
of all: `test_two_tiers`.)
"""

import contextlib
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import pertinax
from pertinax._core.options import LoadOptions
from pertinax._formats.crc import file_crc
from pertinax._formats.ledger import decode_ledger, encode_ledger
from pertinax._formats.manifest import FileRecord
from pertinax._hosts import Topology
from pertinax._steps.naming import PlainNaming
from pertinax._steps.writing import StepRoot
from pertinax._store.local import LocalStore
from pertinax._tiers import manager, restoring
from pertinax._tiers.local import LocalTier
from pertinax._tiers.manager import TieredManager
from pertinax._tiers.restoring import Regained, Restorer, look_into
from pertinax.errors import CorruptCheckpoint, PeerFailed, PertinaxError, RestoreMismatch
from tests.hosts.service import clients, clusters

COUNT = 2
_ME = threading.local()


def state_at(step: int) -> dict[str, Any]:
    rows = NamedSharding(Mesh(np.array(jax.devices()[:4]), ("x",)), PartitionSpec("x"))
    w = jnp.arange(32.0).reshape(8, 4) + step
    return {"w": jax.device_put(w, rows), "b": jnp.ones(3) * step, "name": f"step {step}"}


class Post:
    """Carries between threads what `Wires` carries between the devices of processes."""

    def __init__(self, spoil: bool = False) -> None:
        self.barrier = threading.Barrier(COUNT, timeout=60)
        self.spoil = spoil
        self.parcels: dict[int, Any] = {}
        self.carried = 0

    def __call__(self, members: Sequence[int]) -> "Post":
        assert tuple(members) == tuple(range(COUNT))
        return self

    def carry(self, pairs: Mapping[int, int], lengths: Mapping[int, int], own: Any) -> Any:
        if _ME.process in pairs:
            assert len(own) == lengths[_ME.process]
            self.parcels[pairs[_ME.process]] = own.copy()
            if self.spoil:
                self.parcels[pairs[_ME.process]][5] ^= 1
        self.barrier.wait()
        got = self.parcels.pop(_ME.process, None)
        self.carried += 0 if got is None else len(got)
        self.barrier.wait()
        return got


class Job:
    """The directories of a job, and its processes."""

    def __init__(self, folder: Path, hosts: Sequence[Any], post: Post) -> None:
        self.near = [folder / f"near{process}" for process in range(COUNT)]
        self.durable = folder / "durable"
        self.hosts, self.post = hosts, post

    def save(self, step: int, *, far: bool = True, keep: int = 2) -> None:
        """One save, of which both have all."""
        near = self.near[0]
        how: dict[str, Any] = {"save_local": 1, "save": 1, "keep_local": keep, "background": False}
        with pertinax.TieredManager(near, self.durable, **how) as manager:
            manager.save(step, state_at(step), tiers=(True, far))
        shutil.copytree(near / str(step), self.near[1] / str(step))

    def together(self, work: Callable[[Restorer], Any]) -> list[Any]:
        """What `work` returns or raises in each process."""
        answers: list[Any] = [None] * COUNT

        def one(process: int) -> None:
            _ME.process = process
            apart = Topology(process, (process,), process, apart=True)
            naming = PlainNaming()
            local = LocalTier(StepRoot(LocalStore(), str(self.near[process]), naming), 1, apart)
            root = StepRoot(LocalStore(), str(self.durable), naming)
            try:
                answers[process] = work(Restorer(local, root, self.hosts[process], 60.0))
            except PertinaxError as error:
                answers[process] = error

        threads = [threading.Thread(target=one, args=(process,)) for process in range(COUNT)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return answers

    def restore(self, step: int | None = None, target: Any = None) -> list[Any]:
        wanted = state_at(0) if target is None else target
        return self.together(lambda one: one.restore(wanted, step, LoadOptions()))


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Job]:
    post = Post()
    monkeypatch.setattr(restoring, "Wires", post)
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(clients(COUNT))
        yield Job(tmp_path, clusters(made), post)


def sources(one: Regained) -> tuple[bool, bool, bool]:
    return one.own_bytes > 0, one.peer_bytes > 0, one.durable_bytes > 0


def check(found: Regained, step: int) -> None:
    wanted = state_at(step)
    assert found.step == step
    assert found.tree["name"] == wanted["name"]
    for name in ("w", "b"):
        assert found.tree[name].sharding == wanted[name].sharding
        assert np.asarray(found.tree[name]).tobytes() == np.asarray(wanted[name]).tobytes()


def damage(step: Path, row: int, leaf: str = "w") -> None:
    """Flip a bit in one chunk of a leaf."""
    manifest = decode_ledger((step / "default" / "pertinax.json").read_bytes())
    number = [one.name for one in manifest.leaves].index(leaf)
    chunks = manifest.chunks
    at = np.flatnonzero(chunks.leaf == number)[row]
    file = step / "default" / chunks.files[chunks.file[at]]
    data = bytearray(file.read_bytes())
    data[chunks.offset[at]] ^= 1
    file.write_bytes(data)


def keep_rows(step: Path, keep: Callable[[int, int], bool]) -> None:
    """Make a part of what is whole: only chunks that `keep(leaf, ordinal)` wants are told of."""
    file = step / "default" / "pertinax.json"
    manifest = decode_ledger(file.read_bytes())
    chunks = manifest.chunks
    assert chunks.crc is not None
    assert len(chunks.crc) == len(chunks)  # one block each
    rows = [
        row
        for row, (leaf, at) in enumerate(zip(chunks.leaf, chunks.ordinal, strict=True))
        if leaf < 0 or keep(int(leaf), int(at))
    ]
    columns = {
        name: getattr(chunks, name)[rows]
        for name in ("leaf", "ordinal", "file", "offset", "length", "crc")
    }
    part = replace(manifest, chunks=replace(chunks, **columns), partial=True)
    data = encode_ledger(part)
    file.write_bytes(data)
    whole = decode_ledger((step / "pertinax.json").read_bytes())
    name = "default/pertinax.json"
    files = tuple(
        FileRecord(name, len(data), file_crc(data)) if one.name == name else one
        for one in whole.files
    )
    (step / "pertinax.json").write_bytes(encode_ledger(replace(whole, files=files)))


def test_who_has_all_asks_nobody(job: Job) -> None:
    job.save(7)
    for one in job.restore():
        check(one, 7)
        assert sources(one) == (True, False, False)
        assert one.had_part
    assert job.post.carried == 0


def test_who_has_nothing_is_told_what_there_is_and_gets_it_from_the_other(job: Job) -> None:
    job.save(7, far=False)
    shutil.rmtree(job.near[0])
    first, second = job.restore(7)
    check(first, 7)
    check(second, 7)
    assert (first.had_part, second.had_part) == (False, True)
    assert sources(first) == (False, True, False)
    assert sources(second) == (True, False, False)
    assert first.peer_bytes == second.own_bytes


def test_a_damaged_piece_comes_from_the_other(job: Job) -> None:
    job.save(7)
    damage(job.near[0] / "7", 2)
    first, second = job.restore()
    check(first, 7)
    check(second, 7)
    piece = 2 * 4 * 4
    assert (first.peer_bytes, first.own_bytes) == (piece, second.own_bytes - piece)
    assert first.durable_bytes == second.peer_bytes == 0


def test_each_may_have_what_the_other_lacks(job: Job) -> None:
    job.save(7, far=False)
    keep_rows(job.near[0] / "7", lambda leaf, at: at % 2 == 0)
    keep_rows(job.near[1] / "7", lambda leaf, at: at % 2 == 1 or leaf == 0)
    for one in job.restore():
        check(one, 7)
        assert sources(one)[:2] == (True, True) or sources(one) == (True, True, False)
    tiers = job.together(lambda one: (one.tiers(), one.steps()))
    assert tiers == [(([7], []), [7])] * 2


def test_what_nobody_has_whole_comes_from_the_durable_tier(job: Job) -> None:
    job.save(7)
    for near in job.near:
        damage(near / "7", 1)
    for one in job.restore():
        check(one, 7)
        assert sources(one) == (True, False, True)
        assert one.durable_bytes == 2 * 4 * 4


def test_what_is_nowhere_whole_is_passed_over(job: Job, caplog: pytest.LogCaptureFixture) -> None:
    job.save(7, far=False)
    job.save(8, far=False)
    for near in job.near:
        damage(near / "8", 1)
    for one in job.restore():
        check(one, 7)
    assert "step 8 is damaged and not whole any more" in caplog.text
    assert job.restore(8) == [None, None]
    for near in job.near:
        keep_rows(near / "7", lambda leaf, at: at != 3)
    caplog.clear()
    assert job.restore(7) == [None, None]
    assert "step 7 is not whole: passed over" in caplog.text
    assert job.together(lambda one: one.steps()) == [[8], [8]]


def test_a_target_that_does_not_fit_is_told_to_all(job: Job) -> None:
    job.save(7, far=False)
    shutil.rmtree(job.near[0])
    for one in job.restore(target={"w": jnp.zeros((8, 5)), "b": jnp.zeros(3), "name": ""}):
        assert isinstance(one, RestoreMismatch | PeerFailed)


def test_a_piece_that_comes_damaged_is_not_believed(job: Job) -> None:
    job.save(7)
    job.post.spoil = True
    shutil.rmtree(job.near[1])
    first, second = job.restore()
    assert isinstance(second, CorruptCheckpoint)
    assert "came damaged from another process" in str(second)
    assert isinstance(first, PeerFailed)


def test_a_step_of_the_durable_tier_alone_is_loaded_by_each(job: Job) -> None:
    job.save(7)
    for near in job.near:
        shutil.rmtree(near)
    for one in job.restore():
        check(one, 7)
        assert sources(one) == (False, False, True)
        assert not one.had_part


def test_a_durable_step_that_is_damaged_is_another_step_than_the_parts(
    job: Job, caplog: pytest.LogCaptureFixture
) -> None:
    job.save(7)
    (job.durable / "7" / "default" / "pertinax.json").write_bytes(b"{}")
    for near in job.near:
        damage(near / "7", 1)
    answers = job.restore()
    assert "durable step 7 cannot be looked at" in caplog.text
    assert all(isinstance(one, CorruptCheckpoint) for one in answers), answers


def test_local_steps_that_cannot_be_used_are_as_good_as_lost(
    job: Job, caplog: pytest.LogCaptureFixture
) -> None:
    job.save(7, far=False)
    job.save(8, far=False)
    (job.near[0] / "8" / "default" / "pertinax.json").write_bytes(b"{}")
    first, second = job.restore()
    check(first, 8)
    check(second, 8)
    assert (first.had_part, second.had_part) == (False, True)
    assert "a local step cannot be used step=8" in caplog.text
    shutil.rmtree(job.near[0])
    job.near[0].write_bytes(b"a disk that does not answer")
    first, second = job.restore()
    check(first, 8)
    assert not first.had_part
    assert "local storage cannot be listed" in caplog.text


def test_a_policy_that_goes_by_time_is_asked_once_for_all(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clocks of processes differ: what the primary's says is done."""
    monkeypatch.setattr(manager, "this_job", lambda: job.hosts[_ME.process])

    def work(restorer: Restorer) -> Any:
        now = [0.0]
        how: dict[str, Any] = {
            "save_local": pertinax.policies.EverySeconds(10),
            "save": pertinax.policies.EverySteps(3),
            "clock": lambda: now[0] * (1 if _ME.process == 0 else 1000),
        }
        with TieredManager(job.near[_ME.process], job.durable, **how) as tiered:
            told = []
            for step in range(1, 7):
                now[0] += 4
                told.append(tiered.save(step, {"w": np.arange(3) + step}))
                tiered.wait(60.0)
            return told

    near = [True, False, False, True, False, False]
    far = [False, False, True] * 2
    assert job.together(work) == [list(zip(near, far, strict=True))] * 2


def test_a_failed_save_is_raised_at_the_same_step_everywhere(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it was told before."""
    monkeypatch.setattr(manager, "this_job", lambda: job.hosts[_ME.process])
    bad = threading.Event()
    together = threading.Barrier(COUNT, timeout=60)
    real = LocalStore.sync_dir

    def sync_dir(store: LocalStore, path: str) -> None:
        if bad.is_set() and str(job.near[1]) in path:
            raise OSError(5, "the disk is bad", path)
        real(store, path)

    monkeypatch.setattr(LocalStore, "sync_dir", sync_dir)

    def work(restorer: Restorer) -> Any:
        told = []

        def note(what: Callable[[], Any]) -> None:
            try:
                what()
                told.append("done")
            except PertinaxError as error:
                told.append(type(error).__name__)

        with TieredManager(job.near[_ME.process], job.durable, save_local=1) as tiered:
            state = {"w": np.arange(3)}
            together.wait()
            bad.set()
            note(lambda: tiered.save(1, state))
            if _ME.process == 0:
                note(tiered.wait)
            for thread in [one for one in threading.enumerate() if "pertinax-save" in one.name]:
                thread.join(60)
            together.wait()
            bad.clear()
            note(lambda: tiered.save(2, state))
            note(lambda: tiered.save(3, state))
            note(tiered.wait)
            return told, tiered.steps()

    first, second = job.together(work)
    assert first == (["done", "PeerFailed", "PeerFailed", "done", "done"], [3])
    assert second == (["done", "StorageError", "done", "done"], [3])


def test_another_directory_can_be_looked_into(tmp_path: Path) -> None:
    with pertinax.TieredManager(
        tmp_path / "near", tmp_path / "durable", save=1, save_local=1
    ) as manager:
        manager.save(3, state_at(3))
    for place in ("near", "durable"):
        before = sorted((tmp_path / place).rglob("*"))
        restorer = look_into(tmp_path / place, PlainNaming())
        found = restorer.restore(state_at(0), None, LoadOptions())
        assert found is not None
        check(found, 3)
        assert sorted((tmp_path / place).rglob("*")) == before


def test_a_part_of_one_process_is_no_durable_step(job: Job) -> None:
    job.save(7, far=False)
    assert look_into(job.near[0], PlainNaming()).steps() == [7]
    keep_rows(job.near[0] / "7", lambda leaf, at: at % 2 == 0)
    assert look_into(job.near[0], PlainNaming()).steps() == []
