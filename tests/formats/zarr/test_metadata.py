# SPDX-License-Identifier: Apache-2.0
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pertinax._formats.zarr import v2, v3
from pertinax._formats.zarr.array import ArrayMetadata
from pertinax._formats.zarr.text import encode_metadata, parse_metadata
from pertinax.errors import CorruptCheckpoint

V2 = (
    b'{"chunks":[4,2],"compressor":{"id":"zstd","level":1},"dimension_separator":".","dtype":"<f4",'
    b'"fill_value":null,"filters":null,"order":"C","shape":[8,8],"zarr_format":2}'
)
V3 = (
    b'{"chunk_grid":{"configuration":{"chunk_shape":[4,2]},"name":"regular"},"chunk_key_encoding":'
    b'{"name":"default"},"codecs":[{"configuration":{"chunk_shape":[4,2],"codecs":[{"configuration":'
    b'{"endian":"little"},"name":"bytes"},{"configuration":{"checksum":false,"level":3},"name":"zstd"}],'
    b'"index_codecs":[{"configuration":{"endian":"little"},"name":"bytes"},{"name":"crc32c"}]},"name":'
    b'"sharding_indexed"}],"data_type":"float32","fill_value":0.0,"node_type":"array","shape":[8,8],'
    b'"zarr_format":3}'
)


def test_encoded_metadata_is_that_of_tensorstore_byte_for_byte():
    assert v2.encode((8, 8), (4, 2), "float32", "zstd") == V2
    assert v3.encode((8, 8), (4, 2), "float32", "shard+zstd") == V3


@pytest.mark.parametrize("dtype", ["bool", "int8", "int4", "bfloat16", "complex64", "uint64"])
@pytest.mark.parametrize(
    ("driver", "codec"),
    [("zarr", "raw"), ("zarr", "zstd")]
    + [("zarr3", c) for c in ("raw", "zstd", "shard", "shard+zstd")],
)
@pytest.mark.parametrize("shapes", [((), ()), ((0, 3), (1, 3)), ((7, 5), (4, 2))])
def test_metadata_comes_back_as_it_was_encoded(dtype, driver, codec, shapes):
    (data,) = encode_metadata(driver, [(*shapes, dtype, codec)])
    found = parse_metadata(driver, data, "f")
    assert found == ArrayMetadata(*shapes, dtype, codec, driver, found.fill)
    assert (found.fill is None) == (driver == "zarr")


def changed(text: bytes, **fields: object) -> bytes:
    return json.dumps(json.loads(text) | fields).encode()


@pytest.mark.parametrize(
    "fields",
    [
        {"order": "F"},
        {"filters": [{"id": "delta"}]},
        {"compressor": {"id": "blosc"}},
        {"dimension_separator": "/"},
        {"dtype": "<U4"},
        {"dtype": [["x", "<f4"]]},
        {"fill_value": "AAAA"},
    ],
)
def test_valid_zarr_v2_beyond_us_is_left_to_tensorstore(fields):
    assert v2.parse(changed(V2, **fields), "f").codec == "tensorstore"


def sharding(**fields: object) -> dict[str, object]:
    codec = json.loads(V3)["codecs"][0]
    return {"codecs": [{"name": codec["name"], "configuration": codec["configuration"] | fields}]}


@pytest.mark.parametrize(
    "fields",
    [
        {"codecs": [{"name": "transpose", "configuration": {"order": [1, 0]}}, {"name": "bytes"}]},
        {"codecs": [{"name": "bytes"}, {"name": "gzip"}]},
        {"codecs": [{"name": "bytes"}, {"name": "crc32c"}]},
        sharding(chunk_shape=[2, 2]),
        sharding(index_location="start"),
        sharding(index_codecs=[{"name": "bytes"}]),
        {"chunk_key_encoding": {"name": "v2"}},
        {"chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}}},
        {"data_type": "r16"},
        {"fill_value": "0x7fc00001"},
    ],
)
def test_valid_zarr_v3_beyond_us_is_left_to_tensorstore(fields):
    assert v3.parse(changed(V3, **fields), "f").codec == "tensorstore"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        changed(V2, shape=[-1, 8]),
        changed(V2, shape=[8]),
        changed(V2, chunks=[0, 2]),
        changed(V2, shape=[2**70, 8]),
        changed(V2, shape=[2**40, 2**40]),
        changed(V2, chunks=[2**40, 2**40]),
        changed(V2, shape=[1] * 65, chunks=[1] * 65),
        changed(V2, shape=[8.5, 8]),
        changed(V2, shape=[True, 8]),
        changed(V2, dtype=3),
        changed(V2, compressor="zstd"),
        changed(V2, zarr_format=3),
        changed(V2, order="A"),
    ],
)
def test_broken_zarr_v2_is_corrupt_and_names_the_file(data):
    with pytest.raises(CorruptCheckpoint) as caught:
        v2.parse(data, "a/.zarray")
    assert caught.value.file == "a/.zarray"


def test_big_endian_v3_keeps_its_byte_order():
    big = [{"name": "bytes", "configuration": {"endian": "big"}}]
    assert v3.parse(changed(V3, codecs=big), "f").dtype == ">f4"


@pytest.mark.parametrize(
    ("value", "dtype", "fill"),
    [
        (1.5, "float32", 1.5),
        ("Infinity", "bfloat16", float("inf")),
        (7, "int8", 7),
        (True, "bool", True),
        ([1.0, "-Infinity"], "complex64", complex(1, -float("inf"))),
    ],
)
def test_fill_values_are_elements(value, dtype, fill):
    found = v3.parse(changed(V3, data_type=dtype, fill_value=value), "f")
    assert found.fill == fill
    assert found.codec == "shard+zstd"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.sampled_from(sorted(json.loads(V2))), JSON)
def test_any_field_of_zarr_v2_may_be_anything(field, value):
    accept(v2, changed(V2, **{field: value}))


@given(st.sampled_from(sorted(json.loads(V3))), JSON)
def test_any_field_of_zarr_v3_may_be_anything(field, value):
    accept(v3, changed(V3, **{field: value}))


@given(st.sampled_from([V2, V3]), st.integers(0, 300), st.binary(max_size=4))
def test_any_bytes_of_metadata_may_be_overwritten(text, at, noise):
    accept(v2 if text is V2 else v3, text[:at] + noise + text[at + len(noise) :])


def accept(module, data):
    try:
        found = module.parse(data, "f")
    except CorruptCheckpoint:
        return
    assert len(found.shape) == len(found.chunk_shape)
    if found.codec != "tensorstore":
        assert found.chunk_bytes <= 2**62
