# SPDX-License-Identifier: Apache-2.0
"""What every store must do: a test class that implementers inherit.

Knows the contract in `pertinax._store.contract`. Knows nothing of one store.

    class TestMyStore(StoreTests):
        @pytest.fixture
        def store_and_root(self) -> tuple[Store, str]:
            return MyStore(), "/an/empty/directory"
"""

# The name of a test is its sentence.

import threading

import pytest

from pertinax._store.contract import Entry, Peculiar, Store, Streaming

Place = tuple[Store, str]


class _Place:
    @pytest.fixture
    def store_and_root(self) -> Place:
        raise NotImplementedError("override the fixture store_and_root")


class _SharedTests(_Place):
    def test_it_is_a_store(self, store_and_root: Place) -> None:
        assert isinstance(store_and_root[0], Store)

    def test_stat_gives_the_length_or_none(self, store_and_root: Place) -> None:
        store, root = store_and_root
        put(store, f"{root}/f", b"12345")
        found = store.stat(f"{root}/f")
        assert found is not None
        assert (found.is_dir, found.length) == (False, 5)
        assert found.mtime_ns > 0
        assert store.stat(f"{root}/none") is None
        assert store.stat(f"{root}/f/below") is None

    def test_free_room_is_a_number_or_unknown(self, store_and_root: Place) -> None:
        store, root = store_and_root
        room = store.free_bytes(root)
        assert room is None or room >= 0


class _WriterTests(_Place):
    def test_a_file_holds_what_was_written_at_each_offset(self, store_and_root: Place) -> None:
        store, root = store_and_root
        with store.create(f"{root}/f") as writer:
            writer.write_at(6, [b"w", bytearray(b"orl"), memoryview(b"d"), b""])
            writer.write_at(0, [memoryview(b"hello ")])
            writer.write_at(11, [])
            writer.sync()
        assert get(store, f"{root}/f") == b"hello world"
        with store.create(f"{root}/gap") as writer:
            writer.write_at(3, [b"x"])
        assert get(store, f"{root}/gap") == b"\0\0\0x"

    def test_many_buffers_go_out_in_order(self, store_and_root: Place) -> None:
        store, root = store_and_root
        pieces = [bytes([i % 251]) * (i % 7) for i in range(5000)]
        with store.create(f"{root}/f") as writer:
            writer.write_at(1, pieces)
        assert get(store, f"{root}/f") == b"\0" + b"".join(pieces)

    def test_wide_elements_are_written_as_their_bytes(self, store_and_root: Place) -> None:
        store, root = store_and_root
        words = memoryview(bytearray(range(16))).cast("I", (2, 2))
        with store.create(f"{root}/f") as writer:
            writer.write_at(0, [words])
        assert get(store, f"{root}/f") == bytes(range(16))

    def test_a_reserved_file_is_as_long_as_asked_and_zero(self, store_and_root: Place) -> None:
        store, root = store_and_root
        with store.create(f"{root}/f", 10_000) as writer:
            writer.write_at(5000, [b"abc"])
        assert get(store, f"{root}/f") == b"\0" * 5000 + b"abc" + b"\0" * 4997

    def test_a_closed_writer_refuses(self, store_and_root: Place) -> None:
        store, root = store_and_root
        writer = store.create(f"{root}/f")
        writer.close()
        writer.close()
        with pytest.raises(OSError, match="descriptor"):
            writer.write_at(0, [b"x"])

    def test_threads_write_disjoint_ranges(self, store_and_root: Place) -> None:
        store, root = store_and_root
        size, count = 100_003, 4
        with store.create(f"{root}/f", size * count) as writer:

            def fill(i: int) -> None:
                for start in range(0, size, 9973):
                    length = min(9973, size - start)
                    writer.write_at(i * size + start, [bytes([i + 1]) * length])

            threads = [threading.Thread(target=fill, args=(i,)) for i in range(count)]
            for one in threads:
                one.start()
            for one in threads:
                one.join()
            writer.sync()
        assert get(store, f"{root}/f") == b"".join(bytes([i + 1]) * size for i in range(count))


class _ReaderTests(_Place):
    def test_ranges_are_read_exactly_or_not_at_all(self, store_and_root: Place) -> None:
        store, root = store_and_root
        put(store, f"{root}/f", b"0123456789")
        with store.open(f"{root}/f") as reader:
            assert reader.length == 10
            assert reader.read(3, 4) == b"3456"
            assert reader.read(10, 0) == b""
            into = bytearray(3)
            reader.read_into(7, memoryview(into))
            assert into == b"789"
            reader.read_into(10, memoryview(bytearray()))
            with pytest.raises(EOFError):
                reader.read(8, 3)
            with pytest.raises(EOFError):
                reader.read(0, 2**60)
            with pytest.raises(EOFError):
                reader.read_into(10, memoryview(into))
            for offset, length in ((-1, 2), (2, -1)):
                with pytest.raises(ValueError, match="range"):
                    reader.read(offset, length)

    def test_a_map_is_private_and_outlives_everything(self, store_and_root: Place) -> None:
        store, root = store_and_root
        content = bytes(range(256)) * 40
        put(store, f"{root}/f", content)
        reader = store.open(f"{root}/f")
        views = [reader.map(populate=populate) for populate in (True, False)]
        reader.close()
        for view in views:
            if view is None:
                continue
            assert view == content
            view[:5] = b"spoil"
            assert view[:5] == b"spoil"
        assert get(store, f"{root}/f") == content
        store.remove_file(f"{root}/f")
        for view in views:
            assert view is None or view[5:] == content[5:]

    def test_an_empty_file_maps_to_nothing(self, store_and_root: Place) -> None:
        store, root = store_and_root
        put(store, f"{root}/f", b"")
        with store.open(f"{root}/f") as reader:
            view = reader.map()
        assert view is None or view.nbytes == 0


class _DiskTests(_Place):
    def test_directories_are_made_one_at_a_time_and_only_once(self, store_and_root: Place) -> None:
        store, root = store_and_root
        store.make_dir(f"{root}/a")
        found = store.stat(f"{root}/a")
        assert found is not None
        assert found.is_dir
        with pytest.raises(FileExistsError):
            store.make_dir(f"{root}/a")
        with pytest.raises(FileNotFoundError):
            store.make_dir(f"{root}/b/c")
        put(store, f"{root}/file", b"x")
        with pytest.raises(NotADirectoryError):
            store.make_dir(f"{root}/file/c")

    def test_listing_tells_files_from_directories(self, store_and_root: Place) -> None:
        store, root = store_and_root
        assert store.list_dir(root) == []
        store.make_dir(f"{root}/d")
        put(store, f"{root}/d/inner", b"1")
        put(store, f"{root}/f", b"12")
        listed = sorted(store.list_dir(root), key=lambda entry: entry.name)
        assert listed == [Entry("d", is_dir=True), Entry("f", is_dir=False)]
        with pytest.raises(FileNotFoundError):
            store.list_dir(f"{root}/none")
        with pytest.raises(NotADirectoryError):
            store.list_dir(f"{root}/f")

    def test_rename_moves_and_never_overwrites(self, store_and_root: Place) -> None:
        store, root = store_and_root
        store.make_dir(f"{root}/a")
        put(store, f"{root}/a/f", b"1")
        store.make_dir(f"{root}/empty")
        put(store, f"{root}/file", b"2")
        for taken in ("empty", "file"):
            with pytest.raises(FileExistsError):
                store.rename(f"{root}/a", f"{root}/{taken}")
        with pytest.raises(FileExistsError):
            store.rename(f"{root}/file", f"{root}/a")
        with pytest.raises(FileNotFoundError):
            store.rename(f"{root}/none", f"{root}/new")
        store.rename(f"{root}/a", f"{root}/b")
        assert store.stat(f"{root}/a") is None
        assert get(store, f"{root}/b/f") == b"1"
        store.rename(f"{root}/file", f"{root}/b/moved")
        assert get(store, f"{root}/b/moved") == b"2"

    def test_exchange_swaps_or_is_not_implemented(self, store_and_root: Place) -> None:
        store, root = store_and_root
        for name in "ab":
            store.make_dir(f"{root}/{name}")
            put(store, f"{root}/{name}/f", name.encode())
        try:
            store.exchange(f"{root}/a", f"{root}/b")
        except NotImplementedError:
            assert get(store, f"{root}/a/f") == b"a"
            return
        assert get(store, f"{root}/a/f") == b"b"
        assert get(store, f"{root}/b/f") == b"a"
        with pytest.raises(FileNotFoundError):
            store.exchange(f"{root}/a", f"{root}/none")

    def test_removal_tells_files_from_directories(self, store_and_root: Place) -> None:
        store, root = store_and_root
        store.make_dir(f"{root}/d")
        put(store, f"{root}/d/f", b"1")
        with pytest.raises(OSError, match="empty"):
            store.remove_dir(f"{root}/d")
        with pytest.raises(IsADirectoryError):
            store.remove_file(f"{root}/d")
        with pytest.raises(NotADirectoryError):
            store.remove_dir(f"{root}/d/f")
        store.remove_file(f"{root}/d/f")
        store.remove_dir(f"{root}/d")
        for remove in (store.remove_file, store.remove_dir):
            with pytest.raises(FileNotFoundError):
                remove(f"{root}/d")
        assert store.list_dir(root) == []

    def test_directories_can_be_synced(self, store_and_root: Place) -> None:
        store, root = store_and_root
        put(store, f"{root}/f", b"1")
        store.sync_dir(root)
        with pytest.raises(FileNotFoundError):
            store.sync_dir(f"{root}/none")
        with pytest.raises(NotADirectoryError):
            store.sync_dir(f"{root}/f")

    def test_create_takes_no_existing_name(self, store_and_root: Place) -> None:
        store, root = store_and_root
        put(store, f"{root}/f", b"old")
        store.make_dir(f"{root}/d")
        with pytest.raises(FileExistsError):
            store.create(f"{root}/f", 100)
        with pytest.raises(FileExistsError):
            store.create(f"{root}/d")
        with pytest.raises(FileNotFoundError):
            store.create(f"{root}/no/f")
        assert get(store, f"{root}/f") == b"old"

    def test_only_files_are_opened(self, store_and_root: Place) -> None:
        store, root = store_and_root
        with pytest.raises(FileNotFoundError):
            store.open(f"{root}/none")
        store.make_dir(f"{root}/d")
        with pytest.raises(IsADirectoryError):
            store.open(f"{root}/d")

    def test_an_open_file_outlives_its_name(self, store_and_root: Place) -> None:
        store, root = store_and_root
        put(store, f"{root}/f", b"still here")
        with store.open(f"{root}/f") as reader:
            store.remove_file(f"{root}/f")
            assert reader.read(0, 10) == b"still here"


class _BucketTests(_Place):
    def test_a_directory_is_there_as_long_as_something_is_in_it(
        self, store_and_root: Place
    ) -> None:
        store, root = store_and_root
        store.make_dir(f"{root}/d")
        assert store.stat(f"{root}/d") is None
        put(store, f"{root}/d/e/f", b"12")
        put(store, f"{root}/g", b"")
        for path in (root, f"{root}/d", f"{root}/d/e"):
            found = store.stat(path)
            assert found is not None
            assert found.is_dir
        listed = sorted(store.list_dir(root), key=lambda entry: entry.name)
        assert listed == [Entry("d", is_dir=True), Entry("g", is_dir=False)]
        with pytest.raises(FileNotFoundError):
            store.list_dir(f"{root}/none")
        with pytest.raises(NotADirectoryError):
            store.list_dir(f"{root}/g")
        store.remove_file(f"{root}/d/e/f")
        assert store.stat(f"{root}/d") is None

    def test_what_is_gone_may_be_removed_again(self, store_and_root: Place) -> None:
        store, root = store_and_root
        put(store, f"{root}/f", b"1")
        store.remove_file(f"{root}/f")
        store.remove_file(f"{root}/f")
        assert store.stat(f"{root}/f") is None

    def test_a_name_is_taken_when_the_file_is_synced(self, store_and_root: Place) -> None:
        store, root = store_and_root
        put(store, f"{root}/f", b"old")
        with pytest.raises(FileExistsError):
            put(store, f"{root}/f", b"new")
        assert get(store, f"{root}/f") == b"old"
        put(store, f"{root}/f2", b"same")
        put(store, f"{root}/f2", b"same")  # as if the reply to the first had been lost

    def test_directories_need_no_care(self, store_and_root: Place) -> None:
        store, root = store_and_root
        put(store, f"{root}/d/f", b"1")
        for care in (store.make_dir, store.sync_dir, store.remove_dir):
            care(f"{root}/d")
            care(f"{root}/none")
        assert get(store, f"{root}/d/f") == b"1"

    def test_it_says_in_what_it_differs_from_a_disk(self, store_and_root: Place) -> None:
        store, root = store_and_root
        assert isinstance(store, Peculiar)
        assert not store.traits.keeps_names
        assert store.absolute(root) == root

    def test_nothing_is_renamed(self, store_and_root: Place) -> None:
        store, root = store_and_root
        put(store, f"{root}/f", b"1")
        for change in (store.rename, store.exchange):
            with pytest.raises(NotImplementedError):
                change(f"{root}/f", f"{root}/g")

    def test_only_files_are_opened(self, store_and_root: Place) -> None:
        store, root = store_and_root
        put(store, f"{root}/d/f", b"1")
        with pytest.raises(FileNotFoundError):
            store.open(f"{root}/none")
        with pytest.raises(IsADirectoryError):
            store.open(f"{root}/d")

    def test_names_of_all_kinds_come_back(self, store_and_root: Place) -> None:
        store, root = store_and_root
        names = ["plain", "with space", "a#b?c", "100%", "ü", "~", "a=b&c", "c++", "0.0"]
        for name in names:
            put(store, f"{root}/{name}", name.encode())
        assert sorted(entry.name for entry in store.list_dir(root)) == sorted(names)
        for name in names:
            assert get(store, f"{root}/{name}") == name.encode()

    def test_a_replaced_object_is_not_mixed_with_the_old_one(self, store_and_root: Place) -> None:
        store, root = store_and_root
        put(store, f"{root}/f", b"a" * 200_000)
        with store.open(f"{root}/f") as reader:
            store.remove_file(f"{root}/f")
            put(store, f"{root}/f", b"b" * 200_000)
            with pytest.raises((EOFError, OSError)):
                reader.read(100_000, 100_000)

    def test_a_large_file_goes_up_in_parts_with_its_gaps(self, store_and_root: Place) -> None:
        store, root = store_and_root
        part = bytes(range(256)) * (4 << 12)  # 4 MiB
        with store.create(f"{root}/f", 36 << 20) as writer:
            assert isinstance(writer, Streaming)
            writer.leave(4 << 20, 4 << 20)
            for i in (2, 0, 4, 3, 6, 5):
                writer.write_at(i << 22, [part])
            writer.sync()
        with store.open(f"{root}/f") as reader:
            assert reader.length == 36 << 20
            for i in range(9):
                wanted = bytes(4 << 20) if i in (1, 7, 8) else part
                assert reader.read(i << 22, 4 << 20) == wanted

    def test_a_gap_counts_when_bytes_come_behind_it(self, store_and_root: Place) -> None:
        store, root = store_and_root
        for name, rest in (("with", b"z"), ("without", b"")):
            with store.create(f"{root}/{name}") as writer:
                assert isinstance(writer, Streaming)
                writer.write_at(0, [b"a"])
                writer.leave(1, 4095)
                writer.write_at(4096, [rest])
                writer.sync()
        assert get(store, f"{root}/with") == b"a" + bytes(4095) + b"z"
        assert get(store, f"{root}/without") == b"a"

    def test_nothing_stays_of_a_large_file_that_was_given_up(self, store_and_root: Place) -> None:
        store, root = store_and_root
        writer = store.create(f"{root}/f", 64 << 20)
        assert isinstance(writer, Streaming)
        for i in range(6):
            writer.write_at(i << 22, [bytes(4 << 20)])
        writer.abandon()
        assert store.stat(f"{root}/f") is None


class ObjectStoreTests(_SharedTests, _WriterTests, _ReaderTests, _BucketTests):
    """The same for a store of objects, where names cannot change and directories do not exist.

    Inherit, and give `store_and_root`: a store and a path in it at which nothing lies.
    """


class StoreTests(_SharedTests, _WriterTests, _ReaderTests, _DiskTests):
    """Inherit, and give `store_and_root`: a store and an empty directory in it."""


def put(store: Store, path: str, content: bytes) -> None:
    """Write a whole file, durably."""
    with store.create(path) as writer:
        writer.write_at(0, [content])
        writer.sync()


def get(store: Store, path: str) -> bytes:
    """Read a whole file."""
    with store.open(path) as reader:
        return reader.read(0, reader.length)
