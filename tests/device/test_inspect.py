# SPDX-License-Identifier: Apache-2.0
"""Live leaves are understood: what they are, and which boxes of them are written."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pertinax._device.inspect import Inspector, dtype_name
from pertinax._device.shardings import box_of, device_boxes, sharding_from_text, sharding_text
from pertinax._device.snapshot import fresh_buffer
from pertinax.testing import trees as forest


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_the_boxes_of_an_array_cover_it_once(data):
    shape = data.draw(st.sampled_from([(), (8,), (16, 24), (8, 3, 4), (24, 1)]))
    sharding = data.draw(forest.shardings(shape))
    host = np.arange(int(np.prod(shape)), dtype=np.int32).reshape(shape)
    leaf = Inspector().look(jax.device_put(host, sharding), ())
    counted = np.zeros(shape, int)
    for box, source in zip(leaf.boxes, leaf.sources, strict=True):
        counted[box.slices] += 1
        assert np.array_equal(np.asarray(source), host[box.slices])
        if len(sharding.device_set) > 1:
            assert box.shape == leaf.write_shape
    assert (counted == 1).all()
    assert {box for _, box in device_boxes(sharding, shape)} == set(leaf.boxes)
    text = sharding_text(sharding)
    assert sharding_from_text(text) == sharding


@pytest.mark.parametrize(
    ("value", "kind", "dtype", "shape"),
    [
        (True, "bool", "bool", ()),
        (3, "int", "int64", ()),
        (2.5, "float", "float64", ()),
        (1j, "complex", "complex128", ()),
        (b"abc", "bytes", "uint8", (3,)),
        (np.int8(3), "generic", "int8", ()),
        (np.zeros((2, 3), ">f4"), "numpy", ">f4", (2, 3)),
        (np.zeros(2, "M8[ns]"), "numpy", "datetime64[ns]", (2,)),
        (jnp.zeros((2, 3), jnp.bfloat16), "jax", "bfloat16", (2, 3)),
        (jax.random.key(0), "key", "uint32", (2,)),
        (jax.random.split(jax.random.key(0, impl="rbg"), 3), "key", "uint32", (3, 4)),
        ("text", "str", "", ()),
        (1 << 63, "int", "", ()),
    ],
    ids=str,
)
def test_each_kind_of_leaf_is_known(value, kind, dtype, shape):
    leaf = Inspector().look(value, ())
    assert (leaf.kind, leaf.dtype, leaf.shape) == (kind, dtype, shape)


def test_only_numbers_have_a_name():
    for name in (*forest.PLAIN_DTYPES, *forest.EXTENSION_DTYPES):
        assert dtype_name(forest.dtype_of(name)) == name
    for name in (">i2", ">c16"):
        assert dtype_name(np.dtype(name)) == name
    for dtype in (object, "U3", "S3", "V3", np.longdouble, np.clongdouble, [("x", "i4")]):
        assert dtype_name(np.dtype(dtype)) is None


@pytest.mark.parametrize("length", [0, 1, 63, 64, 4097, (1 << 21) - 1, 1 << 21, (1 << 21) + 3])
def test_fresh_buffers_are_zero_aligned_and_writable(length):
    buffer = np.frombuffer(fresh_buffer(length), np.uint8)
    assert len(buffer) == length
    assert not buffer.any()
    assert length == 0 or buffer.ctypes.data % 64 == 0
    buffer[:] = 1


@pytest.mark.parametrize(
    ("index", "box"),
    [
        ((slice(None),), ((0, 0), (4, 5))),
        ((slice(1, 3), slice(None)), ((1, 0), (3, 5))),
        ((), ((0, 0), (4, 5))),
    ],
)
def test_an_index_of_jax_is_a_box(index, box):
    found = box_of(index, (4, 5))
    assert (found.start, found.stop) == box
