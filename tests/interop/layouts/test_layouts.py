# SPDX-License-Identifier: Apache-2.0
"""Every layout, with every kind of leaf, goes from us to Orbax 0.12 and from there to us."""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pertinax
from pertinax import checkpoint as door
from pertinax._core.open import open_checkpoint
from tests.checkpoint.data.twins import same
from tests.interop.layouts import forest

orbax = pytest.importorskip("orbax.checkpoint")
pytestmark = pytest.mark.interop

layouts = pytest.mark.parametrize(("use_ocdbt", "use_zarr3"), forest.LAYOUTS)


def save(ocp, path, tree, use_ocdbt, use_zarr3, limits=(None, None)):
    chunk_bytes, file_bytes = limits
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=use_ocdbt, use_zarr3=use_zarr3)
    save_args = None
    if chunk_bytes is not None:
        save_args = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=chunk_bytes), tree)
    args = ocp.args.PyTreeSave(tree, save_args, file_bytes)
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(path, args=args)


def restore(ocp, path):
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        return checkpointer.restore(path)


def files_of(path) -> list[str]:
    path = pathlib.Path(path)
    return sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())


@pytest.mark.row("R129", "R132", "R135", "R172", "R173")
@pytest.mark.parametrize("limits", forest.LIMITS)
@layouts
def test_a_tree_goes_both_ways(tmp_path, use_ocdbt, use_zarr3, limits):
    tree = forest.tree()
    save(door, tmp_path / "ours", tree, use_ocdbt, use_zarr3, limits)
    save(orbax, tmp_path / "theirs", tree, use_ocdbt, use_zarr3, limits)
    expected = restore(orbax, tmp_path / "theirs")
    same(restore(orbax, tmp_path / "ours"), expected)
    same(restore(door, tmp_path / "theirs"), expected)
    same(restore(door, tmp_path / "ours"), expected)
    assert pertinax.verify(tmp_path / "ours").ok
    mine, theirs = (chunks_of(tmp_path / name) for name in ("ours", "theirs"))
    for name in ("sharded.columns", "sharded.rows", "sharded.everywhere"):
        del mine[name], theirs[name]  # Orbax 0.12 cuts copies finer than 0.8 did
    assert mine == theirs
    names = files_of(tmp_path / "ours")
    assert ("manifest.ocdbt" in names) == use_ocdbt
    assert ("numpy.int8/zarr.json" in names) == (use_zarr3 and not use_ocdbt)
    assert ("numpy.int8/.zarray" in names) == (not use_zarr3 and not use_ocdbt)


def chunks_of(path):
    """The chunk shape of every array."""
    return {leaf.name: leaf.chunk_shape for leaf in open_checkpoint(path).manifest.leaves}


def kvstore_of(path, name):
    base = {"driver": "file", "path": f"{path}/"}
    if (pathlib.Path(path) / "manifest.ocdbt").exists():
        return {"driver": "ocdbt", "base": base, "path": f"{name}/"}
    return {"driver": "file", "path": f"{path}/{name}/"}


@layouts
def test_what_todays_orbax_alone_can_store_is_read(tmp_path, use_ocdbt, use_zarr3):
    tree = forest.tree(forest.NEW_DTYPES)
    save(orbax, tmp_path / "theirs", tree, use_ocdbt, use_zarr3)
    same(restore(door, tmp_path / "theirs"), restore(orbax, tmp_path / "theirs"))
    save(door, tmp_path / "ours", tree, use_ocdbt, use_zarr3)
    same(restore(door, tmp_path / "ours"), restore(orbax, tmp_path / "theirs"))


@layouts
def test_the_front_door_says_the_layout_in_a_word(tmp_path, use_ocdbt, use_zarr3):
    tree = {**forest.tree(), "nothing": np.zeros((3, 0, 2)), "key": jax.random.key(3)}
    layout = f"{'ocdbt' if use_ocdbt else 'directory'}+{'zarr3' if use_zarr3 else 'zarr2'}"
    path = pertinax.save(tmp_path / "c", tree, layout=layout, compression="zstd", chunk_bytes=96)
    loaded = pertinax.load(path)
    assert jax.tree.structure(loaded) == jax.tree.structure(tree)
    assert jax.random.key_data(loaded.pop("key")).tolist() == [0, 3]
    assert jax.tree.all(jax.tree.map(_alike, {k: tree[k] for k in loaded}, loaded))
    theirs = restore(orbax, path)
    assert theirs["nothing"].shape == (3, 0, 2)
    assert jax.random.key_data(theirs["key"]).tolist() == [0, 3]
    assert str(pertinax.describe(path)).count("\n") > 5


def _alike(one, other):
    assert type(one) is type(other)
    return np.asarray(one).tobytes() == np.asarray(other).tobytes()


@layouts
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_tensorstore_and_zarr_python_open_our_arrays(tmp_path, use_ocdbt, use_zarr3, compression):
    import tensorstore as ts
    import zarr

    layout = f"{'ocdbt' if use_ocdbt else 'directory'}+{'zarr3' if use_zarr3 else 'zarr2'}"
    arrays = {
        "large": np.arange(200_000.0).reshape(400, 500),
        "half": forest.values("bfloat16", (30, 7), 0),
        "one": np.float32(4.5),
        "none": np.zeros((2, 0), np.int16),
        "flag": np.array([True, False]),
    }
    path = pertinax.save(
        tmp_path / "c", arrays, layout=layout, compression=compression, chunk_bytes=100_000
    )
    for name, array in arrays.items():
        spec = {"driver": "zarr3" if use_zarr3 else "zarr", "kvstore": kvstore_of(path, name)}
        found = np.asarray(ts.open(spec).result().read().result())
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        assert found.tobytes() == array.tobytes()
        if not use_ocdbt and name != "half":  # zarr-python has no word for it
            opened = zarr.open_array(f"{path}/{name}", mode="r")
            assert np.asarray(opened[...]).tobytes() == array.tobytes()
            assert opened.metadata.zarr_format == (3 if use_zarr3 else 2)


@pytest.mark.row("R173")
@pytest.mark.parametrize("use_zarr3", [False, True])
def test_a_target_size_makes_several_files_and_none_much_larger(tmp_path, use_zarr3):
    tree = {f"p{i}": np.arange(1000) + i for i in range(20)}  # 8000 bytes each
    sizes = {}
    for target in (None, 0, 20_000):
        path = tmp_path / str(target)
        save(door, path, tree, True, use_zarr3, (None, target))
        sizes[target] = sorted(os.stat(file).st_size for file in (path / "d").iterdir())
        same(restore(orbax, path), restore(door, path))
    assert len(sizes[None]) == len(sizes[0]) == 1
    assert len(sizes[20_000]) > 5
    assert max(sizes[20_000]) < 20_000 + 8000 + 4096


def test_a_negative_target_size_is_refused(tmp_path):
    with pytest.raises(ValueError, match="file_bytes"):
        save(door, tmp_path / "c", {"a": 1}, True, False, (None, -1))
    assert not (tmp_path / "c").exists()


@pytest.mark.row("R130", "R287")
@pytest.mark.parametrize("name", ["write_chunk_shape", "read_chunk_shape"])
def test_chunks_have_no_shape_of_the_callers(name):
    with pytest.raises(TypeError, match=name):
        door.SaveArgs(**{name: (1,)})


@layouts
def test_a_chunk_limit_below_an_element_is_refused(tmp_path, use_ocdbt, use_zarr3):
    with pytest.raises(ValueError, match="must be >="):
        save(door, tmp_path / "c", {"a": np.arange(3.0)}, use_ocdbt, use_zarr3, (7, None))


@layouts
@pytest.mark.parametrize(
    "leaf", [np.arange(5), np.float32(3), jnp.ones((2, 3)), "text", 7], ids=repr
)
def test_a_tree_may_be_a_single_leaf(tmp_path, use_ocdbt, use_zarr3, leaf):
    save(door, tmp_path / "c", leaf, use_ocdbt, use_zarr3)
    same(pertinax.load(tmp_path / "c"), leaf)
    assert np.array_equal(restore(door, tmp_path / "c"), leaf)
    assert pertinax.verify(tmp_path / "c").ok


ODD = {
    "two of a name": {"a": {"b": np.arange(3)}, "a.b": np.arange(4)},
    "texts within": {"h": "s", "h/k": "t", "x": 1},
    "tilde": {"~": "s", "x~y": np.arange(2)},
    "numbers": {"0": np.arange(2), "c": np.arange(3), "d": {"0": 1}},
    "below another": {"h": np.arange(2), "h/k": np.arange(3), "h/k/l": jnp.arange(4)},
    "one as text": {1: np.arange(2), "1": np.arange(3)},
    "wide": {"ü": np.arange(2), "a b": 1, "\n": 2},
}


@layouts
@pytest.mark.parametrize("tree", ODD.values(), ids=ODD)
def test_odd_names_lose_no_leaf(tmp_path, use_ocdbt, use_zarr3, tree):
    save(door, tmp_path / "c", tree, use_ocdbt, use_zarr3)
    same(pertinax.load(tmp_path / "c"), tree)
    assert bytes_in(restore(orbax, tmp_path / "c")) == bytes_in(tree)


def bytes_in(tree):
    if isinstance(tree, dict):
        return sorted(leaf for child in tree.values() for leaf in bytes_in(child))
    return [np.asarray(tree).tobytes()]


@pytest.mark.parametrize(
    ("tree", "reason"),
    [
        ({"..": 1}, "`..`"),
        ({"a": 1, "a/0": 2}, "file of the leaf 'a'"),
        ({"_METADATA": 1}, "of the checkpoint itself"),
        ({"checkpoint": np.arange(3)}, "readers look for a file"),
        ({"a\\b": 1}, "backslash"),
        ({"x" * 300: 1}, "longer than"),
        ({"": np.arange(2), "0": 1}, "file of the leaf ''"),
    ],
)
def test_names_that_no_directory_can_have_are_refused_before_anything_is_written(
    tmp_path, tree, reason
):
    with pytest.raises(ValueError, match="layout of few files") as refusal:
        save(door, tmp_path / "c", tree, False, False)
    assert reason in str(refusal.value)
    assert list(tmp_path.iterdir()) == []
    save(door, tmp_path / "d", tree, True, False)
    assert jax.tree.all(jax.tree.map(np.array_equal, pertinax.load(tmp_path / "d"), tree))
