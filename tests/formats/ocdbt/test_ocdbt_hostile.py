# SPDX-License-Identifier: Apache-2.0
"""Whatever bytes lie on disk, the OCDBT reader answers with entries or with a typed error, soon."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import assume, given
from hypothesis import strategies as st

from pertinax._formats.crc import crc32c
from pertinax._formats.ocdbt import (
    EncodedDatabase,
    Reference,
    UnsupportedDatabase,
    Value,
    read_database,
)
from pertinax._formats.ocdbt.btree import Child, Statistics, encode_interior, encode_leaf
from pertinax._formats.ocdbt.columns import encode_varint, encode_varints
from pertinax._formats.ocdbt.frame import MANIFEST, NODE, encode_frame
from pertinax._formats.ocdbt.manifest import Config, Version, encode_manifest
from pertinax.errors import CorruptCheckpoint, NewerFormat
from tests.formats.ocdbt.databases import COMMIT_TIME_NS, DATA_FILE, UUID, Memory, encode

pytestmark = pytest.mark.crash

ENTRIES: dict[bytes, Value] = {
    b"%s/%s" % (name, part): value
    for name in (b"alpha", b"beta", b"gamma" * 40)
    for part, value in {
        b".zarray": b'{"shape":[3]}',
        b"0": Reference("d/aa", 4096, 300),
        b"1": Reference("ocdbt.process_0/d/bb", 2**40, 0),
    }.items()
}

paths = st.lists(st.sampled_from(["d", "ocdbt.process_0", "é", "a.b"]), min_size=1, max_size=3)
positions = st.one_of(st.integers(0, 300), st.integers(0, 2**62 - 1))
references = st.builds(Reference, paths.map("/".join), positions, positions)
databases = st.dictionaries(
    st.binary(max_size=40), st.one_of(st.binary(max_size=200), references), max_size=30
)


@given(databases, st.sampled_from([0, 200, 10**8]), st.booleans(), st.integers(0, 5000))
def test_what_we_write_we_read(
    entries: dict[bytes, Value], max_node_bytes: int, compress: bool, offset: int
) -> None:
    database = encode(entries, max_node_bytes=max_node_bytes, compress=compress, offset=offset)
    found = read_database(Memory(database, offset))
    assert found == entries
    assert list(found) == sorted(entries)


@given(st.lists(st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 300)), max_size=50))
def test_varint_columns_agree_with_one_at_a_time(numbers: list[int]) -> None:
    assert encode_varints(numbers) == b"".join(map(encode_varint, numbers))


def at_root(body: bytes, *, height: int = 0, compress: bool = False) -> Memory:
    """A database whose root node has this body, in a frame with a right checksum."""
    frame = encode_frame(NODE, body, compress=compress)
    return over_root(Reference(DATA_FILE, 0, len(frame)), frame, height=height)


def over_root(root: Reference, content: bytes, *, height: int) -> Memory:
    config = Config(UUID, 1024, 10**8, compress=False)
    version = Version(1, COMMIT_TIME_NS, root, height, "", Statistics(1, 1, 1))
    manifest = encode_frame(MANIFEST, encode_manifest(config, version), compress=False)
    return Memory(EncodedDatabase(content, manifest))


def with_manifest(body: bytes) -> Memory:
    database = encode(ENTRIES)
    manifest = encode_frame(MANIFEST, body, compress=False)
    return Memory(EncodedDatabase(database.nodes, manifest))


@given(st.data(), st.booleans())
def test_every_flipped_byte_of_manifest_and_nodes_is_noticed(
    data: st.DataObject, compress: bool
) -> None:
    disk = Memory(encode(ENTRIES, max_node_bytes=300, compress=compress))
    file = data.draw(st.sampled_from(sorted(disk.files)))
    content = bytearray(disk.files[file])
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    disk.files[file] = bytes(content)
    with pytest.raises(CorruptCheckpoint) as caught:
        read_database(disk)
    assert caught.value.file == file


@given(st.data())
def test_a_truncated_or_missing_file_is_noticed(data: st.DataObject) -> None:
    disk = Memory(encode(ENTRIES, max_node_bytes=300))
    file = data.draw(st.sampled_from(sorted(disk.files)))
    disk.files[file] = disk.files[file][: data.draw(st.integers(0, len(disk.files[file]) - 1))]
    with pytest.raises(CorruptCheckpoint):
        read_database(disk)


def test_a_node_file_that_is_gone_is_damage_but_no_manifest_is_no_database() -> None:
    disk = Memory(encode(ENTRIES))
    del disk.files[DATA_FILE]
    with pytest.raises(CorruptCheckpoint, match="cannot be read"):
        read_database(disk)
    del disk.files["manifest.ocdbt"]
    with pytest.raises(FileNotFoundError):
        read_database(disk)


def leaf_body() -> bytes:
    keys = sorted(ENTRIES)
    return encode_leaf(keys, [ENTRIES[key] for key in keys])


def interior_body() -> bytes:
    nodes = [
        Child(b"k%d" % i, Reference("d/n", 500 * i, 400), Statistics(9, 9, 9)) for i in range(9)
    ]
    return encode_interior(1, nodes)


def manifest_body() -> bytes:
    return encode(ENTRIES).manifest[14:-4]


@st.composite
def damaged(draw: st.DrawFn, body: bytes) -> bytes:
    """A body with some runs of bytes replaced: by noise, by huge varints, by nothing."""
    noise = st.one_of(
        st.binary(max_size=3),
        st.sampled_from([encode_varint(2**k - 1) for k in (7, 16, 20, 32, 40, 63, 64)]),
        st.sampled_from([b"\x80" * 11, b"\xff" * 12, b"../", b"\0", b"/"]),
    )
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(body)))
        body = body[:begin] + draw(noise) + body[begin + draw(st.integers(0, 3)) :]
    return body


@pytest.mark.campaign
@pytest.mark.parametrize("compress", [False, True])
@given(body=damaged(leaf_body()))
def test_a_forged_leaf_is_read_or_refused(compress: bool, body: bytes) -> None:
    read_or_refuse(at_root(body, compress=compress))


@pytest.mark.campaign
@given(body=damaged(interior_body()))
def test_a_forged_interior_node_is_refused(body: bytes) -> None:
    read_or_refuse(at_root(body, height=1))


@pytest.mark.campaign
@given(body=damaged(manifest_body()))
def test_a_forged_manifest_is_read_or_refused(body: bytes) -> None:
    assume(body != manifest_body())
    read_or_refuse(with_manifest(body))


@pytest.mark.campaign
@given(st.binary(max_size=300), st.sampled_from([0, 1, 255]))
def test_noise_in_a_right_frame_is_refused(body: bytes, height: int) -> None:
    read_or_refuse(at_root(bytes((height,)) + body, height=height))
    read_or_refuse(with_manifest(body))


def read_or_refuse(disk: Memory) -> None:
    try:
        entries = read_database(disk)
    except (CorruptCheckpoint, UnsupportedDatabase):
        return
    assert list(entries) == sorted(entries)
    for value in entries.values():
        if isinstance(value, Reference):
            assert not value.file.startswith("/")
            assert not {"", ".", ".."} & set(value.file.split("/"))


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "/etc/passwd",
        "d/../../x",
        "d//x",
        "d/./x",
        "d/",
        "",
        "a\0b",
        "..\\x",
        "C:/x",
        "d/..",
        "d/" + 256 * "x",
    ],
)
def test_a_path_out_of_the_database_is_refused(path: str) -> None:
    body = encode_leaf([b"key"], [Reference(path, 0, 1)])
    with pytest.raises(CorruptCheckpoint, match="path"):
        read_database(at_root(body))
    with pytest.raises(CorruptCheckpoint, match="path"):
        read_database(over_root(Reference(path, 0, 30), b"", height=0))


def peak_bytes(disk: Memory, match: str) -> int:
    tracemalloc.start()
    try:
        with pytest.raises(CorruptCheckpoint, match=match):
            read_database(disk)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def huge_counts() -> list[bytes]:
    huge = encode_varint(2**40)
    return [
        b"\0" + huge,  # data files
        b"\0\0" + huge,  # entries
        b"\0\0" + encode_varint(2**20),
        b"\0\0\1" + huge,  # key length
        b"\0\0\1\1a" + huge + b"\0",  # value length
        b"\0\0\2\0" + huge,
        b"\0\1" + huge + b"\0",  # path length
    ]


@pytest.mark.parametrize("body", huge_counts())
def test_a_huge_count_allocates_nothing(body: bytes) -> None:
    assert peak_bytes(at_root(body), ".") < 1 << 20


def test_a_zstd_bomb_is_cut_off() -> None:
    disk = at_root(bytes(1 << 30), compress=True)
    assert len(disk.files[DATA_FILE]) < 100_000
    assert peak_bytes(disk, "plausible") < 200 << 20


def test_a_lie_about_the_decompressed_size_allocates_nothing() -> None:
    packed = zstandard.ZstdCompressor(write_content_size=True).compress(bytes(300))
    # Frame header: magic, descriptor, then the size: claim 2^50 bytes in an eight-byte field.
    forged = packed[:4] + b"\xe0" + (2**50).to_bytes(8, "little") + packed[7:]
    head = NODE.to_bytes(4, "big") + (18 + len(forged)).to_bytes(8, "little") + b"\0\1"
    frame = head + forged
    frame += crc32c(frame).to_bytes(4, "little")
    disk = over_root(Reference(DATA_FILE, 0, len(frame)), frame, height=0)
    assert peak_bytes(disk, ".") < 1 << 20


def test_keys_that_share_everything_cannot_grow_without_end() -> None:
    rows = 60_000  # key i is key i-1 and one more byte: 1.8 GB of keys from 400 KB
    shared = encode_varints(range(rows - 1))
    columns = shared + b"\1" * rows + b"a" * rows + bytes(2 * rows)
    body = b"\0\0" + encode_varint(rows) + columns
    assert peak_bytes(at_root(body, compress=True), "plausible") < 100 << 20


def test_a_node_cannot_be_its_own_child() -> None:
    body = interior_body()
    for _ in range(2):  # the second round knows the length
        frame = encode_frame(NODE, body, compress=False)
        own = Reference(DATA_FILE, 0, len(frame))
        body = encode_interior(1, [Child(b"a", own, Statistics(1, 1, 1))])
    frame = encode_frame(NODE, body, compress=False)
    disk = over_root(Reference(DATA_FILE, 0, len(frame)), frame, height=1)
    with pytest.raises(CorruptCheckpoint, match=r"overlaps|bytes"):
        read_database(disk)


def test_a_tree_that_doubles_at_every_level_is_refused() -> None:
    frame = encode_frame(NODE, encode_leaf([b"a"], [b""]), compress=False)
    content, node = frame, Reference(DATA_FILE, 0, len(frame))
    for height in range(1, 200):
        twice = [Child(key, node, Statistics(1, 1, 1)) for key in (b"a", b"b")]
        plain = encode_interior(height, twice)
        # Each child gets its own key as implicit prefix, so that all 2^199 keys differ and rise.
        body = plain.replace(b"\2\0\1\1\0\0ab", b"\2\0\1\1\1\1ab")
        assert body != plain
        frame = encode_frame(NODE, body, compress=False)
        node = Reference(DATA_FILE, len(content), len(frame))
        content += frame
    with pytest.raises(CorruptCheckpoint, match="overlaps"):
        read_database(over_root(node, content, height=199))


def children(*places: tuple[bytes, list[bytes]]) -> Memory:
    """An interior root over leaves: the key that the root gives, and the keys that the leaf has."""
    content, nodes = b"", list[Child]()
    for key, keys in places:
        frame = encode_frame(NODE, encode_leaf(keys, [b""] * len(keys)), compress=False)
        nodes.append(
            Child(key, Reference(DATA_FILE, len(content), len(frame)), Statistics(1, 1, 1))
        )
        content += frame
    frame = encode_frame(NODE, encode_interior(1, nodes), compress=False)
    return over_root(Reference(DATA_FILE, len(content), len(frame)), content + frame, height=1)


def test_children_must_keep_to_their_key_range() -> None:
    assert list(read_database(children((b"a", [b"b"]), (b"c", [b"d"])))) == [b"b", b"d"]
    for disk in (
        children((b"b", [b"a"]), (b"c", [b"d"])),
        children((b"a", [b"b", b"c"]), (b"c", [b"d"])),
        children((b"a", [b"b", b"a"])),
        children((b"c", [b"d"]), (b"a", [b"b"])),
    ):
        with pytest.raises(CorruptCheckpoint, match=r"range|rise"):
            read_database(disk)


def test_a_node_of_the_wrong_height_is_refused() -> None:
    with pytest.raises(CorruptCheckpoint, match="height"):
        read_database(at_root(leaf_body(), height=3))


def set_byte(at: int, number: int) -> Callable[[bytes], bytes]:
    return lambda frame: frame[:at] + bytes((number,)) + frame[at + 1 :]


def test_what_the_future_may_bring_has_its_own_errors() -> None:
    database = encode(ENTRIES)
    for at, number, error in ((12, 1, NewerFormat), (13, 2, UnsupportedDatabase)):
        head = set_byte(at, number)(database.manifest[:-4])
        forged = head + crc32c(head).to_bytes(4, "little")
        with pytest.raises(error):
            read_database(Memory(EncodedDatabase(database.nodes, forged)))
    kind = set_byte(16, 1)(manifest_body())
    with pytest.raises(UnsupportedDatabase, match="numbered"):
        read_database(with_manifest(kind))


def test_a_promise_of_larger_nodes_than_can_be_is_refused() -> None:
    body = manifest_body()
    promise = encode_varint(100_000_000)
    assert body.count(promise) == 1
    with pytest.raises(CorruptCheckpoint, match="nodes of up to"):
        read_database(with_manifest(body.replace(promise, encode_varint(2**32))))


def test_a_declared_node_length_beyond_the_file_reads_no_such_buffer() -> None:
    disk = over_root(Reference(DATA_FILE, 0, 2**50), b"tiny", height=0)
    reads: list[int | None] = []

    def read(file: str, offset: int, length: int | None) -> bytes:
        reads.append(length)
        return disk(file, offset, length)

    with pytest.raises(CorruptCheckpoint, match="cannot be read"):
        read_database(read)
    assert reads == [None, 1]
