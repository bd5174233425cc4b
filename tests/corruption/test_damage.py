# SPDX-License-Identifier: Apache-2.0
"""Damage anywhere in a checkpoint is a typed error: never a wrong value, never anything else, and
never passed over.
"""

import os

import pytest

import pertinax
from pertinax.errors import CorruptCheckpoint, NotACheckpoint, PertinaxError
from pertinax.testing.trees import differences
from tests.corruption.scenes import (
    PATH,
    copy,
    damages,
    files,
    made,
    plain,
    rich,
    save_bare,
    save_step,
    with_content,
)

pytestmark = pytest.mark.crash

CASES = [
    pytest.param(save_bare, plain, {}, id="plain"),
    pytest.param(save_bare, rich, {"chunk_bytes": 600}, id="rich"),
    pytest.param(save_bare, rich, {"compression": "zstd", "chunk_bytes": 1 << 16}, id="rich-zstd"),
    pytest.param(save_step, rich, {}, id="step"),
    pytest.param(save_bare, plain, {"layout": "directory+zarr2", "chunk_bytes": 2000}, id="files"),
    pytest.param(save_step, plain, {"layout": "directory+zarr3"}, id="step-files"),
]


def outcome(store, tree, **options):
    """`right`, or the typed error; anything else fails the test."""
    try:
        loaded = pertinax.load(PATH, store=store, **options)
    except PertinaxError as error:
        return error
    assert differences(tree, loaded) == []
    return "right"


def check(words, store, tree):
    found = outcome(store, tree)
    assert found != "right", f"load does not see: {words}"
    assert isinstance(found, CorruptCheckpoint | NotACheckpoint), (words, found)
    if isinstance(found, CorruptCheckpoint):
        # The file that was touched, or, where it is the ledger that vouches for it, that one.
        assert found.file in words or "pertinax.json" in found.file + words, (words, found)
        if "/d/" in f"/{found.file}" and "missing" not in found.reason:
            assert 0 <= found.start < found.stop, (words, found)
    try:
        report = pertinax.verify(PATH, store=store, on_damage="report")
    except NotACheckpoint:
        return
    assert report.problems, f"verify does not see: {words}"
    needed = outcome(store, tree, check="read")  # never a wrong value, with half an eye closed
    assert needed == "right" or isinstance(needed, CorruptCheckpoint | NotACheckpoint), words


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize(("save", "tree", "options"), CASES)
def test_every_kind_of_damage_to_every_file(save, tree, options, part, campaign_size):
    limit = int(os.environ.get("PERTINAX_DAMAGES", "120"))
    store, stale = made(save, tree(2), **options), made(save, tree(3), **options)
    refused = 0
    for i, (words, damaged) in enumerate(
        damages(store, stale, limit, int(os.environ.get("PERTINAX_SEED", "0")))
    ):
        if i % 4 == part:
            check(words, damaged, tree(2))
            refused += 1
    campaign_size("corruption: mutations, all refused by `load` and told by `verify`", refused)
    assert refused > 70


@pytest.mark.parametrize(("save", "tree", "options"), CASES)
def test_the_control_is_whole(save, tree, options):
    store = made(save, tree(2), **options)
    assert outcome(store, tree(2)) == "right"
    report = pertinax.verify(PATH, store=store, on_damage="report")
    assert report.ok
    assert report.checked_bytes > 1000


@pytest.mark.parametrize(("save", "tree", "options"), CASES)
def test_every_byte_of_array_data_is_watched(save, tree, options):
    """Where a byte of a leaf is damaged, the error names the leaf and a range that holds the
    byte.
    """
    store = made(save, tree(2), **options)
    path = next(path for path in files(store) if "/d/" in path or path.endswith(("/0", "/c/0")))
    size = len(store.find(path).content)
    named = set()
    for at in range(0, size, max(1, size // 300)):
        damaged = copy(store)
        damaged.find(path).content[at] ^= 0x10
        found = outcome(damaged, tree(2), mmap=False)
        assert isinstance(found, CorruptCheckpoint)
        assert path.endswith(found.file)
        assert found.start <= at < found.stop
        named.add(found.leaf)
    assert named - {None}  # padding, and the nodes for Orbax, belong to no leaf


def test_verify_lists_all_damage_and_not_only_the_first():
    store = made(save_bare, rich(2), chunk_bytes=600)
    spots = {}
    for path in files(store):
        content = bytearray(store.find(path).content)
        if path.endswith("pertinax.json"):
            continue
        content[len(content) // 2] ^= 1
        store = with_content(store, path, content)
        spots[path.removeprefix(PATH + "/")] = len(content) // 2
    report = pertinax.verify(PATH, store=store, on_damage="report")
    assert {problem.file for problem in report.problems} == set(spots)
    with pytest.raises(CorruptCheckpoint):
        pertinax.verify(PATH, store=store)


def test_damage_outside_a_selection_does_not_matter_and_inside_it_does():
    store = made(save_bare, rich(2))
    (path,) = [path for path in files(store) if "/d/" in path]
    content = bytearray(store.find(path).content)
    at = content.find((40_000).to_bytes(4, "little") * 0 + (19_999 * 2).to_bytes(4, "little"))
    assert at > 0
    content[at] ^= 1
    damaged = with_content(store, path, content)
    loaded = pertinax.load(PATH, store=damaged, select=["bf16", "key*"], mmap=False)
    assert set(loaded) == {"bf16", "key", "keys"}
    with pytest.raises(CorruptCheckpoint, match="leaf 'large'"):
        pertinax.load(PATH, store=damaged, select="large")


def test_damage_is_found_on_a_real_disk_mapped_or_not(tmp_path):
    path = pertinax.save(tmp_path / "c", rich(2))
    (name,) = os.listdir(path + "/d")
    with open(f"{path}/d/{name}", "rb") as file:
        begin = file.read().index(rich(2)["large"].tobytes())
    for at in (begin, begin + 30_000, begin + 79_999):
        with open(f"{path}/d/{name}", "r+b") as file:
            file.seek(at)
            byte = file.read(1)
            file.seek(at)
            file.write(bytes([byte[0] ^ 4]))
        for mmap in (True, False):
            with pytest.raises(CorruptCheckpoint, match=name):
                pertinax.load(path, mmap=mmap)
        with open(f"{path}/d/{name}", "r+b") as file:
            file.seek(at)
            file.write(byte)
    os.truncate(f"{path}/d/{name}", 50_000)
    for mmap in (True, False):
        with pytest.raises(CorruptCheckpoint, match="ends at byte 50000"):
            pertinax.load(path, mmap=mmap)
    os.remove(f"{path}/d/{name}")
    os.mkfifo(f"{path}/d/{name}")
    with pytest.raises(PertinaxError):
        pertinax.load(path)
    os.remove(f"{path}/d/{name}")
    os.symlink("/dev/zero", f"{path}/d/{name}")
    with pytest.raises(PertinaxError):
        pertinax.load(path)


def test_a_link_that_leads_nowhere_is_an_error_of_ours(tmp_path):
    os.symlink(tmp_path / "nowhere", tmp_path / "c")
    with pytest.raises(PertinaxError):
        pertinax.load(tmp_path / "c")
    with pytest.raises(PertinaxError):
        pertinax.save(tmp_path / "c", 1)
