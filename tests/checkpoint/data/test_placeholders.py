# SPDX-License-Identifier: Apache-2.0
"""Texts that stand for leaves, trees out of the names of directories, and other small things."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec

from pertinax.checkpoint import utils
from tests.checkpoint.data.twins import agree, mesh


def made(place: Path) -> Path:
    place.mkdir()
    return place


@pytest.mark.interop
@pytest.mark.parametrize("value", ["PLACEHOLDER://a.b", "AGGREGATED://a", "a", "", 5, None, b"x"])
def test_texts_that_stand_for_a_leaf(value: Any, tmp_path: Path):
    agree(lambda o, _: o.utils.leaf_is_placeholder(value), made(tmp_path / "is"))
    error = agree(lambda o, _: o.utils.name_from_leaf_placeholder(value), made(tmp_path / "name"))
    assert isinstance(error, str | ValueError)


def test_only_the_newer_text_is_made():
    assert utils.leaf_placeholder("a.b") == "PLACEHOLDER://a.b"
    assert utils.name_from_leaf_placeholder(utils.leaf_placeholder("a.b")) == "a.b"


@pytest.mark.parametrize(
    ("tree", "all_are"),
    [
        ({"a": "PLACEHOLDER://a", "b": {}}, True),
        ({"a": "AGGREGATED://a", "b": 1}, False),
        ({}, True),
    ],
)
def test_trees_without_values(tree: Any, all_are: bool):
    assert utils.all_leaves_are_placeholders(tree) is all_are


@pytest.mark.interop
@pytest.mark.parametrize("names", [["a", "b.c", "b.d.0", "_METADATA", "_sharding"], []], ids=str)
def test_a_tree_of_the_names_of_directories(names: list[str], tmp_path: Path):
    def program(ocp: Any, root: Path) -> Any:
        for name in names:
            (root / name).mkdir()
        return ocp.utils.pytree_structure(epath.Path(root))

    agree(program, tmp_path)


@pytest.mark.wd("WD-13")
def test_files_of_the_item_are_not_in_it(tmp_path: Path):
    (tmp_path / "a").mkdir()
    for name in ("_CHECKPOINT_METADATA", "pertinax.json", "checkpoint", "commit_success.txt"):
        (tmp_path / name).write_text("{}")
    assert utils.pytree_structure(tmp_path) == {"a": "PLACEHOLDER://a"}


@pytest.mark.parametrize("names", [["a", "a.b"], ["a.b", "a"], ["a.b", "a.b.c"]])
def test_names_that_make_no_tree_are_refused(names: list[str], tmp_path: Path):
    for name in names:
        (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match="container"):
        utils.pytree_structure(tmp_path)


@pytest.mark.interop
@pytest.mark.parametrize(
    "value",
    [1, 1.0, True, np.float32(1), np.array(1), 1j, np.bool_(True), "a", jnp.ones(())],
    ids=repr,
)
def test_scalars(value: Any, tmp_path: Path):
    agree(lambda o, _: o.utils.is_scalar(value), tmp_path)


@pytest.mark.interop
@pytest.mark.parametrize(
    "make",
    [
        lambda: jax.device_put(jnp.arange(3.0), NamedSharding(mesh(), PartitionSpec())),
        lambda: jax.device_put(jnp.float32(1), NamedSharding(mesh(), PartitionSpec())),
        lambda: jax.device_put(jnp.ones((8, 3)), NamedSharding(mesh(), PartitionSpec(("a", "b")))),
        lambda: jnp.arange(3.0),
    ],
    ids=["replicated", "a number", "a copy for each device", "on one device"],
)
def test_copies_of_all_devices_are_one_array(make: Any, tmp_path: Path):
    def program(ocp: Any, _: Path) -> Any:
        return ocp.utils.fully_replicated_host_local_array_to_global_array(make())

    agree(program, tmp_path)


def test_an_array_whose_first_axis_is_not_that_of_devices_is_refused():
    half = jax.device_put(jnp.ones((16, 3)), NamedSharding(mesh(), PartitionSpec(("a", "b"))))
    with pytest.raises(ValueError, match="first axis"):
        utils.fully_replicated_host_local_array_to_global_array(half)
