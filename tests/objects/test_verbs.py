# SPDX-License-Identifier: Apache-2.0
"""The verbs of the front door on a bucket."""

import contextlib
import threading

import jax.numpy as jnp
import numpy as np
import pytest

import pertinax
from pertinax._store.objects.requests import Requests
from pertinax._store.objects.store import ATTEMPT, MARKER
from pertinax.errors import (
    CheckpointExists,
    CheckpointNotFound,
    CorruptCheckpoint,
    InvalidOption,
    NotACheckpoint,
    PertinaxError,
    UnfinishedCheckpoint,
)
from pertinax.testing import SimulatedDeath
from tests.objects.buckets import FRONT, Dying, Memory, Shelf, bucket
from tests.objects.servers import ObjectServer


def tree(seed: int = 0):
    rng = np.random.default_rng(seed)
    return {
        "w": jnp.asarray(rng.standard_normal((300, 400)), jnp.float32),
        "b": [np.arange(5) + seed, "text", seed],
        "k": {"deep": jnp.ones((3,), jnp.bfloat16)},
    }


def same(one, other) -> bool:
    import jax

    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs)


@pytest.mark.interop
@pytest.mark.parametrize("layout", ["ocdbt+zarr2", "directory+zarr3"])
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_tree_comes_back_from_each_server(cloud: ObjectServer, layout, compression):
    url = f"{cloud.new_root()}/runs/first"
    state = tree()
    assert pertinax.save(url, state, layout=layout, compression=compression) == url
    assert same(pertinax.load(url, state), state)
    assert pertinax.verify(url).ok
    assert len(pertinax.describe(url).leaves) == 5
    with pytest.raises(CheckpointExists, match=r'another path, or exists="skip"$'):
        pertinax.save(url, state)
    assert pertinax.save(url, tree(1), exists="skip") == url
    assert same(pertinax.load(url, state), state)
    with pytest.raises(InvalidOption, match="delete it first"):
        pertinax.save(url, state, exists="replace")


@pytest.mark.interop
def test_a_run_lives_in_a_bucket(cloud: ObjectServer):
    root = f"{cloud.new_root()}/runs/a"
    with pertinax.Manager(root, keep=pertinax.policies.Best(2, "loss", mode="min")) as manager:
        for step in range(5):
            manager.save(step, tree(step), metrics={"loss": (step - 2) ** 2})
        manager.wait()
        assert manager.steps() == [2, 3, 4]
        manager.pin(2)
        with pytest.raises(InvalidOption, match="pinned"):
            manager.delete(2)
        manager.unpin(2)
        manager.delete(2)
    with pertinax.Manager(root) as again:
        step, state = again.resume(tree())
        assert step == 4
        assert same(state, tree(4))
    seen = [(int(s), same(s.load(tree()), tree(int(s)))) for s in _watched(root)]
    assert seen[-1] == (4, True)


def _watched(root: str):
    return pertinax.Manager.watch(root, timeout=0, poll_s=0.01, latest_only=False)


def test_a_watched_step_is_held_by_a_pin_as_long_as_it_is_looked_at():
    store = bucket(Memory(Shelf()))
    manager = pertinax.Manager("run", store=store, keep=1)
    manager.save(1, tree(1)).result()
    for step in pertinax.Manager.watch("run", timeout=0, poll_s=0.01, store=store, protect=True):
        manager.save(2, tree(2)).result()
        manager.wait()
        assert manager.steps() == [1, 2]
        assert same(step.load(tree()), tree(1))
        break
    manager.save(3, tree(3)).result()
    manager.close()
    assert manager.steps() == [3]


def test_a_pin_of_a_dead_watcher_counts_no_more():
    shelf = Shelf()
    store = bucket(Memory(shelf))
    manager = pertinax.Manager("run", store=store, keep=1)
    manager.save(1, tree(1)).result()
    dead = "deadbeef-deadbeef-deadbeef-42-42-00000000"
    shelf.late_s = -25 * 3600.0
    Memory(shelf).put(f"run/.pertinax/pins/1-held-{dead}", b"")
    shelf.late_s = 0.0
    manager.save(2, tree(2)).result()
    manager.close()
    assert manager.steps() == [2]
    assert not [key for key in shelf.objects if "/pins/" in key]


def test_a_store_with_settings_has_paths_of_its_own():
    store = pertinax.ObjectStore("memory://settings/base")
    assert pertinax.save("a/b", tree(), store=store) == "memory://settings/base/a/b"
    assert same(pertinax.load("memory://settings/base/a/b"), tree())
    assert same(pertinax.load("memory://settings/base/a/b", store=store), tree())
    with pytest.raises(InvalidOption, match="is not in the store"):
        pertinax.load("memory://elsewhere/a", store=store)


@pytest.mark.parametrize(
    "place", ["memory://", "s3:///key", "memory://b/../c", "gs://", "memory://nothing-below"]
)
def test_urls_that_mean_nothing_are_refused(place):
    with pytest.raises(InvalidOption):
        pertinax.save(place, 1)


def test_what_is_no_checkpoint_is_told_apart():
    pertinax.save("memory://apart/run/1", tree())
    with pytest.raises(CheckpointNotFound):
        pertinax.load("memory://apart/none")
    with pytest.raises(NotACheckpoint, match="looks like a root of steps"):
        pertinax.load("memory://apart/run")
    store = pertinax.ObjectStore("memory://apart")
    store.requests.delete([f"run/1/{MARKER}"])
    with pytest.raises(UnfinishedCheckpoint, match=MARKER):
        pertinax.load("memory://apart/run/1")
    with pytest.raises(CheckpointExists):
        pertinax.save("memory://apart/run/1", tree())


def test_damage_in_a_bucket_is_found():
    store = pertinax.ObjectStore("memory://damage")
    pertinax.save("memory://damage/a", tree())
    (name,) = [m.key for page in store.requests.list("a/d") for m in page]
    data = bytearray(store.requests.get(name))
    data[len(data) // 2] ^= 1
    store.requests.put(name, bytes(data))
    with pytest.raises(CorruptCheckpoint, match="checksum"):
        pertinax.load("memory://damage/a")
    assert not pertinax.verify("memory://damage/a", on_damage="report").ok


def test_a_damaged_step_is_made_anew():
    root = "memory://anew/run"
    manager = pertinax.Manager(root)
    for step in (1, 2):
        manager.save(step, tree(step)).result()
    store: Requests = pertinax.ObjectStore(root).requests
    (name,) = [m.key for page in store.list("run/2/default/d") for m in page]
    store.put(name, bytes(len(store.get(name))))
    assert manager.restore(tree(), fallback=True).step == 1
    manager.save(2, tree(5)).result()
    assert same(manager.load(2, tree()), tree(5))
    manager.close()


def test_deleting_a_step_takes_no_more_requests_than_we_say():
    """docs/object-stores.md: about 18."""
    memory = Memory(Shelf())
    with pertinax.Manager("run", store=bucket(memory)) as manager:
        manager.save(1, tree()).result()
        memory.log.clear()
        manager.delete(1)
        manager.wait()
    assert len(memory.log) <= 18, memory.log


def test_looking_at_a_root_is_one_listing_however_many_steps():
    memory = Memory(Shelf())
    store = bucket(memory)
    with pertinax.Manager("run", store=store) as manager:
        for step in range(5):
            manager.save(step, step).result()
        memory.log.clear()
        assert manager.steps() == [0, 1, 2, 3, 4]
        assert memory.log == [("list", "run")]


def test_looking_costs_as_many_requests_as_the_page_says():
    memory = Memory(Shelf())
    store = bucket(memory)
    pertinax.save("bare", tree(), store=store)
    with pertinax.Manager("run", store=store) as manager:
        manager.save(1, tree(), metrics={"loss": 1.0})
    counts = {}
    for path in ("bare", "run/1"):
        for look in (pertinax.describe, pertinax.load):
            memory.log.clear()
            look(path, store=store)
            counts[path, look.__name__] = len(memory.log)
        memory.log.clear()
        pertinax.load(path, store=store, check="read")
        counts[path, "read"] = len(memory.log)
    assert counts["bare", "describe"] == 3
    assert counts["run/1", "describe"] == 5
    for path in ("bare", "run/1"):
        data = 1
        assert counts[path, "read"] == counts[path, "describe"] + data
        assert 4 <= counts[path, "load"] - counts[path, "read"] <= 9


class Meddled(Memory):
    """Does something between two requests: before the one with this number."""

    def __init__(self, shelf: Shelf, at: int, meddle) -> None:
        super().__init__(shelf)
        self.left, self.meddle = at, meddle

    def _do(self, method, key, work):
        self.left -= 1
        if self.left == 0:
            self.meddle()
        return super()._do(method, key, work)


@pytest.mark.parametrize("at", range(1, 10))
def test_what_is_deleted_and_written_anew_while_it_is_read_is_read_again(at):
    shelf = Shelf()
    with pertinax.Manager("run", store=bucket(Memory(shelf)), background=False) as manager:
        manager.save(1, tree(1))

        def meddle() -> None:
            manager.delete(1)
            manager.wait()
            manager.save(1, tree(2))

        meddled = Meddled(shelf, at, meddle)
        found = pertinax.load("run/1", tree(), store=bucket(meddled))
        assert meddled.left <= 0
    assert same(found, tree(2)) or (at > 2 and same(found, tree(1)))


def test_notes_of_many_new_steps_are_read_at_once_and_with_few_requests():
    """200 steps that nobody has looked at yet, as after a copy; four requests for each, 16 at a
    time. The first look leaves an index, and the next takes five.
    """
    shelf = Shelf()
    copied = bucket(Memory(shelf))
    pertinax.save("run/0", {"n": 0}, store=copied)
    for step in range(1, 200):
        for key, (data, _, _) in list(shelf.objects.items()):
            if key.startswith("run/0/"):
                shelf.store(key.replace("run/0/", f"run/{step}/"), data)
    together = threading.Barrier(16)
    slow = Memory(shelf, lambda *asked: _meet(together, *asked))
    with pertinax.Manager("run", store=bucket(slow)) as manager:
        slow.log.clear()
        assert manager.latest() == 199
        assert len(slow.log) == 1
        slow.log.clear()
        assert len(manager.history()) == 200
        assert len(slow.log) <= 4 * 200 + 8
    again = Memory(shelf)
    with pertinax.Manager("run", store=bucket(again)) as manager:
        again.log.clear()
        assert len(manager.history()) == 200
        assert len(again.log) <= 5
        again.log.clear()
        assert manager.resume({"n": 1}) == (199, {"n": 0})
        assert len(again.log) <= 20, again.log


def _meet(together: threading.Barrier, method: str, key: str) -> None:
    """Wait for fifteen others; the last ones of 200 would wait in vain."""
    step = key.split("/")[1] if key.count("/") > 1 else ""
    if key.endswith("_CHECKPOINT_METADATA") and step.isdigit() and 20 <= int(step) < 36:
        together.wait(30)


@pytest.mark.crash
def test_a_run_that_dies_at_any_request_goes_on_with_what_it_had():
    def run(memory: Memory) -> None:
        with pertinax.Manager("run", store=bucket(memory), keep=1, background=False) as manager:
            manager.save(1, tree(1))
            manager.save(2, tree(2))

    counted = Dying(Shelf(), 0)
    run(counted)
    for number in range(5, counted.requests, 7):
        shelf = Shelf()
        with contextlib.suppress(SimulatedDeath, PertinaxError):
            run(Dying(shelf, number))
        shelf.late_s += 61.0
        with pertinax.Manager("run", store=bucket(Memory(shelf)), keep=1) as manager:
            step, state = manager.resume(tree())
            assert step in (0, 1, 2)
            if step:
                assert same(state, tree(step))
            manager.save(3, tree(3))
        assert manager.steps() == [3]
        assert not [key for key in shelf.objects if ATTEMPT in key or "run/1/" in key]


def test_a_bucket_needs_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.setitem(sys.modules, "obstore.exceptions", None)
    with pytest.raises(InvalidOption, match=r'pip install "pertinax\[cloud\]"'):
        pertinax.load(f"{FRONT}/a")
