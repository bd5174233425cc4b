# SPDX-License-Identifier: Apache-2.0
"""What is saved comes back: every kind of tree and leaf, through every way of saving and
loading.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pertinax
from pertinax._store.memory import MemoryStore
from pertinax.testing import trees as forest
from pertinax.testing.trees import differences, filled

QUICK = settings(
    deadline=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.function_scoped_fixture,
    ],
)


def into_memory(tree, **options):
    store = MemoryStore()
    pertinax.save("/c", tree, store=store, **options)
    return store


@settings(QUICK, max_examples=120)
@given(forest.trees())
def test_any_tree_comes_back_exactly(tree):
    store = into_memory(tree)
    assert differences(tree, pertinax.load("/c", store=store)) == []
    assert differences(tree, pertinax.load("/c", tree, store=store)) == []
    assert pertinax.verify("/c", store=store).ok
    pertinax.describe("/c", store=store)


@settings(QUICK, max_examples=40)
@given(forest.trees(), st.sampled_from(["none", "zstd"]), st.sampled_from([None, 16, 64, 1 << 20]))
def test_any_tree_comes_back_from_a_background_save_in_small_chunks(tree, compression, chunk_bytes):
    store = MemoryStore()
    pending = pertinax.save_async(
        "/c", tree, store=store, compression=compression, chunk_bytes=chunk_bytes
    )
    assert pending.result() == "/c"
    assert differences(tree, pertinax.load("/c", store=store, mmap=False)) == []
    assert pertinax.verify("/c", store=store).ok


@settings(QUICK, max_examples=15)
@given(tree=forest.trees(), mmap=st.booleans())
def test_any_tree_comes_back_from_a_disk(tmp_path, tree, mmap):
    path = pertinax.save(tmp_path / "c", tree, exists="replace")
    assert differences(tree, pertinax.load(path, mmap=mmap)) == []


ALL_DTYPES = [*forest.PLAIN_DTYPES, *forest.EXTENSION_DTYPES, *forest.FOREIGN_DTYPES]
WAYS = [
    dict(zip(("compression", "chunk_bytes", "mmap", "asynchronous"), values, strict=True))
    for values in itertools.product(("none", "zstd"), (None, 4096), (True, False), (True, False))
]


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(map(str, way.values())))
def test_every_dtype_small_and_large_through_every_way(tmp_path, way):
    tree = {
        name: [
            filled(shape, name, seed)
            for seed, shape in enumerate([(), (0, 3), (5,), (3, 0), (130, 257), (64, 600)])
        ]
        for name in ALL_DTYPES
    }
    options = {"compression": way["compression"], "chunk_bytes": way["chunk_bytes"]}
    if way["asynchronous"]:
        pertinax.save_async(tmp_path / "c", tree, **options).result()
    else:
        pertinax.save(tmp_path / "c", tree, **options)
    assert differences(tree, pertinax.load(tmp_path / "c", mmap=way["mmap"])) == []
    assert differences(tree, pertinax.load(tmp_path / "c", tree, mmap=way["mmap"])) == []
    assert pertinax.verify(tmp_path / "c").ok


@pytest.mark.parametrize("name", forest.JAX_DTYPES)
def test_every_dtype_of_jax_on_devices_with_another_sharding_each_way(tmp_path, name):
    devices = jax.devices()
    mesh = jax.sharding.Mesh(np.array(devices).reshape(4, 2), ("x", "y"))
    host = filled((8, 6), name, 1)

    def laid_out(*spec):
        return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))

    pertinax.save(tmp_path / "c", jax.device_put(host, laid_out("x", "y")))
    wanted = jax.ShapeDtypeStruct((8, 6), host.dtype, sharding=laid_out(("y", "x"), None))
    loaded = pertinax.load(tmp_path / "c", wanted)
    assert loaded.sharding == wanted.sharding
    assert differences(jnp.asarray(host), jnp.asarray(np.asarray(loaded))) == []


@pytest.mark.parametrize(
    "leaf",
    [
        None,
        True,
        7,
        -(1 << 63),
        1 << 63,
        1 << 300,
        1.5,
        -0.0,
        float("nan"),
        2j,
        "",
        "x\udc80y",
        b"",
        b"\0x",
        [],
        (),
        {},
    ],
    ids=repr,
)
def test_a_bare_leaf_or_empty_container_is_a_whole_tree(tmp_path, leaf):
    pertinax.save(tmp_path / "c", leaf)
    assert differences(leaf, pertinax.load(tmp_path / "c")) == []
    assert pertinax.verify(tmp_path / "c").ok


@pytest.mark.parametrize(
    "tree", [{"n": 10**5000}, {"m": -(10**9000)}, {(10**4400,): 1}, {10**4400: 1}]
)
def test_integers_that_python_cannot_write_as_text_are_refused_before_anything_is_written(
    tmp_path, tree
):
    with pytest.raises(pertinax.errors.UnsupportedLeaf):
        pertinax.save(tmp_path / "c", tree)
    assert list(tmp_path.iterdir()) == []
    longest = {"n": -(10**4200), 10**4200: 1}
    pertinax.save(tmp_path / "c", longest)
    assert pertinax.load(tmp_path / "c") == longest


@pytest.mark.parametrize("array", ["bare", "zero", "scalar", "key", "keys"])
def test_a_bare_array_is_a_whole_tree(tmp_path, array):
    tree = {
        "bare": jnp.arange(1 << 18, dtype=jnp.float32),
        "zero": jnp.zeros((3, 0)),
        "scalar": jnp.float32(3),
        "key": jax.random.key(3),
        "keys": jax.random.split(jax.random.key(3, impl="rbg"), 5),
    }[array]
    pertinax.save(tmp_path / "c", tree)
    assert differences(tree, pertinax.load(tmp_path / "c")) == []
    assert differences(tree, pertinax.load(tmp_path / "c", tree)) == []
    spec = jax.ShapeDtypeStruct(tree.shape, tree.dtype)
    assert differences(tree, pertinax.load(tmp_path / "c", spec)) == []


def strided(kind):
    base = np.arange(300_000, dtype=np.float64).reshape(300, 1000)
    return {
        "transposed": base.T,
        "reversed": base[::-1, ::-1],
        "stepped": base[::3, 1::2],
        "fortran": np.asfortranarray(base),
        "broadcast": np.broadcast_to(base[0], (300, 1000)),
        "unaligned": np.frombuffer(b"x" + base.tobytes(), np.uint8)[1:].view(np.float64),
        "read-only": np.frombuffer(base.tobytes(), np.float64),
        "small": base[:5, ::7].T,
        "subclass": base.view(np.matrix),
    }[kind]


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("chunk_bytes", [None, 1 << 12])
@pytest.mark.parametrize(
    "kind",
    "transposed reversed stepped fortran broadcast unaligned read-only small subclass".split(),
)
def test_arrays_of_any_memory_layout_are_stored_in_order(tmp_path, kind, chunk_bytes, compression):
    array = strided(kind)
    options = {"chunk_bytes": chunk_bytes, "compression": compression}
    pertinax.save(tmp_path / "sync", array, **options)
    pertinax.save_async(tmp_path / "async", array, **options).result()
    for name in ("sync", "async"):
        loaded = pertinax.load(tmp_path / name)
        assert type(loaded) is np.ndarray
        assert np.array_equal(loaded, np.asarray(array))


def test_loads_without_a_target_can_give_numpy_or_any_sharding(tmp_path):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    tree = {"w": jax.device_put(jnp.arange(32.0), sharding), "n": np.arange(3)}
    pertinax.save(tmp_path / "c", tree)
    assert type(pertinax.load(tmp_path / "c", arrays="numpy")["w"]) is np.ndarray
    assert pertinax.load(tmp_path / "c")["w"].sharding.device_set == {jax.devices()[0]}
    stored = pertinax.load(tmp_path / "c", sharding="stored")["w"]
    assert stored.sharding == sharding
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    assert pertinax.load(tmp_path / "c", sharding=replicated)["w"].sharding == replicated
