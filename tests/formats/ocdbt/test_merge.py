# SPDX-License-Identifier: Apache-2.0
"""Several databases as one: keys of all, no data copied, nothing contradictory."""

from pathlib import Path
from typing import Any

import pytest
import tensorstore as ts

from pertinax._formats.merged import check_whole, merge_item, reading
from pertinax._formats.ocdbt import (
    Reference,
    merge_databases,
    process_databases,
    read_database,
)
from pertinax._store.local import LocalStore
from pertinax.errors import CorruptCheckpoint, StorageFull
from tests.formats.ocdbt.databases import Directory

LARGE = bytes(range(256)) * 8  # above what is kept inline
ARRAY = (
    b'{"chunks":[2],"compressor":null,"dimension_separator":".","dtype":"<f4","fill_value":null,'
    b'"filters":null,"order":"C","shape":[4],"zarr_format":2}'
)
STORE = LocalStore()


def write(directory: Path, entries: dict[str, bytes]) -> None:
    store = open_store(directory)
    for key, value in entries.items():
        store.write(key, value).result()


def open_store(directory: Path) -> Any:
    spec = {"driver": "ocdbt", "base": {"driver": "file", "path": str(directory)}}
    config = {"max_inline_value_bytes": 1024, "manifest_kind": "single"}
    return ts.KvStore.open({**spec, "config": config}).result()


def content_of(directory: Path) -> dict[str, bytes]:
    store = ts.KvStore.open(
        {"driver": "ocdbt", "base": {"driver": "file", "path": str(directory)}}
    ).result()
    return {key.decode(): store.read(key).result().value for key in store.list().result()}


def test_names_of_databases_are_told_apart_and_ordered():
    names = ["ocdbt.process_10", "d", "ocdbt.process_9", "ocdbt.process_x", "ocdbt.process_", "a"]
    assert process_databases(names) == ["ocdbt.process_9", "ocdbt.process_10", "ocdbt.process_x"]
    assert process_databases([*names, "ocdbt.process_1 2"]) == process_databases(names)


@pytest.mark.parametrize("count", [1, 2, 12])
def test_databases_of_many_processes_become_one(tmp_path: Path, count: int):
    every: dict[str, bytes] = {}
    for i in range(count):
        entries = {f"leaf{i}/0": LARGE + bytes([i]), f"leaf{i}/.zarray": b"small", "all": b"same"}
        write(tmp_path / f"ocdbt.process_{i}", entries)
        every |= entries
    before = {path: path.read_bytes() for path in tmp_path.glob("ocdbt.*/**/*") if path.is_file()}
    assert merge_item(STORE, str(tmp_path), validate=False)
    assert content_of(tmp_path) == every
    assert {path: path.read_bytes() for path in before} == before
    (nodes,) = (tmp_path / "d").iterdir()
    assert nodes.stat().st_size < 400 + 200 * count, "values stay where they are"


def test_a_merged_database_may_be_merged_into_again(tmp_path: Path):
    write(tmp_path / "ocdbt.process_0", {"a": LARGE})
    assert merge_item(STORE, str(tmp_path), validate=False)
    write(tmp_path / "ocdbt.process_1", {"b": LARGE, "c": b"x"})
    assert merge_item(STORE, str(tmp_path), validate=False)
    assert content_of(tmp_path) == {"a": LARGE, "b": LARGE, "c": b"x"}


@pytest.mark.row("R278")
def test_without_databases_nothing_is_done(tmp_path: Path):
    assert not merge_item(STORE, str(tmp_path), validate=True)
    (tmp_path / "ocdbt.process_0").mkdir()
    assert not merge_item(STORE, str(tmp_path), validate=True)
    assert [path.name for path in tmp_path.iterdir()] == ["ocdbt.process_0"]


def test_a_file_with_the_name_of_a_database_is_none(tmp_path: Path):
    (tmp_path / "ocdbt.process_0").write_text("notes")
    assert not merge_item(STORE, str(tmp_path), validate=True)


def test_values_of_a_superseded_version_do_not_come_back(tmp_path: Path):
    write(tmp_path / "ocdbt.process_0", {"a": LARGE, "b": b"old"})
    write(tmp_path / "ocdbt.process_0", {"b": b"new"})
    entries = merge_databases(["ocdbt.process_0"], Directory(tmp_path))
    assert entries[b"b"] == b"new"
    assert isinstance(entries[b"a"], Reference)
    assert entries[b"a"].file.startswith("ocdbt.process_0/d/")


@pytest.mark.parametrize("value", [b"small", LARGE], ids=["inline", "out of line"])
def test_two_processes_may_write_the_same_but_not_different_things(tmp_path: Path, value: bytes):
    write(tmp_path / "ocdbt.process_0", {"same": value, "other": value})
    write(tmp_path / "ocdbt.process_1", {"same": value})
    assert merge_databases(["ocdbt.process_0", "ocdbt.process_1"], Directory(tmp_path))
    write(tmp_path / "ocdbt.process_1", {"other": value + b"!"})
    with pytest.raises(ValueError, match=r"1 keys have different values.*: other"):
        merge_item(STORE, str(tmp_path), validate=False)


def test_of_many_keys_that_differ_ten_are_named(tmp_path: Path):
    keys = [f"k{i:02}" for i in range(12)]
    for number in range(2):
        write(tmp_path / f"ocdbt.process_{number}", dict.fromkeys(keys, b"%d" % number))
    with pytest.raises(ValueError, match="12 keys have different values") as caught:
        merge_databases(["ocdbt.process_0", "ocdbt.process_1"], Directory(tmp_path))
    assert str(caught.value).endswith(": " + ", ".join(keys[:10]))


def test_a_damaged_database_is_named(tmp_path: Path):
    write(tmp_path / "ocdbt.process_0", {"a": b"x"})
    manifest = tmp_path / "ocdbt.process_0" / "manifest.ocdbt"
    content = bytearray(manifest.read_bytes())
    content[-1] ^= 1
    manifest.write_bytes(content)
    with pytest.raises(CorruptCheckpoint):
        merge_item(STORE, str(tmp_path), validate=False)


WHOLE = {"w/.zarray": ARRAY, "w/0": LARGE, "w/1": LARGE}


@pytest.mark.row("R280")
@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        (WHOLE, None),
        ({**WHOLE, "x/.zarray": ARRAY}, r"without data \[x\].*without metadata \[\]"),
        ({**WHOLE, "x/0": LARGE}, r"without data \[\].*without metadata \[x\]"),
        ({**WHOLE, "x/y/0.1": LARGE}, r"without metadata \[x/y\]"),
        ({".zarray": ARRAY, "0": LARGE}, None),
        ({"x/.zarray": ARRAY.replace(b"[4]", b"[0]")}, None),
        ({"x/.zarray": ARRAY.replace(b'"fill_value":null', b'"fill_value":0')}, None),
        ({"x/.renamed": ARRAY, "x/0": LARGE}, None),
        ({"x/.renamed": b"no array"}, None),
        ({**WHOLE, "w/y/0": LARGE}, r"without metadata \[w/y\]"),
        ({"x/.zarray": ARRAY + b" " * 2000}, r"without data \[x\]"),
        ({"x/.zarray": ARRAY.replace(b"[4]", b"[1]")}, r"without data \[x\]"),
        ({"x/.zarray": ARRAY.replace(b'"."', b'"/"'), "x/0/1": LARGE}, None),
    ],
)
def test_arrays_must_be_whole(tmp_path: Path, entries: dict[str, bytes], problem: str | None):
    write(tmp_path / "ocdbt.process_0", entries)
    if problem is None:
        assert merge_item(STORE, str(tmp_path), validate=True)
        assert content_of(tmp_path) == entries
        return
    with pytest.raises(ValueError, match=problem):
        merge_item(STORE, str(tmp_path), validate=True)
    assert not (tmp_path / "manifest.ocdbt").exists()
    assert merge_item(STORE, str(tmp_path), validate=False)


def test_many_broken_arrays_are_counted(tmp_path: Path):
    entries: dict[bytes, Any] = {f"x{i:02}/0".encode(): b"" for i in range(25)}
    with pytest.raises(ValueError, match="and 5 more"):
        check_whole(entries, Directory(tmp_path))
    for number in range(20, 25):
        del entries[f"x{number}/0".encode()]
    with pytest.raises(ValueError, match=r"x18, x19\]$"):
        check_whole(entries, Directory(tmp_path))


def test_what_the_item_has_by_itself_stays_when_more_is_merged(tmp_path: Path):
    write(tmp_path / "ocdbt.process_0", {"a": LARGE})
    assert merge_item(STORE, str(tmp_path), validate=False)
    (tmp_path / "ocdbt.process_0" / "manifest.ocdbt").unlink()
    write(tmp_path / "ocdbt.process_1", {"b": b"x"})
    assert merge_item(STORE, str(tmp_path), validate=False)
    assert content_of(tmp_path) == {"a": LARGE, "b": b"x"}


def test_files_are_read_from_any_place_to_any_other(tmp_path: Path):
    (tmp_path / "f").write_bytes(b"012345")
    read = reading(STORE, str(tmp_path))
    assert read("f", 2, None) == b"2345"
    assert read("f", 1, 3) == b"123"


class Noted:
    """A writer that says when its bytes are made durable."""

    def __init__(self, inner: Any, path: str, synced: list[str]) -> None:
        self.inner, self.path, self.synced = inner, path, synced

    def sync(self) -> None:
        self.inner.sync()
        self.synced.append(self.path)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __enter__(self) -> Any:
        self.inner.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.inner.__exit__(*error)


class Noting:
    """A store that notes all that is made durable, or is full."""

    def __init__(self, *, full: bool = False) -> None:
        self.full, self.synced = full, list[str]()

    def create(self, path: str, length: int = 0) -> Any:
        if self.full:
            raise OSError(28, "No space left on device", path)
        return Noted(STORE.create(path, length), path, self.synced)

    def sync_dir(self, path: str) -> None:
        STORE.sync_dir(path)
        self.synced.append(path)

    def __getattr__(self, name: str) -> Any:
        return getattr(STORE, name)


def test_what_was_merged_is_durable_with_its_names(tmp_path: Path):
    write(tmp_path / "ocdbt.process_0", {"a": b"x"})
    store = Noting()
    assert merge_item(store, str(tmp_path), validate=False)  # type: ignore[arg-type]
    (data,) = (tmp_path / "d").iterdir()
    files = [str(data), f"{tmp_path}/manifest.ocdbt"]
    assert store.synced == [*files, f"{tmp_path}/d", str(tmp_path)]


def test_a_full_disk_is_told_as_one(tmp_path: Path):
    write(tmp_path / "ocdbt.process_0", {"a": b"x"})
    with pytest.raises(StorageFull, match="merge databases"):
        merge_item(Noting(full=True), str(tmp_path), validate=False)  # type: ignore[arg-type]


def test_large_inline_values_of_others_stay_inline(tmp_path: Path):
    spec = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{tmp_path}/ocdbt.process_0"}}
    store = ts.KvStore.open({**spec, "config": {"max_inline_value_bytes": 100_000}}).result()
    store.write("a", LARGE * 10).result()
    assert merge_item(STORE, str(tmp_path), validate=False)
    assert read_database(Directory(tmp_path)) == {b"a": LARGE * 10}
    assert content_of(tmp_path) == {"a": LARGE * 10}
