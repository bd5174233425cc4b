# SPDX-License-Identifier: Apache-2.0
"""Each check of a ledger by itself: the last leaf, chunk or file that passes, the first that does
not.
"""

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest

from pertinax._formats.crc import crc32c
from pertinax._formats.ledger import (
    block_counts,
    decode_ledger,
    encode_ledger,
    encode_step_ledger,
    vouched_files,
)
from pertinax._formats.manifest import ChunkTable, FileRecord, Manifest, StoredLeaf
from pertinax._formats.zarr.dtypes import numpy_dtype
from pertinax._plan.chunks import grid_size
from pertinax._tree.skeleton import decode
from pertinax.errors import CorruptCheckpoint, NewerFormat

COLUMNS = ("leaf", "ordinal", "file", "offset", "length")


def leaf(kind: Any = "numpy", dtype: str = "int64", shape: Any = (4,), **more: Any) -> StoredLeaf:
    more = {"storage_dtype": dtype, "chunk_shape": tuple(max(1, n) for n in shape), **more}
    return StoredLeaf((), "", kind, dtype, shape, **more)


def value(kind: Any = "str", dtype: str = "", shape: Any = (), **more: Any) -> StoredLeaf:
    return leaf(kind, dtype, shape, codec="none", **more)


def table(leaves: list[StoredLeaf], **columns: Any) -> ChunkTable:
    """All chunks of these leaves one after another in a file; or columns that are given."""
    rows: dict[str, list[int]] = {name: [] for name in COLUMNS}
    at = 0
    for i, one in enumerate(leaves):
        if one.codec == "none" or "leaf" in columns:
            continue
        size = math.prod(one.chunk_shape) * numpy_dtype(one.storage_dtype).itemsize
        for ordinal in range(grid_size(one.shape, one.chunk_shape)):
            for name, number in zip(COLUMNS, (i, ordinal, 0, at, size), strict=True):
                rows[name].append(number)
            at += size
    found = {name: np.array(columns.get(name, rows[name]), np.int64) for name in COLUMNS}
    blocks = int(block_counts(np.maximum(found["length"], 0)).sum()) if len(found["length"]) else 0
    crc = np.zeros(columns.get("crc", blocks), np.uint32)
    return ChunkTable(tuple(columns.get("files", ("d/f",))), **found, crc=crc)


def manifest(*leaves: StoredLeaf, values: Any = None, partial: bool = False, **columns: Any) -> Any:
    names = [f"n{i}" for i in range(len(leaves))]
    named = [one._replace(path=(name,), name=name) for one, name in zip(leaves, names, strict=True)]
    root = decode({"t": "dict", "k": names, "c": [0] * len(leaves)})
    if values is None:
        kinds: dict[str, Any] = {"str": "x", "int": 1 << 70}
        values = {i: kinds.get(one.kind) for i, one in enumerate(leaves) if one.codec == "none"}
        values = {i: one for i, one in values.items() if one is not None}
    chunks = table(list(leaves), **columns)
    return Manifest("pertinax", root, tuple(named), chunks, values, partial=partial)


def read(*leaves: StoredLeaf, **more: Any) -> Manifest:
    """What is read of a ledger of these leaves."""
    return decode_ledger(encode_ledger(manifest(*leaves, **more)))


def refused(text: str, *leaves: StoredLeaf, **more: Any) -> None:
    with pytest.raises(CorruptCheckpoint, match=text):
        read(*leaves, **more)


NUMBERS = ("bool", "int", "float", "complex")


@pytest.mark.parametrize(
    "one",
    [
        leaf(),
        leaf(shape=()),
        leaf(shape=(0,)),
        leaf(shape=(3, 0, 2)),
        leaf("jax", "bfloat16", storage_dtype="uint16"),
        leaf("numpy", "float64", storage_dtype="int64"),
        leaf("numpy", "datetime64[s]"),
        leaf("numpy", "complex64"),
        leaf("generic", "datetime64[s]", ()),
        leaf("generic", "complex64", ()),
        leaf("bool", "bool", ()),
        leaf("int", "int64", ()),
        leaf("float", "float64", ()),
        leaf("complex", "complex128", ()),
        leaf("bytes", "uint8", (3,)),
        leaf("bytes", "uint8", (0,)),
        leaf("key", "uint32", (2,), impl="threefry2x32"),
        leaf("key", "uint32", (5, 2)),
        leaf(shape=(1,) * 64),
        leaf(sharding="{}"),
        value("str"),
        value("int"),
        value("foreign", typestr="mine"),
    ],
    ids=repr,
)
def test_what_is_written_is_read(one: StoredLeaf) -> None:
    found = read(leaf(), one, leaf())
    assert [each.name for each in found.leaves] == ["n0", "n1", "n2"]
    assert [each._replace(path=(), name="") for each in found.leaves] == [leaf(), one, leaf()]
    assert len(found.chunks) == 2 + len(table([one]))


@pytest.mark.parametrize(
    ("one", "text"),
    [
        (leaf("list"), "not a leaf"),
        (leaf(codec="gzip"), "not a leaf"),
        (leaf(shape=(4,), chunk_shape=(4, 1)), "not a leaf"),
        (leaf(shape=(4, 1), chunk_shape=(4,)), "not a leaf"),
        (leaf(sharding=7), "not a leaf"),
        (leaf(impl=7), "not a leaf"),
        (leaf(typestr=7), "not a leaf"),
        (leaf(typestr="mine"), "a numpy of the type 'mine'"),
        (value("foreign"), "a foreign of the type None"),
        (leaf(shape=(-1,)), r"not a shape: \(-1,\)"),
        (leaf(shape=(True,)), r"not a shape: \(True,\)"),
        (leaf(shape=(2.0,)), r"not a shape: \(2.0,\)"),
        (leaf(chunk_shape=(0,)), r"in chunks of \(0,\)"),
        (leaf(chunk_shape=(-1,)), r"in chunks of \(-1,\)"),
        (leaf(chunk_shape=(True,)), r"in chunks of \(True,\)"),
        (leaf(chunk_shape=(4.0,)), r"in chunks of \(4.0,\)"),
        (value("float"), "a float without chunks"),
        (value("jax"), "a jax without chunks"),
        (value("str", shape=(1,)), "a str without chunks"),
        (value("str", "int8"), "a str without chunks"),
        (value("str", storage_dtype="int8"), "a str without chunks"),
        (leaf(codec="tensorstore"), "stored as 'int64' in tensorstore"),
        (leaf("str"), "a str of dtype 'int64'"),
        (leaf("foreign", typestr="mine"), "a foreign of dtype 'int64'"),
        (leaf(storage_dtype="int32"), "stored as 'int32' in raw"),
        (leaf(shape=(1,) * 65), "an array of shape"),
        (leaf("bytes", "uint8", ()), "bytes of dtype 'uint8' and shape"),
        (leaf("bytes", "uint8", (1, 1)), "bytes of dtype 'uint8' and shape"),
        (leaf("bytes", "int8", (1,)), "bytes of dtype 'int8' and shape"),
        (leaf("key", "uint32", ()), "keys of dtype 'uint32' and shape"),
        (leaf("bytes", "int8", (1,), storage_dtype="uint8"), "bytes of dtype 'int8' and shape"),
        (leaf("key", "int32", (2,), storage_dtype="uint32"), "keys of dtype 'int32' and shape"),
        (leaf("float", "complex64", (), storage_dtype="int64"), "a float of dtype 'complex64'"),
        (leaf("key", "int32", (2,)), "keys of dtype 'int32' and shape"),
        *((leaf(kind, shape=(1,)), f"a {kind} of shape") for kind in ("generic", *NUMBERS)),
        *((leaf(kind, "timedelta64[s]", ()), f"a {kind} of dtype") for kind in NUMBERS),
        *((leaf(kind, "complex64", ()), f"a {kind} of dtype") for kind in NUMBERS[:-1]),
    ],
    ids=repr,
)
def test_what_is_never_written_is_refused(one: StoredLeaf, text: str) -> None:
    fields = fields_of(leaf(), leaf(shape=(1,)))
    spec = fields["specs"][1]
    spec |= {name: text for name, text in one._asdict().items() if name in {*spec, "typestr"}}
    if one.typestr is None:
        del spec["typestr"]
    with pytest.raises(CorruptCheckpoint, match=text):
        decode_ledger(sealed(fields))


@pytest.mark.parametrize("name", ["dtype", "storage_dtype"])
def test_names_of_dtypes_are_texts(name: str) -> None:
    fields = fields_of(leaf())
    fields["specs"][0][name] = None
    with pytest.raises(CorruptCheckpoint, match="not a leaf"):
        decode_ledger(sealed(fields))


def sealed(fields: dict[str, Any]) -> bytes:
    body = json.dumps({k: v for k, v in fields.items() if k != "crc32c"}).encode()[:-1]
    return body + b',"crc32c":"%08x"}' % crc32c(body)


@pytest.mark.parametrize("rest", [(), (0,), (1,)])
def test_an_array_has_2_to_the_56_elements_at_most(rest: tuple[int, ...]) -> None:
    """A part need not have all chunks of its arrays, so that we need not either."""
    most = 1 << 56
    one = tuple(1 for _ in rest)
    none: dict[str, Any] = dict.fromkeys(COLUMNS, ())
    for shape, chunk in (((*rest, most), (*one, 1)), ((*rest, 1), (*one, most))):
        found = read(leaf(shape=shape, chunk_shape=chunk), partial=True, **none)
        assert found.leaves[0].shape == shape
        longer = [tuple(n + (n == most) for n in each) for each in (shape, chunk)]
        one_more = leaf(shape=longer[0], chunk_shape=longer[1])
        refused("an array of shape", one_more, partial=True, **none)


A, B = leaf(shape=(4,), chunk_shape=(2,)), leaf(shape=(2,))  # chunks of 16 bytes: two, and one


def test_the_table_that_the_tests_below_change_is_read() -> None:
    found = read(A, B)
    assert found.chunks.leaf.tolist() == [0, 0, 1]
    assert found.chunks.ordinal.tolist() == [0, 1, 0]
    assert found.chunks.offset.tolist() == [0, 16, 32]
    assert found.chunks.length.tolist() == [16] * 3
    assert len(found.chunks.crc if found.chunks.crc is not None else ()) == 3


@pytest.mark.parametrize(
    "columns",
    [
        {"offset": [7, 23, 39]},
        {"offset": [0, 32, 16]},
        {"offset": [(1 << 62) - 17, 16, 32]},
        {"file": [0, 1, 2], "offset": [5, 5, 5], "files": ["a", "b", "c/d"]},
        {"file": [0, 1, 0], "offset": [5, 5, 21], "files": ["a", "b"]},
        {
            "leaf": [-1, -1, 0, 0, 1],
            "ordinal": [0, 1, 0, 1, 0],
            "file": [0] * 5,
            "offset": [900, 500, 0, 16, 32],
            "length": [1, 0, 16, 16, 16],
        },
    ],
)
def test_chunks_may_lie_anywhere_in_files(columns: dict[str, Any]) -> None:
    found = read(A, B, **columns)
    for name in COLUMNS:
        if name in columns:
            assert getattr(found.chunks, name).tolist() == columns[name]


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ({"offset": [0, 15, 32]}, "chunks overlap"),
        ({"offset": [0, 16, 31]}, "chunks overlap"),
        ({"offset": [1, 0, 32]}, "chunks overlap"),
        ({"offset": [-1, 16, 32]}, "a chunk out of bounds"),
        ({"offset": [(1 << 62) - 16, 16, 32]}, "a chunk out of bounds"),
        ({"length": [-1, 16, 16], "crc": 3}, "a chunk out of bounds"),
        ({"ordinal": [-1, 1, 0]}, "a chunk out of bounds"),
        ({"file": [-1, 0, 0]}, "a chunk out of bounds"),
        ({"file": [0, 0, 1]}, "a chunk out of bounds"),
        ({"file": [0, 0, 0], "files": []}, "a chunk out of bounds"),
        ({"crc": 2}, "not one checksum per block"),
        ({"crc": 4}, "not one checksum per block"),
        ({"file": [0, 0]}, "columns of different lengths"),
        ({"ordinal": [0, 1, 0, 0]}, "columns of different lengths"),
        ({"offset": [0, 16]}, "columns of different lengths"),
        ({"ordinal": [1, 0, 0]}, "chunks out of order"),
        ({"ordinal": [0, 0, 0]}, "chunks out of order"),
        ({"ordinal": [0, 1, 1]}, "chunks out of order"),
        ({"ordinal": [1, 2, 0]}, "chunks out of order"),
        ({"length": [15, 16, 16]}, "has 15 bytes, its elements 16"),
        ({"length": [16, 16, 17]}, "has 17 bytes, its elements 16"),
    ],
)
def test_chunks_that_cannot_be_are_refused(columns: dict[str, Any], text: str) -> None:
    refused(text, A, B, **columns)


def rows(owners: list[int], ordinals: list[int]) -> dict[str, Any]:
    n = len(owners)
    places = {"offset": [16 * i for i in range(n)], "length": [16] * n, "file": [0] * n}
    return {"leaf": owners, "ordinal": ordinals, **places}


@pytest.mark.parametrize(
    ("owners", "ordinals", "text"),
    [
        ([0, 0, 2], [0, 1, 0], "a chunk of no leaf"),
        ([0, 1, 0], [0, 0, 1], "chunks out of order"),
        ([1, 0, 0], [0, 0, 1], "chunks out of order"),
        ([0, 0, -1, 1], [0, 1, 0, 0], "chunks out of order"),
        ([0, 1], [0, 0], "has 1 chunks of 2"),
        ([0, 0], [0, 1], "has 0 chunks of 1"),
        ([0, 0, 0, 1], [0, 1, 2, 0], "has 3 chunks of 2"),
        ([0, 0, 1, 1], [0, 1, 0, 1], "has 2 chunks of 1"),
    ],
)
def test_every_leaf_has_all_of_its_chunks_once(owners: Any, ordinals: Any, text: str) -> None:
    refused(text, A, B, **rows(owners, ordinals))


@pytest.mark.parametrize(
    ("owners", "ordinals"),
    [([], []), ([0], [0]), ([0], [1]), ([0, 1], [1, 0]), ([1], [0]), ([0, 0, 1], [0, 1, 0])],
)
def test_a_part_may_lack_chunks(owners: Any, ordinals: Any) -> None:
    found = read(A, B, value(), partial=True, **rows(owners, ordinals))
    assert found.partial
    assert found.chunks.ordinal.tolist() == ordinals


@pytest.mark.parametrize(
    ("owners", "ordinals", "text"),
    [
        ([0], [2], "a chunk outside of its array"),
        ([1], [1], "a chunk outside of its array"),
        ([0, 0], [1, 1], "chunks out of order"),
        ([0, 0], [1, 0], "chunks out of order"),
        ([1, 0], [0, 0], "chunks out of order"),
        ([0, 0, 0], [0, 1, 1], "has 3 chunks of 2"),
        ([2], [0], "has 1 chunks of 0"),
        ([3], [0], "a chunk of no leaf"),
    ],
)
def test_a_part_has_no_chunk_twice_nor_of_others(owners: Any, ordinals: Any, text: str) -> None:
    refused(text, A, B, value(), partial=True, **rows(owners, ordinals))


def test_a_compressed_chunk_unfolds_32768_times_at_most() -> None:
    ratio = 1 << 15
    one = {"ordinal": [0], "file": [0], "offset": [0], "leaf": [0]}
    for length in (1, 3):
        most = leaf(dtype="uint8", shape=(length * ratio,), codec="zstd")
        assert read(most, length=[length], **one).chunks.length.tolist() == [length]
        more = leaf(dtype="uint8", shape=(length * ratio + 1,), codec="zstd")
        refused("cannot unfold", more, length=[length], **one)
    half = leaf(dtype="uint16", shape=(ratio // 2,), codec="zstd")
    assert read(half, length=[1], **one)
    more = leaf(dtype="uint16", shape=(ratio // 2 + 1,), codec="zstd")
    refused("cannot unfold", more, length=[1], **one)


@pytest.mark.parametrize(
    ("leaves", "values", "text"),
    [
        ([value()], {}, "leaf 'n0' has 0 chunks of 0"),
        ([leaf()], {0: "x"}, "leaf 'n0' has 1 chunks of 1"),
        ([value(), leaf()], {0: "x", 1: "x"}, "leaf 'n1' has 1 chunks of 1"),
        ([value("foreign", typestr="mine")], {0: "x"}, "leaf 'n0' has 0 chunks of 0"),
        ([value("int")], {0: "x"}, "leaf 'n0' is no int"),
        ([value("str")], {0: 1 << 70}, "leaf 'n0' is no str"),
        ([value("int")], {0: True}, "leaf 'n0' is no int"),
    ],
)
def test_values_are_of_leaves_that_have_them(leaves: Any, values: Any, text: str) -> None:
    with pytest.raises((CorruptCheckpoint, TypeError), match=text):
        read(*leaves, values=values)


def fields_of(*leaves: StoredLeaf, **more: Any) -> dict[str, Any]:
    return json.loads(encode_ledger(manifest(*leaves, **more)))


def test_alike_leaves_share_what_is_said_of_them() -> None:
    fields = fields_of(A, B, A, value(), B)
    assert len(fields["specs"]) == 3
    assert "typestr" not in fields["specs"][0]
    assert fields["pertinax"] == 1
    assert "partial" not in fields


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda f: f["specs"].pop(), "a leaf without a spec"),
        (lambda f: f["leaves"].update(spec="AAAAAP////8="), "a leaf without a spec"),
        (lambda f: f["leaves"].update(spec="AAAAAA=="), "2 leaves in the tree, 1 specs, 2 names"),
        (lambda f: f["leaves"].update(name=["n0"]), "2 leaves in the tree, 2 specs, 1 names"),
        (lambda f: f["leaves"].update(name=["n0", "n1", "n2"]), "2 specs, 3 names"),
        (lambda f: f["leaves"].update(name=["n0", "n0"]), "2 specs, 1 names"),
        (lambda f: f["tree"].update(k=["n0"], c=[0]), "1 leaves in the tree"),
        (lambda f: f.update(block_bytes=1 << 21), "block size 2097152"),
        (lambda f: f.pop("block_bytes"), "KeyError|block size None"),
        (lambda f: f.update(pertinax=0), "version 0"),
        (lambda f: f.update(pertinax="2"), "version '2'"),
        (lambda f: f.update(pertinax="3"), "version '3'"),
        (lambda f: f.update(pertinax=2.5), "version 2.5"),
        (lambda f: f.pop("pertinax"), "version None"),
        (lambda f: f.pop("tree"), "KeyError: 'tree'"),
        (lambda f: f.update(tree=7), "not a ledger"),
        (lambda f: f.update(chunks=7), "not a ledger: TypeError"),
        (lambda f: f.update(specs=7), "not a ledger: TypeError"),
        (lambda f: f.update(values=[[float("inf"), 1]]), "not a ledger: OverflowError"),
        (lambda f: f.update(partial=True), "partial is True in version 1"),
        (lambda f: f.update(partial=1), "partial is 1 in version 1"),
        (lambda f: f.update(partial=None), "partial is None in version 1"),
        (lambda f: f["files"].append(["x", 1, "zz"]), "not a ledger: ValueError"),
    ],
)
def test_fields_that_cannot_be_are_refused(change: Any, text: str) -> None:
    fields = fields_of(A, B)
    change(fields)
    with pytest.raises(CorruptCheckpoint, match=text) as caught:
        decode_ledger(sealed(fields), file="x/pertinax.json")
    assert caught.value.file == "x/pertinax.json"


def test_version_2_may_say_that_it_is_no_part() -> None:
    for partial in (False, True):
        fields = fields_of(A, B) | {"pertinax": 2, "partial": partial}
        assert decode_ledger(sealed(fields)).partial is partial
    assert decode_ledger(sealed(fields_of(A) | {"partial": False})).partial is False


@pytest.mark.parametrize("version", [3, 4, 1 << 40])
def test_a_later_version_is_not_damage(version: int) -> None:
    with pytest.raises(NewerFormat, match=f"'x' has format version {version}"):
        decode_ledger(sealed({"pertinax": version}), file="x")


def test_what_else_is_said_is_kept_as_facts() -> None:
    fields = fields_of(A) | {"writer": "me", "saved_at_ns": 7}
    assert decode_ledger(sealed(fields)).facts == {"writer": "me", "saved_at_ns": 7}
    with_facts = dataclasses.replace(manifest(A), facts={"writer": "me", "more": [1]})
    assert decode_ledger(encode_ledger(with_facts)).facts == {"writer": "me", "more": [1]}


@pytest.mark.parametrize("layout", [("ocdbt", "zarr3"), ("directory", "zarr")])
def test_layouts_are_kept(layout: tuple[Any, Any]) -> None:
    container, driver = layout
    one = dataclasses.replace(manifest(A), container=container, array_driver=driver)
    found = decode_ledger(encode_ledger(one))
    assert (found.container, found.array_driver) == layout


class Said(bytes):
    """Bytes that say how many they are."""

    said = 0

    def __len__(self) -> int:
        return self.said


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (1 << 31, "does not match its own checksum"),
        ((1 << 31) + 1, "cannot have 2147483649 bytes"),
        (22, "cannot have 22 bytes"),
        (23, "does not match its own checksum"),
    ],
)
def test_a_ledger_has_two_gibibytes_at_most_and_23_bytes_at_least(length: int, text: str) -> None:
    data = Said(b"x" * 100)
    data.said = length
    for reader in (decode_ledger, vouched_files):
        with pytest.raises(CorruptCheckpoint, match=text):
            reader(data, file="f")


def test_a_wrong_checksum_is_of_the_whole_file() -> None:
    data = encode_ledger(manifest(A))
    with pytest.raises(CorruptCheckpoint, match="does not match its own checksum") as caught:
        decode_ledger(b" " + data[1:], file="x")
    assert (caught.value.file, caught.value.start, caught.value.stop) == ("x", 0, len(data))


@pytest.mark.parametrize("text", [b'{"a":1,', b"[" * 100_000])
def test_what_is_no_json_says_so(text: bytes) -> None:
    with pytest.raises(CorruptCheckpoint, match="not JSON") as caught:
        decode_ledger(text + b',"crc32c":"%08x"}' % crc32c(text), file="x")
    assert caught.value.file == "x"


def test_a_ledger_of_a_directory_is_of_version_1_and_has_no_tree() -> None:
    fields = json.loads(encode_step_ledger([FileRecord("a/b", 3, 0xAB)], {"items": []}))
    assert fields["pertinax"] == 1
    assert fields["files"] == [["a/b", 3, "000000ab"]]
    assert fields["specs"] == fields["values"] == fields["chunks"]["files"] == []


@pytest.mark.parametrize("change", [{"files": 7}, {"chunks": 7}, {"chunks": {}}, {"files": [[]]}])
def test_files_that_cannot_be_listed_are_no_ledger(change: dict[str, Any]) -> None:
    with pytest.raises(CorruptCheckpoint, match="not a ledger") as caught:
        vouched_files(sealed(fields_of(A) | change), file="x")
    assert caught.value.file == "x"


def test_blocks_are_counted_up() -> None:
    lengths = np.array([0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5 << 20], np.int64)
    assert block_counts(lengths).tolist() == [0, 1, 1, 1, 2, 5]
