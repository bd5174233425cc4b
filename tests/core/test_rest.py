# SPDX-License-Identifier: Apache-2.0
"""A load of everything checks everything, and a load of a part its part."""

import functools
import os
import threading
import tracemalloc
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

import pertinax
from pertinax._core.open import find, open_found
from pertinax._core.rest import Share, checked_beside, rest_of
from pertinax._formats.ledger import decode_ledger, encode_ledger
from pertinax._formats.manifest import FileRecord
from pertinax._store.memory import MemoryStore
from pertinax._store.workers import Workers
from pertinax.errors import CorruptCheckpoint, InvalidOption
from pertinax.testing.trees import differences


@functools.cache
def tree():
    """Made when it is asked for: `tests/mutation` forks before JAX computes."""
    return {"a": np.arange(3, dtype=np.int8), "b": jnp.arange(100_000.0), "n": 3}


def flip(file, at=-1):
    """One bit of the byte at `at`."""
    content = bytearray(file.read_bytes())
    content[at] ^= 4
    file.write_bytes(content)


def data_file(path):
    (file,) = (path / "d").iterdir()
    return file


class Slow:
    """A store that opens no file before it is told to, once it counts them."""

    def __init__(self):
        self.inner = MemoryStore()
        self.opened = None
        self.begun, self.gate = threading.Event(), threading.Event()

    def open(self, path):
        if self.opened is not None:
            self.opened.append(path)
            self.begun.set()
            assert self.gate.wait(60)
        return self.inner.open(path)

    def __getattr__(self, name):
        return getattr(self.inner, name)


@pytest.fixture
def saved(tmp_path):
    pertinax.save(tmp_path / "c", tree())
    return tmp_path / "c"


@pytest.fixture
def step(tmp_path):
    with pertinax.Manager(tmp_path / "run") as manager:
        manager.save(1, tree(), metrics={"loss": 1.5})
    return tmp_path / "run" / "1"


@pytest.mark.parametrize("name", ["_METADATA", "_sharding", "manifest.ocdbt", "commit_success.txt"])
def test_a_damaged_note_is_refused_unless_only_the_values_matter(saved, name):
    flip(saved / name)
    with pytest.raises(CorruptCheckpoint, match=name) as caught:
        pertinax.load(saved)
    assert 'check="read"' in caught.value.__notes__[0]
    with pytest.raises(CorruptCheckpoint, match=name):
        pertinax.load(saved, dict.fromkeys(tree(), ...))
    assert differences(tree(), pertinax.load(saved, check="read")) == []
    assert differences({"a": tree()["a"]}, pertinax.load(saved, select="a")) == []
    assert differences({"n": 3}, pertinax.load(saved, {"n": ...}, extra="ignore")) == []


def test_a_note_that_is_gone_is_refused(saved):
    os.remove(saved / "_sharding")
    with pytest.raises(CorruptCheckpoint, match="file is missing"):
        pertinax.load(saved)


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("at", [3, 63, 100, 4095])
def test_a_bit_in_the_padding_is_refused_and_its_byte_named(saved, at, mmap):
    assert data_file(saved).read_bytes()[at] == 0
    flip(data_file(saved), at)
    with pytest.raises(CorruptCheckpoint, match="padding is not zero") as caught:
        pertinax.load(saved, mmap=mmap)
    assert (caught.value.start, caught.value.stop) == (at, at + 1)
    assert caught.value.file == f"d/{data_file(saved).name}"
    assert differences(tree(), pertinax.load(saved, mmap=mmap, check="read")) == []


@pytest.mark.parametrize("mmap", [True, False])
def test_the_nodes_for_orbax_and_the_end_of_the_file_are_checked(saved, mmap):
    file = data_file(saved)
    size = file.stat().st_size
    flip(file, size - 40)
    with pytest.raises(CorruptCheckpoint, match="checksum") as caught:
        pertinax.load(saved, mmap=mmap)
    assert caught.value.start <= size - 40 < caught.value.stop
    flip(file, size - 40)
    with file.open("ab") as longer:
        longer.write(b"x")
    with pytest.raises(CorruptCheckpoint, match="bytes behind the last chunk") as caught:
        pertinax.load(saved, mmap=mmap)
    assert (caught.value.start, caught.value.stop) == (size, size + 1)


@pytest.mark.parametrize("head", [b"\0" * 4096, b"\0" * 4000 + b"\1" + b"\0" * 95])
def test_a_stranger_may_begin_a_file_with_zeros_and_with_nothing_else(saved, head):
    file = data_file(saved)
    file.write_bytes(head + file.read_bytes())
    ledger = saved / "pertinax.json"
    manifest = decode_ledger(ledger.read_bytes())
    chunks = replace(manifest.chunks, offset=manifest.chunks.offset + len(head))
    ledger.write_bytes(encode_ledger(replace(manifest, chunks=chunks)))
    if not any(head):
        assert differences(tree(), pertinax.load(saved)) == []
        assert pertinax.verify(saved).ok
        return
    for check in (pertinax.load, pertinax.verify):
        with pytest.raises(CorruptCheckpoint, match="padding is not zero") as caught:
            check(saved)
        assert caught.value.start == 4000


def test_where_leaves_are_damaged_they_are_named_first(tmp_path):
    pertinax.save(tmp_path / "c", tree())
    file = data_file(tmp_path / "c")
    file.write_bytes(bytes(file.stat().st_size))  # arrays, padding, nodes
    for _ in range(20):
        with pytest.raises(CorruptCheckpoint) as caught:
            pertinax.load(tmp_path / "c")
        assert caught.value.leaf == "a"


def test_of_a_step_its_own_files_and_small_ones_of_other_items_count(step):
    assert differences(tree(), pertinax.load(step)) == []
    flip(step / "metrics" / "metrics")
    with pytest.raises(CorruptCheckpoint, match="metrics/metrics"):
        pertinax.load(step)
    assert differences(tree(), pertinax.load(step, item="default")) == []
    flip(step / "_CHECKPOINT_METADATA")
    with pytest.raises(CorruptCheckpoint, match="_CHECKPOINT_METADATA"):
        pertinax.load(step, item="default")
    assert differences(tree(), pertinax.load(step, check="read")) == []


def test_a_manager_passes_a_step_over_whose_notes_are_damaged_unless_it_is_told_not_to(tmp_path):
    with pertinax.Manager(tmp_path / "run") as manager:
        manager.save(1, tree())
        manager.save(2, tree())
    flip(tmp_path / "run" / "2" / "default" / "_sharding")
    with pertinax.Manager(tmp_path / "run") as manager:
        assert manager.restore(check="read").step == 2
        with pytest.raises(CorruptCheckpoint, match="_sharding"):
            manager.restore()
        assert manager.restore(fallback=True).step == 1


def test_a_step_that_lost_its_ledger_is_refused(step):
    os.remove(step / "pertinax.json")
    for check in (pertinax.load, pertinax.verify):
        with pytest.raises(CorruptCheckpoint, match=r"pertinax\.json.*missing"):
            check(step)


def test_the_processes_of_a_job_share_the_rest(step, monkeypatch):
    found = find(step)
    opened = open_found(found)
    whole = rest_of(found, opened, alone=False)
    assert {record.name for _, record in whole.files} > {"_sharding", "metrics/metrics"}
    assert whole.rows == np.flatnonzero(opened.manifest.chunks.leaf == -1).tolist() != []
    assert "default/pertinax.json" not in {record.name for _, record in whole.files}
    files, rows = [], []
    for number in range(3):
        monkeypatch.setattr("pertinax._core.rest.job_share", lambda n=number: (n, 3))
        share = rest_of(found, opened, alone=False)
        files += share.files
        rows += share.rows
    assert sorted(files, key=repr) == sorted(whole.files, key=repr)
    assert rows == whole.rows
    assert Share(1, 2).of([1, 2, 3]) == [2]
    assert Share().of([1, 2, 3]) == [1, 2, 3]


def test_check_means_one_of_two_things(saved):
    with pytest.raises(InvalidOption, match="check='none'"):
        pertinax.load(saved, check="none")


@pytest.mark.parametrize(("length", "compared"), [(1 << 20, True), ((1 << 20) + 1, False)])
def test_files_of_other_items_are_compared_up_to_a_megabyte(step, length, compared):
    found = find(step)
    opened = open_found(found)
    one = FileRecord("other/file", length, 0)
    opened = replace(opened, step=replace(opened.step, files=(one,)))
    assert ((found.directory, one) in rest_of(found, opened, alone=False).files) == compared
    assert (found.directory, one) not in rest_of(found, opened, alone=True).files
    own = replace(one, name="default/file")
    opened = replace(opened, step=replace(opened.step, files=(own,)))
    assert (found.directory, own) in rest_of(found, opened, alone=True).files


def test_if_the_load_fails_files_that_wait_for_their_turn_are_not_read(monkeypatch):
    store = Slow()
    pertinax.save("/c", tree(), store=store)
    found = find("/c", store)
    rest = rest_of(found, open_found(found), alone=True)
    close = Workers.close

    def closing(workers):
        store.gate.set()
        close(workers)

    monkeypatch.setattr(Workers, "close", closing)
    store.opened = []

    def load():
        with checked_beside(rest):
            assert store.begun.wait(60)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        load()
    assert len(rest.files) > 1
    assert len(store.opened) == 1


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("bad", [None, 0, (64 << 20) - 1])
def test_a_wide_gap_costs_no_memory_and_is_looked_at_to_its_ends(tmp_path, bad, mmap):
    """A file with holes takes no room on a disk, and whoever wrote it may mean harm."""
    pertinax.save(tmp_path / "c", {"a": np.arange(8.0), "b": np.arange(8.0) + 1})
    gap = 64 << 20
    file, ledger = data_file(tmp_path / "c"), tmp_path / "c" / "pertinax.json"
    manifest = decode_ledger(ledger.read_bytes())
    content, offset = file.read_bytes(), manifest.chunks.offset
    first = 64  # the end of `a`
    with file.open("r+b") as wider:
        wider.truncate(first)
        wider.seek(first + gap)
        wider.write(content[first:])
        if bad is not None:
            wider.seek(first + bad)
            wider.write(b"\1")
    chunks = replace(manifest.chunks, offset=np.where(offset >= first, offset + gap, offset))
    ledger.write_bytes(encode_ledger(replace(manifest, chunks=chunks)))
    tracemalloc.start()
    try:
        if bad is None:
            assert len(pertinax.load(tmp_path / "c", mmap=mmap)) == 2
        else:
            with pytest.raises(CorruptCheckpoint, match="padding is not zero") as caught:
                pertinax.load(tmp_path / "c", mmap=mmap)
            assert caught.value.start == first + bad
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
