# SPDX-License-Identifier: Apache-2.0
"""Real Orbax restores everything that we write, without arguments."""

import collections
import logging
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pertinax
from pertinax.testing import trees as forest
from pertinax.testing.trees import Pair, filled

ocp = pytest.importorskip("orbax.checkpoint")
pytestmark = pytest.mark.interop
logging.getLogger("absl").setLevel(logging.ERROR)

QUICK = settings(
    deadline=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.function_scoped_fixture,
    ],
)


def restore(path, checkpointer=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with (checkpointer or ocp.StandardCheckpointer)() as reader:
            return reader.restore(path)


def ways(tree, below=()):
    """Leaves of a tree of ours, in order, with the type that Orbax has for them."""
    if isinstance(tree, dict):
        for key, child in tree.items():
            yield from ways(child, (*below, str(key)))
    elif isinstance(tree, list | tuple):
        names = getattr(tree, "_fields", range(len(tree)))
        for name, child in zip(names, tree, strict=True):
            yield from ways(child, (*below, str(name)))
    elif tree is not None:
        yield below, tree


def found_in(tree, below=()):
    if isinstance(tree, dict):
        for key, child in tree.items():
            yield from found_in(child, (*below, str(key)))
    elif isinstance(tree, list | tuple):
        for i, child in enumerate(tree):
            yield from found_in(child, (*below, str(i)))
    elif tree is not None:
        yield below, tree


def as_numbers(leaf):
    """What Orbax gives back for a leaf of ours, as bytes or text."""
    if isinstance(leaf, str):
        return leaf
    if isinstance(leaf, bytes):
        return np.frombuffer(leaf, np.uint8).tobytes()
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if type(leaf) is int and not -(1 << 63) <= leaf < 1 << 63:
        return str(leaf)
    return np.asarray(leaf).tobytes()


def same_leaves(ours, theirs):
    """Multisets, for Orbax orders and renames keys as it must."""
    a = collections.Counter(as_numbers(leaf) for _, leaf in ours)
    b = collections.Counter(as_numbers(leaf) for _, leaf in theirs)
    assert a == b


# What Orbax itself can hold: its own dtypes, and no lone surrogates in what it hands to JSON.
def orbax_leaves():
    dtypes = st.sampled_from(
        [*forest.PLAIN_DTYPES, "bfloat16", "float8_e4m3fn", "float8_e5m2", "int4"]
    )
    arrays = st.builds(filled, forest.shapes(2, 5), dtypes, st.integers(0, 999))
    texts = st.text(max_size=8)
    return st.one_of(
        arrays.filter(lambda a: a.size),
        forest.jax_arrays().filter(lambda a: a.size),
        forest.prng_keys(),
        st.booleans(),
        st.integers(-(1 << 62), 1 << 62),
        st.integers(1 << 64, 1 << 80),
        st.floats(),
        texts,
        st.sampled_from(["a~b", "~1", "a/b", ""]),
        st.binary(min_size=1, max_size=5),
    )


@settings(QUICK, max_examples=30)
@given(
    tree=st.dictionaries(
        forest.dict_keys(), forest.trees(orbax_leaves(), max_leaves=6), min_size=1, max_size=4
    )
)
def test_any_tree_of_ours_is_restored_by_orbax(tmp_path, tree):
    leaves = list(ways(tree))
    if not leaves:
        return
    path = pertinax.save(tmp_path / "c", tree, exists="replace")
    same_leaves(leaves, found_in(restore(path)))


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("chunk_bytes", [None, 1 << 12])
def test_large_and_sharded_arrays_are_restored(tmp_path, compression, chunk_bytes):
    mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(4, 2), ("x", "y"))

    def laid_out(array, *spec):
        return jax.device_put(
            array, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
        )

    tree = {
        "both": laid_out(filled((64, 512), "int32", 1), "x", "y"),
        "one": laid_out(filled((64, 512), "int32", 2), ("y", "x")),
        "replicated": laid_out(filled((300, 300), "int32", 3)),
        "partly": laid_out(filled((64, 64), "int32", 4), None, "y"),
        "numpy": filled((1000, 77), "int64", 5),
        "scalar": jnp.int32(5),
        "tiny": np.arange(3),
    }
    path = pertinax.save(tmp_path / "c", tree, compression=compression, chunk_bytes=chunk_bytes)
    restored = restore(path)
    assert set(restored) == set(tree)
    for name, leaf in tree.items():
        assert np.array_equal(np.asarray(restored[name]), np.asarray(leaf)), name
        if isinstance(leaf, jax.Array) and len(leaf.devices()) > 1:
            assert restored[name].sharding.is_equivalent_to(leaf.sharding, leaf.ndim), name


@pytest.mark.parametrize(
    "tree",
    [
        {"a/b": 1, "a": {"b": 2}},
        {"a.b": 1, "a": {"b": 2}},
        {1: 5, "1": 6},
        {"s": "x", "s/t": "y", "~": "z"},
        {"empty": {}, "list": [], "none": None, "x": 1, "pair": Pair({}, 5)},
        {"nested": {"deep": [{"x": (np.arange(3), "t")}]}},
        {"..": 1, ".": 2, "": 3},
        {"a b": 1, "ü": "ü", "\n": 2},
        {"/": 1, "//": 2, "a/": np.arange(3), "a-": 4, "b/": {"c/": 5, "d": "text"}, "s/": "t"},
    ],
    ids=str,
)
def test_odd_names_lose_no_leaf(tmp_path, tree):
    path = pertinax.save(tmp_path / "c", tree)
    same_leaves(ways(tree), found_in(restore(path)))


def test_plain_names_come_back_under_their_names(tmp_path):
    tree = {
        "params": {"w": np.arange(6.0).reshape(2, 3)},
        "list": [1, 2.5],
        "name": "n",
        "none": None,
        "e": {},
    }
    restored = restore(pertinax.save(tmp_path / "c", tree))
    assert restored["params"]["w"].tolist() == tree["params"]["w"].tolist()
    assert [float(x) for x in restored["list"]] == [1, 2.5]
    assert restored["name"] == "n"
    assert restored["none"] is None
    assert restored["e"] == {}


def test_orbax_restores_into_a_target_of_its_own(tmp_path):
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("x",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    tree = {"w": jnp.arange(64.0), "opt": Pair(jnp.ones(8), (jnp.int32(3), None))}
    path = pertinax.save(tmp_path / "c", tree)
    target = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding if x.ndim else None),
        tree,
    )
    with ocp.StandardCheckpointer() as reader:
        restored = reader.restore(path, target)
    assert restored["w"].sharding == sharding
    assert type(restored["opt"]) is Pair
    assert jax.tree.all(jax.tree.map(np.array_equal, tree, restored))


def test_a_keys_array_comes_back_as_keys(tmp_path):
    tree = {"k": jax.random.key(3), "r": jax.random.split(jax.random.key(1, impl="rbg"), 4)}
    restored = restore(pertinax.save(tmp_path / "c", tree))
    for name, keys in tree.items():
        assert jnp.issubdtype(restored[name].dtype, jax.dtypes.prng_key)
        assert np.array_equal(jax.random.key_data(restored[name]), jax.random.key_data(keys))
