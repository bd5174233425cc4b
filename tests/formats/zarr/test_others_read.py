# SPDX-License-Identifier: Apache-2.0
"""zarr-python and TensorStore open what we encode."""

import math
import os

import numpy as np
import pytest

from pertinax._formats.zarr.array import chunk_key, metadata_key
from pertinax._formats.zarr.codecs import encode_chunk
from pertinax._formats.zarr.dtypes import numpy_dtype
from pertinax._formats.zarr.text import encode_metadata
from pertinax._plan.chunks import chunk_box, grid_shape, index_of

pytestmark = pytest.mark.interop
LAYOUTS = [("zarr", "raw"), ("zarr", "zstd")] + [
    ("zarr3", codec) for codec in ("raw", "zstd", "shard", "shard+zstd")
]
SHAPES = [((), ()), ((5,), (5,)), ((7, 5), (4, 2)), ((0, 3), (1, 3))]


def write(root: str, driver, codec, array: np.ndarray, chunk_shape) -> None:
    def put(key: str, data: bytes) -> None:
        os.makedirs(os.path.dirname(f"{root}/{key}"), exist_ok=True)
        with open(f"{root}/{key}", "wb") as file:
            file.write(data)

    (text,) = encode_metadata(driver, [(array.shape, chunk_shape, array.dtype.name, codec)])
    put(metadata_key(driver, "a"), text)
    grid = grid_shape(array.shape, chunk_shape)
    for ordinal in range(math.prod(grid)):
        index = index_of(ordinal, grid)
        box = chunk_box(index, chunk_shape, array.shape)
        whole = np.zeros(chunk_shape, array.dtype)
        whole[tuple(slice(0, n) for n in box.shape)] = array[box.slices]
        put(chunk_key(driver, "a", index), encode_chunk(codec, whole.tobytes()))


def elements(shape, dtype: str) -> np.ndarray:
    return (np.arange(math.prod(shape)) % 2).reshape(shape).astype(numpy_dtype(dtype))


@pytest.mark.parametrize(("driver", "codec"), LAYOUTS)
@pytest.mark.parametrize(("shape", "chunk_shape"), SHAPES)
def test_tensorstore_reads_our_arrays(tmp_path, driver, codec, shape, chunk_shape):
    import tensorstore as ts

    for dtype in ("float32", "bool", "int4", "bfloat16", "complex64", "float8_e4m3fn", "int64"):
        array = elements(shape, dtype)
        root = str(tmp_path / dtype)
        write(root, driver, codec, array, chunk_shape)
        kvstore = {"driver": "file", "path": f"{root}/a/"}
        found = ts.open({"driver": driver, "kvstore": kvstore}).result().read().result()
        assert found.dtype == array.dtype
        assert found.tobytes() == array.tobytes()


@pytest.mark.parametrize(("driver", "codec"), LAYOUTS)
@pytest.mark.parametrize(("shape", "chunk_shape"), SHAPES)
def test_zarr_python_reads_our_arrays(tmp_path, driver, codec, shape, chunk_shape):
    import zarr

    for dtype in ("float32", "bool", "int8", "uint16", "complex128"):
        array = elements(shape, dtype)
        root = str(tmp_path / dtype)
        write(root, driver, codec, array, chunk_shape)
        found = zarr.open_array(f"{root}/a", mode="r")[...]
        assert np.asarray(found).dtype == array.dtype
        assert np.asarray(found).tobytes() == array.tobytes()
