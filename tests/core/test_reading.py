# SPDX-License-Identifier: Apache-2.0
"""What is read: only what is needed, once; what is mapped stays good, and is nobody else's."""

import os
import resource
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import pertinax
from pertinax._store.local import LocalStore
from pertinax.errors import InvalidOption
from pertinax.testing.trees import differences, filled
from tests.core.scenes import CountingStore


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("chunk_bytes", [None, 1 << 16])
def test_a_selection_reads_only_its_bytes(compression, chunk_bytes):
    tree = {
        f"layer{i}": {"w": filled((256, 300), "float32", i), "b": filled((300,), "float32", i)}
        for i in range(20)
    }
    store = CountingStore()
    pertinax.save("/c", tree, store=store, compression=compression, chunk_bytes=chunk_bytes)
    total = store.inner.stat("/c/d/" + store.list_dir("/c/d")[0].name).length
    for select, count in (("layer7", 1), ("layer1*", 11), ("**/w", 20), ("**", 20)):
        store.ranges.clear()
        loaded = pertinax.load("/c", select=select, store=store, mmap=False)
        assert len(loaded) == count
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(loaded))
        assert store.data_bytes() <= 1.05 * needed
        assert store.data_bytes() <= total
        assert store.read_twice() == 0
        for name, layer in loaded.items():
            assert all(differences(tree[name][key], layer[key]) == [] for key in layer)


@pytest.mark.wd("WD-28")
def test_describe_reads_no_array_byte():
    store = CountingStore()
    pertinax.save("/c", {"w": filled((1 << 16,), "float32", 1), "s": "x"}, store=store)
    store.ranges.clear()
    text = str(pertinax.describe("/c", store=store))
    assert store.data_bytes() == 0
    assert "f32[65536]" in text
    assert "256.0 KiB" in text


@pytest.fixture
def big(tmp_path):
    tree = {
        "jax": jnp.arange(1 << 18, dtype=jnp.float32),
        "numpy": np.arange(1 << 18),
        "small": jnp.arange(9.0),
    }
    return tree, pertinax.save(tmp_path / "c", tree)


@pytest.mark.parametrize("mmap", [True, False])
def test_loaded_arrays_stay_good_when_the_checkpoint_goes(big, mmap):
    tree, path = big
    loaded = pertinax.load(path, mmap=mmap)
    shutil.rmtree(path)
    assert differences(tree, loaded) == []


@pytest.mark.parametrize("mmap", [True, False])
def test_loaded_arrays_stay_good_when_the_checkpoint_is_replaced(big, mmap):
    tree, path = big
    loaded = pertinax.load(path, mmap=mmap)
    for i in range(3):
        pertinax.save(path, jax.tree.map(lambda x, i=i: x * 0 + i, tree), exists="replace")
    assert differences(tree, loaded) == []


def test_what_is_loaded_can_be_saved_over_its_own_checkpoint(big):
    tree, path = big
    for _ in range(3):
        pertinax.save(path, pertinax.load(path), exists="replace")
        pertinax.save_async(path, pertinax.load(path), exists="replace").result()
    assert differences(tree, pertinax.load(path)) == []


def whole_file(path):
    (name,) = os.listdir(path + "/d")
    with open(f"{path}/d/{name}", "rb") as file:
        return file.read()


@pytest.mark.parametrize("mmap", [True, False])
def test_writing_into_what_was_loaded_never_reaches_the_file_nor_another_load(big, mmap):
    tree, path = big
    before = whole_file(path)
    loaded, other = pertinax.load(path, mmap=mmap), pertinax.load(path, mmap=mmap)
    loaded["numpy"][:] = -1
    assert loaded["numpy"].flags.writeable
    assert whole_file(path) == before
    assert differences(tree, other) == []
    assert pertinax.verify(path).ok


@pytest.mark.parametrize("mmap", [True, False])
def test_loaded_arrays_can_be_donated(big, mmap):
    tree, path = big
    before = whole_file(path)
    step = jax.jit(lambda state: jax.tree.map(lambda x: x * 2 + 1, state), donate_argnums=0)
    loaded, other = pertinax.load(path, mmap=mmap), pertinax.load(path, mmap=mmap)
    state = {"jax": loaded["jax"], "small": loaded["small"]}
    for _ in range(4):
        state = step(state)
    expected = np.asarray(tree["jax"])
    for _ in range(4):
        expected = expected * 2 + 1
    assert np.array_equal(np.asarray(state["jax"]), expected)
    assert whole_file(path) == before
    assert differences(tree, other) == []


@pytest.mark.skipif(not hasattr(jax, "shard_map"), reason="JAX before 0.6.1 has it elsewhere")
@pytest.mark.parametrize("mmap", [True, False])
def test_replicas_of_a_loaded_array_can_be_donated_and_become_different(tmp_path, mmap):
    """Every device may write into its own replica: they must not share memory that XLA takes for
    its own.
    """
    host = filled((1 << 16,), "int32", 1)
    mesh = Mesh(np.array(jax.devices()), ("x",))
    path = pertinax.save(tmp_path / "c", host)
    replicated = jax.ShapeDtypeStruct(
        host.shape, host.dtype, sharding=NamedSharding(mesh, PartitionSpec())
    )

    def differ(x):
        return x + jax.lax.axis_index("x").astype(jnp.int32)

    step = jax.jit(
        jax.shard_map(differ, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec("x")),
        donate_argnums=0,
    )
    loaded = pertinax.load(path, replicated, mmap=mmap)
    out = np.asarray(step(loaded)).reshape(8, -1)
    for i in range(8):
        assert np.array_equal(out[i], host + i)
    again = pertinax.load(path, replicated, mmap=mmap)
    same = jax.jit(
        jax.shard_map(
            lambda x: differ(differ(x)),
            mesh=mesh,
            in_specs=PartitionSpec(),
            out_specs=PartitionSpec(),
            check_vma=False,
        ),
        donate_argnums=0,
    )
    changed = same(again)
    for i, shard in enumerate(sorted(changed.addressable_shards, key=lambda s: s.device.id)):
        assert np.array_equal(np.asarray(shard.data), host + 2 * i)


def test_a_mapped_array_uses_the_file_s_own_pages(big):
    _, path = big
    loaded = pertinax.load(path)
    with open("/proc/self/maps") as maps:
        mapped = [
            tuple(int(x, 16) for x in line.split()[0].split("-")) for line in maps if path in line
        ]
    address = loaded["numpy"].ctypes.data
    assert any(a <= address < b for a, b in mapped)


def test_aligned_buffers_are_taken_by_jax_without_a_copy(big):
    _, path = big
    loaded = pertinax.load(path, mmap=False)
    assert loaded["numpy"].ctypes.data % 64 == 0
    assert loaded["jax"].unsafe_buffer_pointer() % 64 == 0


def open_files():
    return len(os.listdir("/proc/self/fd"))


def test_loads_leave_no_files_open_and_no_threads(big):
    tree, path = big
    kept = [pertinax.load(path) for _ in range(3)]
    files, threads = open_files(), threading.active_count()
    for mmap in (True, False) * 10:
        kept.append(pertinax.load(path, mmap=mmap))
        pertinax.verify(path)
        pertinax.describe(path)
    assert open_files() == files
    assert threading.active_count() == threads
    assert differences(tree, kept[-1]) == []


@pytest.mark.parametrize("mmap", [True, False])
def test_a_checkpoint_of_more_files_than_a_program_may_open_is_read(tmp_path, mmap):
    ocp = pytest.importorskip("orbax.checkpoint")
    tree = {f"k{i}": np.arange(3.0) + i for i in range(300)}
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False)) as checkpointer:
        checkpointer.save(tmp_path / "c", tree)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_files() + 150, limits[1]))
    try:
        loaded = pertinax.load(tmp_path / "c", mmap=mmap)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert all(np.array_equal(loaded[key], tree[key]) for key in tree)


@pytest.mark.parametrize("threads", [0, -1])
def test_verifying_with_no_thread_is_refused_and_does_not_wait_for_ever(big, threads):
    with pytest.raises(InvalidOption, match="threads"):
        pertinax.verify(big[1], threads=threads)


def test_a_load_while_the_checkpoint_is_being_replaced_sees_one_whole_state(tmp_path):
    path = str(tmp_path / "c")

    def state(i):
        return {"n": i, "a": np.full(40_000, i), "b": jnp.full(40_000, i), "s": str(i)}

    pertinax.save(path, state(0))
    stop = threading.Event()
    failures = []

    def write():
        i = 0
        while not stop.is_set():
            i += 1
            try:
                pertinax.save(path, state(i), exists="replace")
            except BaseException as error:
                failures.append(error)
                return

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    try:
        for turn in range(150):
            loaded = pertinax.load(path, mmap=bool(turn % 2))
            assert differences(state(loaded["n"]), loaded) == []
            seen.add(loaded["n"])
            assert pertinax.verify(path).ok
            pertinax.describe(path)
    finally:
        stop.set()
        writer.join()
    assert failures == []
    assert len(seen) > 3


def test_a_store_of_the_caller_is_used_for_everything(tmp_path):
    store = CountingStore(LocalStore(), maps=True)
    pertinax.save(str(tmp_path / "c"), {"a": 1}, store=store)
    assert pertinax.load(str(tmp_path / "c"), store=store) == {"a": 1}
    assert store.opened
