# SPDX-License-Identifier: Apache-2.0
"""Every byte of a small node and manifest set to every value that means something else: read, or
refused for a reason; and each reason that the reader has is met.
"""

from collections.abc import Callable, Iterator

import pytest

from pertinax._formats.ocdbt import Reference, UnsupportedDatabase, encode_database, read_database
from pertinax._formats.ocdbt.btree import Child, Statistics, encode_interior, encode_leaf
from pertinax._formats.ocdbt.manifest import Config
from pertinax.errors import CorruptCheckpoint, NewerFormat
from tests.formats.ocdbt.databases import COMMIT_TIME_NS, DATA_FILE, UUID, Memory, encode
from tests.formats.ocdbt.test_ocdbt_hostile import at_root, with_manifest

pytestmark = pytest.mark.crash

ODD_BYTES = (0, 1, 2, 3, 9, 30, 127, 128, 254, 255)
ODD_NUMBERS = (
    b"\xff\x7f",  # 2^14 - 1
    b"\xff" * 8 + b"\x7f",  # 2^63 - 1
    b"\xff" * 9 + b"\x01",  # 2^64 - 1
    b"\xff" * 9 + b"\x02",  # too large for 64 bits
    b"\x80" * 11,
)
LEAF = encode_leaf([b"a/0", b"a/1", b"b"], [Reference("d/aa", 1, 2), Reference("e/b", 3, 4), b"x"])
INTERIOR = encode_interior(
    1, [Child(key, Reference("d/n", 9, 9), Statistics(1, 1, 1)) for key in (b"k0", b"k1")]
)
MANIFEST = encode({b"k": b"v"}).manifest[14:-4]

REASONS = {
    "leaf": """value kind 2|file id|reaches past 2\\^63|bytes wanted where|numbers declared|
        does not fit 64 bits|shares more than|bytes too many|data files declared|
        base path is longer|not UTF-8|rows declared|do not rise""",
    "interior": """common prefix of a child is longer|file id|reaches past|bytes too many""",
    "manifest": """generations do not rise|file id|root node at|manifest kind|numbered|arity|
        nodes of up to|compression method|version nodes declared|bytes wanted""",
}


def mutations(body: bytes) -> Iterator[bytes]:
    for at in range(len(body)):
        for odd in ODD_BYTES:
            yield body[:at] + bytes((odd,)) + body[at + 1 :]
        for number in ODD_NUMBERS:
            yield body[:at] + number + body[at + 1 :]
        yield body[:at]
        yield body[:at] + body[at + 1 :]
    yield body + b"\0"


def reasons(body: bytes, disk: Callable[[bytes], Memory]) -> set[str]:
    found: set[str] = set()
    for forged in mutations(body):
        try:
            read_database(disk(forged))
        except (CorruptCheckpoint, UnsupportedDatabase, NewerFormat) as error:
            found.add(str(error))
    return found


@pytest.mark.parametrize("what", list(REASONS))
def test_every_reason_to_refuse_is_met(what: str) -> None:
    kinds = {
        "leaf": (LEAF, at_root),
        "interior": (INTERIOR, lambda body: at_root(body, height=1)),
        "manifest": (MANIFEST, with_manifest),
    }
    body, disk = kinds[what]
    found = reasons(body, disk)
    for reason in "".join(REASONS[what].split("\n")).split("|"):
        words = " ".join(reason.split()).replace("\\", "")
        assert any(words in one for one in found), (words, sorted(found))


def test_a_short_answer_of_the_disk_is_damage() -> None:
    disk = Memory(encode({b"k": b"v"}))

    def read(file: str, offset: int, length: int | None) -> bytes:
        content = disk(file, offset, length)
        return content if file != DATA_FILE else content[:-1]

    with pytest.raises(CorruptCheckpoint, match=r"tree node has \d+ bytes where"):
        read_database(read)


def test_a_frame_that_is_compressed_and_no_zstd_is_damage() -> None:
    from pertinax._formats.crc import crc32c

    database = encode({b"k": b"v"}, compress=True)
    frame = bytearray(database.nodes[:-4])
    frame[14] ^= 0xFF  # the magic of zstd
    nodes = bytes(frame) + crc32c(bytes(frame)).to_bytes(4, "little")
    with pytest.raises(CorruptCheckpoint):
        read_database(Memory(type(database)(nodes, database.manifest)))


@pytest.mark.parametrize(
    ("entries", "options", "text"),
    [
        ([(b"b", b""), (b"a", b"")], {}, "keys must rise strictly"),
        ([(b"a", b""), (b"a", b"")], {}, "keys must rise strictly"),
        ([(b"k" * 70_000, b"")], {}, "a key has 70000 bytes"),
        ([(b"a", b"x" * 2000)], {}, "an inline value has 2000 bytes"),
        ([(b"a", Reference("../x", 0, 1))], {}, "x"),
        ([(b"a", Reference("d/x", -1, 1))], {}, "no place in a file"),
        ([(b"a", Reference("d/x", 2**63, 1))], {}, "no place in a file"),
        ([], {"max_inline_bytes": -1}, "max_inline_bytes is -1"),
        ([], {"uuid": b"short"}, "uuid has 5 bytes"),
        ([], {"max_node_bytes": -1}, "max_node_bytes is -1"),
    ],
)
def test_the_writer_refuses_what_no_reader_takes(entries: list, options: dict, text: str) -> None:
    how = {"data_file": DATA_FILE, "offset": 0, "commit_time_ns": COMMIT_TIME_NS, "uuid": UUID}
    with pytest.raises(ValueError, match=text):
        encode_database(entries, **{"max_inline_bytes": 1024, **how, **options})


def test_a_configuration_is_checked_at_birth() -> None:
    with pytest.raises(ValueError, match="uuid has 3 bytes"):
        Config(b"abc", 1, 1, compress=False)
    with pytest.raises(ValueError, match="max_node_bytes"):
        Config(UUID, 1, -1, compress=False)
