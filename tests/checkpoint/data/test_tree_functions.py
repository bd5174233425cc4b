# SPDX-License-Identifier: Apache-2.0
"""The small functions on trees say what Orbax's say, and metadata tells what is stored."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from pertinax import checkpoint as door
from tests.checkpoint.data.twins import TREES, Point, agree, mesh, same, sharded

pytestmark = pytest.mark.interop


class Empty(NamedTuple):
    pass


SHAPES = {
    "dict": {"a": 1, "b": {"c": 2, "d": [3, 4]}},
    "list": [1, [2, 3], (4,)],
    "attributes": Point(1, {"k": Point(2, 3)}),
    "int keys": {1: {2: 3}, 4: [5]},
    "empties": {"a": 1, "b": {}, "c": None, "d": [1, []], "e": Empty()},
    "only empties": {"a": {}, "b": None},
    "leaf": 5,
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("keep", [False, True])
def test_serialize_and_back(name: str, keep: bool, tmp_path: Path):
    def program(ocp: Any, _: Path) -> Any:
        flat = ocp.tree.serialize_tree(SHAPES[name], keep_empty_nodes=keep)
        return [flat, ocp.tree.deserialize_tree(flat, SHAPES[name], keep_empty_nodes=keep)]

    agree(program, tmp_path)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("sep", [None, "/"])
@pytest.mark.parametrize("keep", [False, True])
def test_flat_dicts_and_back(name: str, sep: str | None, keep: bool, tmp_path: Path):
    def program(ocp: Any, _: Path) -> Any:
        flat = ocp.tree.to_flat_dict(SHAPES[name], sep=sep, keep_empty_nodes=keep)
        target = None if name == "leaf" else SHAPES[name]
        return [list(flat.items()), ocp.tree.from_flat_dict(flat, target, sep=sep)]

    if name != "leaf":
        agree(program, tmp_path)


@pytest.mark.row("R243")
@pytest.mark.parametrize("name", SHAPES)
def test_names_of_parameters(name: str, tmp_path: Path):
    agree(lambda ocp, _: ocp.tree.get_param_names(SHAPES[name]), tmp_path)


@pytest.mark.parametrize(
    "leaf",
    [1, 2.5, True, "text", np.arange(3), np.float32(1), jnp.ones(2), None],
    ids=lambda leaf: type(leaf).__name__,
)
def test_shapes_of_leaves(leaf: Any, tmp_path: Path):
    def program(ocp: Any, _: Path) -> Any:
        found = ocp.tree.to_shape_dtype_struct(leaf)
        return [
            type(found).__name__,
            getattr(found, "shape", None),
            str(getattr(found, "dtype", "")),
        ]

    agree(program, tmp_path)


def test_restore_through_abstract_arrays(tmp_path: Path):
    def program(ocp: Any, root: Path) -> Any:
        tree = {"x": sharded(PartitionSpec("a")), "n": np.arange(3), "i": 4}
        ocp.PyTreeCheckpointer().save(root / "it", tree)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(root / "it", abstract)

    agree(program, tmp_path)


@pytest.mark.row("R086", "R117")
@pytest.mark.parametrize("name", TREES)
def test_metadata_of_leaves(name: str, tmp_path: Path):
    import orbax.checkpoint as orbax

    tree = TREES[name]()
    door.PyTreeCheckpointer().save(tmp_path / "it", tree)
    mine = door.PyTreeCheckpointHandler().metadata(tmp_path / "it")
    theirs = orbax.PyTreeCheckpointHandler().metadata(tmp_path / "it")
    same(told(mine), told(getattr(theirs, "tree", theirs)))


def told(metadata: Any) -> Any:
    def facts(leaf: Any) -> Any:
        shape = tuple(getattr(leaf, "shape", ()) or ())
        layout = getattr(leaf, "sharding", None)
        return [
            type(leaf).__name__,
            leaf.name,
            str(leaf.directory),
            list(shape),
            str(getattr(leaf, "dtype", None)),
            None
            if layout is None
            else layout.to_jax_sharding().device_set == set(jax.devices())
            or len(layout.to_jax_sharding().device_set),
        ]

    return jax.tree.map(facts, metadata, is_leaf=lambda x: hasattr(x, "directory"))


@pytest.mark.row("R136")
def test_restore_args_from_metadata(tmp_path: Path):
    tree = {"x": sharded(PartitionSpec("a")), "n": np.arange(3), "i": 4, "s": "text"}
    checkpointer = door.PyTreeCheckpointer()
    checkpointer.save(tmp_path / "it", tree)
    metadata = checkpointer.metadata(tmp_path / "it")
    args = door.checkpoint_utils.construct_restore_args(metadata)
    same(checkpointer.restore(tmp_path / "it", item=metadata, restore_args=args), tree)


@pytest.mark.parametrize(
    "layout",
    [
        lambda: NamedSharding(mesh(), PartitionSpec("a", None)),
        lambda: NamedSharding(mesh(), PartitionSpec(("a", "b"))),
        lambda: SingleDeviceSharding(jax.devices()[2]),
    ],
)
def test_layouts_as_values(layout: Any):
    live = layout()
    told = door.metadata.sharding.from_jax_sharding(live)
    text = told.to_serialized_string()
    assert door.metadata.sharding.from_serialized_string(text) == told
    assert told.to_jax_sharding() == live


def test_layouts_nobody_knows(caplog: pytest.LogCaptureFixture):
    assert door.metadata.sharding.from_jax_sharding("nonsense") is None
    assert "has not been implemented" in caplog.text
    with pytest.raises(NotImplementedError):
        door.metadata.sharding.from_serialized_string('{"sharding_type": "Other"}')
    with pytest.raises(ValueError, match="partition_spec"):
        door.metadata.NamedShardingMetadata.from_deserialized_dict(
            {"shape": [1], "axis_names": ["a"]}
        )


@pytest.mark.parametrize(
    "value", [1, {}, [], (), None, Empty(), [[]], ({},), {"a": {}}, [1]], ids=str
)
def test_what_is_empty(value: Any, tmp_path: Path):
    agree(lambda ocp, _: bool(ocp.utils.is_empty_or_leaf(value)), tmp_path)
