# SPDX-License-Identifier: Apache-2.0
"""`ocp.tree`: what it exports, what its types mean, and what its functions refuse."""

import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from jax import tree_util

from pertinax import checkpoint as ocp
from tests.checkpoint.data.twins import agree

NAMES = """PyTree PyTreeKey PyTreeOf PyTreePath deserialize_tree from_flat_dict
from_flattened_with_keypath get_key_name get_param_names is_dict_key is_empty_node is_empty_or_leaf
is_sequence_key serialize_tree to_flat_dict to_shape_dtype_struct tuple_path_from_keypath""".split()

UTILS = """TMP_DIR_SUFFIX any_checkpoint_step async_exists async_makedirs async_write_bytes
broadcast_one_to_all checkpoint_steps checkpoint_steps_paths cleanup_tmp_directories
get_save_directory is_checkpoint_finalized is_gcs_path is_locked is_primary_host is_scalar
is_tmp_checkpoint lockdir reached_preemption record_saved_duration step_from_checkpoint_name
sync_global_devices sync_global_processes tmp_checkpoints leaf_placeholder leaf_is_placeholder
name_from_leaf_placeholder all_leaves_are_placeholders pytree_structure
fully_replicated_host_local_array_to_global_array""".split()


class Pair(NamedTuple):
    x: Any
    y: Any


class Nameless:
    """A node that JAX knows without the names of its children."""

    def __init__(self, *children: Any) -> None:
        self.children = children


tree_util.register_pytree_node(Nameless, lambda n: (n.children, None), lambda _, c: Nameless(*c))


@pytest.mark.row("R225", "R313")
def test_every_documented_name_is_there():
    for name in NAMES:
        assert hasattr(ocp.tree, name), name
    for name in UTILS:
        assert hasattr(ocp.utils, name), name
    for name in set(NAMES) - {"PyTree", "PyTreeKey", "PyTreeOf", "PyTreePath", "get_param_names"}:
        assert getattr(ocp.utils, name) is getattr(ocp.tree, name)


@pytest.mark.slow
@pytest.mark.row("R265")
def test_annotations_check(tmp_path: Path):
    program = tmp_path / "annotated.py"
    program.write_text(
        "from pertinax.checkpoint.tree import PyTree, PyTreeKey, PyTreeOf, PyTreePath\n"
        "def first(tree: PyTreeOf[int], path: PyTreePath) -> PyTree:\n"
        "    key: PyTreeKey = path[0]\n"
        "    return [tree, key]\n"
    )
    root = Path(ocp.__file__).parents[2]
    pyright = Path(sys.executable).parent / "pyright"
    if not pyright.exists():
        pytest.skip("pyright is not installed")
    run = subprocess.run(
        [pyright, "--pythonpath", sys.executable, program],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        env={**__import__("os").environ, "PYTHONPATH": str(root)},
    )
    assert run.returncode == 0, run.stdout


@pytest.mark.row("R265")
def test_types_are_for_readers():
    assert ocp.tree.PyTree is Any
    assert ocp.tree.PyTreeOf[int] is not None
    keys = (
        tree_util.SequenceKey(0),
        tree_util.DictKey("a"),
        tree_util.GetAttrKey("a"),
        tree_util.FlattenedIndexKey(0),
    )
    assert all(isinstance(key, ocp.tree.PyTreeKey) for key in keys)


def test_keys_have_names():
    names = [
        (tree_util.SequenceKey(2), 2),
        (tree_util.DictKey(3), "3"),
        (tree_util.GetAttrKey("x"), "x"),
        (tree_util.FlattenedIndexKey(1), 1),
    ]
    assert [ocp.tree.get_key_name(key) for key, _ in names] == [name for _, name in names]
    path = tuple(key for key, _ in names)
    assert ocp.tree.tuple_path_from_keypath(path) == ("2", "3", "x", "1")
    assert [ocp.tree.is_dict_key(key) for key in path] == [False, True, True, False]
    assert [ocp.tree.is_sequence_key(key) for key in path] == [True, False, False, True]
    with pytest.raises(ValueError, match="not a key"):
        ocp.tree.get_key_name("a")


@pytest.mark.interop
@pytest.mark.row("R243")
@pytest.mark.parametrize(
    "tree",
    [
        {"a": [1, {"b": 2}], "e": {}, "n": None},
        Pair(1, (2, {})),
        {"n": Nameless(1, Nameless(2, 3))},
        {1: {"2": 3}},
        {"a.b": 1, "c": 2},
        5,
    ],
    ids=["containers", "attributes", "nameless", "numbers", "dots", "leaf"],
)
def test_names_and_nested_dicts_are_those_of_orbax(tree: Any, tmp_path: Path):
    def program(o: Any, _: Path) -> Any:
        names = jax.tree.leaves(o.tree.get_param_names(tree))
        kept = o.tree.serialize_tree(tree, keep_empty_nodes=True)
        return [names, kept, o.tree.to_flat_dict(tree, sep="/")]

    agree(program, tmp_path)


@pytest.mark.interop
@pytest.mark.parametrize(
    "call",
    [
        lambda o: o.tree.serialize_tree([1, None, 2]),
        lambda o: o.tree.serialize_tree({"a": [{}, 1]}),
        lambda o: o.tree.serialize_tree({"a": {"b": {}}}),
        lambda o: o.utils.from_flattened_with_keypath([]),
        lambda o: o.utils.from_flattened_with_keypath([((tree_util.SequenceKey(5),), 1)]),
        lambda o: o.tree.deserialize_tree({"a": 1}, {"b": 0}),
        lambda o: o.tree.deserialize_tree({"a": 1, "b": 2}, {"b": 0}),
        lambda o: o.tree.deserialize_tree({"1": 5}, {1: 0}),
        lambda o: o.tree.deserialize_tree({"0": 1, "1": 2}, [0, 0]),
        lambda o: o.tree.deserialize_tree({"a": 1, "e": 7}, {"a": 0, "e": {}}),
        lambda o: o.tree.deserialize_tree({"a": 1, "e": 7}, {"a": 0, "e": {}}, True),
        lambda o: o.tree.deserialize_tree({"a": 1}, {"a": 0, "e": {}}, True),
        lambda o: o.tree.deserialize_tree({"a": 1}, None),
        lambda o: o.tree.from_flat_dict({("a", "0"): 1, ("a", "1"): 2}),
        lambda o: o.tree.from_flat_dict({"a/0": 1, "b": 2}, {"b": 0, "a": [0]}, sep="/"),
        lambda o: o.tree.from_flat_dict({"b": 2}, {"b": 0, "a": [0]}, sep="/"),
        lambda o: o.tree.from_flat_dict({("b",): 2, ("c",): 3}, {"b": 0}),
        lambda o: o.tree.from_flat_dict({}),
        lambda o: o.tree.from_flat_dict({(): 1}),
        lambda o: o.tree.from_flat_dict({(): 1}, target=0),
        lambda o: o.tree.from_flat_dict({"": 1}, target=0, sep="/"),
        lambda o: o.tree.from_flat_dict({"a/b": 1}, {"a/b": 0}, sep="/"),
        lambda o: o.tree.is_empty_node(x={}) if hasattr(o.tree, "is_empty_node") else True,
        lambda o: o.tree.to_flat_dict({"a": {"b": 1}}, is_leaf=lambda x: x == {"b": 1}),
    ],
)
def test_answers_and_errors_are_those_of_orbax(call: Any, tmp_path: Path):
    agree(lambda o, _: call(o), tmp_path)


def test_what_is_missing_is_a_key_error():
    with pytest.raises(KeyError, match="a/0"):
        ocp.tree.from_flat_dict({"b": 2}, {"b": 0, "a": [0]}, sep="/")
    for serialized, target in (({"a": [1]}, {"a": [0, 0]}), ({"a": "xy"}, {"a": [0]})):
        with pytest.raises(KeyError):
            ocp.tree.deserialize_tree(serialized, target)


@pytest.mark.wd("WD-04")
def test_no_leaf_is_lost_where_two_have_the_same_text():
    tree = {"a.b": 1, "a": {"b": 2}}
    assert ocp.tree.to_flat_dict(tree) == {("a", "b"): 2, ("a.b",): 1}
    with pytest.raises(ValueError, match=r"a\.b"):
        ocp.tree.to_flat_dict(tree, sep=".")


@pytest.mark.wd("WD-28")
def test_an_abstract_array_of_no_sharding_is_described():
    abstract = jax.ShapeDtypeStruct((2,), np.int32)
    assert ocp.tree.to_shape_dtype_struct(abstract, np.dtype("f4")).dtype == np.float32
