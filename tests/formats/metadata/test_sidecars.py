# SPDX-License-Identifier: Apache-2.0
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pertinax._formats.metadata.array_metadatas import (
    ArrayEntry,
    decode_key_impls,
    encode_array_metadatas,
)
from pertinax._formats.metadata.commit import encode_commit
from pertinax._formats.metadata.sharding import decode_sharding, encode_sharding
from pertinax._formats.metadata.step_metadata import StepMetadata, decode_step, encode_step
from pertinax._formats.metadata.strings import decode_strings, encode_strings
from pertinax.errors import CorruptCheckpoint

ORBAX_STEP = (
    '{"item_handlers": {"state": "a.B"}, "metrics": {"loss": 0.5}, "performance_metrics": {}, '
    '"init_timestamp_nsecs": 1, "commit_timestamp_nsecs": 2, "custom_metadata": {}}'
)


def test_shardings_are_kept_word_for_word():
    inner = '{"sharding_type": "SingleDeviceSharding", "device_str": "cpu:0"}'
    data = encode_sharding({"b": inner, "aC9": "x", "é/?>": "y"})
    assert b'"Yg==":"{\\"sharding_type\\": ' in data
    assert list(json.loads(data)) == sorted(json.loads(data))
    assert decode_sharding(data) == {"b": inner, "aC9": "x", "é/?>": "y"}


@pytest.mark.parametrize(
    "data", [b"1", b'{"a": "x"}', b'{"YQ==": 1}', b'{"/w==": "x"}', b'{"\\u00e9": ""}']
)
def test_broken_shardings_are_corrupt(data):
    with pytest.raises(CorruptCheckpoint):
        decode_sharding(data)


def test_strings_nest_at_slashes():
    texts = {"name": "hi", "s/q": "there", "s/r/t": "", "é": "ü\ud800\U0001f600", "a//b": "x"}
    data = encode_strings(texts)
    assert data.startswith(b'{"a":{"":{"b":"x"}},"name":"hi","s":{"q":"there","r":{"t":""}}')
    assert decode_strings(data, texts) == texts


def test_strings_of_orbax_may_use_escapes_and_arrays():
    data = b'{"a~b": "x", "l": ["y"]}'
    assert decode_strings(data, ["a~0b", "l/0"]) == {"a~0b": "x", "l/0": "y"}


@pytest.mark.parametrize("name", ["missing", "s", "s/q/r", "l/1", "l/-", "l/x"])
def test_a_missing_string_is_corrupt(name):
    with pytest.raises(CorruptCheckpoint, match="expected a string"):
        decode_strings(b'{"s": {"q": "x"}, "l": ["y"]}', [name])


@pytest.mark.parametrize(
    "texts", [{"a~": ""}, {"h": "", "h/k": ""}, {"h/k": "", "h": ""}, {"/" * 300: ""}]
)
def test_strings_without_a_place_are_refused(texts):
    with pytest.raises(ValueError, match="string"):
        encode_strings(texts)


def test_the_step_file_is_that_of_orbax_byte_for_byte():
    step = StepMetadata({"state": "a.B"}, {"loss": 0.5}, 1, 2)
    assert encode_step(step).decode() == ORBAX_STEP
    assert decode_step(ORBAX_STEP.encode()) == step


@given(st.integers(0, 200), st.binary(max_size=6))
def test_the_step_file_may_be_anything(at, noise):
    decode_step(ORBAX_STEP.encode()[:at] + noise + ORBAX_STEP.encode()[at + len(noise) :])


@pytest.mark.parametrize("data", [b"", b"null", b"[1]", b"\xff", b"[" * 99999, b'{"metrics": 3}'])
def test_an_unreadable_step_file_says_nothing(data):
    assert decode_step(data) == StepMetadata()


def test_array_metadatas_name_typed_keys():
    data = encode_array_metadatas([ArrayEntry("a", (2,), (1,)), ArrayEntry("k", (2,), (2,), "rbg")])
    assert data.startswith(
        b'{"array_metadatas": [{"array_metadata": {"param_name": "a", "write_shape": [2], '
        b'"chunk_shape": [1], "ext_metadata": null}}, '
    )
    assert decode_key_impls(data, "f") == {"k": "rbg"}


@given(st.integers(0, 300), st.binary(max_size=6))
def test_array_metadatas_may_be_damaged(at, noise):
    data = encode_array_metadatas([ArrayEntry("a", (2,), (1,)), ArrayEntry("k", (2,), (2,), "rbg")])
    try:
        decode_key_impls(data[:at] + noise + data[at + len(noise) :], "f")
    except CorruptCheckpoint:
        return


def test_the_commit_marker_names_the_directory():
    assert encode_commit("/a/b") == b"Checkpoint commit was successful to /a/b"
