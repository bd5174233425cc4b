# SPDX-License-Identifier: Apache-2.0
"""A ledger that somebody has forged, checksum and all: a typed error or some tree, in bounded
memory.
"""

import base64
import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pertinax
from pertinax._formats.crc import crc32c
from pertinax._formats.ledger import LEDGER_FILE, decode_ledger
from pertinax.errors import CorruptCheckpoint, NewerFormat, PertinaxError
from tests.corruption.scenes import PATH, made, rich, save_bare, with_content

pytestmark = pytest.mark.crash

STORES = {
    "raw": made(save_bare, rich(2), chunk_bytes=600),
    "zstd": made(
        save_bare, {"a": np.zeros(100_000, np.int64), "s": "x", "n": 1 << 80}, compression="zstd"
    ),
}
FIELDS = {
    name: json.loads(bytes(store.find(f"{PATH}/{LEDGER_FILE}").content))
    for name, store in STORES.items()
}


def sealed(fields):
    body = json.dumps(
        {k: v for k, v in fields.items() if k != "crc32c"}, separators=(",", ":")
    ).encode()[:-1]
    return body + b',"crc32c":"%08x"}' % crc32c(body)


def try_out(name, fields):
    store = with_content(STORES[name], f"{PATH}/{LEDGER_FILE}", sealed(fields))
    errors = []
    for verb in (
        lambda: pertinax.load(PATH, store=store),
        lambda: pertinax.load(PATH, store=store, mmap=False, arrays="numpy"),
        lambda: pertinax.load(PATH, store=store, sharding="stored"),
        lambda: str(pertinax.describe(PATH, store=store)),
        lambda: pertinax.verify(PATH, store=store, on_damage="report"),
    ):
        try:
            verb()
        except PertinaxError as error:
            errors.append(error)
    return errors


def test_sealing_again_changes_nothing():
    for name, fields in FIELDS.items():
        assert sealed(fields) == bytes(STORES[name].find(f"{PATH}/{LEDGER_FILE}").content)
        assert try_out(name, fields) == []


def column(values, dtype):
    return base64.b64encode(np.asarray(values).astype(dtype).tobytes()).decode()


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 9),
    st.sampled_from([2**31, 2**40, 2**62, 2**63, 2**64, -(2**63), 10**30]),
    st.floats(),
    st.text(max_size=4),
    st.sampled_from(
        "jax key numpy generic bool int float complex str bytes foreign raw zstd shard shard+zstd "
        "tensorstore none float32 bfloat16 int4 int64 >f4 datetime64[ns] object float128 "
        "threefry2x32 rbg ocdbt directory zarr zarr3 "
        "../x /etc/passwd d d/ . a\0b pertinax.json _METADATA".split(" ")
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda below: (
        st.lists(below, max_size=4)
        | st.dictionaries(
            st.sampled_from("t n s k c int float bytes tuple kind dtype shape".split()),
            below,
            max_size=3,
        )
    ),
    max_leaves=6,
) | st.builds(
    column,
    st.lists(st.integers(-(2**31), 2**31 - 1), max_size=6),
    st.sampled_from(["<i4", "<i8", "<u4", "<u1"]),
)


def places(data, path=()):
    """Every place in the JSON, from the root."""
    yield path
    if isinstance(data, dict):
        for key in data:
            yield from places(data[key], (*path, key))
    elif isinstance(data, list):
        for i, part in enumerate(data):
            yield from places(part, (*path, i))


PLACES = {name: [p for p in places(fields) if p] for name, fields in FIELDS.items()}


def changed(fields, path, value, how):
    copy = json.loads(json.dumps(fields))
    holder = copy
    for key in path[:-1]:
        holder = holder[key]
    if how == "drop":
        if isinstance(holder, list):
            holder.pop(path[-1])
        else:
            del holder[path[-1]]
    elif how == "double" and isinstance(holder, list):
        holder.insert(path[-1], holder[path[-1]])
    else:
        holder[path[-1]] = value
    return copy


@settings(deadline=None, max_examples=400, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(["raw", "zstd"]), st.data())
def test_a_forged_ledger_gives_typed_errors_only(name, data):
    fields = FIELDS[name]
    for _ in range(data.draw(st.integers(1, 2))):
        spots = [p for p in places(fields) if p]
        path = data.draw(st.sampled_from(spots))
        how = data.draw(st.sampled_from(["set", "set", "set", "drop", "double"]))
        fields = changed(fields, path, data.draw(VALUES), how)
    try_out(name, fields)


@settings(deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(["raw", "zstd"]), st.data())
def test_forged_numbers_in_the_tables_give_typed_errors_only(name, data):
    chunks = FIELDS[name]["chunks"]
    which = data.draw(st.sampled_from(["leaf", "ordinal", "file", "offset", "length", "crc32c"]))
    kind = {"leaf": "<i4", "file": "<i4", "crc32c": "<u4"}.get(which, "<i8")
    values = np.frombuffer(base64.b64decode(chunks[which]), kind).copy()
    at = data.draw(st.integers(0, len(values) - 1))
    info = np.iinfo(values.dtype)
    values[at] = data.draw(
        st.sampled_from([info.min, info.max, 0, 1, info.max // 2])
        | st.integers(max(-9, info.min), 9000)
    )
    try_out(name, FIELDS[name] | {"chunks": chunks | {which: column(values, kind)}})


def spec(fields, index, **new):
    specs = [dict(s) for s in fields["specs"]]
    specs[index] |= new
    return fields | {"specs": specs}


@pytest.mark.parametrize(
    "new",
    [
        {"dtype": "float64"},
        {"dtype": "nonsense"},
        {"dtype": "object"},
        {"dtype": ""},
        {"storage_dtype": "float32"},
        {"storage_dtype": "complex128"},
        {"codec": "tensorstore"},
        {"codec": "shard"},
        {"codec": "none"},
        {"kind": "str"},
        {"kind": "key"},
        {"kind": "key", "impl": "nonsense"},
        {"kind": "int"},
        {"kind": "bytes"},
        {"kind": "foreign"},
        {"shape": [1 << 62], "chunk_shape": [1 << 62]},
        {"shape": [1 << 40], "chunk_shape": [1 << 40]},
        {"shape": [1 << 34], "chunk_shape": [1 << 34]},
        {"shape": [0, 1 << 70], "chunk_shape": [1, 1]},
        {"shape": [0, 1 << 63], "chunk_shape": [1, 1]},
        {"shape": [1] * 100, "chunk_shape": [1] * 100},
        {"shape": [100_000], "chunk_shape": [1 << 50]},
        {"shape": [100_000], "chunk_shape": [1 << 33]},
        {"shape": [True], "chunk_shape": [True]},
        {"sharding": "{}"},
        {
            "sharding": '{"sharding_type": "NamedSharding", "shape": [3], "axis_names": ["x"], '
            '"partition_spec": ["x"]}'
        },
    ],
    ids=str,
)
def test_a_forged_leaf_gives_typed_errors_only_in_bounded_memory(new):
    for name, fields in FIELDS.items():
        for index in range(len(fields["specs"])):
            tracemalloc.start()
            try_out(name, spec(fields, index, **new))
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak < 64 << 20


def test_a_newer_version_says_so():
    for name, fields in FIELDS.items():
        errors = try_out(name, fields | {"pertinax": 3})
        assert len(errors) >= 4
        assert all(isinstance(error, NewerFormat) for error in errors)
        assert "upgrade" in str(errors[0])


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../c2/x", "d/../../x", "", ".", "a//b", "a\\b", "a\0b"]
)
def test_file_names_that_lead_out_are_refused(name):
    fields = FIELDS["raw"]
    for forged in (
        fields | {"files": [[name, 1, "00000000"]]},
        fields | {"chunks": fields["chunks"] | {"files": [name]}},
    ):
        with pytest.raises(CorruptCheckpoint, match="file name"):
            decode_ledger(sealed(forged))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[" * 100_000,
        b"null",
        b"\xff" * 100,
        b'{"pertinax":1}',
        b'{"pertinax":"1"}',
        b"[]",
    ],
)
def test_what_is_no_ledger_is_corrupt(text):
    with pytest.raises(CorruptCheckpoint):
        decode_ledger(text)
    body = text[:-1]
    with pytest.raises(CorruptCheckpoint):
        decode_ledger(body + b',"crc32c":"%08x"}' % crc32c(body))
