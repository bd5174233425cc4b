# SPDX-License-Identifier: Apache-2.0
"""Files left behind when a checkpoint was copied: the door misses them, whoever wrote them."""

import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import pertinax
from pertinax import checkpoint as ocp
from tests.checkpoint.data.twins import same, sharded

WRITERS = ["ours", pytest.param("theirs", marks=pytest.mark.interop)]


def tree() -> Any:
    return {"x": sharded(PartitionSpec("a")), "n": {"y": np.ones(2), "z": 3}}


def save(place: Path, writer: str, **layout: bool) -> None:
    if writer == "ours":
        ocp.PyTreeCheckpointer(**layout).save(place, tree())
    else:
        import orbax.checkpoint as orbax

        orbax.PyTreeCheckpointer(**layout).save(place, tree())


@pytest.mark.row("R053")
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("use_zarr3", [False, True])
@pytest.mark.parametrize("leaf", ["x", "n.y"])
def test_the_metadata_of_an_array_that_is_gone_is_named_with_a_hint(
    leaf: str, use_zarr3: bool, writer: str, tmp_path: Path
):
    save(tmp_path / "it", writer, use_ocdbt=False, use_zarr3=use_zarr3)
    name = "zarr.json" if use_zarr3 else ".zarray"
    (tmp_path / "it" / leaf / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"-a.*{leaf}/{name}"):
        ocp.PyTreeCheckpointer().restore(tmp_path / "it")
    shutil.rmtree(tmp_path / "it" / leaf)
    with pytest.raises(FileNotFoundError, match=leaf):
        ocp.PyTreeCheckpointer().restore(tmp_path / "it")


@pytest.mark.row("R053")
@pytest.mark.parametrize("writer", WRITERS)
def test_what_is_not_asked_for_may_be_missing_from_ours(writer: str, tmp_path: Path):
    save(tmp_path / "it", writer, use_ocdbt=False)
    (tmp_path / "it" / "x" / ".zarray").unlink()
    if writer == "ours":  # the ledger knows what the file said
        assert not pertinax.verify(tmp_path / "it", on_damage="report").ok
        assert pertinax.load(tmp_path / "it", select="n/z") == {"n": {"z": 3}}
    else:
        with pytest.raises(pertinax.errors.CorruptCheckpoint, match=r"x/\.zarray"):
            pertinax.load(tmp_path / "it", select="n/z")


@pytest.mark.row("R194")
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("use_ocdbt", [True, False])
def test_an_array_without_any_layout_must_be_given_one(
    use_ocdbt: bool, writer: str, tmp_path: Path
):
    save(tmp_path / "it", writer, use_ocdbt=use_ocdbt)
    (tmp_path / "it" / "_sharding").unlink()
    checkpointer = ocp.PyTreeCheckpointer()
    with pytest.raises(ValueError, match=r"cannot be None.*`sharding`.*`mesh` and `mesh_axes`"):
        checkpointer.restore(tmp_path / "it")
    args = ocp.checkpoint_utils.construct_restore_args(tree())
    same(checkpointer.restore(tmp_path / "it", item=tree(), restore_args=args), tree())
    assert checkpointer.metadata(tmp_path / "it")["x"].sharding is None
    with ocp.StandardCheckpointer() as standard:
        same(standard.restore(tmp_path / "it", tree()), tree())
        found = standard.restore(tmp_path / "it")
    assert type(found["x"]) is np.ndarray
    assert np.array_equal(found["x"], tree()["x"])


@pytest.mark.row("R194")
def test_a_tree_that_never_had_a_layout_needs_none(tmp_path: Path):
    ocp.PyTreeCheckpointer().save(tmp_path / "it", {"y": np.ones(2), "z": 3})
    (tmp_path / "it" / "_sharding").unlink(missing_ok=True)
    same(ocp.PyTreeCheckpointer().restore(tmp_path / "it")["y"], np.ones(2))
    pertinax.save(tmp_path / "other", {"x": jnp.ones(2)})
    same(ocp.PyTreeCheckpointer().restore(tmp_path / "other"), {"x": jnp.ones(2)})


@pytest.mark.parametrize("use_ocdbt", [True, False])
def test_a_tree_without_its_metadata_is_not_found(use_ocdbt: bool, tmp_path: Path):
    checkpointer = ocp.PyTreeCheckpointer(use_ocdbt=use_ocdbt)
    checkpointer.save(tmp_path / "it", {"y": np.ones(2)})
    (tmp_path / "it" / "_METADATA").unlink()
    with pytest.raises(FileNotFoundError, match="_METADATA"):
        checkpointer.metadata(tmp_path / "it")
    with pytest.raises(FileNotFoundError, match="_METADATA"):
        ocp.PyTreeCheckpointer().restore(tmp_path / "it")


def test_the_file_of_another_handler_is_not_found_when_it_is_gone(tmp_path: Path):
    checkpointer = ocp.Checkpointer(ocp.JsonCheckpointHandler())
    checkpointer.save(tmp_path / "it", {"x": 1})
    (tmp_path / "it" / "metadata").unlink()
    with pytest.raises(FileNotFoundError, match="metadata"):
        checkpointer.restore(tmp_path / "it")
    items = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
    items.save(tmp_path / "items", args=ocp.args.Composite(one=ocp.args.JsonSave({"x": 1})))
    (tmp_path / "items" / "one" / "metadata").unlink()
    with pytest.raises(FileNotFoundError, match="metadata"):
        items.restore(tmp_path / "items")
