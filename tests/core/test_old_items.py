# SPDX-License-Identifier: Apache-2.0
"""The front door on items of old releases: load, describe, verify; and on damaged ones."""

import contextlib
from pathlib import Path

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

import pertinax
from pertinax.checkpoint import msgpack_utils
from pertinax.errors import CorruptCheckpoint, NotACheckpoint, PertinaxError
from tests.checkpoint.data import old_items
from tests.checkpoint.data.old_items import VALUES, aggregate, packed
from tests.checkpoint.data.twins import mesh, same


def test_a_tree_of_values_and_of_leaves_elsewhere_comes_back_whole(tmp_path: Path):
    found = pertinax.load(old_items.without_metadata(tmp_path / "it"))
    assert list(found) == list(VALUES)
    same(found["x"], np.arange(8.0))
    assert type(found["n"]) is np.float32
    assert (found["i"], found["f"], found["b"], found["s"]) == (3, 2.5, True, "text")
    assert (found["by"], found["c"]) == (b"ab", 1 + 2j)
    assert (found["none"], found["ed"], found["el"]) == (None, {}, [])
    same(found["p"], np.arange(3))
    same(found["q"]["r"], np.arange(8, dtype=np.float32))


def test_tuples_and_keys_that_are_numbers_are_kept(tmp_path: Path):
    tree = {"t": (1, (np.arange(2), ())), "d": {1: "a", -2: "b"}}
    (tmp_path / "checkpoint").write_bytes(msgpack_utils.msgpack_serialize(tree))
    same(pertinax.load(tmp_path), tree)


def test_types_that_were_recorded_are_used(tmp_path: Path):
    found = pertinax.load(old_items.with_metadata(tmp_path / "it"), arrays="numpy")
    assert isinstance(pertinax.load(tmp_path / "it", select="z")["z"], jax.Array)
    assert (found["s"], found["str"], found["l"][0]) == (7, "hi", 1)
    same(found["j"], np.arange(8.0))


def test_a_target_gets_its_dtypes_and_shardings(tmp_path: Path):
    place = old_items.without_metadata(tmp_path / "it")
    rows = NamedSharding(mesh(), PartitionSpec(("a", "b")))
    target = {"x": jax.ShapeDtypeStruct((8,), jnp.float32, sharding=rows), "i": 0}
    found = pertinax.load(place, target, extra="ignore", cast="lossy")
    assert found["x"].sharding == rows
    assert found["x"].tolist() == list(range(8))
    assert found["i"] == 3


def test_what_is_in_it_is_described_and_read_through(tmp_path: Path):
    place = old_items.without_metadata(tmp_path / "it")
    told = pertinax.describe(place)
    assert told.format == "orbax"
    assert [leaf.path for leaf in told.leaves][:3] == ["x", "n", "i"]
    checked = pertinax.verify(place)
    assert not checked.problems
    assert not checked.verified


@pytest.mark.parametrize("shape", [(30,), (5, 12), (3, 4, 5), (60, 1)])
def test_a_large_array_in_parts_is_read_where_it_is_needed(
    shape: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(msgpack_utils, "MAX_CHUNK_SIZE", 100)
    big = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    (tmp_path / "checkpoint").write_bytes(msgpack_utils.msgpack_serialize({"big": big}))
    same(pertinax.load(tmp_path)["big"], big)
    assert not pertinax.verify(tmp_path).problems
    axis = next(i for i, size in enumerate(shape) if size % 2 == 0)
    half = NamedSharding(
        jax.sharding.Mesh(np.array(jax.devices()[:2]), "d"),
        PartitionSpec(*[None] * axis, "d"),
    )
    target = {"big": jax.ShapeDtypeStruct(shape, jnp.float32, sharding=half)}
    found = pertinax.load(tmp_path, target)["big"]
    assert found.sharding == half
    same(np.asarray(found), big)


def test_an_array_of_an_unknown_dtype_hides_nothing_else(tmp_path: Path):
    odd = msgpack.ExtType(1, msgpack.packb([[1], "str64", b"abcdefgh"]))
    place = aggregate(tmp_path / "it", {"odd": odd, "good": 1})
    assert pertinax.load(place, select="good") == {"good": 1}
    with pytest.raises(TypeError, match="odd"):
        pertinax.load(place)


@pytest.mark.parametrize("data", [b"", b'model_checkpoint_path: "model-3"', b"\x05"])
def test_files_of_other_programs_of_the_same_name_are_no_checkpoint(data: bytes, tmp_path: Path):
    (tmp_path / "checkpoint").write_bytes(data)
    with pytest.raises(NotACheckpoint):
        pertinax.load(tmp_path)


@pytest.mark.parametrize("target", ["nowhere", "."])
def test_a_link_of_that_name_is_no_checkpoint(target: str, tmp_path: Path):
    (tmp_path / "checkpoint").symlink_to(target)
    with pytest.raises(NotACheckpoint):
        pertinax.load(tmp_path)


def test_a_file_of_countless_tiny_leaves_is_refused_before_it_fills_the_memory(tmp_path: Path):
    (tmp_path / "checkpoint").write_bytes(b"\xdd\x00\x04\x00\x01" + bytes((1 << 18) + 1))
    with pytest.raises(CorruptCheckpoint, match="leaves"):
        pertinax.load(tmp_path)


def test_directories_alone_are_refused_with_a_way_out(tmp_path: Path):
    place = old_items.directories_only(tmp_path / "it")
    with pytest.raises(NotACheckpoint, match=r"use_ocdbt=False"):
        pertinax.load(place)


def test_items_of_a_step_are_found(tmp_path: Path):
    (tmp_path / "3").mkdir()
    old_items.without_metadata(tmp_path / "3" / "default")
    assert pertinax.load(tmp_path / "3")["i"] == 3


@pytest.mark.parametrize("name", ["../../secret", "/etc", "a/../../b", ""])
def test_no_text_leads_out_of_the_checkpoint(name: str, tmp_path: Path):
    place = aggregate(tmp_path / "deep" / "it", {"a": f"PLACEHOLDER://{name}"})
    old_items.leaves(tmp_path, {"secret": np.arange(3)})
    with pytest.raises(CorruptCheckpoint):
        pertinax.load(place)


WHOLE = msgpack.packb({**VALUES, "p": 1, "q": 2, "t": msgpack.ExtType(4, b"\x92\x01\x02")})


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_a_damaged_file_is_a_tree_or_a_typed_error(tmp_path: Path, place: int, flip: int):
    data = bytearray(WHOLE)
    data[place] ^= flip
    (tmp_path / "checkpoint").write_bytes(data)
    with contextlib.suppress(PertinaxError):
        pertinax.load(tmp_path)


@given(st.integers(0, len(WHOLE) - 1))
def test_a_file_that_ends_early_is_an_error(tmp_path: Path, length: int):
    (tmp_path / "checkpoint").write_bytes(WHOLE[:length])
    with pytest.raises(PertinaxError):
        pertinax.load(tmp_path)


def test_an_array_that_is_shorter_than_it_says_is_corrupt(tmp_path: Path):
    short = msgpack.ExtType(1, msgpack.packb([[9], "int64", bytes(8)]))
    with pytest.raises(CorruptCheckpoint, match="72 bytes"):
        pertinax.load(aggregate(tmp_path / "it", {"a": short, "b": packed(np.arange(2))}))
