# SPDX-License-Identifier: Apache-2.0
"""A file on its way into a bucket: in order, in parts of a bearable size, whole or not at all."""

import itertools
from collections.abc import Iterator

import pytest

from pertinax._store.contract import Buffer
from pertinax._store.objects.writer import PART_BYTES, ObjectWriter
from tests.objects.buckets import Memory, Shelf

MIB = 1 << 20
KEY = "run/x"


class Uploading(Memory):
    """Notes how parts come, and fails where it is told to."""

    def __init__(self, shelf: Shelf, error: BaseException | None = None, lose: int = 0) -> None:
        super().__init__(shelf)
        self.error, self.lose = error, lose
        self.asked: tuple[int, int] | None = None

    def upload(
        self, key: str, pieces: Iterator[Buffer], part_bytes: int, parts_at_once: int
    ) -> None:
        self.asked = (part_bytes, parts_at_once)
        taken = [bytes(piece) for piece in (pieces if self.error is None else [next(pieces)])]
        if self.error is not None:
            raise self.error
        data = b"".join(taken)
        super().upload(key, iter([data[: len(data) - self.lose]]), part_bytes, parts_at_once)


def stream(memory: Memory, length: int = 5 * MIB, **options) -> ObjectWriter:
    """A writer of a large file, with parts of 5 MiB unless `options` say otherwise."""
    return ObjectWriter(memory, KEY, length, **({"window_bytes": 20 * MIB} | options))


def test_a_small_file_is_one_request_and_tells_its_length():
    shelf = Shelf()
    memory = Memory(shelf)
    told: list[int] = []
    with ObjectWriter(memory, KEY, 8, done=told.append) as writer:
        writer.write_at(4, [b"4567"])
        writer.write_at(0, [b"0123"])
        writer.sync()
        writer.sync()
        writer.close()
    assert memory.log == [("create", KEY)]
    assert shelf.content() == {KEY: b"01234567"}
    assert told == [8]


def test_a_writer_that_is_closed_without_a_sync_finishes_what_was_written():
    shelf = Shelf()
    writer = ObjectWriter(Memory(shelf), KEY, 0)
    writer.write_at(0, [b"x"])
    writer.close()
    assert shelf.content() == {KEY: b"x"}
    for ask in (writer.sync, lambda: writer.write_at(1, [b"y"])):
        with pytest.raises(OSError, match="descriptor"):
            ask()
    writer.leave(1, 5)
    assert shelf.content() == {KEY: b"x"}


def test_pieces_that_come_in_any_order_lie_where_they_belong():
    pieces = {0: b"ab", 4: b"ef", 6: b"gh", 9: b"j"}
    for order in itertools.permutations(pieces):
        shelf = Shelf()
        with ObjectWriter(Memory(shelf), KEY, 12) as writer:
            for offset in order:
                writer.write_at(offset, [pieces[offset]])
        assert shelf.content() == {KEY: b"ab\0\0efgh\0j\0\0"}


def test_bytes_that_are_written_twice_are_told_and_never_dropped():
    writer = ObjectWriter(Memory(Shelf()), KEY, 4)
    writer.write_at(0, [b"abcd"])
    with pytest.raises(OSError, match="byte 1 is on its way already"):
        writer.write_at(1, [b"x"])
    shelf = Shelf()
    writer = ObjectWriter(Memory(shelf), KEY, 4)
    writer.write_at(2, [b"xy"])
    writer.write_at(0, [b"abcd"])
    with pytest.raises(OSError, match="byte 2 was written twice"):
        writer.sync()
    with pytest.raises(OSError, match="byte 2 was written twice"):
        writer.close()
    assert shelf.objects == {}


def test_a_failure_is_final():
    """Nothing that comes later succeeds, and closing tells it once more."""

    def down(method: str, key: str) -> None:
        raise ConnectionResetError(104, "the server is gone", key)

    writer = ObjectWriter(Memory(Shelf(), down), KEY, 0)
    writer.write_at(0, [b"x"])
    with pytest.raises(ConnectionResetError):
        writer.sync()
    for ask in (writer.sync, lambda: writer.write_at(1, [b"y"])):
        with pytest.raises(OSError, match="an earlier write failed: the server is gone"):
            ask()
    writer.leave(1, 5)
    with pytest.raises(OSError, match="the server is gone"):
        writer.close()
    writer.close()


def test_a_lost_reply_to_a_small_file_is_found_out():
    def lose(method: str, key: str) -> None:
        if method == "create":
            raise TimeoutError(110, "no reply", key)

    shelf = Shelf()
    with ObjectWriter(Memory(shelf, after=lose), KEY, 1) as writer:
        writer.write_at(0, [b"x"])
    assert shelf.content() == {KEY: b"x"}
    shelf.store(KEY, b"another's")
    with pytest.raises(TimeoutError), ObjectWriter(Memory(shelf, lose), KEY, 1) as writer:
        writer.write_at(0, [b"x"])
    assert shelf.content() == {KEY: b"another's"}


def test_a_large_file_is_a_stream_as_soon_as_it_is_too_much_for_one_request():
    shelf = Shelf()
    memory = Uploading(shelf)
    data = [bytes([i]) * MIB for i in range(12)]
    with stream(memory, 12 * MIB) as writer:
        for i, piece in enumerate(data):
            writer.write_at(i * MIB, [piece])
            assert (writer._stream is not None) is (i >= 5)
    assert memory.asked == (5 * MIB, 2)
    assert memory.log == [("upload", KEY), ("head", KEY)]
    assert shelf.content() == {KEY: b"".join(data)}


def test_a_file_of_which_nobody_said_that_it_is_large_stays_one_request_for_longer():
    """For others may write the same name, and parts cannot be completed "only if absent"."""
    memory = Uploading(Shelf())
    with ObjectWriter(memory, KEY, 0, window_bytes=20 * MIB) as writer:
        writer.write_at(0, [bytes(20 * MIB)])
    assert memory.log == [("create", KEY)]
    with ObjectWriter(memory, "run/y", 0, window_bytes=20 * MIB) as writer:
        writer.write_at(0, [bytes(20 * MIB + 1)])
    assert [method for method, _ in memory.log[1:]] == ["upload", "head"]


def test_a_gap_that_is_announced_goes_out_as_zeros():
    shelf = Shelf()
    with stream(Uploading(shelf), 14 * MIB) as writer:
        writer.write_at(0, [b"a" * MIB])
        writer.leave(MIB, 0)
        writer.leave(MIB, 11 * MIB)
        writer.write_at(12 * MIB, [b"b" * MIB])
    content = shelf.content()[KEY]
    assert len(content) == 14 * MIB
    assert content == b"a" * MIB + bytes(11 * MIB) + b"b" * MIB + bytes(MIB)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ConnectionResetError(104, "the server is gone", KEY), "the server is gone"),
        (RuntimeError("surprise"), "RuntimeError: surprise"),
    ],
)
@pytest.mark.parametrize("when", ["while it is written", "at its end"])
def test_a_stream_that_fails_tells_its_writer(error, told, when):
    shelf = Shelf()
    writer = stream(Uploading(shelf, error), 64 * MIB)

    def write() -> None:
        for i in range(6 if when == "at its end" else 64):
            writer.write_at(i * MIB, [bytes(MIB)])
        writer.sync()

    with pytest.raises(OSError, match=told):
        write()
    with pytest.raises(OSError, match=f"an earlier write failed: .*{told}"):
        writer.write_at(64 * MIB, [b"x"])
    with pytest.raises(OSError, match=told):
        writer.close()
    assert shelf.objects == {}


@pytest.mark.parametrize("lose", [1, 12 * MIB])
def test_a_stream_of_which_not_all_arrived_is_a_failure(lose: int):
    memory = Uploading(Shelf(), lose=lose)
    writer = stream(memory, 12 * MIB)
    writer.write_at(0, [bytes(12 * MIB)])
    with pytest.raises(OSError, match=f"{12 * MIB} bytes were sent, {12 * MIB - lose} bytes arr"):
        writer.sync()

    class Forgetful(Uploading):
        def head(self, key: str) -> None:
            return None

    writer = stream(Forgetful(Shelf()), 12 * MIB)
    writer.write_at(0, [bytes(12 * MIB)])
    with pytest.raises(OSError, match="bytes were sent, nothing arrived"):
        writer.sync()


def test_nothing_stays_of_a_stream_that_was_given_up_or_failed_in_the_with_block():
    shelf = Shelf()
    writer = stream(Uploading(shelf), 12 * MIB)
    writer.write_at(0, [bytes(6 * MIB)])
    writer.abandon()
    writer.abandon()
    writer.close()

    def fail() -> None:
        with stream(Uploading(shelf), 12 * MIB) as writer:
            writer.write_at(0, [bytes(6 * MIB)])
            raise KeyError("and then something goes wrong")

    with pytest.raises(KeyError):
        fail()
    assert shelf.objects == {}


@pytest.mark.parametrize(
    ("length", "window_bytes", "part_bytes", "at_once"),
    [
        (12 * MIB, None, PART_BYTES, 8),
        (12 * MIB, 4 * MIB, 5 * MIB, 1),
        (12 * MIB, 40 * MIB, 10 * MIB, 2),
        (12 * MIB, 1 << 30, PART_BYTES, 8),
        (12 * MIB, 64 * MIB, PART_BYTES, 2),
        (9000 * PART_BYTES, None, PART_BYTES, 8),
        (9000 * PART_BYTES + 1, None, PART_BYTES + MIB, 8),
        (9000 * PART_BYTES + 1, 40 * MIB, PART_BYTES + MIB, 1),
        (9000 * 100 * MIB, 1 << 30, 100 * MIB, 8),
    ],
)
def test_parts_are_as_many_and_as_large_as_the_store_and_the_memory_allow(
    length, window_bytes, part_bytes, at_once
):
    memory = Uploading(Shelf(), ConnectionResetError(104, "enough", KEY))
    writer = ObjectWriter(memory, KEY, length, window_bytes=window_bytes)
    zeros = bytes(MIB)

    def write_for_ever() -> None:
        for i in itertools.count():
            writer.write_at(i * MIB, [zeros])

    with pytest.raises(OSError, match="enough"):
        write_for_ever()
    assert memory.asked == (part_bytes, at_once)
    writer.abandon()
