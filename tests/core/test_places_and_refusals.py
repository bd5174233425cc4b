# SPDX-License-Identifier: Apache-2.0
"""Paths are written in many ways; what cannot be done is refused clearly, and nothing is lost by
it.
"""

import os
import pathlib
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pertinax
from pertinax._store.memory import MemoryStore
from pertinax.errors import (
    CheckpointExists,
    CheckpointNotFound,
    InvalidOption,
    NotACheckpoint,
    PertinaxError,
    StorageError,
    StorageFull,
    UnfinishedCheckpoint,
    UnsupportedLeaf,
)
from tests.objects.buckets import FRONT, Memory, Shelf, bucket


def spellings(root):
    epath = pytest.importorskip("etils.epath")
    return {
        "text": f"{root}/c",
        "relative": "c",
        "dotted": "./x/../c",
        "home": "~/c",
        "pathlib": root / "c",
        "epath": epath.Path(root / "c"),
        "url": f"file://{root}/c",
        "url with host": f"file://localhost{root}/c",
        "slashes": f"{root}//c/",
    }


@pytest.mark.parametrize(
    "how",
    ["text", "relative", "dotted", "home", "pathlib", "epath", "url", "url with host", "slashes"],
)
def test_a_place_can_be_spelt_in_many_ways(tmp_path, monkeypatch, how):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    place = spellings(tmp_path)[how]
    assert pertinax.save(place, 5) == str(tmp_path / "c")
    assert pertinax.load(place) == 5
    assert pertinax.save_async(place, 6, exists="replace").result() == str(tmp_path / "c")
    assert pertinax.load(tmp_path / "c") == 6
    assert pertinax.verify(place).ok
    assert pertinax.describe(place).path == str(tmp_path / "c")


def test_escaped_urls_and_odd_names(tmp_path):
    for name in ("a b", "ü", "a%20b", "x" * 100, "a\nb", "-rf"):
        pertinax.save(tmp_path / name, name)
        assert pertinax.load(tmp_path / name) == name
    assert pertinax.load(f"file://{tmp_path}/a%20b") == "a b"


@pytest.mark.parametrize(
    "place",
    [
        "",
        "hdfs://bucket/x",
        "s3:///x",
        "my-s3+x://b/x",
        "file://host/x",
        "file://x",
        b"bytes",
        "nul\0byte",
    ],
)
def test_places_that_mean_nothing_are_refused(place):
    for verb in (
        lambda: pertinax.save(place, 1),
        lambda: pertinax.load(place),
        lambda: pertinax.verify(place),
    ):
        with pytest.raises(InvalidOption):
            verb()


def test_a_name_that_is_too_long_for_the_disk_is_an_error_of_ours(tmp_path):
    for length in (200, 255, 300):
        with pytest.raises(PertinaxError):
            pertinax.save(tmp_path / ("x" * length), 1)
    assert os.listdir(tmp_path) == []


def test_exists_has_three_meanings(tmp_path):
    path = pertinax.save(tmp_path / "c", 1)
    with pytest.raises(CheckpointExists, match="exists="):
        pertinax.save(path, 2)
    assert pertinax.load(path) == 1
    assert pertinax.save(path, 2, exists="skip") == path
    assert pertinax.load(path) == 1
    pertinax.save(path, 3, exists="replace")
    assert pertinax.load(path) == 3
    pertinax.save(tmp_path / "d", 4, exists="replace")
    pertinax.save(tmp_path / "e", 4, exists="skip")
    assert sorted(os.listdir(tmp_path)) == ["c", "d", "e"]


@pytest.mark.parametrize("what", ["file", "empty directory", "other directory"])
def test_what_is_no_checkpoint_is_not_overwritten_unasked(tmp_path, what):
    place = tmp_path / "c"
    if what == "file":
        place.write_text("mine")
    else:
        place.mkdir()
        if what == "other directory":
            (place / "x").write_text("mine")
    with pytest.raises(CheckpointExists):
        pertinax.save(place, 1)
    with pytest.raises(NotACheckpoint):
        pertinax.load(place)
    assert place.exists()
    if what != "empty directory":
        assert (place if what == "file" else place / "x").read_text() == "mine"


def test_what_is_not_there_or_not_finished_says_so(tmp_path):
    with pytest.raises(CheckpointNotFound):
        pertinax.load(tmp_path / "c")
    pertinax.save(tmp_path / "c", 1)
    unfinished = tmp_path / "c.orbax-checkpoint-tmp-123"
    os.rename(tmp_path / "c", unfinished)
    for verb in (pertinax.load, pertinax.describe, pertinax.verify):
        with pytest.raises(UnfinishedCheckpoint, match="never published"):
            verb(unfinished)
    with pytest.raises(CheckpointNotFound):
        pertinax.load(tmp_path / "c")


def test_a_path_below_a_file_is_an_error_of_ours(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(PertinaxError):
        pertinax.save(tmp_path / "file" / "c", 1)
    with pytest.raises(PertinaxError):
        pertinax.load(tmp_path / "file" / "c")
    assert (tmp_path / "file").read_text() == "x"


def test_missing_parents_are_made(tmp_path):
    pertinax.save(tmp_path / "a" / "b" / "c", 1)
    assert pertinax.load(tmp_path / "a" / "b" / "c") == 1


UNSUPPORTED = [
    ({"a": [object()]}, "'a/0' is of type builtins.object"),
    ({"f": len}, "'f' is of type builtins.builtin_function"),
    ({"s": {1, 2}}, "'s' is of type builtins.set"),
    ({"p": pathlib.PurePath("x")}, "'p' is of type pathlib"),
    ({"o": np.array([object()])}, "'o' is a numpy ndarray of dtype object"),
    ({"t": np.array(["x"])}, "'t' is a numpy ndarray of dtype <U1"),
    ({"v": np.zeros(2, [("x", "i4")])}, "'v' is a numpy ndarray of dtype"),
    ({"l": np.zeros(2, np.longdouble)}, "'l' is a numpy ndarray of dtype float128"),
    ({"b": bytearray(b"x")}, "'b' is of type builtins.bytearray"),
    (object(), "'.' is of type"),
    ({"e": OSError()}, "'e' is of type builtins.OSError"),
]


@pytest.mark.parametrize(("tree", "text"), UNSUPPORTED, ids=[t for _, t in UNSUPPORTED])
def test_unsupported_leaves_are_named_with_path_and_type_before_anything_is_written(
    tmp_path, tree, text
):
    for verb in (pertinax.save, pertinax.save_async):
        with pytest.raises(UnsupportedLeaf, match=text):
            verb(tmp_path / "new" / "c", tree)
    assert os.listdir(tmp_path) == []


def test_traced_and_deleted_arrays_are_refused_by_name(tmp_path):
    with pytest.raises(UnsupportedLeaf, match="'x' is traced"):
        jax.jit(lambda x: pertinax.save(tmp_path / "c", {"x": x}) and x)(jnp.ones(3))
    gone = jnp.ones(3)
    gone.delete()
    with pytest.raises(UnsupportedLeaf, match="'x' is an array that has been deleted"):
        pertinax.save(tmp_path / "c", {"x": gone})
    assert os.listdir(tmp_path) == []


def test_trees_within_themselves_are_refused(tmp_path):
    tree = {}
    tree["again"] = tree
    with pytest.raises(UnsupportedLeaf, match="nested"):
        pertinax.save(tmp_path / "c", tree)


@pytest.fixture
def tiny_disk(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], capture_output=True
    )
    if made.returncode != 0:
        pytest.skip("this machine lets nobody mount")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_disk_that_is_plainly_too_small_is_known_before_anything_is_written(tiny_disk):
    with pytest.raises(StorageFull, match="free: make room"):
        pertinax.save(tiny_disk / "a" / "c", np.zeros(8 << 20, np.uint8))
    assert os.listdir(tiny_disk) == []


def test_a_disk_is_not_called_too_small_for_what_compression_may_shrink(tiny_disk):
    zeros = np.zeros(8 << 20, np.uint8)
    path = pertinax.save(tiny_disk / "c", zeros, compression="zstd")
    assert np.array_equal(pertinax.load(path), zeros)


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_disk_that_fills_up_on_the_way_loses_nothing(tiny_disk, compression):
    noise = np.random.default_rng(1).integers(0, 256, 2 << 20, np.uint8)
    path = pertinax.save(tiny_disk / "c", noise[: 1 << 20])
    store = Stingy()
    options = {"exists": "replace", "store": store, "compression": compression}
    for verb in (
        lambda: pertinax.save(path, [noise, noise], **options),
        lambda: pertinax.save_async(path, [noise, noise], **options).result(),
    ):
        with pytest.raises(StorageFull):
            verb()
        assert os.listdir(tiny_disk) == ["c"]
        assert np.array_equal(pertinax.load(path), noise[: 1 << 20])
    pertinax.save(path, noise[:1000], exists="replace")
    assert np.array_equal(pertinax.load(path), noise[:1000])


class Stingy:
    """This machine's files, but nobody knows how much room there is."""

    def __init__(self):
        from pertinax._store.local import LocalStore

        self.inner = LocalStore()

    def free_bytes(self, path):
        return None

    def __getattr__(self, name):
        return getattr(self.inner, name)


def test_a_directory_that_takes_no_files_is_an_error_of_ours(tmp_path):
    if os.geteuid() == 0:
        place = pathlib.Path("/proc/pertinax-test")
    else:
        tmp_path.chmod(0o500)
        place = tmp_path / "c"
    with pytest.raises(StorageError):
        pertinax.save(place, 1)
    with pytest.raises(StorageError):
        pertinax.save_async(place, 1).result()


def test_stores_in_memory_take_any_spelling():
    store = MemoryStore()
    for place in ("/a", "b", "c/", "//d"):
        pertinax.save(place, place, store=store)
        assert pertinax.load(place, store=store) == place
    with pytest.raises(InvalidOption):
        pertinax.save("a/../b", 1, store=store)


def test_who_comes_second_is_told_what_the_store_can_do():
    disk, objects = MemoryStore(), bucket(Memory(Shelf()))
    for store, path, ways in (
        (disk, "/c", 'or exists="replace" or exists="skip"'),
        (objects, f"{FRONT}/run/7", 'or exists="skip"'),
    ):
        pertinax.save(path, {"a": 1}, store=store)
        with pytest.raises(CheckpointExists, match=f"choose another path, {ways}$"):
            pertinax.save(path, {"a": 1}, store=store)
