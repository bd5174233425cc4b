# SPDX-License-Identifier: Apache-2.0
"""Limits on what is under way: kept where there is anything to limit, never a reason to refuse."""

import pathlib
import threading
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pertinax
from pertinax._core.open import open_checkpoint
from pertinax._core.options import LoadOptions, SaveOptions
from pertinax._core.orders import Order, carry_out
from pertinax._core.prepare import prepare
from pertinax._core.write import Contents, write_checkpoint
from pertinax._device.wishes import Wish
from pertinax._plan.topology import ALONE
from pertinax._store.local import LocalStore
from pertinax._store.workers import Workers
from pertinax.errors import InvalidOption

MIB = 1 << 20


@dataclass
class Meter:
    """How many bytes are between begin and end at a time, at most."""

    now: int = 0
    most: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, count: int) -> None:
        with self.lock:
            self.now += count
            self.most = max(self.most, self.now)

    def end(self, count: int) -> None:
        with self.lock:
            self.now -= count


class MeteredWriter:
    """A writer that reports to a meter."""

    def __init__(self, inner, meter) -> None:
        self._inner = inner
        self._meter = meter

    def write_at(self, offset, buffers):
        count = sum(memoryview(one).nbytes for one in buffers)
        self._meter.begin(count)
        try:
            self._inner.write_at(offset, buffers)
        finally:
            self._meter.end(count)

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return self._inner.__exit__(*error)


class MeteredStore:
    """A store of this machine's files that meters what is being written, and counts reads."""

    def __init__(self) -> None:
        self.meter = Meter()
        self.reads = []
        self._inner = LocalStore()

    def create(self, path, length=0):
        return MeteredWriter(self._inner.create(path, length), self.meter)

    def open(self, path):
        return CountingReader(self._inner.open(path), self.reads)

    def __getattr__(self, name):
        return getattr(self._inner, name)


class CountingReader:
    def __init__(self, inner, reads) -> None:
        self._inner = inner
        self._reads = reads

    def read_into(self, offset, buffer):
        self._reads.append(len(buffer))
        self._inner.read_into(offset, buffer)

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return self._inner.__exit__(*error)


def save(path, tree, **how):
    store = MeteredStore()
    options = SaveOptions(threads=4, **how)
    contents = Contents({"": prepare(tree, options, "borrow", ALONE)})
    write_checkpoint(store, str(path), contents, options)
    return store.meter.most


TREE = {f"p{i}": np.arange(3 * MIB // 8) + i for i in range(8)}


@pytest.mark.parametrize("layout", ["ocdbt+zarr2", "directory+zarr3"])
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_no_more_than_the_budget_is_being_written(tmp_path, layout, compression):
    most = save(tmp_path / "c", TREE, layout=layout, compression=compression, budget_bytes=4 * MIB)
    assert 0 < most <= 4 * MIB
    assert np.array_equal(pertinax.load(tmp_path / "c")["p3"], TREE["p3"])


def test_what_exceeds_the_whole_budget_goes_alone(tmp_path):
    most = save(tmp_path / "c", TREE, budget_bytes=1)
    assert most <= 3 * MIB
    assert np.array_equal(pertinax.load(tmp_path / "c")["p7"], TREE["p7"])


def test_a_large_load_is_not_passed_by_small_ones_for_ever():
    """Whoever comes first gets its turn first, whatever it wants to carry."""
    order = []
    with Workers(3, "test", budget_bytes=10) as workers:
        entered = threading.Event()
        leave = threading.Event()

        def first():
            with workers.carrying(6):
                entered.set()
                leave.wait(30)

        def large():
            with workers.carrying(10):
                order.append("large")

        holding = workers.submit(first)
        entered.wait(30)
        waiting = workers.submit(large)
        leave.set()
        holding.result()
        waiting.result()
        with workers.carrying(99):
            order.append("larger than all")
    assert order == ["large", "larger than all"]


@pytest.mark.row("R016")
def test_leaves_are_read_a_budget_at_a_time(tmp_path):
    pertinax.save(tmp_path / "c", TREE)

    def reads_with(budget_bytes):
        store = MeteredStore()
        opened = open_checkpoint(str(tmp_path / "c"), store=store)
        store.reads.clear()
        options = LoadOptions(mmap=False, budget_bytes=budget_bytes)
        orders = [Order(i, Wish("numpy")) for i in range(len(TREE))]
        values = carry_out(opened, orders, options)
        assert all(np.array_equal(*pair) for pair in zip(values, TREE.values(), strict=True))
        return store.reads

    assert max(reads_with(1 << 30)) > 6 * MIB  # neighbours are read together ...
    assert max(reads_with(6 * MIB)) <= 6 * MIB + 8192  # ... two at a time
    assert max(reads_with(1)) <= 3 * MIB + 4096  # or each alone, however large


@pytest.mark.parametrize("option", ["budget_bytes", "file_bytes"])
def test_limits_that_mean_nothing_are_refused(option):
    with pytest.raises(InvalidOption, match=option):
        SaveOptions(**{option: -1})


def test_accelerators_and_hosts_alike(tmp_path):
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("x",))
    layout = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    tree = {"sharded": jax.device_put(jnp.arange(MIB, dtype=jnp.float32), layout)}
    assert save(tmp_path / "c", tree, budget_bytes=MIB, chunk_bytes=300_000) <= MIB
    assert np.array_equal(pertinax.load(tmp_path / "c")["sharded"], tree["sharded"])


@pytest.mark.skipif(not pathlib.Path("/proc/self/maps").exists(), reason="asks Linux")
def test_of_many_files_the_large_ones_are_mapped_and_the_small_ones_read(tmp_path):
    tree = {f"small{i}": np.arange(10) + i for i in range(50)} | {"large": np.arange(50_000)}
    path = pertinax.save(tmp_path / "c", tree, layout="directory+zarr2")
    loaded = pertinax.load(path)
    maps = [
        line for line in pathlib.Path("/proc/self/maps").read_text().splitlines() if path in line
    ]
    assert {line.rsplit("/", 2)[1] for line in maps} == {"large"}
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded, tree))
    del loaded
