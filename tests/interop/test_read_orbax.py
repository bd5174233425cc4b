# SPDX-License-Identifier: Apache-2.0
"""What today's Orbax writes, we read: every dtype, layout and sharding, bit for bit."""

import json
import os

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pertinax._formats.orbax import read_orbax_item
from pertinax._formats.zarr.tensorstore import read_with_tensorstore
from pertinax._plan.boxes import Box
from pertinax._store.local import LocalStore
from pertinax._tree.flatten import flatten
from pertinax.errors import CorruptCheckpoint
from tests.formats.reading import read_leaf

ocp = pytest.importorskip("orbax.checkpoint")
pytestmark = pytest.mark.interop

STORE = LocalStore()
LAYOUTS = [(ocdbt, zarr3) for ocdbt in (True, False) for zarr3 in (False, True)]
layouts = pytest.mark.parametrize(("use_ocdbt", "use_zarr3"), LAYOUTS)


def save(path: str, tree, *, use_ocdbt=True, use_zarr3=False, **how) -> None:
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=use_ocdbt, use_zarr3=use_zarr3)
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(path, args=ocp.args.PyTreeSave(tree, **how))


def check(path: str, tree) -> None:
    manifest = read_orbax_item(STORE, path)
    stored = {leaf.path: i for i, leaf in enumerate(manifest.leaves)}
    flat = flatten(tree)
    assert set(stored) == set(flat.paths)
    for place, value in zip(flat.paths, flat.leaves, strict=True):
        i = stored[place]
        if isinstance(value, str):
            assert manifest.values[i] == value
            continue
        typed = isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
        expected = np.asarray(jax.random.key_data(value) if typed else value)
        found = read_leaf(STORE, path, manifest, i)
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape), place
        assert found.tobytes() == expected.tobytes(), place
        assert (manifest.leaves[i].kind == "key") == typed


def random_bits(shape, dtype) -> np.ndarray:
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return np.random.default_rng(0).integers(0, 2, shape).astype(bool)
    if "int4" in dtype.name or "int2" in dtype.name or "float4" in dtype.name:
        return np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    data = np.random.default_rng(0).bytes(int(np.prod(shape)) * dtype.itemsize)
    return np.frombuffer(data, dtype).reshape(shape)


DTYPES = ["bool", "int8", "uint16", "int32", "int64", "float16", "float32", "float64", "complex64"]
DTYPES += [
    "complex128",
    "bfloat16",
    "int4",
    "int2",
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e8m0fnu",
]
DTYPES += [
    "float8_e3m4",
    "float8_e4m3b11fnuz",
    "float8_e4m3fnuz",
    "float8_e5m2fnuz",
    "float4_e2m1fn",
]


@layouts
def test_every_dtype_reads_bit_for_bit_nan_payloads_included(tmp_path, use_ocdbt, use_zarr3):
    tree = {}
    for name in DTYPES:
        dtype = np.dtype(getattr(ml_dtypes, name, None) or name)
        tree[name] = random_bits((5, 3), dtype)
    save(str(tmp_path / "c"), tree, use_ocdbt=use_ocdbt, use_zarr3=use_zarr3)
    check(str(tmp_path / "c"), tree)


SPECS = [
    (),
    ("x",),
    ("y",),
    ("x", "y"),
    (None, "x"),
    (("x", "y"),),
    (("y", "x"), None),
    (None, ("x", "y")),
]


@layouts
def test_every_sharding_reads_bit_for_bit(tmp_path, use_ocdbt, use_zarr3):
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(2, 4), ("x", "y"))
    tree = {
        str(i): jax.device_put(
            random_bits((16, 24), "int32"), NamedSharding(mesh, PartitionSpec(*spec))
        )
        for i, spec in enumerate(SPECS)
    }
    save(str(tmp_path / "c"), tree, use_ocdbt=use_ocdbt, use_zarr3=use_zarr3)
    check(str(tmp_path / "c"), tree)
    for leaf in read_orbax_item(STORE, str(tmp_path / "c")).leaves:
        assert leaf.sharding is not None
        spec = json.loads(leaf.sharding)["partition_spec"]
        assert spec == json.loads(json.dumps(SPECS[int(leaf.name)]))


@layouts
def test_odd_trees_read(tmp_path, use_ocdbt, use_zarr3):
    tree = {
        "a.b": {"c/d": [jnp.ones(3)] * 11},
        "it's": ["x", {"": "y", "q": {"0": "z"}}],
        "s": [1, 2.5, True, np.float16(3), np.uint8(7)],
        "k": jax.random.split(jax.random.key(3), 5),
        "e": [None, {}, [], ()],
        "zeros": jnp.zeros((300, 7)),
    }
    if not use_ocdbt:
        tree["it's"][1].pop("")
    save(str(tmp_path / "c"), tree, use_ocdbt=use_ocdbt, use_zarr3=use_zarr3)
    check(str(tmp_path / "c"), tree)


@pytest.mark.parametrize("use_zarr3", [False, True])
def test_small_chunks_and_small_files_read(tmp_path, use_zarr3):
    tree = {"a": random_bits((64, 60), "float32"), "b": jnp.asarray(random_bits((50, 30), "int32"))}
    args = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=2400), tree)
    how = {"save_args": args, "ocdbt_target_data_file_size": 3000}
    save(str(tmp_path / "c"), tree, use_zarr3=use_zarr3, **how)
    check(str(tmp_path / "c"), tree)
    assert len(read_orbax_item(STORE, str(tmp_path / "c")).chunks.files) > 3


@pytest.mark.parametrize(
    "metadata",
    [
        {"compressor": {"id": "blosc"}},
        {"order": "F", "compressor": None},
        {"compressor": {"id": "gzip", "level": 1}, "dimension_separator": "/"},
        {"dtype": ">i4", "compressor": None},
        {"dtype": ">i4", "order": "F"},
    ],
)
def test_arrays_in_codecs_of_others_are_read_through_tensorstore(tmp_path, metadata):
    import tensorstore as ts

    path = str(tmp_path / "c")
    tree = {"a": random_bits((9, 5), "int32")}
    save(path, tree, use_ocdbt=False)
    kvstore = {"driver": "file", "path": f"{path}/a/"}
    spec = {
        "driver": "zarr",
        "kvstore": kvstore,
        "metadata": {"dtype": "<i4", "chunks": [4, 5]} | metadata,
    }
    for file in (tmp_path / "c" / "a").iterdir():
        os.unlink(file)
    ts.open(spec, create=True, shape=[9, 5]).result().write(tree["a"]).result()
    check(path, tree)


@pytest.mark.parametrize("use_zarr3", [False, True])
def test_a_database_with_numbered_manifests_is_read_through_tensorstore(tmp_path, use_zarr3):
    import tensorstore as ts

    tree = {"a": random_bits((9, 5), "int32"), "b": [1.5, {"c": jnp.ones((4, 4), jnp.bfloat16)}]}
    path = str(tmp_path / "c")
    save(path, tree, use_zarr3=use_zarr3)
    base = {"driver": "file", "path": f"{path}/"}
    old = ts.KvStore.open({"driver": "ocdbt", "base": base}).result()
    entries = [(key, old.read(key).result().value) for key in old.list().result()]
    os.unlink(f"{path}/manifest.ocdbt")
    spec = {"driver": "ocdbt", "base": base, "config": {"manifest_kind": "numbered"}}
    new = ts.KvStore.open(spec, context=ts.Context()).result()
    for key, value in entries:
        new.write(key, value).result()
    check(path, tree)
    assert {leaf.codec for leaf in read_orbax_item(STORE, path).leaves} == {"tensorstore"}


@layouts
def test_tensorstore_reads_any_box_of_what_we_know_of_a_leaf(tmp_path, use_ocdbt, use_zarr3):
    tree = {"a": random_bits((9, 6), "int16")}
    path = str(tmp_path / "c")
    save(path, tree, use_ocdbt=use_ocdbt, use_zarr3=use_zarr3)
    manifest = read_orbax_item(STORE, path)
    where = {"container": manifest.container, "array_driver": manifest.array_driver}
    for box in (Box((0, 0), (9, 6)), Box((2, 1), (7, 2)), Box((3, 3), (3, 4))):
        found = read_with_tensorstore(path, manifest.leaves[0], box, **where)
        assert np.array_equal(found, tree["a"][box.slices])
    other = manifest.leaves[0]._replace(shape=(9, 5))
    with pytest.raises(CorruptCheckpoint, match="expected shape"):
        read_with_tensorstore(path, other, Box((0, 0), (1, 1)), **where)
