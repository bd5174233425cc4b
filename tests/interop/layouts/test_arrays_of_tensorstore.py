# SPDX-License-Identifier: Apache-2.0
"""What only TensorStore decodes is read through TensorStore, by both doors, in part or in whole."""

import pathlib
import shutil

import jax
import numpy as np
import pytest

import pertinax
from pertinax import checkpoint as door

orbax = pytest.importorskip("orbax.checkpoint")
ts = pytest.importorskip("tensorstore")
pytestmark = pytest.mark.interop

LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
GZIP = {"name": "gzip", "configuration": {"level": 3}}


def sharding(inner, *codecs, **more):
    configuration = {"chunk_shape": inner, "codecs": [LITTLE, *codecs], **more}
    return [{"name": "sharding_indexed", "configuration": configuration}]


CHAINS = {
    "gzip": {"codecs": [LITTLE, GZIP]},
    "blosc": {"codecs": [LITTLE, {"name": "blosc", "configuration": {"cname": "lz4"}}]},
    "transposed": {
        "codecs": [{"name": "transpose", "configuration": {"order": [1, 0]}}, LITTLE, GZIP]
    },
    "big": {"codecs": [{"name": "bytes", "configuration": {"endian": "big"}}]},
    "checksummed": {"codecs": [LITTLE, {"name": "crc32c"}]},
    "many inner chunks": {"codecs": sharding([2, 4])},
    "many inner chunks, packed": {"codecs": sharding([4, 2], {"name": "zstd"})},
    "index in front": {"codecs": sharding([8, 8], index_location="start")},
    "other keys": {"chunk_key_encoding": {"name": "v2", "configuration": {"separator": "."}}},
}
"""What `zarr.json` may say, that no Orbax of its own accord does."""


def written(path: pathlib.Path, use_ocdbt: bool, metadata) -> np.ndarray:
    """A checkpoint of Orbax, in which another program wrote one array anew; that array."""
    array = (np.arange(16 * 24) * 3).astype(np.int32).reshape(16, 24)
    handler = orbax.PyTreeCheckpointHandler(use_ocdbt=use_ocdbt, use_zarr3=True)
    with orbax.Checkpointer(handler) as checkpointer:
        checkpointer.save(path, {"a": array * 0, "b": np.arange(5)})
    kvstore = {"driver": "file", "path": f"{path}/a/"}
    if use_ocdbt:
        base = {"driver": "file", "path": f"{path}/"}
        kvstore = {"driver": "ocdbt", "base": base, "path": "a/"}
    else:
        shutil.rmtree(path / "a")
    grid = {"name": "regular", "configuration": {"chunk_shape": [8, 8]}}
    spec = {
        "driver": "zarr3",
        "kvstore": kvstore,
        "metadata": {"data_type": "int32", "chunk_grid": grid, **metadata},
        "create": True,
        "delete_existing": use_ocdbt,
    }
    ts.open(spec, shape=array.shape).result().write(array).result()
    return array


@pytest.mark.parametrize("use_ocdbt", [False, True])
@pytest.mark.parametrize("metadata", CHAINS.values(), ids=CHAINS)
def test_arrays_in_chains_of_others_are_read(tmp_path, use_ocdbt, metadata):
    array = written(tmp_path / "c", use_ocdbt, metadata)
    loaded = pertinax.load(tmp_path / "c")
    assert loaded["a"].dtype == array.dtype
    assert np.array_equal(loaded["a"], array)
    assert loaded["b"].tolist() == [0, 1, 2, 3, 4]
    mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(4, 2), ("x", "y"))
    layout = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("y", "x"))
    target = {"a": jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=layout), "b": ...}
    spread = pertinax.load(tmp_path / "c", target)["a"]
    assert spread.sharding == layout
    assert np.array_equal(spread, array)
    with door.Checkpointer(door.PyTreeCheckpointHandler()) as checkpointer:
        assert np.array_equal(checkpointer.restore(tmp_path / "c")["a"], array)
    assert not pertinax.verify(tmp_path / "c").verified


def test_big_endian_numbers_of_zarr_2_are_those_that_were_written(tmp_path):
    array = np.arange(40).reshape(5, 8) / 3
    path = tmp_path / "c"
    with orbax.Checkpointer(orbax.PyTreeCheckpointHandler(use_ocdbt=False)) as checkpointer:
        checkpointer.save(path, {"a": array * 0})
    shutil.rmtree(path / "a")
    metadata = {"dtype": ">f8", "chunks": [2, 8], "compressor": None}
    spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": f"{path}/a/"}}
    ts.open({**spec, "metadata": metadata}, create=True, shape=[5, 8]).result().write(
        array
    ).result()
    loaded = pertinax.load(path)["a"]
    assert (loaded.dtype, loaded.tolist()) == (np.float64, array.tolist())
