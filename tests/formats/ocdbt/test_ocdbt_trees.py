# SPDX-License-Identifier: Apache-2.0
"""How entries fill nodes and nodes a tree, to the byte; and which trees the reader walks."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from pertinax._formats.ocdbt import (
    EncodedDatabase,
    Reference,
    Value,
    encode_database,
    open_database,
    read_database,
)
from pertinax._formats.ocdbt.btree import (
    Child,
    Leaf,
    Place,
    Statistics,
    decode_node,
    encode_interior,
    encode_leaf,
)
from pertinax._formats.ocdbt.columns import Budget, Cursor
from pertinax._formats.ocdbt.frame import MANIFEST, NODE, encode_frame
from pertinax._formats.ocdbt.manifest import Config, Version, encode_manifest
from pertinax._formats.ocdbt.writer import _split
from pertinax.errors import CorruptCheckpoint
from tests.formats.ocdbt.databases import COMMIT_TIME_NS, DATA_FILE, UUID, Memory, encode

# As the format has them.
MAX_ENTRIES = 1_048_576
MAX_KEY_BYTES = 65_535
MAX_INLINE_BYTES = 1_048_576
MAX_POSITION = 2**63 - 1

ONE = Statistics(1, 1, 1)
WRITTEN = {"data_file": DATA_FILE, "offset": 0, "commit_time_ns": COMMIT_TIME_NS, "uuid": UUID}
NODE_MAGIC = NODE.to_bytes(4, "big")


def bodies(database: EncodedDatabase) -> list[tuple[int, int]]:
    """Height and number of rows of each node, in the order of the file."""
    found: list[tuple[int, int]] = []
    for part in database.nodes.split(NODE_MAGIC)[1:]:
        body = part[10:-4]  # between the rest of the frame's head and its checksum
        cursor = Cursor(body, file="f", start=0, stop=len(body), budget=Budget())
        node = decode_node(cursor, Place(body[0], b"", ""))
        found.append((body[0], len(node.keys if isinstance(node, Leaf) else node)))
    return found


def letters(count: int, value: Value = b"123456789") -> dict[bytes, Value]:
    """Keys of one byte with values of nine: 74 bytes each, as the writer counts."""
    return {bytes((97 + number,)): value for number in range(count)}


def shape(entries: Mapping[bytes, Value], max_node_bytes: int) -> list[tuple[int, int]]:
    database = encode(entries, max_node_bytes=max_node_bytes)
    assert read_database(Memory(database)) == entries
    return bodies(database)


def test_a_leaf_is_filled_to_the_last_byte_that_a_node_may_have() -> None:
    assert shape(letters(4), 4 * 74) == [(0, 4)]
    assert shape(letters(4), 4 * 74 - 1) == [(0, 3), (0, 1), (1, 2)]
    assert shape(letters(4), 2 * 74) == [(0, 2), (0, 2), (1, 2)]


def test_a_node_above_leaves_is_filled_as_well_and_has_two_children_at_least() -> None:
    leaves = [(0, 2)] * 6
    assert shape(letters(12), 3 * 65) == [*leaves, (1, 3), (1, 3), (2, 2)]
    assert shape(letters(12), 3 * 65 - 1) == [
        *leaves,
        (1, 2),
        (1, 2),
        (1, 2),
        (2, 2),
        (2, 1),
        (3, 2),
    ]
    assert shape(letters(4), 0) == [(0, 1)] * 4 + [(1, 2)] * 2 + [(2, 2)]
    assert shape(letters(4), 1) == shape(letters(4), 0)


def test_a_value_out_of_line_takes_no_room_in_a_node() -> None:
    far = Reference("d/values", 4096, 100_000)
    assert shape(letters(4, far), 4 * 65) == [(0, 4)]
    assert shape(letters(4, far), 4 * 65 - 1) == [(0, 3), (0, 1), (1, 2)]


def test_no_node_has_more_rows_than_a_reader_takes() -> None:
    sizes = np.ones(2 * MAX_ENTRIES + 1, np.int64)
    ends = [part.stop for part in _split(sizes, 1 << 40, least=1)]
    assert ends == [MAX_ENTRIES, 2 * MAX_ENTRIES, 2 * MAX_ENTRIES + 1]


def test_the_manifest_counts_what_the_tree_holds() -> None:
    entries = letters(5) | {b"x": Reference("d/v", 1, 1000), b"y": Reference("d/v", 9, 234)}
    for max_node_bytes in (0, 150, 10**8):
        database = encode(entries, max_node_bytes=max_node_bytes, offset=77)
        version = open_database(Memory(database, 77)).version
        assert version.statistics == Statistics(7, len(database.nodes), 1234)
        assert (version.generation, version.commit_time_ns) == (1, COMMIT_TIME_NS)
        assert version.base == ""
        assert version.height == bodies(database)[-1][0]


def test_a_node_s_statistics_are_of_its_own_keys() -> None:
    """A reader of ours does not look at them; TensorStore's users may."""
    leaf = encode_leaf([b"a", b"b"], [b"x", Reference("d/v", 0, 99)])
    frame = encode_frame(NODE, leaf, compress=False)
    last = encode_leaf([b"c"], [b"z"])
    after = encode_frame(NODE, last, compress=False)
    top = encode_interior(
        1,
        [
            Child(b"a", Reference(DATA_FILE, 0, len(frame)), Statistics(2, len(frame), 99)),
            Child(b"c", Reference(DATA_FILE, len(frame), len(after)), Statistics(1, len(after), 0)),
        ],
    )
    entries: dict[bytes, Value] = {b"a": b"x", b"b": Reference("d/v", 0, 99), b"c": b"z"}
    found = encode(entries, max_node_bytes=2 * 66)
    assert found.nodes == frame + after + encode_frame(NODE, top, compress=False)


def test_an_empty_database_has_no_root_and_counts_nothing() -> None:
    database = encode({})
    found = open_database(Memory(database))
    assert (database.nodes, found.entries) == (b"", {})
    assert found.version == Version(1, COMMIT_TIME_NS, None, 0, "", Statistics(0, 0, 0))


def test_what_is_not_said_is_as_orbax_has_it_and_uncompressed() -> None:
    found = open_database(Memory(encode({b"k": bytes(1024)})))
    assert found.config == Config(UUID, 1024, 100_000_000, compress=False)
    with pytest.raises(ValueError, match="1025 bytes; write it out of line"):
        encode({b"k": bytes(1025)})


def test_what_is_said_is_in_the_manifest_and_holds() -> None:
    database = encode({b"k": bytes(900)}, max_inline_bytes=900, max_node_bytes=7, compress=True)
    assert open_database(Memory(database)).config == Config(UUID, 900, 7, compress=True)
    assert len(database.nodes) < 100
    assert len(encode({b"k": bytes(900)}).nodes) > 900


def test_the_writer_takes_what_is_at_the_limit() -> None:
    entries: dict[bytes, Value] = {
        b"k" * MAX_KEY_BYTES: bytes(MAX_INLINE_BYTES),
        b"l": Reference("d/x", MAX_POSITION, 0),
        b"m": Reference("d/x", MAX_POSITION - 5, 5),
        b"n": Reference("d/x", 0, MAX_POSITION),
    }
    database = encode(entries, max_inline_bytes=MAX_INLINE_BYTES, max_node_bytes=2**32 - 1)
    assert read_database(Memory(database)) == entries
    far: dict[bytes, Value] = {b"k": Reference("d/x", 0, 1)}
    assert read_database(Memory(encode(far, max_inline_bytes=0))) == far


@pytest.mark.parametrize(
    ("entries", "options", "why"),
    [
        ({b"k" * (MAX_KEY_BYTES + 1): b""}, {}, "a key has 65536 bytes"),
        ({b"k": b"xy"}, {"max_inline_bytes": 1}, "an inline value has 2 bytes"),
        ({b"k": Reference("d/x", MAX_POSITION - 5, 6)}, {}, "no place in a file"),
        ({b"k": Reference("d/x", -1, 1)}, {}, "no place in a file"),
        ({b"k": Reference("d/x", 1, -1)}, {}, "no place in a file"),
        ({b"k": Reference("d/../x", 1, 1)}, {}, "not a plain relative path"),
        ({}, {"data_file": "/d"}, "not a plain relative path"),
        ({}, {"max_inline_bytes": MAX_INLINE_BYTES + 1}, "not in 0..1048576"),
        ({}, {"max_inline_bytes": -1}, "not in 0..1048576"),
        ({}, {"max_node_bytes": 2**32}, "not in 0..4294967295"),
    ],
)
def test_the_writer_refuses_what_is_past_the_limit(entries, options, why) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        encode_database(sorted(entries.items()), **{**WRITTEN, **options})


def manifest_over(root: Reference, height: int) -> bytes:
    config = Config(UUID, 1024, 10**8, compress=False)
    version = Version(1, COMMIT_TIME_NS, root, height, "", ONE)
    return encode_frame(MANIFEST, encode_manifest(config, version), compress=False)


class Tree:
    """A database whose nodes somebody has laid down one by one."""

    def __init__(self) -> None:
        self.content = b""
        self.reads: list[tuple[str, int, int | None]] = []

    def node(self, body: bytes) -> Reference:
        frame = encode_frame(NODE, body, compress=False)
        self.content += frame
        return Reference(DATA_FILE, len(self.content) - len(frame), len(frame))

    def leaf(self, *keys: bytes) -> Reference:
        return self.node(encode_leaf(keys, [b""] * len(keys)))

    def above(self, height: int, *children: tuple[bytes, Reference]) -> Reference:
        return self.node(encode_interior(height, [Child(key, at, ONE) for key, at in children]))

    def read(self, root: Reference, height: int) -> list[bytes]:
        disk = Memory(EncodedDatabase(self.content, manifest_over(root, height)))

        def read(file: str, offset: int, length: int | None) -> bytes:
            self.reads.append((file, offset, length))
            return disk(file, offset, length)

        return list(read_database(read))


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1), (1, 3, 0, 2)])
def test_nodes_lie_in_any_order_and_keys_come_in_theirs(order: Sequence[int]) -> None:
    tree = Tree()
    names = [b"a", b"b", b"c", b"d"]
    leaves = {names[at]: tree.leaf(names[at], names[at] + b"+") for at in order}
    root = tree.above(1, *((name, leaves[name]) for name in names))
    assert tree.read(root, 1) == [b"a", b"a+", b"b", b"b+", b"c", b"c+", b"d", b"d+"]


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_nodes_that_share_one_byte_are_refused(first: bool) -> None:
    tree = Tree()
    if first:
        one, two = tree.leaf(b"a"), tree.leaf(b"b")
        two = two._replace(offset=two.offset - 1)
    else:
        two, one = tree.leaf(b"b"), tree.leaf(b"a")
        two = two._replace(offset=two.offset + 1)
    with pytest.raises(CorruptCheckpoint, match="overlaps") as caught:
        tree.read(tree.above(1, (b"a", one), (b"b", two)), 1)
    assert (caught.value.file, caught.value.start) == (DATA_FILE, two.offset)
    assert caught.value.stop == two.offset + two.length


def test_a_node_of_another_file_is_no_neighbour() -> None:
    database = encode(letters(2), max_node_bytes=0)
    disk = Memory(database)
    content = disk.files[DATA_FILE]
    half = content.index(NODE_MAGIC, 1)
    end = content.index(NODE_MAGIC, half + 1)
    disk.files["d/one"], disk.files["d/two"] = content[:half], content[half:end]
    tree = encode_interior(
        1,
        [
            Child(b"a", Reference("d/one", 0, half), ONE),
            Child(b"b", Reference("d/two", 0, end - half), ONE),
        ],
    )
    frame = encode_frame(NODE, tree, compress=False)
    disk.files[DATA_FILE] = frame
    disk.files["manifest.ocdbt"] = manifest_over(Reference(DATA_FILE, 0, len(frame)), 1)
    assert list(read_database(disk)) == [b"a", b"b"]


def test_a_child_takes_eight_bytes_at_least() -> None:
    tree = Tree()
    assert tree.read(tree.above(1, (b"", tree.leaf(b"a"))), 1) == [b"a"]


def three_levels(middle: Sequence[bytes], keys: Sequence[bytes]) -> list[bytes]:
    """A root with a child from "c" and one from "m"; the first has a leaf for each of `middle`."""
    tree = Tree()
    leaves = [(name, tree.leaf(key)) for name, key in zip(middle, keys, strict=True)]
    left, right = tree.above(1, *leaves), tree.above(1, (b"m", tree.leaf(b"n")))
    return tree.read(tree.above(2, (b"c", left), (b"m", right)), 2)


def test_children_of_children_keep_to_the_range_of_their_grandparents() -> None:
    assert three_levels([b"c", b"e"], [b"d", b"l"]) == [b"d", b"l", b"n"]
    for middle, keys in (
        ([b"b", b"e"], [b"d", b"l"]),
        ([b"c", b"e"], [b"d", b"m"]),
        ([b"c", b"e"], [b"e", b"l"]),
        ([b"c", b"m"], [b"d", b"n"]),
        ([b"c", b"e"], [b"b", b"l"]),
    ):
        with pytest.raises(CorruptCheckpoint, match="outside the range"):
            three_levels(middle, keys)


@pytest.mark.parametrize("extra", [0, 1])
def test_a_node_above_a_mebibyte_is_asked_for_its_last_byte_first(extra: int) -> None:
    """So that a length that somebody made up does not become a buffer."""
    tree = Tree()
    empty = len(encode_frame(NODE, encode_leaf([b"a", b"b"], [b"", b""]), compress=False))
    rest = (1 << 20) + extra - empty - 4  # two lengths of three bytes each, not of one
    values = [bytes(rest // 2), bytes(rest - rest // 2)]
    root = tree.node(encode_leaf([b"a", b"b"], values))
    assert root.length == (1 << 20) + extra
    assert tree.read(root, 0) == [b"a", b"b"]
    probe = [(DATA_FILE, root.length - 1, 1)] * extra
    assert tree.reads == [("manifest.ocdbt", 0, None), *probe, (DATA_FILE, 0, root.length)]


def test_a_disk_that_has_no_byte_there_and_says_nothing_is_a_file_too_short() -> None:
    root = Reference(DATA_FILE, 0, 1 << 21)
    disk = Memory(EncodedDatabase(b"short", manifest_over(root, 0)))

    def read(file: str, offset: int, length: int | None) -> bytes:
        assert length != root.length, "such a buffer is not asked for"
        return disk.files[file][offset : None if length is None else offset + length]

    with pytest.raises(CorruptCheckpoint, match="cannot be read") as caught:
        read_database(read)
    assert (caught.value.file, caught.value.start, caught.value.stop) == (DATA_FILE, 0, 1 << 21)


@pytest.mark.parametrize("error", [IsADirectoryError, NotADirectoryError, FileNotFoundError])
def test_a_name_that_is_no_file_s_is_damage(error: type[OSError]) -> None:
    disk = Memory(encode(letters(1)))

    def read(file: str, offset: int, length: int | None) -> bytes:
        if file == DATA_FILE:
            raise error(file)
        return disk(file, offset, length)

    with pytest.raises(CorruptCheckpoint, match="cannot be read"):
        read_database(read)


def test_damage_of_the_manifest_is_told_from_its_first_byte_on() -> None:
    disk = Memory(encode(letters(1)))
    content = disk.files["manifest.ocdbt"]
    disk.files["manifest.ocdbt"] = content[:-1] + bytes((content[-1] ^ 1,))
    with pytest.raises(CorruptCheckpoint, match="CRC-32C is") as caught:
        read_database(disk)
    assert (caught.value.start, caught.value.stop) == (0, len(content))
    assert caught.value.file == "manifest.ocdbt"
