# SPDX-License-Identifier: Apache-2.0
"""The ledger says exactly what the manifest says, is compact, and refuses what does not add up."""

import base64
import dataclasses
import json
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pertinax
from pertinax._formats.crc import crc32c, file_crc
from pertinax._formats.ledger import (
    LEDGER_FILE,
    decode_ledger,
    encode_ledger,
    encode_step_ledger,
    vouched_files,
)
from pertinax._formats.manifest import FileRecord, lacks_chunks
from pertinax._formats.vouching import measure
from pertinax._store.local import LocalStore
from pertinax._store.memory import MemoryStore
from pertinax._tree.skeleton import encode
from pertinax.errors import CorruptCheckpoint, UnsupportedLeaf
from pertinax.testing import trees as forest

COLUMNS = ("leaf", "ordinal", "file", "offset", "length", "crc")


def ledger_of(tree, **options):
    store = MemoryStore()
    pertinax.save("/c", tree, store=store, **options)
    return bytes(store.find(f"/c/{LEDGER_FILE}").content)


@settings(deadline=None, max_examples=60)
@given(forest.trees(), st.sampled_from([None, 64]), st.sampled_from(["none", "zstd"]))
def test_what_is_written_down_is_read_back(tree, chunk_bytes, compression):
    data = ledger_of(tree, chunk_bytes=chunk_bytes, compression=compression)
    manifest = decode_ledger(data)
    again = decode_ledger(encode_ledger(manifest))
    assert encode(manifest.root) == encode(again.root)
    assert manifest.leaves == again.leaves
    assert [(i, type(v), v) for i, v in manifest.values.items()] == [
        (i, type(v), v) for i, v in again.values.items()
    ]
    assert manifest.files == again.files
    assert manifest.facts == again.facts
    assert manifest.chunks.files == again.chunks.files
    for name in COLUMNS:
        assert np.array_equal(getattr(manifest.chunks, name), getattr(again.chunks, name))


def test_the_file_ends_with_the_checksum_of_all_before_it():
    data = ledger_of({"a": 1})
    body, tail = data[:-21], data[-21:]
    assert tail == b',"crc32c":"%08x"}' % crc32c(body)
    assert json.loads(data)["pertinax"] == 1


def test_every_flipped_bit_is_noticed():
    data = bytearray(ledger_of({"a": 1, "s": "x"}))
    for at in range(len(data)):
        data[at] ^= 1 << at % 8
        with pytest.raises(CorruptCheckpoint):
            decode_ledger(bytes(data))
        data[at] ^= 1 << at % 8
    decode_ledger(bytes(data))


@pytest.mark.parametrize("cut", [1, 5, 20, 21, 22, 100])
def test_every_cut_is_noticed(cut):
    data = ledger_of({"a": 1})
    with pytest.raises(CorruptCheckpoint):
        decode_ledger(data[:-cut])
    with pytest.raises(CorruptCheckpoint):
        decode_ledger(data + b" " * cut)


def test_many_alike_leaves_cost_few_bytes_each():
    data = ledger_of({f"layer{i:05}": np.zeros(8, np.float32) for i in range(2000)})
    assert len(data) < 2000 * 110


def test_it_vouches_for_every_other_file():
    store = MemoryStore()
    pertinax.save("/c", {"a": np.arange(9), "s": "text", "n": 1 << 70}, store=store)
    manifest = decode_ledger(bytes(store.find(f"/c/{LEDGER_FILE}").content))
    vouched = (
        {record.name for record in manifest.files} | set(manifest.chunks.files) | {LEDGER_FILE}
    )
    found = {entry.name for entry in store.list_dir("/c") if not entry.is_dir}
    found |= {
        f"{d.name}/{e.name}"
        for d in store.list_dir("/c")
        if d.is_dir
        for e in store.list_dir(f"/c/{d.name}")
    }
    assert found == vouched
    for record in manifest.files:
        content = bytes(store.find(f"/c/{record.name}").content)
        assert (len(content), file_crc(content)) == (record.length, record.crc)


def test_the_checksum_of_a_file_tells_files_apart_that_end_in_their_own_crc32c():
    """A CRC-32C over bytes and their CRC-32C is the same number for all of them."""
    one, other = (
        body + crc32c(body).to_bytes(4, "little") for body in (b"first body", b"other body")
    )
    assert crc32c(one) == crc32c(other)
    assert file_crc(one) != file_crc(other)


def forged(manifest, **new):
    return encode_ledger(dataclasses.replace(manifest, **new))


def test_chunks_that_do_not_add_up_are_refused():
    manifest = decode_ledger(ledger_of({"a": np.arange(64), "b": np.arange(64)}, chunk_bytes=128))
    chunks = manifest.chunks

    def column(name, change):
        values = getattr(chunks, name).copy()
        change(values)
        return dataclasses.replace(chunks, **{name: values})

    def swap(values):
        values[[1, 2]] = values[[2, 1]]

    def put(at, value):
        def change(values):
            values[at] = value

        return change

    for wrong in (
        column("ordinal", swap),
        column("leaf", put(-1, 0)),
        column("leaf", put(-1, 2)),
        column("leaf", put(-1, (1 << 31) - 1)),
        column("leaf", put(0, 1)),
        column("file", put(1, 1)),
        column("file", put(1, -1)),
        column("offset", put(1, -8)),
        column("offset", put(1, 1 << 62)),
        column("offset", put(2, int(chunks.offset[1]))),
        column("length", put(1, 127)),
        column("length", put(1, 1 << 61)),
        column("length", put(1, -1)),
        dataclasses.replace(chunks, crc=chunks.crc[:-1]),
        dataclasses.replace(chunks, ordinal=chunks.ordinal[:-1]),
    ):
        with pytest.raises(CorruptCheckpoint, match="not a ledger"):
            decode_ledger(forged(manifest, chunks=wrong))


@pytest.mark.parametrize("kind", ["bool", "int", "float", "complex"])
@pytest.mark.parametrize("value", [np.complex64(1), np.datetime64(1, "s"), np.timedelta64(1, "s")])
def test_a_number_of_a_dtype_that_is_no_such_number_is_refused(kind, value):
    manifest = decode_ledger(ledger_of(value))
    leaf = manifest.leaves[0]._replace(kind=kind)
    data = encode_ledger(dataclasses.replace(manifest, leaves=(leaf,)))
    if kind == leaf.dtype.rstrip("0123456789"):
        decode_ledger(data)
        return
    with pytest.raises(CorruptCheckpoint):
        decode_ledger(data)


@pytest.mark.parametrize("array", [np.zeros(3, ">f4"), np.zeros(3, "M8[s]"), np.zeros((), "m8[s]")])
def test_a_jax_array_of_a_dtype_that_jax_does_not_have_is_an_error_of_ours(array):
    store = MemoryStore()
    pertinax.save("/c", array, store=store)
    file = store.find(f"/c/{LEDGER_FILE}")
    manifest = decode_ledger(bytes(file.content))
    leaf = manifest.leaves[0]._replace(kind="jax")
    file.content[:] = encode_ledger(dataclasses.replace(manifest, leaves=(leaf,)))
    with pytest.raises(UnsupportedLeaf, match="jax"):
        pertinax.load("/c", store=store)


def part_of(data):
    """The same ledger without the last chunk of its last leaf."""
    manifest = decode_ledger(data)
    chunks = manifest.chunks
    blocks = -(-int(chunks.length[-1]) // (1 << 20))
    cut = {name: getattr(chunks, name)[:-1] for name in COLUMNS[:-1]}
    fewer = dataclasses.replace(chunks, **cut, crc=chunks.crc[:-blocks])
    return dataclasses.replace(manifest, chunks=fewer)


def test_a_part_says_so_in_a_version_that_older_readers_refuse():
    part = part_of(ledger_of({"w": np.arange(64.0)}, chunk_bytes=64))
    with pytest.raises(CorruptCheckpoint, match="7 chunks of 8"):
        decode_ledger(encode_ledger(part))
    data = encode_ledger(dataclasses.replace(part, partial=True))
    again = decode_ledger(data)
    assert again.partial
    assert json.loads(data)["pertinax"] == 2
    assert again.chunks.ordinal[again.chunks.leaf == 0].tolist() == list(range(7))


@pytest.mark.parametrize("ordinals", [[0, 1, 2, 3, 4, 5, 8], [0, 2, 1, 3, 4, 5, 6], [0] * 7])
def test_chunks_of_a_part_stand_in_the_grid_once_and_in_order(ordinals):
    part = part_of(ledger_of({"w": np.arange(64.0)}, chunk_bytes=64))
    own = part.chunks.ordinal.copy()
    own[part.chunks.leaf == 0] = ordinals
    chunks = dataclasses.replace(part.chunks, ordinal=own)
    with pytest.raises(CorruptCheckpoint, match="chunk"):
        decode_ledger(encode_ledger(dataclasses.replace(part, partial=True, chunks=chunks)))


@pytest.mark.parametrize(("version", "partial"), [(1, True), (2, 1), (2, "yes")])
def test_a_part_is_none_in_version_1_nor_by_another_word(version, partial):
    data = ledger_of({"w": np.arange(8.0)})
    fields = json.loads(data) | {"pertinax": version, "partial": partial}
    del fields["crc32c"]
    body = json.dumps(fields, separators=(",", ":")).encode()[:-1]
    with pytest.raises(CorruptCheckpoint, match="partial is"):
        decode_ledger(body + b',"crc32c":"%08x"}' % crc32c(body))


def resealed(change):
    """A ledger with some of its fields changed, and a right checksum."""
    fields = json.loads(ledger_of({"a": np.arange(300), "b": np.arange(9), "s": "x"}))
    change(fields)
    del fields["crc32c"]
    body = json.dumps(fields).encode()[:-1]
    return body + b',"crc32c":"%08x"}' % crc32c(body)


def column(numbers, dtype):
    return base64.b64encode(np.asarray(numbers, dtype).tobytes()).decode()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda f: f["leaves"].update(spec=column([0, 1, 9], "<i4")), "a leaf without a spec"),
        (lambda f: f["leaves"].update(spec=column([0, 1, -1], "<i4")), "a leaf without a spec"),
        (lambda f: f["leaves"].update(name=["a", "a", "s"]), "3 leaves in the tree, 3 specs, 2"),
        (lambda f: f["leaves"].update(spec="!!!"), "not base64"),
        (lambda f: f["chunks"].update(leaf=column([1, 0, -1], "<i4")), "out of order|without"),
        (lambda f: f.update(container="tar"), "no such layout: 'tar' 'zarr'"),
        (lambda f: f.update(array_driver="n5"), "no such layout: 'ocdbt' 'n5'"),
        (lambda f: f["specs"][0].update(shape=[-1]), r"not a shape: \(-1,\) in chunks"),
        (lambda f: f["specs"][0].update(shape=["9"]), r"not a shape: \('9',\) in chunks"),
        (
            lambda f: f["specs"][0].update(chunk_shape=[0]),
            r"not a shape: \(300,\) in chunks of \(0",
        ),
        (
            lambda f: f["specs"][0].update(shape=[2**56 + 1], chunk_shape=[2**40]),
            "an array of shape",
        ),
        (
            lambda f: f["specs"][0].update(shape=[300], chunk_shape=[2**56 + 1]),
            "an array of shape",
        ),
        (
            lambda f: f["specs"][0].update(shape=[1] * 65, chunk_shape=[1] * 65),
            "an array of shape",
        ),
        (lambda f: f["specs"][0].update(kind="key"), "keys of dtype 'int64' and shape"),
        (lambda f: f["specs"][0].update(kind="bytes"), "bytes of dtype 'int64' and shape"),
        (lambda f: f["specs"][0].update(kind="int"), "an? int of shape"),
        (lambda f: f["specs"][0].update(kind="str"), "a str of dtype 'int64'"),
        (lambda f: f["specs"][2].update(kind="jax"), "a jax without chunks"),
        (lambda f: f["values"].clear(), "leaf 's' has 0 chunks of 0"),
        (lambda f: f["values"][0].__setitem__(1, 7), "leaf 's' is no str"),
    ],
)
def test_what_does_not_add_up_is_refused(change, text):
    with pytest.raises(CorruptCheckpoint, match=text):
        decode_ledger(resealed(change))


def test_the_files_it_vouches_for_are_found_without_the_rest():
    data = ledger_of({"a": np.arange(300)})
    names = vouched_files(data)
    assert {"manifest.ocdbt", "_METADATA"} <= names
    assert names == {name for name, _, _ in json.loads(data)["files"]} | set(
        json.loads(data)["chunks"]["files"]
    )
    assert vouched_files(resealed(lambda f: f.pop("tree")))
    for change in (
        lambda f: f.pop("chunks"),
        lambda f: f.update(files=7),
        lambda f: f["files"].append(["../x", 1, "00000000"]),
    ):
        with pytest.raises(CorruptCheckpoint):
            vouched_files(resealed(change))


@pytest.mark.parametrize(
    "name", ["", 7, None, "a\0b", "a\\b", "/a", "a/", "a//b", ".", "a/../b", "./a"]
)
def test_a_file_name_that_leads_elsewhere_is_refused(name):
    data = resealed(lambda f: f["files"].append([name, 1, "00000000"]))
    for read in (decode_ledger, vouched_files):
        with pytest.raises(CorruptCheckpoint, match="file name"):
            read(data)


def test_a_table_that_has_all_lacks_nothing():
    manifest = decode_ledger(ledger_of({"a": np.arange(300), "b": np.arange(9), "s": "x"}))
    assert not lacks_chunks(manifest.leaves, manifest.chunks)
    for row in np.flatnonzero(manifest.chunks.leaf >= 0):
        columns = {name: np.delete(getattr(manifest.chunks, name), row) for name in COLUMNS}
        rest = dataclasses.replace(manifest.chunks, **columns)
        assert lacks_chunks(manifest.leaves, rest)


def test_a_step_s_ledger_vouches_for_files_and_has_nothing_else():
    files = (FileRecord("default/pertinax.json", 7, 0xFFFFFFFF), FileRecord("x", 0, 1))
    manifest = decode_ledger(encode_step_ledger(files, {"items": ["default"]}))
    assert manifest.files == files
    assert manifest.facts == {"items": ["default"]}
    assert (manifest.leaves, len(manifest.chunks), manifest.values) == ((), 0, {})
    assert manifest.typed


def test_a_file_is_measured_as_it_is_whatever_its_length(tmp_path):
    """It is read in pieces of 16 MiB."""
    for length in (0, 1, (16 << 20) - 1, 16 << 20, (16 << 20) + 1):
        content = bytes([7]) * length
        (tmp_path / "f").write_bytes(content)
        found = measure(LocalStore(), str(tmp_path), "f")
        assert found == FileRecord("f", length, zlib.crc32(content))


def test_leaves_of_type_handlers_are_read_back():
    (leaf,) = (manifest := decode_ledger(ledger_of({"s": "x"}))).leaves
    foreign = leaf._replace(kind="foreign", typestr="mine", dtype="", storage_dtype="")
    again = decode_ledger(
        encode_ledger(dataclasses.replace(manifest, leaves=(foreign,), values={}))
    )
    assert again.leaves == (foreign,)
