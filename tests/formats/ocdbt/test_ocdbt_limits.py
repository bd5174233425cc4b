# SPDX-License-Identifier: Apache-2.0
"""Columns, tables, frames and manifests at their limits: the last that fits, the first that does
not.
"""

from collections.abc import Callable

import pytest

from pertinax._formats.crc import crc32c
from pertinax._formats.ocdbt import Reference, UnsupportedDatabase
from pertinax._formats.ocdbt.btree import (
    Leaf,
    Place,
    Statistics,
    decode_node,
    encode_leaf,
)
from pertinax._formats.ocdbt.columns import (
    Budget,
    Cursor,
    encode_strings,
    encode_varint,
    encode_varints,
    shared_prefix_lengths,
)
from pertinax._formats.ocdbt.files import decode_file_table, path_problem
from pertinax._formats.ocdbt.frame import MANIFEST, NODE, decode_frame, encode_frame
from pertinax._formats.ocdbt.manifest import Config, Version, decode_manifest, encode_manifest
from pertinax.errors import CorruptCheckpoint
from tests.formats.ocdbt.databases import UUID

N = encode_varint
# As the format has them.
MAX_INLINE_BYTES = 1_048_576
MAX_POSITION = 2**63 - 1
MISSING = 2**64 - 1


def cursor(body: bytes) -> Cursor:
    return Cursor(body, file="f", start=0, stop=len(body), budget=Budget())


@pytest.mark.parametrize("number", [0, 127, 128, 129, 16_383, 16_384, 2**63, 2**64 - 1])
def test_a_column_s_largest_number_is_written_whole(number: int) -> None:
    column = encode_varints([0, number])
    assert column == b"\0" + N(number)
    assert cursor(column).varints(2).tolist() == [0, number]


@pytest.mark.parametrize("count", [1, 2, 65_536, 65_538])
def test_what_neighbours_share_is_found_also_where_blocks_of_rows_meet(count: int) -> None:
    strings = [b"name/%06d" % (number // 3) for number in range(count)]
    pairs = zip(strings[1:], strings, strict=False)
    wanted = [next((n for n in range(len(s)) if s[n] != t[n]), len(s)) for s, t in pairs]
    assert shared_prefix_lengths(strings) == wanted


@pytest.mark.parametrize("shared", [0, 1, 254, 255, 256])
def test_what_is_shared_is_said_up_to_255_bytes(shared: int) -> None:
    strings = [b"a" * shared + end for end in (b"", b"b", b"c")]
    assert shared_prefix_lengths(strings) == [min(shared, 255)] * 2
    prefix, suffix, text = encode_strings(strings)
    at = cursor(prefix + suffix + text)
    columns = at.lengths(2, most=300), at.lengths(3, most=300)
    assert at.strings(*columns, most=300) == strings
    at.finish()


def test_a_budget_is_what_bytes_have_earned_and_is_spent_to_the_last() -> None:
    budget = Budget()
    budget.spend(32 << 20, file="f")
    assert budget.left_bytes == 0
    budget.earn(3)
    assert budget.left_bytes == 3 * 512
    with pytest.raises(CorruptCheckpoint, match="1537 bytes where at most 1536 are plausible"):
        budget.spend(1537, file="f")
    budget.spend(1535, file="f")
    assert budget.left_bytes == 1


@pytest.mark.parametrize("compress", [False, True])
def test_a_frame_earns_by_its_length_and_pays_for_its_body(compress: bool) -> None:
    body = bytes(100_000)
    frame = encode_frame(NODE, body, compress=compress)
    budget = Budget()
    before = budget.left_bytes
    opened = decode_frame(frame, NODE, file="f", start=7, budget=budget)
    assert opened.body == body
    assert (opened.start, opened.stop) == (7, 7 + len(frame))
    assert budget.left_bytes - before == Budget.PER_BYTE * len(frame) - len(body)


def test_an_inline_value_is_as_long_as_it_may_be_and_no_longer() -> None:
    def node(length: int) -> Leaf:
        found = decode_node(cursor(encode_leaf([b"k"], [bytes(length)])), Place(0, b"", ""))
        assert isinstance(found, Leaf)
        return found

    assert node(MAX_INLINE_BYTES).values == [bytes(MAX_INLINE_BYTES)]
    with pytest.raises(CorruptCheckpoint, match="inline value of 1048577 bytes"):
        node(MAX_INLINE_BYTES + 1)


@pytest.mark.parametrize("height", [0, 1])
def test_a_node_has_as_many_rows_as_it_may_have_and_no_more(height: int) -> None:
    most = 1 << 20

    def refused(rows: int, text: str) -> None:
        body = bytes((height, 0)) + N(rows) + b"\x80" * (8 * rows)  # numbers that do not end
        at = cursor(body)
        at.budget.earn(len(body))
        with pytest.raises(CorruptCheckpoint, match=text):
            decode_node(at, Place(height, b"", ""))

    refused(most, "runs past the end")
    refused(most + 1, "1048577 rows declared")


def test_a_part_of_a_path_has_255_bytes_at_most() -> None:
    assert path_problem("d/" + "x" * 255) is None
    assert path_problem("d/" + "é" * 127) is None
    assert "more than 255 bytes" in str(path_problem("d/" + "x" * 256))
    assert "more than 255 bytes" in str(path_problem("é" * 128 + "/x"))


def test_a_path_has_4096_bytes_at_most() -> None:
    body = b"\1" + N(4096) + b"\0" + b"x" * 4096
    assert decode_file_table(cursor(body), base="").paths == ["x" * 4096]
    with pytest.raises(CorruptCheckpoint, match="length 4097 where at most 4096"):
        decode_file_table(cursor(b"\1" + N(4097) + b"\0" + b"x" * 4097), base="")
    shared = b"\2" + N(4000) + N(4000) + N(97) + b"\0\0" + b"x" * 4097
    with pytest.raises(CorruptCheckpoint, match="is too long"):
        decode_file_table(cursor(shared), base="")


def test_a_table_of_files_has_as_many_as_there_may_be_and_no_more() -> None:
    most = 1 << 20
    with pytest.raises(CorruptCheckpoint, match="1048576 numbers declared"):  # a column is missing
        decode_file_table(cursor(N(most) + bytes(2 * most)), base="")
    with pytest.raises(CorruptCheckpoint, match="1048577 data files declared"):
        decode_file_table(cursor(N(most + 1) + bytes(3 * most + 3)), base="")


def test_a_table_of_no_files_is_empty() -> None:
    found = decode_file_table(cursor(b"\0"), base="d/")
    assert (found.paths, found.bases) == ([], [])


def test_files_stand_below_their_bases() -> None:
    body = N(2) + b"\2" + b"\3\3" + b"\2\0" + b"b/x" + b"y/z"
    found = decode_file_table(cursor(body), base="a/")
    assert found.paths == ["a/b/x", "a/b/y/z"]
    assert found.bases == ["a/b/", "a/"]
    longest = bytes((1, 3, 3)) + b"b/x"
    assert decode_file_table(cursor(longest), base="").bases == ["b/x"]
    with pytest.raises(CorruptCheckpoint, match="base path is longer"):
        decode_file_table(cursor(bytes((1, 3, 4)) + b"b/x"), base="")
    for what in (b"", bytes(3)):
        assert decode_file_table(cursor(b"\1\0\0" + what), base="").paths == [""]


@pytest.mark.parametrize("compress", [False, True])
def test_a_frame_ends_where_it_says(compress: bool) -> None:
    frame = encode_frame(NODE, b"", compress=compress)
    assert decode_frame(frame, NODE, file="f", start=0, budget=Budget()).body == b""
    for wrong in (frame[:-1], frame[:17], b"", frame + b"\0"):
        with pytest.raises(CorruptCheckpoint) as caught:
            decode_frame(wrong, NODE, file="f", start=5, budget=Budget())
        assert (caught.value.start, caught.value.stop) == (5, 5 + len(wrong))


def of_length(length: int) -> bytes:
    head = NODE.to_bytes(4, "big") + length.to_bytes(8, "little")
    body = (head + bytes(length))[: length - 4]
    return body + crc32c(body).to_bytes(4, "little")


def test_the_shortest_frame_has_18_bytes() -> None:
    assert decode_frame(of_length(18), NODE, file="f", start=0, budget=Budget()).body == b""
    for length in (16, 17):
        with pytest.raises(CorruptCheckpoint, match=f"{length} bytes cannot hold a frame"):
            decode_frame(of_length(length), NODE, file="f", start=0, budget=Budget())


ROW = dict[str, int]
NEWEST: ROW = {
    "generation": 9,
    "height": 3,
    "file": 1,
    "offset": 300,
    "length": 70,
    "keys": 11,
    "tree": 12,
    "indirect": 13,
    "time": 1 << 60,
}
FILES = N(2) + b"\2" + b"\3\1" + b"\0\2" + b"d/x" + b"y"  # d/x, and d/y with the base "d/"


def manifest(
    *rows: ROW,
    config: bytes = b"\0\x80\x08\x80\x10\4\0",
    files: bytes = FILES,
    nodes: bytes = b"\0",
    change: Callable[[bytes], bytes] = lambda body: body,
) -> tuple[Config, Version]:
    """What a manifest of these versions is read as."""
    body = UUID + config + files + N(len(rows))
    body += b"".join(N(row["generation"]) for row in rows)
    body += bytes(row["height"] for row in rows)
    for name in ("file", "offset", "length", "keys", "tree", "indirect"):
        body += b"".join(N(row[name]) for row in rows)
    body += b"".join(row["time"].to_bytes(8, "little") for row in rows)
    return decode_manifest(cursor(change(body + nodes)))


def older(generation: int) -> ROW:
    """A version of which every number is another."""
    return dict.fromkeys(NEWEST, 5) | {"file": 0, "generation": generation}


WANTED = Version(9, 1 << 60, Reference("d/y", 300, 70), 3, "d/", Statistics(11, 12, 13))


@pytest.mark.parametrize("before", [[], [8], [1, 2, 8], list(range(1, 9))])
def test_of_many_versions_the_last_one_counts(before: list[int]) -> None:
    config, version = manifest(*map(older, before), NEWEST)
    assert config == Config(UUID, 1024, 2048, compress=False)
    assert version == WANTED


def test_a_manifest_holds_as_many_versions_as_its_arity_says_and_no_more() -> None:
    rows = [older(number) for number in range(1, 9)]
    for arity in (1, 2, 3, 16):
        config = bytes((0, 1, 1, arity, 0))
        most = min(2**arity, 9)
        assert manifest(*rows[9 - most :], NEWEST, config=config)[1] == WANTED
        if most < 9:
            with pytest.raises(CorruptCheckpoint, match=f"{most + 1} rows declared"):
                manifest(*rows[8 - most :], NEWEST, config=config)
    for arity in (0, 17):
        with pytest.raises(CorruptCheckpoint, match="version tree arity"):
            manifest(NEWEST, config=bytes((0, 1, 1, arity, 0)))


@pytest.mark.parametrize("generations", [[0, 9], [8, 8], [9, 8], [1, 3, 2], [1, 1, 2], [0]])
def test_generations_that_do_not_rise_from_one_are_refused(generations: list[int]) -> None:
    with pytest.raises(CorruptCheckpoint, match="generations do not rise"):
        manifest(*map(older, generations))


def test_the_first_generation_is_one() -> None:
    assert manifest(older(1))[1].generation == 1


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_older_version_nodes_are_stepped_over(rows: int) -> None:
    column = b"\x81\1" * rows
    nodes = N(rows) + column * 5 + bytes(9 * rows)
    assert manifest(NEWEST, nodes=nodes)[1] == WANTED
    with pytest.raises(CorruptCheckpoint, match="1 bytes too many"):
        manifest(NEWEST, nodes=nodes + b"\0")
    with pytest.raises(CorruptCheckpoint):
        manifest(NEWEST, nodes=nodes[:-1])


def test_more_version_nodes_than_bytes_are_refused() -> None:
    with pytest.raises(CorruptCheckpoint, match="5 version nodes declared"):
        manifest(NEWEST, nodes=b"\5" + bytes(4))
    with pytest.raises(CorruptCheckpoint, match=r"bytes wanted|numbers declared"):
        manifest(NEWEST, nodes=b"\5" + bytes(5))


def test_a_manifest_has_as_many_version_nodes_as_it_may_have() -> None:
    most = 1 << 20
    with pytest.raises(CorruptCheckpoint, match="1048576 numbers declared"):  # columns are missing
        manifest(NEWEST, nodes=N(most) + bytes(most))
    with pytest.raises(CorruptCheckpoint, match="1048577 version nodes declared"):
        manifest(NEWEST, nodes=N(most + 1) + bytes(most + 1))


@pytest.mark.parametrize("compression", [0, 1, 2])
def test_a_manifest_says_how_nodes_are_compressed(compression: int) -> None:
    config = bytes((0, 1, 1, 4, compression)) + b"\xff" * (4 * (compression == 1))
    if compression > 1:
        with pytest.raises(UnsupportedDatabase, match="compression method 2"):
            manifest(NEWEST, config=config)
        return
    found = manifest(NEWEST, config=config)
    assert found == (Config(UUID, 1, 1, compress=bool(compression)), WANTED)


@pytest.mark.parametrize(("kind", "error"), [(1, UnsupportedDatabase), (2, CorruptCheckpoint)])
def test_a_manifest_is_of_a_kind(kind: int, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"numbered|manifest kind 2"):
        manifest(NEWEST, config=bytes((kind, 1, 1, 4, 0)))


def test_nodes_are_as_large_as_they_may_be_and_no_larger() -> None:
    most = 2**32 - 1
    found, _ = manifest(NEWEST, config=b"\0\1" + N(most) + b"\4\0")
    assert found.max_node_bytes == most
    with pytest.raises(CorruptCheckpoint, match="nodes of up to 4294967296 bytes"):
        manifest(NEWEST, config=b"\0\1" + N(most + 1) + b"\4\0")
    for number in (0, most):
        assert Config(UUID, 1, number, compress=False).max_node_bytes == number
    for number in (-1, most + 1):
        with pytest.raises(ValueError, match="max_node_bytes is"):
            Config(UUID, 1, number, compress=False)


def test_a_manifest_of_ours_says_what_tensorstore_s_do() -> None:
    config = Config(UUID, 1024, 2048, compress=False)
    version = Version(1, 7, Reference("d/x", 300, 70), 3, "", Statistics(11, 12, 13))
    assert encode_manifest(config, version) == (
        UUID
        + b"\0\x80\x08\x80\x10\4\0"  # single, 1024 and 2048 bytes, 2^4 versions, uncompressed
        + b"\1\3\0d/x"
        + b"\1\1\3\0\xac\x02\x46\x0b\x0c\x0d"
        + (7).to_bytes(8, "little")
        + b"\0"
    )


def test_a_root_is_missing_if_both_of_its_numbers_are() -> None:
    gone = NEWEST | {"offset": MISSING, "length": MISSING}
    assert manifest(gone)[1].root is None
    for name in ("offset", "length"):
        with pytest.raises(CorruptCheckpoint, match="root node at"):
            manifest(gone | {name: 0})


def test_a_root_lies_where_positions_are_in_a_file_that_is_named() -> None:
    last = NEWEST | {"offset": MAX_POSITION - 70}
    assert manifest(last)[1].root == Reference("d/y", MAX_POSITION - 70, 70)
    with pytest.raises(CorruptCheckpoint, match="root node at"):
        manifest(last | {"length": 71})
    with pytest.raises(CorruptCheckpoint, match="file id 2 in a table of 2"):
        manifest(NEWEST | {"file": 2})


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("root", [None, Reference("d/x", 5, 6)])
def test_a_manifest_is_read_as_it_was_written(root: Reference | None, compress: bool) -> None:
    config = Config(UUID, 300, 2**32 - 1, compress=compress)
    version = Version(7, 2**64 - 1, root, 255, "", Statistics(1, 2**40, 3))
    assert decode_manifest(cursor(encode_manifest(config, version))) == (config, version)


def test_a_frame_of_another_kind_or_length_is_refused_though_its_checksum_is_right() -> None:
    node = encode_frame(NODE, b"abc", compress=False)
    with pytest.raises(CorruptCheckpoint, match="begins with 0x0cdb20de where 0x0cdb3a2a"):
        decode_frame(node, MANIFEST, file="f", start=0, budget=Budget())
    longer = node[:4] + (22).to_bytes(8, "little") + node[12:-4]
    longer += crc32c(longer).to_bytes(4, "little")
    with pytest.raises(CorruptCheckpoint, match="frame says 22 bytes, but 21 are stored"):
        decode_frame(longer, NODE, file="f", start=0, budget=Budget())


def packed(body: bytes) -> bytes:
    """A frame that says that this is zstd."""
    head = NODE.to_bytes(4, "big") + (18 + len(body)).to_bytes(8, "little") + b"\0\1"
    return head + body + crc32c(head + body).to_bytes(4, "little")


@pytest.mark.parametrize("length", [1, 1000, 300_000])
def test_a_compressed_body_may_take_all_that_is_left(length: int) -> None:
    frame = encode_frame(NODE, bytes(length), compress=True)
    budget = Budget()
    budget.left_bytes = length - Budget.PER_BYTE * len(frame)
    assert len(decode_frame(frame, NODE, file="f", start=0, budget=budget).body) == length
    assert budget.left_bytes == 0
    budget.left_bytes = length - Budget.PER_BYTE * len(frame) - 1
    with pytest.raises(CorruptCheckpoint, match=f"grows past the {length - 1} bytes"):
        decode_frame(frame, NODE, file="f", start=0, budget=budget)


def test_what_is_no_zstd_says_so() -> None:
    with pytest.raises(CorruptCheckpoint, match="zstd body is damaged"):
        decode_frame(packed(b"no zstd"), NODE, file="f", start=0, budget=Budget())


@pytest.mark.parametrize(("window", "fits"), [(17 << 3, True), ((17 << 3) + 1, False)])
def test_a_window_of_zstd_has_128_mib_at_most(window: int, fits: bool) -> None:
    raw = b"\x28\xb5\x2f\xfd" + bytes((0, window)) + (3 << 3 | 1).to_bytes(3, "little") + b"abc"
    if fits:
        assert decode_frame(packed(raw), NODE, file="f", start=0, budget=Budget()).body == b"abc"
        return
    with pytest.raises(CorruptCheckpoint, match="zstd body is damaged"):
        decode_frame(packed(raw), NODE, file="f", start=0, budget=Budget())
