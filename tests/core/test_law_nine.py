# SPDX-License-Identifier: Apache-2.0
"""When `save_async` returns, the caller may donate, delete and overwrite everything that was
passed in.
"""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pertinax
from pertinax._store.memory import MemoryStore
from pertinax.errors import SnapshotChanged
from pertinax.testing.trees import differences

LARGE = 1 << 15  # elements: enough to be held, not packed


class GatedStore:
    """A memory store that begins to write only when the gate is opened."""

    def __init__(self):
        self.inner = MemoryStore()
        self.gate = threading.Event()

    def create(self, path, length=0):
        assert self.gate.wait(60)
        return self.inner.create(path, length)

    def __getattr__(self, name):
        return getattr(self.inner, name)


def aligned(shape, dtype=np.float32, align=64):
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.zeros(size + align, np.uint8)
    start = -raw.ctypes.data % align
    return raw[start : start + size].view(dtype).reshape(shape)


def sharding(*spec):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))


def random_leaf(rng):
    size = int(rng.choice([3, 1000, LARGE]))
    host = rng.standard_normal(size * 8).astype(np.float32)
    kind = rng.integers(7)
    if kind == 0:
        return host
    if kind == 1:
        return host[:: int(rng.integers(1, 4))]
    if kind == 2:
        return host.reshape(8, -1).T
    if kind == 3:
        return jnp.asarray(host) + 1
    if kind == 4:
        return jax.device_put(host.copy(), sharding("x")) + 1
    if kind == 5:
        return jax.device_put(jnp.asarray(host), sharding())
    return jax.random.split(jax.random.key(int(rng.integers(99))), 5)


def harm(leaf, rng):
    if isinstance(leaf, np.ndarray):
        (leaf.base if leaf.base is not None else leaf)[...] = -7
    elif rng.integers(2) or jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf.delete()
    else:
        jax.jit(lambda x: x * 3 - 1, donate_argnums=0)(leaf).block_until_ready()


def plain_copy(leaf):
    if isinstance(leaf, jax.Array):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(
                np.array(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf)
            )
        return jnp.asarray(np.array(leaf))
    return leaf.copy()


@pytest.mark.slow
@pytest.mark.parametrize("snapshot", ["hold", "copy"])
@pytest.mark.parametrize("seed", range(10))
def test_whatever_happens_to_the_leaves_the_old_values_are_stored(seed, snapshot):
    rng = np.random.default_rng(seed)
    for _ in range(10):
        store = GatedStore()
        tree = {"leaves": [random_leaf(rng) for _ in range(rng.integers(1, 6))], "n": 5}
        wanted = jax.tree.map(lambda x: x if isinstance(x, int) else plain_copy(x), tree)
        options = {
            "chunk_bytes": [None, 1 << 14][rng.integers(2)],
            "compression": ["none", "zstd"][rng.integers(2)],
        }
        pending = pertinax.save_async("/c", tree, store=store, snapshot=snapshot, **options)
        for leaf in tree["leaves"]:
            harm(leaf, rng)
        del leaf, tree
        junk = [
            jnp.full(LARGE * 8, -1.0).block_until_ready() for _ in range(4)
        ]  # reuses any memory that was freed
        store.gate.set()
        pending.result()
        del junk
        assert differences(wanted, pertinax.load("/c", store=store.inner)) == []


def aliased(seed):
    """A `jax.Array` that shares the memory of a numpy array; None if JAX made a copy."""
    host = aligned((LARGE * 4,))
    host[:] = np.random.default_rng(seed).standard_normal(len(host))
    array = jax.device_put(host)
    array.block_until_ready()
    shared = np.asarray(array).ctypes.data == host.ctypes.data
    return (host, array) if shared else None


@pytest.mark.parametrize("where", ["start", "end", "everywhere"])
def test_a_write_into_memory_that_jax_aliases_is_noticed(where):
    found = aliased(1)
    if found is None:
        pytest.skip("this jax copies on device_put")
    host, array = found
    store = GatedStore()
    pending = pertinax.save_async("/c", {"w": array, "n": 1}, store=store)
    host[{"start": slice(0, 4), "end": slice(-4, None), "everywhere": slice(None)}[where]] += 1
    store.gate.set()
    with pytest.raises(SnapshotChanged, match="'w'"):
        pending.result()
    with pytest.raises(pertinax.errors.CheckpointNotFound):
        pertinax.load("/c", store=store.inner)
    assert store.inner.list_dir("/") == []


class ScribblingStore:
    """A memory store that has an array written to as soon as the first bytes of it have come."""

    def __init__(self, array):
        self.inner = MemoryStore()
        self.array = array

    def create(self, path, length=0):
        writer = self.inner.create(path, length)
        write_at, array = writer.write_at, self.array

        class Scribbling:
            def write_at(self, offset, buffers):
                write_at(offset, buffers)
                array[:] += 1

            def __getattr__(self, name):
                return getattr(writer, name)

            def __enter__(self):
                return self

            def __exit__(self, *told):
                return writer.__exit__(*told)

        return Scribbling()

    def __getattr__(self, name):
        return getattr(self.inner, name)


def test_an_array_that_changes_between_its_checksum_and_the_disk_is_not_published():
    host = np.arange(LARGE * 4, dtype=np.float32)
    store = ScribblingStore(host)
    with pytest.raises(SnapshotChanged, match="leaf 'w' was written to"):
        pertinax.save("/c", {"w": host}, store=store)
    assert store.inner.list_dir("/") == []


def test_a_full_copy_stores_the_old_values_of_aliased_memory():
    found = aliased(2)
    if found is None:
        pytest.skip("this jax copies on device_put")
    host, array = found
    old = host.copy()
    store = GatedStore()
    pending = pertinax.save_async("/c", array, store=store, snapshot="copy")
    host[:] = 0
    store.gate.set()
    pending.result()
    assert np.array_equal(np.asarray(pertinax.load("/c", store=store.inner)), old)


def test_small_aliased_memory_is_copied_at_the_call():
    host = aligned((64,))
    host[:] = 3
    store = GatedStore()
    pending = pertinax.save_async("/c", jax.device_put(host), store=store)
    host[:] = 4
    store.gate.set()
    pending.result()
    assert (np.asarray(pertinax.load("/c", store=store.inner)) == 3).all()


@pytest.mark.parametrize("dtype", ["int32", "bool", "float32", "complex64"])
def test_one_array_in_two_places_is_two_leaves(dtype):
    array = jnp.arange(LARGE).astype(dtype)
    host = np.arange(LARGE).astype(dtype)
    store = GatedStore()
    pending = pertinax.save_async("/c", {"a": array, "b": array, "c": host, "d": host}, store=store)
    array.delete()
    host[:] = 0
    store.gate.set()
    pending.result()
    loaded = pertinax.load("/c", store=store.inner)
    wanted = np.arange(LARGE).astype(dtype)
    assert all(np.array_equal(np.asarray(leaf), wanted) for leaf in loaded.values())
    loaded["c"][:] = 0
    assert np.array_equal(loaded["d"], wanted)


def test_a_container_that_is_changed_after_the_call_changes_nothing():
    store = GatedStore()
    tree = {"a": [1, 2], "b": bytearray(b"x").decode()}
    pending = pertinax.save_async("/c", tree, store=store)
    tree["a"].append(3)
    tree["c"] = 4
    store.gate.set()
    pending.result()
    assert pertinax.load("/c", store=store.inner) == {"a": [1, 2], "b": "x"}
