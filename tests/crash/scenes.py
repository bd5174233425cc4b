# SPDX-License-Identifier: Apache-2.0
"""Trees before and after, saves that are cut, and what `load` makes of the disk."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pertinax
from pertinax._core.options import SaveOptions
from pertinax._core.prepare import prepare
from pertinax._core.write import Contents, write_checkpoint
from pertinax._plan.topology import ALONE
from pertinax._store.leftovers import clean_leftovers
from pertinax._store.memory import MemoryStore
from pertinax.errors import CheckpointNotFound
from pertinax.testing import CrashingStore, SimulatedDeath
from pertinax.testing.trees import Pair, differences

PATH = "/runs/c"


def state(mark):
    """Small and large leaves, and everything that lies in files of its own."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("x",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    return {
        "mark": mark,
        "text": f"state {mark}",
        "huge": mark + (1 << 80),
        "small": np.full(100, mark, np.int16),
        "large": jnp.full(20_000, mark, jnp.float32),
        "sharded": jax.device_put(np.full(40_000, mark, np.int32), sharding),
        "key": jax.random.key(mark),
        "pair": Pair([], {1: b"x" * mark}),
    }


OLD, NEW = state(1), state(2)


def seen(store):
    """`old`, `new` or None; any other state of the disk fails the test."""
    try:
        loaded = pertinax.load(PATH, store=store)
    except CheckpointNotFound:
        return None
    whole = {"old": OLD, "new": NEW}[{1: "old", 2: "new"}[loaded["mark"]]]
    assert differences(whole, loaded) == []
    assert pertinax.verify(PATH, store=store).ok
    return "old" if whole is OLD else "new"


def disk(tree=None):
    found = MemoryStore()
    found.make_dir("/runs")
    if tree is not None:
        pertinax.save(PATH, tree, store=found)
    return found


def save(store):
    pertinax.save(PATH, NEW, store=store)


def save_async(store):
    pertinax.save_async(PATH, NEW, store=store).result()


def save_directory(store):
    pertinax.save(PATH, NEW, store=store, layout="directory+zarr3", compression="zstd")


def save_files(store):
    """Into several data files, some of them with compressed chunks."""
    options = SaveOptions(file_bytes=50_000, compression="zstd")
    contents = Contents({"": prepare(NEW, options, "borrow", ALONE)})
    write_checkpoint(store, PATH, contents, options)


def replace_by_directory(store):
    pertinax.save(PATH, NEW, store=store, exists="replace", layout="directory+zarr2")


def replace(store):
    pertinax.save(PATH, NEW, store=store, exists="replace")


def replace_async(store):
    pertinax.save_async(PATH, NEW, store=store, exists="replace", compression="zstd").result()


def count(before, program, *, exchange=True):
    store = CrashingStore(before, exchange=exchange)
    program(store)
    return store.operations


def cuts(before, program, *, exchange, operations, limit, seed=0):
    """Every disk that a power cut at these operations may leave, with the operation's words."""
    for cut in operations:
        store = CrashingStore(before, die_at=cut, exchange=exchange)
        with pytest.raises(SimulatedDeath):
            program(store)
        for after in store.crash_states(limit, seed=cut + 1000 * seed):
            yield f"{cut}: {store.log[-1]}", after


def clean_and_save_again(after, mark=2):
    clean_leftovers(after, "/runs")
    pertinax.save(PATH, state(mark), store=after, exists="replace")
    assert differences(state(mark), pertinax.load(PATH, store=after)) == []
    assert [entry.name for entry in after.list_dir("/runs")] == ["c"]
