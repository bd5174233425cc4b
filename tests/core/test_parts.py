# SPDX-License-Identifier: Apache-2.0
"""Of a large chunk only those blocks are read that are needed, and these are verified."""

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import pertinax
from pertinax._core.chunk_bytes import blocks_around
from pertinax._formats.crc import BLOCK_BYTES
from pertinax.errors import CorruptCheckpoint
from tests.hosts.counting import CountingStore

MIB = 1 << 20
ARRAY = np.arange(4 * 64 * 16 * 1024, dtype=np.float32).reshape(4, 64, 16, 1024)


@given(st.integers(1, 40), st.lists(st.tuples(st.integers(0, 39), st.integers(1, 40)), max_size=4))
def test_blocks_around_ranges(length, ranges):
    unit = BLOCK_BYTES // 4
    ranges = [(a * unit + 1, b * unit) for a, b in ranges if a < b <= length]
    found = blocks_around(length * unit, ranges)
    parts = ((0, length * unit),) if found is None else found
    for start, stop in ranges:
        assert any(a <= start and stop <= b for a, b in parts)
    for (_, end), (start, _) in itertools.pairwise(parts):
        assert end < start
    assert all(a % BLOCK_BYTES == 0 for a, _ in parts)
    touched = {n for a, b in ranges for n in range(a // BLOCK_BYTES, -(-b // BLOCK_BYTES))}
    assert sum(-(-(b - a) // BLOCK_BYTES) for a, b in parts) == len(touched)


def one_device(spec, count):
    """A layout of which device 0 holds the first `count`-th along one dimension."""
    return NamedSharding(Mesh(np.array(jax.devices()[:count]), ("x",)), PartitionSpec(*spec))


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("spec", [("x",), (None, "x"), (None, None, "x"), (None, None, None, "x")])
def test_every_layout_comes_back_whole(tmp_path: Path, spec, mmap):
    pertinax.save(tmp_path / "c", {"w": ARRAY})
    sharding = one_device(spec, 4)
    target = {"w": jax.ShapeDtypeStruct(ARRAY.shape, ARRAY.dtype, sharding=sharding)}
    found = pertinax.load(tmp_path / "c", target, mmap=mmap)["w"]
    assert found.sharding == sharding
    assert np.array_equal(found, ARRAY)


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_a_cut_reads_what_it_needs_and_no_more(data):
    """Cut at the end: the leaf is one chunk of 16 MiB, and the first rows of it are wanted."""
    shape = tuple(data.draw(st.integers(1, n)) for n in ARRAY.shape[:2]) + ARRAY.shape[2:]
    reading = CountingStore()
    target = {"w": jax.ShapeDtypeStruct(shape, ARRAY.dtype)}
    found = pertinax.load(saved(), target, shapes="cut", store=reading)["w"]
    assert np.array_equal(found, ARRAY[tuple(map(slice, shape))])
    needed = int(np.prod(shape)) * 4
    assert reading.read <= needed + shape[0] * 2 * MIB


_PLACES: list[str] = []


def saved() -> str:
    return _PLACES[0]


@pytest.fixture(autouse=True, scope="module")
def _save_once(tmp_path_factory):
    path = tmp_path_factory.mktemp("parts") / "c"
    pertinax.save(path, {"w": ARRAY})
    _PLACES.append(str(path))
    yield
    _PLACES.clear()


@pytest.mark.parametrize("mmap", [True, False])
def test_damage_in_a_part_that_is_needed_is_found_and_elsewhere_not_looked_for(tmp_path, mmap):
    path = tmp_path / "c"
    pertinax.save(path, {"w": jnp.asarray(ARRAY)})
    (file,) = (path / "d").iterdir()
    data = bytearray(file.read_bytes())
    at = data.find(ARRAY[3].tobytes()[:64]) + 5000
    data[at] ^= 1
    file.write_bytes(data)
    wanted = jax.ShapeDtypeStruct((3, *ARRAY.shape[1:]), ARRAY.dtype)
    found = pertinax.load(path, {"w": wanted}, shapes="cut", mmap=mmap)["w"]
    assert np.array_equal(found, ARRAY[:3])
    # Of each row the first MiB: the chunk is read in parts, and the damage lies in the last one.
    part = jax.ShapeDtypeStruct((4, 16, *ARRAY.shape[2:]), ARRAY.dtype)
    with pytest.raises(CorruptCheckpoint, match="checksum") as caught:
        pertinax.load(path, {"w": part}, shapes="cut", mmap=mmap)
    assert caught.value.leaf == "w"
    assert caught.value.start <= at < caught.value.stop
    with pytest.raises(CorruptCheckpoint, match="checksum"):
        pertinax.load(path, mmap=mmap)
    with pytest.raises(CorruptCheckpoint):
        pertinax.verify(path)
