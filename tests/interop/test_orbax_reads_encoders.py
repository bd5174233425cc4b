# SPDX-License-Identifier: Apache-2.0
"""Items put together from our encoders alone: Orbax restores them without arguments."""

import os
import uuid

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pertinax._formats.metadata.array_metadatas import (
    ArrayEntry,
    array_metadatas_file,
    encode_array_metadatas,
)
from pertinax._formats.metadata.names import orbax_names
from pertinax._formats.metadata.sharding import SHARDING_FILE, encode_sharding
from pertinax._formats.metadata.step_metadata import STEP_FILE, StepMetadata, encode_step
from pertinax._formats.metadata.strings import STRINGS_FILE, encode_strings
from pertinax._formats.metadata.tree_metadata import (
    TREE_FILE,
    ValueEntry,
    empty_value_type,
    encode_tree,
)
from pertinax._formats.ocdbt import MANIFEST_FILE, encode_database
from pertinax._formats.orbax import read_orbax_item
from pertinax._formats.zarr.array import chunk_key, metadata_key
from pertinax._formats.zarr.codecs import encode_chunk
from pertinax._formats.zarr.dtypes import numpy_dtype, storage_dtype
from pertinax._formats.zarr.text import encode_metadata
from pertinax._store.local import LocalStore
from pertinax._tree.flatten import flatten

ocp = pytest.importorskip("orbax.checkpoint")
pytestmark = pytest.mark.interop

SINGLE = '{"sharding_type": "SingleDeviceSharding", "device_str": "%s"}'


def put(root, file: str, data: bytes) -> None:
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def value_type(leaf) -> str:
    if isinstance(leaf, str):
        return "string"
    if isinstance(leaf, jax.Array):
        return "jax.Array"
    return "np.ndarray" if isinstance(leaf, np.ndarray) else "scalar"


def is_key(leaf) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def write_item(root, tree, driver: str, codec: str, container: str) -> None:
    flat = flatten(tree)
    strings = {i for i, leaf in enumerate(flat.leaves) if isinstance(leaf, str)}
    leaves = iter(flat.leaves)
    entries, keys, texts, arrays, shardings = [], {}, {}, [], {}
    for name in orbax_names(flat.root, strings):
        if name.node.kind != "leaf":
            entries.append((name, ValueEntry(empty_value_type(name.node))))
            continue
        leaf = next(leaves)
        kind = value_type(leaf)
        if kind == "string":
            texts[name.name] = leaf
            entries.append((name, ValueEntry(kind)))
            continue
        impl = str(jax.random.key_impl(leaf)) if is_key(leaf) else None
        data = np.asarray(jax.random.key_data(leaf) if impl else leaf)
        shape = tuple(max(1, n) for n in data.shape)
        spec = (data.shape, shape, storage_dtype(data.dtype.name), codec)
        keys[metadata_key(driver, name.name)] = encode_metadata(driver, [spec])[0]
        keys[chunk_key(driver, name.name, (0,) * data.ndim)] = encode_chunk(codec, data.tobytes())
        entries.append((name, ValueEntry(kind, data.shape if kind == "jax.Array" else None)))
        if kind == "jax.Array":
            shardings[name.name] = SINGLE % jax.devices()[0]
            arrays.append(ArrayEntry(name.name, data.shape, shape, impl))
    how = {"use_ocdbt": container == "ocdbt", "use_zarr3": driver == "zarr3"}
    put(root, TREE_FILE, encode_tree(entries, **how))
    put(root, STRINGS_FILE, encode_strings(texts))
    put(root, SHARDING_FILE, encode_sharding(shardings))
    put(root, array_metadatas_file(0), encode_array_metadatas(arrays))
    handler = "orbax.checkpoint._src.handlers.pytree_checkpoint_handler.PyTreeCheckpointHandler"
    put(root, STEP_FILE, encode_step(StepMetadata(handler, {}, 1, 2)))
    if container == "directory":
        for key, data in keys.items():
            put(root, key, data)
        return
    table = sorted((key.encode(), data) for key, data in keys.items())
    file = f"d/{uuid.uuid4().hex}"
    made = encode_database(
        table, data_file=file, offset=0, commit_time_ns=1, uuid=uuid.uuid4().bytes
    )
    put(root, file, made.nodes)
    put(root, MANIFEST_FILE, made.manifest)


TREE = {
    "a": {"b": np.arange(6.0), "c": [1, 2.5, True]},
    "a.b": np.arange(3),  # collides with a/b
    "list": [np.int16(i) for i in range(12)],
    "h": "string",
    "h/k": "string below",
    "tilde~": "x",
    'it\'s "quoted"': jnp.arange(4, dtype=jnp.bfloat16),
    "ü": jnp.zeros((2, 3)),
    "e": [{}, [], (), None],
    "key": jax.random.key(5),
    "keys": jax.random.split(jax.random.key(6, impl="rbg"), 3),
    "slash/ed": {"x": np.ones((2, 2), np.complex64)},
}
LAYOUTS = [("zarr", codec) for codec in ("raw", "zstd")] + [
    ("zarr3", codec) for codec in ("raw", "zstd", "shard", "shard+zstd")
]


@pytest.mark.parametrize("container", ["ocdbt", "directory"])
@pytest.mark.parametrize(("driver", "codec"), LAYOUTS)
def test_orbax_restores_what_our_encoders_made(tmp_path, driver, codec, container):
    root = tmp_path / "c"
    write_item(root, TREE, driver, codec, container)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        found = checkpointer.restore(os.fspath(root))
    expected, got = flatten(TREE), flatten(found)
    strings = {i for i, leaf in enumerate(expected.leaves) if isinstance(leaf, str)}
    names = [name for name in orbax_names(expected.root, strings) if name.node.kind == "leaf"]
    by_keys = {
        tuple(str(key.value) for key in path): leaf
        for path, leaf in zip(got.paths, got.leaves, strict=True)
    }
    assert len(by_keys) == len(expected.leaves)
    for name, leaf in zip(names, expected.leaves, strict=True):
        twin = by_keys[name.keys]
        if value_type(leaf) in ("string", "scalar"):
            assert twin == leaf
            assert isinstance(twin, type(leaf) if isinstance(leaf, str | int | float) else int)
        elif is_key(leaf):
            assert twin.dtype == leaf.dtype
            assert np.array_equal(jax.random.key_data(twin), jax.random.key_data(leaf))
        else:
            assert np.asarray(twin).tobytes() == np.asarray(leaf).tobytes(), name
            assert isinstance(twin, type(leaf)), name
    manifest = read_orbax_item(LocalStore(), os.fspath(root))
    assert [leaf.name for leaf in manifest.leaves] == [name.name for name in names]


def test_dtypes_without_a_name_in_zarr_are_stored_as_bytes(tmp_path):
    tree = {"a": np.arange(4).astype(numpy_dtype("uint4"))}
    write_item(tmp_path / "c", tree, "zarr", "raw", "ocdbt")
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        found = checkpointer.restore(os.fspath(tmp_path / "c"))
    assert found["a"].tolist() == [0, 1, 2, 3]
