# SPDX-License-Identifier: Apache-2.0
"""What comes back through the door is what comes back through Orbax, for every kind of tree."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pertinax
from pertinax import checkpoint as door
from tests.checkpoint.data.twins import TREES, agree, optax_state, same

pytestmark = pytest.mark.interop
NAMES = list(TREES)


def saved(ocp: Any, root: Path, tree: Any) -> Path:
    ocp.PyTreeCheckpointer().save(root / "it", tree)
    return root / "it"


@pytest.mark.row("R007", "R085", "R213", "R229", "R302")
@pytest.mark.parametrize("name", NAMES)
def test_a_tree_without_a_target(name: str, tmp_path: Path):
    def program(ocp: Any, root: Path) -> Any:
        return ocp.PyTreeCheckpointer().restore(saved(ocp, root, TREES[name]()))

    agree(program, tmp_path)


@pytest.mark.row("R007", "R302")
@pytest.mark.parametrize("name", NAMES)
def test_a_tree_into_a_target(name: str, tmp_path: Path):
    def program(ocp: Any, root: Path) -> Any:
        tree = TREES[name]()
        return ocp.PyTreeCheckpointer().restore(saved(ocp, root, tree), item=tree)

    agree(program, tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_a_tree_with_the_args_that_its_target_asks_for(name: str, tmp_path: Path):
    def program(ocp: Any, root: Path) -> Any:
        tree = TREES[name]()
        args = ocp.checkpoint_utils.construct_restore_args(tree)
        return ocp.PyTreeCheckpointer().restore(
            saved(ocp, root, tree), item=tree, restore_args=args
        )

    agree(program, tmp_path)


@pytest.mark.row("R090")
@pytest.mark.parametrize("name", [n for n in NAMES if n != "text"])
def test_a_state_through_the_standard_checkpointer(name: str, tmp_path: Path):
    def program(ocp: Any, root: Path) -> Any:
        tree = TREES[name]()
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(root / "it", tree)
            checkpointer.wait_until_finished()
            whole = checkpointer.restore(root / "it")
            return [whole, checkpointer.restore(root / "it", tree)]

    agree(program, tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_orbax_reads_what_the_door_writes(name: str, tmp_path: Path):
    import orbax.checkpoint as orbax

    tree = TREES[name]()
    door.PyTreeCheckpointer().save(tmp_path / "mine", tree)
    orbax.PyTreeCheckpointer().save(tmp_path / "theirs", tree)
    reader = orbax.PyTreeCheckpointer()
    same(reader.restore(tmp_path / "mine"), reader.restore(tmp_path / "theirs"))
    same(
        reader.restore(tmp_path / "mine", item=tree), reader.restore(tmp_path / "theirs", item=tree)
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("use_ocdbt", "use_zarr3"), [(True, False), (False, False), (True, True)])
def test_the_door_reads_what_orbax_writes(
    name: str, use_ocdbt: bool, use_zarr3: bool, tmp_path: Path
):
    import orbax.checkpoint as orbax

    tree = TREES[name]()
    writer = orbax.PyTreeCheckpointer(use_ocdbt=use_ocdbt, use_zarr3=use_zarr3)
    writer.save(tmp_path / "theirs", tree)
    reader = door.PyTreeCheckpointer()
    same(reader.restore(tmp_path / "theirs"), writer.restore(tmp_path / "theirs"))
    same(
        reader.restore(tmp_path / "theirs", item=tree),
        writer.restore(tmp_path / "theirs", item=tree),
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_front_door_gives_back_exactly_what_the_door_saved(name: str, tmp_path: Path):
    tree = TREES[name]()
    door.PyTreeCheckpointer().save(tmp_path / "it", tree)
    assert jax.tree.structure(pertinax.load(tmp_path / "it")) == jax.tree.structure(tree)
    assert pertinax.verify(tmp_path / "it").ok


def test_types_may_change_between_save_and_restore(tmp_path: Path):
    def program(ocp: Any, root: Path) -> Any:
        state = optax_state()
        place = saved(ocp, root, {"state": state})
        as_dicts = ocp.PyTreeCheckpointer().restore(place)
        return ocp.PyTreeCheckpointer().restore(place, item={"state": as_dicts["state"]})

    agree(program, tmp_path)


@pytest.mark.parametrize(
    "target",
    [
        {"a": 0},
        {"a": 0, "b": {"c": 0, "d": None}, "e": 0},
        {"a": 0, "b": 0},
        {"a": {}, "b": {"c": 0, "d": None}},
        {"a": 0, "b": {"c": {"deep": 0}, "d": None}},
        {"a": 0, "b": {"c": 0, "d": 0}},
        {"a": 0, "b": {}},
        [0, 1],
    ],
    ids=str,
)
def test_a_target_of_another_structure(target: Any, tmp_path: Path):
    def program(ocp: Any, root: Path) -> Any:
        place = saved(ocp, root, {"a": jnp.arange(3), "b": {"c": 1, "d": {}}})
        return ocp.PyTreeCheckpointer().restore(place, item=target)

    agree(program, tmp_path)


def test_part_of_a_tree_with_empty_transforms(tmp_path: Path):
    def program(ocp: Any, root: Path) -> Any:
        place = saved(ocp, root, {"a": jnp.arange(3), "b": {"c": np.ones(2), "d": 4}})
        item = {"b": {"c": 0}}
        args = {"b": {"c": ocp.RestoreArgs(restore_type=np.ndarray)}}
        handler = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
        wanted = ocp.args.PyTreeRestore(item=item, restore_args=args, transforms={})
        return handler.restore(place, args=wanted)

    agree(program, tmp_path)


@pytest.mark.parametrize("item", [{}, [], (), None])
def test_an_empty_item_is_refused(item: Any, tmp_path: Path):
    error = agree(lambda ocp, root: saved(ocp, root, item), tmp_path)
    assert isinstance(error, ValueError)


def test_an_object_that_nobody_can_store(tmp_path: Path):
    error = agree(lambda ocp, root: saved(ocp, root, {"a": {"b": object()}}), tmp_path)
    assert "TypeHandler lookup failed" in str(error)
    assert "a/b" in str(error)


def test_nothing_is_left_of_a_save_that_failed(tmp_path: Path):
    with pytest.raises(ValueError, match="lookup failed"):
        door.PyTreeCheckpointer().save(tmp_path / "it", {"a": object()})
    assert list(tmp_path.iterdir()) == []


def test_the_leaves_of_a_target_mean_nothing(tmp_path: Path):
    # Orbax 0.12 leaves an Ellipsis where it is; at 0.8 it was a leaf like any other.
    place = saved(door, tmp_path, {"a": jnp.arange(3), "b": 1})
    same(
        door.PyTreeCheckpointer().restore(place, item={"a": ..., "b": object()}),
        {"a": jnp.arange(3), "b": 1},
    )


@pytest.mark.wd("WD-26")
def test_numbers_of_numpy_come_back_as_numbers(tmp_path: Path):
    # The Standard handler of 0.8 took np.float64 alone.
    tree = {"a": np.float32(1.5), "b": np.int8(3), "c": np.bool_(True), "d": 1 + 2j}
    with door.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "it", tree)
        found = checkpointer.restore(tmp_path / "it", tree)
    same(found, {"a": 1.5, "b": 3, "c": True, "d": 1 + 2j})


@pytest.mark.wd("WD-25")
def test_typed_keys_come_back_as_keys(tmp_path: Path):
    tree = {"key": jax.random.key(3), "old": jax.random.PRNGKey(4)}
    with door.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "it", tree)
        found = checkpointer.restore(tmp_path / "it", tree)
    assert jax.random.uniform(found["key"]) == jax.random.uniform(tree["key"])
    assert found["old"].tolist() == tree["old"].tolist()
