# SPDX-License-Identifier: Apache-2.0
"""`_METADATA` as objects. The texts are what Orbax 0.8.0 wrote for the same tree."""

import json
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey

from pertinax import checkpoint as ocp
from pertinax.checkpoint.metadata import tree as module
from pertinax.checkpoint.metadata.tree import (
    InternalTreeMetadata,
    InternalTreeMetadataEntry,
    KeyMetadataEntry,
    KeyType,
    NestedKeyMetadataEntry,
    ValueMetadataEntry,
)
from pertinax.checkpoint.metadata.value import (
    ArrayMetadata,
    Metadata,
    ScalarMetadata,
    StringMetadata,
)


class Point(NamedTuple):
    x: Any
    y: Any


TREE = {
    "a": [np.arange(3), {"b": 1}],
    "e": {},
    "ints": {3: 4},
    "l": [],
    "n": None,
    "p": Point(1, None),
    "q'uote": 1.0,
    "t": (1, "s"),
    "tt": (),
    "w.x": 2,
    "z": jnp.ones(2),
}


def entry(keypath: str, keys: list[tuple[str, int]], value_type: str) -> str:
    listed = ", ".join(f'{{"key": "{key}", "key_type": {kind}}}' for key, kind in keys)
    skip = "true" if value_type in ("None", "Dict", "List", "Tuple") else "false"
    return (
        f'"{keypath}": {{"key_metadata": [{listed}], "value_metadata": '
        f'{{"value_type": "{value_type}", "skip_deserialize": {skip}}}}}'
    )


ORBAX_0_8 = ", ".join(
    [
        '{"tree_metadata": {' + entry("('a', '0')", [("a", 2), ("0", 1)], "np.ndarray"),
        entry("('a', '1', 'b')", [("a", 2), ("1", 1), ("b", 2)], "scalar"),
        entry("('e',)", [("e", 2)], "Dict"),
        entry("('ints', '3')", [("ints", 2), ("3", 2)], "scalar"),
        entry("('l',)", [("l", 2)], "List"),
        entry("('n',)", [("n", 2)], "None"),
        entry("('p', 'x')", [("p", 2), ("x", 2)], "scalar"),
        entry("('p', 'y')", [("p", 2), ("y", 2)], "None"),
        entry('(\\"q\'uote\\",)', [("q'uote", 2)], "scalar"),
        entry("('t', '0')", [("t", 2), ("0", 1)], "scalar"),
        entry("('t', '1')", [("t", 2), ("1", 1)], "string"),
        entry("('tt',)", [("tt", 2)], "Tuple"),
        entry("('w.x',)", [("w.x", 2)], "scalar"),
        entry("('z',)", [("z", 2)], "jax.Array") + '}, "use_zarr3": false}',
    ]
)


def infos_of(tree: Any) -> Any:
    """The value type of each leaf, as a type handler would say it."""
    empties = {type(None): "None", dict: "Dict", list: "List", tuple: "Tuple"}
    kinds = {str: "string", int: "scalar", float: "scalar", np.ndarray: "np.ndarray"}

    def info(value: Any) -> Any:
        kind = {**empties, **kinds}.get(type(value), "jax.Array")
        return SimpleNamespace(name="", value_typestr=kind)

    return jax.tree.map(info, tree, is_leaf=ocp.utils.is_empty_or_leaf)


def test_a_tree_is_written_as_orbax_wrote_it():
    built = InternalTreeMetadata.build(infos_of(TREE))
    assert json.dumps(built.to_json()) == ORBAX_0_8
    assert InternalTreeMetadata.from_json(json.loads(ORBAX_0_8)) == built


def test_the_file_of_the_engine_says_the_same(tmp_path):
    ocp.PyTreeCheckpointer().save(tmp_path / "it", TREE)
    text = (tmp_path / "it" / "_METADATA").read_text()
    assert json.dumps(InternalTreeMetadata.from_json(json.loads(text)).to_json()) == ORBAX_0_8


@pytest.mark.interop
def test_the_file_of_the_installed_orbax_says_the_same(tmp_path):
    import orbax.checkpoint as orbax

    with orbax.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "it", TREE)
    text = (tmp_path / "it" / "_METADATA").read_text()
    assert json.dumps(InternalTreeMetadata.from_json(json.loads(text)).to_json()) == ORBAX_0_8


def test_save_args_and_the_array_format():
    tree = {"a": np.arange(3)}
    args = {"a": ocp.SaveArgs(aggregate=True)}
    built = InternalTreeMetadata.build(infos_of(tree), save_args=args, use_zarr3=True)
    assert built.use_zarr3
    assert built.to_json()["use_zarr3"] is True
    assert not built.tree_metadata_entries[0].value_metadata.skip_deserialize


def test_a_single_leaf_has_no_keys():
    built = InternalTreeMetadata.build(infos_of(5))
    assert json.dumps(built.to_json()) == (
        '{"tree_metadata": {"()": {"key_metadata": [], "value_metadata": '
        '{"value_type": "scalar", "skip_deserialize": false}}}, "use_zarr3": false}'
    )
    assert built.as_nested_tree(keep_empty_nodes=True) == ValueMetadataEntry("scalar")


def test_a_leaf_without_a_type_is_a_mistake_of_the_program():
    with pytest.raises(AssertionError, match="value_typestr"):
        InternalTreeMetadata.build({"a": SimpleNamespace(name="a", value_typestr=None)})


def test_nested_trees_with_and_without_empty_containers():
    found = InternalTreeMetadata.from_json(json.loads(ORBAX_0_8))
    scalar = ValueMetadataEntry("scalar")
    common = {
        "a": [ValueMetadataEntry("np.ndarray"), {"b": scalar}],
        "ints": {"3": scalar},
        "q'uote": scalar,
        "t": [scalar, ValueMetadataEntry("string")],
        "w.x": scalar,
        "z": ValueMetadataEntry("jax.Array"),
    }
    without = {"e": {}, "l": [], "n": None, "tt": (), "p": {"x": scalar, "y": None}}
    assert found.as_nested_tree(keep_empty_nodes=False) == {**common, **without}
    none = ValueMetadataEntry("None", skip_deserialize=True)
    kept = {
        "e": ValueMetadataEntry("Dict", skip_deserialize=True),
        "l": ValueMetadataEntry("List", skip_deserialize=True),
        "n": none,
        "tt": ValueMetadataEntry("Tuple", skip_deserialize=True),
        "p": {"x": scalar, "y": none},
    }
    assert found.as_nested_tree(keep_empty_nodes=True) == {**common, **kept}


def test_lists_survive_a_file_that_was_sorted_by_its_text():
    built = InternalTreeMetadata.build(infos_of([{i: 1} for i in range(11)]))
    text = json.dumps(built.to_json(), sort_keys=True)
    found = InternalTreeMetadata.from_json(json.loads(text))
    assert found.tree_metadata_entries[2] != built.tree_metadata_entries[2]
    nested = found.as_nested_tree(keep_empty_nodes=True)
    assert [list(one) for one in nested] == [[str(i)] for i in range(11)]


def test_no_entries_are_no_tree():
    nothing = InternalTreeMetadata.from_json({"tree_metadata": {}})
    assert nothing == InternalTreeMetadata([], use_zarr3=False)
    with pytest.raises(ValueError, match="no entries"):
        nothing.as_nested_tree(keep_empty_nodes=True)


def test_keys():
    keypath = (DictKey("a"), SequenceKey(3), GetAttrKey("q"), FlattenedIndexKey(2), DictKey(7))
    built = KeyMetadataEntry.build(keypath)
    assert built.to_json() == (
        {"key": "a", "key_type": 2},
        {"key": "3", "key_type": 1},
        {"key": "q", "key_type": 2},
        {"key": "2", "key_type": 1},
        {"key": "7", "key_type": 2},
    )
    assert KeyMetadataEntry.from_json(built.to_json()) == built
    with pytest.raises(ValueError, match="not a key"):
        KeyMetadataEntry.build(("a",))
    one = NestedKeyMetadataEntry(nested_key_name="a", key_type=KeyType.DICT)
    assert NestedKeyMetadataEntry.from_json(one.to_json()) == one
    assert (KeyType.SEQUENCE.to_json(), KeyType.from_json(2)) == (1, KeyType.DICT)
    with pytest.raises(ValueError, match="KeyType"):
        KeyType.from_json(3)


def test_an_entry_knows_its_place_in_keys_of_jax():
    info = SimpleNamespace(name="a.3", value_typestr="scalar")
    built = InternalTreeMetadataEntry.build((GetAttrKey("a"), FlattenedIndexKey(3)), info)
    assert built.keypath == "('a', '3')"
    assert built.jax_keypath() == (DictKey("a"), SequenceKey(3))
    (keypath, fields), *_ = built.to_json().items()
    assert InternalTreeMetadataEntry.from_json(keypath, fields) == built


def test_user_metadata_speaks_of_the_item_that_is_there(tmp_path):
    ocp.PyTreeCheckpointer().save(tmp_path / "it", TREE)
    found = InternalTreeMetadata.from_json(json.loads(ORBAX_0_8))
    told = found.as_user_metadata(epath.Path(tmp_path / "it"), None)
    assert told == ocp.PyTreeCheckpointHandler().metadata(epath.Path(tmp_path / "it"))
    assert type(told["a"][0]) is ArrayMetadata
    assert type(told["a"][1]["b"]) is ScalarMetadata
    assert type(told["t"][1]) is StringMetadata
    assert (told["e"], told["l"], told["n"], told["tt"]) == ({}, [], None, ())
    assert told["a"][1]["b"].name == "a.1.b"


def test_user_metadata_of_a_leaf_that_lies_elsewhere_has_a_name_only(tmp_path):
    ocp.PyTreeCheckpointer().save(tmp_path / "it", {"a": 1})
    both = InternalTreeMetadata.build(infos_of({"a": 1, "b": {"c": 2}}))
    told = both.as_user_metadata(epath.Path(tmp_path / "it"), None)
    assert type(told["b"]["c"]) is Metadata
    assert (told["b"]["c"].name, told["b"]["c"].directory) == ("b.c", tmp_path / "it")


def test_public_names():
    assert ocp.metadata.tree is module
    assert ocp.metadata.tree.ValueMetadataEntry is ValueMetadataEntry
