# SPDX-License-Identifier: Apache-2.0
"""Arrays laid out in any way come back in any other, each stored byte read once."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

import pertinax
from pertinax.testing import trees as forest
from pertinax.testing.trees import differences, filled
from tests.core.scenes import CountingStore

QUICK = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
SHAPES = [(), (8,), (16, 24), (8, 3, 4), (24, 1), (1, 8), (0, 8), (840,), (7, 5)]


@st.composite
def two_layouts(draw):
    shape = draw(st.sampled_from(SHAPES))
    return shape, draw(forest.shardings(shape)), draw(forest.shardings(shape))


@settings(QUICK, max_examples=150)
@given(
    two_layouts(),
    st.sampled_from([None, 16, 100]),
    st.booleans(),
    st.sampled_from(["none", "zstd"]),
)
def test_any_layout_comes_back_in_any_other(case, chunk_bytes, asynchronous, compression):
    shape, before, after = case
    host = filled(shape, "int32", 3)
    store = CountingStore()
    array = jax.device_put(host, before)
    if asynchronous:
        pertinax.save_async(
            "/c", array, store=store, chunk_bytes=chunk_bytes, compression=compression
        ).result()
    else:
        pertinax.save("/c", array, store=store, chunk_bytes=chunk_bytes, compression=compression)
    loaded = pertinax.load(
        "/c", jax.ShapeDtypeStruct(shape, host.dtype, sharding=after), store=store, mmap=False
    )
    assert loaded.sharding == after
    assert loaded.committed
    assert np.array_equal(np.asarray(loaded), host)
    for shard in loaded.addressable_shards:
        assert np.array_equal(np.asarray(shard.data), host[shard.index])
    assert store.read_twice() == 0
    assert differences(jnp.asarray(host), pertinax.load("/c", store=store)) == []
    stored = pertinax.load("/c", sharding="stored", store=store)
    assert stored.sharding == before
    assert np.array_equal(np.asarray(stored), host)
    assert pertinax.verify("/c", store=store).ok


@settings(QUICK, max_examples=25)
@given(
    forest.shardings((8, 16)), forest.shardings((8, 16)), st.sampled_from(["threefry2x32", "rbg"])
)
def test_arrays_of_keys_are_laid_out_like_any_other(before, after, impl):
    keys = jax.device_put(jax.random.split(jax.random.key(1, impl=impl), (8, 16)), before)
    store = CountingStore()
    pertinax.save("/c", keys, store=store)
    loaded = pertinax.load(
        "/c", jax.ShapeDtypeStruct(keys.shape, keys.dtype, sharding=after), store=store
    )
    assert differences(keys, loaded) == []
    assert loaded.sharding.is_equivalent_to(after, 2)
    assert differences(keys, pertinax.load("/c", sharding="stored", store=store)) == []


def mesh_of(count, *shape):
    devices = np.array(jax.devices()[:count])
    shape = shape or (count,)
    return Mesh(devices.reshape(shape), tuple("xyz"[: len(shape)]))


@pytest.mark.parametrize("count", range(1, 9))
def test_meshes_of_one_to_eight_devices(count):
    host = filled((840, 2), "float32", count)
    store = CountingStore()
    pertinax.save(
        "/c", jax.device_put(host, NamedSharding(mesh_of(count), PartitionSpec("x"))), store=store
    )
    for other in range(1, 9):
        sharding = NamedSharding(mesh_of(other), PartitionSpec("x"))
        loaded = pertinax.load(
            "/c", jax.ShapeDtypeStruct(host.shape, host.dtype, sharding=sharding), store=store
        )
        assert np.asarray(loaded).tobytes() == host.tobytes()


@pytest.mark.wd("WD-02")
def test_each_replica_is_written_once_and_read_once():
    host = filled((1 << 18,), "float32", 1)
    for spec in (PartitionSpec(), PartitionSpec("x"), PartitionSpec("y")):
        store = CountingStore()
        pertinax.save(
            "/c", jax.device_put(host, NamedSharding(mesh_of(8, 4, 2), spec)), store=store
        )
        (name,) = [entry.name for entry in store.list_dir("/c/d")]
        assert store.stat(f"/c/d/{name}").length < 1.02 * host.nbytes
        target = jax.ShapeDtypeStruct(
            host.shape, host.dtype, sharding=NamedSharding(mesh_of(8), PartitionSpec())
        )
        loaded = pertinax.load("/c", target, store=store, mmap=False)
        assert np.asarray(loaded).tobytes() == host.tobytes()
        assert store.data_bytes() <= 1.05 * host.nbytes
        assert store.read_twice() == 0


def test_other_kinds_of_shardings_are_welcome(tmp_path):
    host = filled((8, 16), "float32", 1)
    devices = jax.devices()
    layouts = [
        SingleDeviceSharding(devices[5]),
        jax.sharding.NamedSharding(mesh_of(4), PartitionSpec(None, "x")),
        jax.sharding.GSPMDSharding.get_replicated(tuple(devices))
        if hasattr(jax.sharding, "GSPMDSharding")
        else None,
    ]
    if hasattr(jax.sharding, "PositionalSharding"):
        layouts.append(jax.sharding.PositionalSharding(devices).reshape(4, 2))
    for i, sharding in enumerate(s for s in layouts if s is not None):
        path = pertinax.save(tmp_path / str(i), jax.device_put(host, sharding))
        target = jax.ShapeDtypeStruct(host.shape, host.dtype, sharding=sharding)
        assert np.asarray(pertinax.load(path, target)).tobytes() == host.tobytes()
        pertinax.load(path, sharding="stored")


def test_axis_names_and_specs_without_words_are_still_saved(tmp_path):
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), (b"odd", "y"))
    array = jax.device_put(
        np.arange(16.0, dtype=np.float32), NamedSharding(mesh, PartitionSpec((b"odd", "y")))
    )
    path = pertinax.save(tmp_path / "c", array)
    assert np.array_equal(np.asarray(pertinax.load(path)), np.arange(16.0))
    pertinax.load(path, sharding="stored")


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_a_stored_layout_has_the_axis_types_it_was_saved_with(tmp_path, kind):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(kind,))
    array = jax.device_put(np.arange(16.0, dtype=np.float32), NamedSharding(mesh, PartitionSpec()))
    path = pertinax.save(tmp_path / "c", array)
    assert pertinax.load(path, sharding="stored").sharding == array.sharding


def test_a_layout_that_names_an_axis_twice_is_none():
    from pertinax._device.shardings import sharding_from_text

    fields = {
        "sharding_type": "NamedSharding",
        "shape": [1],
        "axis_names": ["x"],
        "partition_spec": ["x", "x"],
        "device_mesh": {"mesh": [{"id": 0}]},
    }
    assert sharding_from_text(json.dumps(fields)) is None


def test_a_layout_for_devices_that_are_not_here_is_no_obstacle(tmp_path):
    """Written as if on 16 devices; the ledger's text is what another machine would have left."""
    from pertinax._device.shardings import sharding_from_text

    fields = {
        "sharding_type": "NamedSharding",
        "shape": [16],
        "axis_names": ["x"],
        "partition_spec": ["x"],
        "device_mesh": {"mesh": [{"id": i} for i in range(16)]},
    }
    assert sharding_from_text(json.dumps(fields)) is None
    for broken in (
        "",
        "null",
        "[]",
        "{}",
        '{"sharding_type": "NamedSharding"}',
        "[" * 9999,
        '{"sharding_type": 5}',
    ):
        assert sharding_from_text(broken) is None


HOSTILE = st.recursive(
    st.none() | st.integers() | st.text(max_size=3) | st.booleans() | st.floats(),
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "mesh"]), below, max_size=2)
    ),
    max_leaves=5,
)


@settings(QUICK, max_examples=300)
@given(
    st.fixed_dictionaries(
        {"sharding_type": st.sampled_from(["NamedSharding", "SingleDeviceSharding"])},
        optional={
            name: HOSTILE | st.sampled_from([[8], ["x"], [["x"]], {"mesh": [{"id": 0}]}, "cpu:0"])
            for name in (
                "shape",
                "axis_names",
                "partition_spec",
                "device_mesh",
                "device_str",
                "axis_types",
            )
        },
    )
)
def test_a_hostile_layout_is_none(fields):
    from pertinax._device.shardings import sharding_from_text

    sharding_from_text(json.dumps(fields))
