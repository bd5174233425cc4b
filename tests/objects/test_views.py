# SPDX-License-Identifier: Apache-2.0
"""One listing answers what is asked of names; a reader notices when its object is another."""

import pytest

from pertinax._store.contract import Buffer, Entry, Stat, Store
from pertinax._store.objects.listed import Listed
from pertinax._store.objects.reader import HEAD_BYTES, ObjectReader
from pertinax._store.objects.requests import Meta
from pertinax._store.objects.store import ObjectStore
from pertinax.errors import InvalidOption
from pertinax.testing import ObjectStoreTests
from tests.objects.buckets import FRONT, Memory, Shelf, bucket
from tests.objects.scenes import FINAL, PLACE, at, save


class TestAViewThatWasMadeBefore(ObjectStoreTests):
    """What is not in its listing it asks the store for."""

    @pytest.fixture
    def store_and_root(self) -> tuple[Store, str]:
        memory = Memory(Shelf())
        memory.put("seen/file", b"1")
        return Listed.of(bucket(memory), f"{FRONT}/seen"), f"{FRONT}/root"


def test_a_view_asks_nothing_that_its_listing_has_told():
    shelf = Shelf()
    memory = Memory(shelf)
    save(memory, "a")
    memory.put(f"{PLACE}/default/d/", b"")  # what some tools leave for a directory
    memory.put(f"{PLACE}/deep/er/est/file", b"12345")
    view = at(memory).view(f"{FINAL}/")
    memory.log.clear()
    names = {entry.name: entry.is_dir for entry in view.list_dir(FINAL)}
    assert names == {
        "default": True,
        "deep": True,
        "commit_success.txt": False,
        "pertinax.json": False,
    }
    assert len(view.list_dir(f"{FINAL}/default/d/")) == 2
    assert view.list_dir(f"{FINAL}/deep/er") == [Entry("est", is_dir=True)]
    meta = shelf.meta(f"{PLACE}/deep/er/est/file")
    assert view.stat(f"{FINAL}/deep/er/est/file") == Stat(
        is_dir=False, length=5, mtime_ns=meta.modified_ns
    )
    assert view.stat(f"{FINAL}/deep/er/est/") == Stat(True, 0, meta.modified_ns)
    assert view.stat(f"{FINAL}/deep/none") is None
    marker = shelf.meta(f"{PLACE}/commit_success.txt")
    assert view.stat(FINAL) == Stat(True, 0, marker.modified_ns)
    assert memory.log == []


def test_what_is_outside_of_a_view_is_asked_of_the_store():
    memory = Memory(Shelf())
    save(memory, "a")
    memory.put("run/notes", b"123")
    view = at(memory).view(FINAL)
    found = view.stat(f"{FRONT}/run/notes")
    assert found is not None
    assert found.length == 3
    with view.open(f"{FRONT}/run/notes") as reader:
        assert reader.read(0, 3) == b"123"
    assert Entry("notes", is_dir=False) in view.list_dir(f"{FRONT}/run")
    assert isinstance(view, Listed)
    assert view.publishing().find_visible(FINAL) == FINAL


def test_too_long_a_listing_and_an_empty_one_make_no_view():
    class Endless(Memory):
        pages = 0

        def list(self, prefix: str):
            for page in range(100):
                self.pages = page + 1
                yield [Meta(f"{PLACE}/{page}", 1, 1)]

    memory = Endless(Shelf())
    store = bucket(memory)
    assert Listed.of(store, FINAL) is store
    assert memory.pages == 6
    empty = bucket(Memory(Shelf()))
    assert Listed.of(empty, FINAL) is empty


class Spoiling(Memory):
    """Gives what `spoil` makes of each range."""

    def __init__(self, shelf: Shelf, spoil) -> None:
        super().__init__(shelf)
        self.spoil = spoil

    def get_range(self, key: str, start: int, stop: int) -> tuple[Buffer, Meta]:
        return self.spoil(*super().get_range(key, start, stop))


def large(spoil) -> Spoiling:
    shelf = Shelf()
    shelf.store("x", bytes(HEAD_BYTES * 2))
    return Spoiling(shelf, spoil)


def test_fewer_bytes_than_were_promised_are_an_error():
    memory = large(lambda data, meta: (data[:-1], meta))
    with pytest.raises(OSError, match="fewer bytes than it said"):
        ObjectReader(memory, "x")
    reader = ObjectReader(memory, "x", known=memory.shelf.meta("x"))
    with pytest.raises(OSError, match="9 of 10 bytes came"):
        reader.read(0, 10)


@pytest.mark.parametrize(
    ("etag", "length", "changed"),
    [("1", 0, False), (None, 0, False), ("2", 0, True), ("1", 1, True), (None, 1, True)],
)
def test_an_object_that_was_replaced_is_told_by_its_tag_or_its_length(etag, length, changed):
    def spoil(data, meta):
        return data, Meta(meta.key, meta.length + length, meta.modified_ns, etag)

    memory = large(spoil)
    reader = ObjectReader(memory, "x", known=memory.shelf.meta("x"))
    if changed:
        with pytest.raises(EOFError, match="was replaced while it was read"):
            reader.read(HEAD_BYTES, 5)
    else:
        assert reader.read(HEAD_BYTES, 5) == bytes(5)


def test_a_reader_asks_once_for_what_is_small_and_not_at_all_for_the_head_of_what_is_large():
    shelf = Shelf()
    shelf.store("edge", bytes(HEAD_BYTES))
    shelf.store("large", bytes(HEAD_BYTES + 1))
    shelf.store("empty", b"")
    memory = Memory(shelf)
    for key, requests in (("edge", 1), ("large", 0), ("empty", 2)):
        memory.log.clear()
        reader = ObjectReader(memory, key, known=shelf.meta(key))
        assert len(memory.log) == requests, key
        assert reader.length == shelf.meta(key).length
        assert reader.read(0, min(reader.length, HEAD_BYTES)) == bytes(
            min(reader.length, HEAD_BYTES)
        )
        assert len(memory.log) == max(requests, 1), key


def test_an_empty_object_that_vanishes_is_not_there():
    shelf = Shelf()
    shelf.store("empty", b"")

    class Vanishing(Memory):
        def head(self, key: str) -> Meta | None:
            return None

    with pytest.raises(FileNotFoundError):
        ObjectReader(Vanishing(shelf), "empty")


def test_a_closed_reader_refuses():
    shelf = Shelf()
    shelf.store("x", b"12")
    reader = ObjectReader(Memory(shelf), "x")
    reader.close()
    with pytest.raises(OSError, match="descriptor"):
        reader.read(0, 1)
    with pytest.raises(OSError, match="descriptor"):
        reader.read_into(0, memoryview(bytearray(1)))


def test_a_wide_buffer_is_filled_byte_by_byte():
    shelf = Shelf()
    shelf.store("x", bytes(range(16)))
    words = memoryview(bytearray(16)).cast("I", (2, 2))
    ObjectReader(Memory(shelf), "x").read_into(0, words)
    assert words.tobytes() == bytes(range(16))


def test_paths_of_another_bucket_and_paths_that_climb_are_refused():
    store = bucket(Memory(Shelf()))
    for path in ("memory://other/x", "memory://bucketx/a", "/x"):
        with pytest.raises(ValueError, match="not in memory://bucket"):
            store.key(path)
    for path in (f"{FRONT}/a/../b", f"{FRONT}/./b"):
        with pytest.raises(ValueError, match="not a plain path"):
            store.key(path)
    assert store.key(FRONT) == ""
    assert store.key(f"{FRONT}//a//b/") == "a/b"


def test_a_store_says_where_it_is_and_refuses_senseless_leases():
    assert repr(ObjectStore("memory://bucket/base/")) == "ObjectStore('memory://bucket/base')"
    for options in ({"lease_s": 0}, {"lease_s": float("nan")}, {"retry_s": -1}):
        with pytest.raises(InvalidOption, match="more than 0 seconds, and not negative"):
            ObjectStore("memory://bucket", **options)
    assert ObjectStore("memory://bucket", retry_s=0, lease_s=0.1).lease_s == 0.1


def test_a_bucket_is_a_directory_also_when_it_is_empty():
    store = bucket(Memory(Shelf()))
    assert store.stat(FRONT) == Stat(is_dir=True, length=0, mtime_ns=0)
    assert store.list_dir(FRONT) == []
    with pytest.raises(FileNotFoundError):
        store.open(FRONT)
