# SPDX-License-Identifier: Apache-2.0
"""Nodes of a tree that are rare: without names, with odd keys, with nothing in them."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pertinax import checkpoint as ocp
from tests.checkpoint.data.twins import agree, same


@jax.tree_util.register_pytree_node_class
class Pair:
    """Registered without names of its children."""

    def __init__(self, first: Any, second: Any) -> None:
        self.first = first
        self.second = second

    def tree_flatten(self) -> tuple[tuple[Any, Any], None]:
        return (self.first, self.second), None

    @classmethod
    def tree_unflatten(cls, _: None, children: tuple[Any, Any]) -> "Pair":
        return cls(*children)


@pytest.mark.row("R041")
def test_a_node_without_names_is_a_list_without_a_target_and_itself_with_one(tmp_path: Path):
    tree = {"pair": Pair(jnp.arange(3), {"k": np.ones(2)})}
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "it", tree)
        same(checkpointer.restore(tmp_path / "it"), {"pair": [jnp.arange(3), {"k": np.ones(2)}]})
        found = checkpointer.restore(tmp_path / "it", item=tree)["pair"]
        names = [leaf.name for leaf in jax.tree.leaves(checkpointer.metadata(tmp_path / "it"))]
    assert type(found) is Pair
    same(found.first, jnp.arange(3))
    same(found.second, {"k": np.ones(2)})
    assert names == ["pair.0", "pair.1.k"]


@pytest.mark.row("R041")
@pytest.mark.interop
def test_a_node_without_names_is_to_orbax_what_it_is_to_us(tmp_path: Path):
    def program(ocp: Any, root: Path) -> Any:
        ocp.PyTreeCheckpointer().save(root / "it", {"pair": Pair(jnp.arange(3), {"k": 2})})
        return ocp.PyTreeCheckpointer().restore(root / "it")

    agree(program, tmp_path)


@pytest.mark.row("R062")
@pytest.mark.parametrize(
    ("key", "use_ocdbt"),
    [
        *((key, True) for key in ("a/b", "/a", "a/", "a//b", "a/b/c")),
        *((key, False) for key in ("a/b", "a/", "a/b/c")),  # others would be files elsewhere
    ],
)
def test_a_key_with_a_slash_stays_as_it_is(key: str, use_ocdbt: bool, tmp_path: Path):
    tree = {key: jnp.arange(3), "n": {key: np.ones(2), "other": 4}}
    checkpointer = ocp.PyTreeCheckpointer(use_ocdbt=use_ocdbt)
    checkpointer.save(tmp_path / "it", tree)
    same(checkpointer.restore(tmp_path / "it"), tree)
    same(checkpointer.restore(tmp_path / "it", item=tree), tree)


@pytest.mark.row("R175")
@pytest.mark.parametrize("aggregate", [False, True])
def test_empty_nodes_are_saved_whatever_their_args_say(aggregate: bool, tmp_path: Path):
    tree = {"d": {}, "l": [], "t": (), "n": None, "deep": [{}, [None, ()], 1]}
    args = jax.tree.map(
        lambda _: ocp.SaveArgs(aggregate=aggregate, dtype=np.dtype(np.float32)),
        tree,
        is_leaf=lambda node: not node,
    )
    for given in (args, jax.tree.map(lambda _: ocp.SaveArgs(aggregate=aggregate), tree)):
        ocp.PyTreeCheckpointer().save(tmp_path / "it", tree, save_args=given, force=True)
        same(
            ocp.PyTreeCheckpointer().restore(tmp_path / "it"),
            {**tree, "deep": [{}, [None, ()], 1 if given is not args else 1.0]},
        )
