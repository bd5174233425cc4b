# SPDX-License-Identifier: Apache-2.0
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pertinax._formats.metadata.names import orbax_names
from pertinax._formats.metadata.tree_metadata import (
    ValueEntry,
    decode_tree,
    empty_value_type,
    encode_tree,
)
from pertinax._tree.flatten import flatten
from pertinax._tree.paths import text_path
from pertinax._tree.skeleton import leaf_paths
from pertinax.errors import CorruptCheckpoint


def encoded(tree, **options):
    entries = []
    for name in orbax_names(flatten(tree).root):
        leaf = name.node.kind == "leaf"
        entry = ValueEntry("jax.Array", (2, 3)) if leaf else ValueEntry(empty_value_type(name.node))
        entries.append((name, entry))
    return encode_tree(entries, **({"use_ocdbt": True, "use_zarr3": False} | options))


def test_the_text_is_that_of_json_dumps():
    tree = {"a": [1, {"it's": 2}], 'q"': {"é\n": {}}, "e": [(), [], None]}
    text = encoded(tree, custom={"x": [1]}).decode()
    assert text == json.dumps(json.loads(text))
    entry = json.loads(text)["tree_metadata"]["('a', '0')"]
    assert entry == {
        "key_metadata": [{"key": "a", "key_type": 2}, {"key": "0", "key_type": 1}],
        "value_metadata": {
            "value_type": "jax.Array",
            "skip_deserialize": False,
            "write_shape": [2, 3],
        },
    }
    assert list(json.loads(text))[1:] == [
        "use_ocdbt",
        "use_zarr3",
        "store_array_data_equal_to_fill_value",
        "custom_metadata",
        "pertinax",
    ]


def test_plain_trees_come_back_with_their_empties():
    tree = {"b": [1, [2, {}]], "a": {"x": None, "l": [], "t": ()}, "s": [0] * 12}
    found = decode_tree(encoded(tree))
    assert found.root == flatten(tree).root
    assert [entry.path for entry in found.entries] == leaf_paths(found.root)
    assert [entry.name for entry in found.entries][:2] == ["b.0", "b.1.0"]
    assert found.marked
    assert found.use_ocdbt


@pytest.mark.parametrize("tree", [5, {}, None, []])
def test_a_tree_without_branches_comes_back(tree):
    assert decode_tree(encoded(tree)).root == flatten(tree).root


def test_a_sorted_list_comes_back_in_order():
    data = json.loads(encoded({"l": list(range(12))}))
    data["tree_metadata"] = dict(sorted(data["tree_metadata"].items()))
    found = decode_tree(json.dumps(data).encode())
    assert [entry.name for entry in found.entries] == [f"l.{i}" for i in range(12)]


def entries(*keys):
    return json.dumps(
        {
            "tree_metadata": {
                str(i): {
                    "key_metadata": [{"key": text, "key_type": kind} for text, kind in key],
                    "value_metadata": {"value_type": "jax.Array", "skip_deserialize": False},
                }
                for i, key in enumerate(keys)
            }
        }
    ).encode()


@pytest.mark.parametrize(
    "data",
    [
        entries([("a", 2)], [("a", 2)]),
        entries([("a", 2)], [("a", 2), ("b", 2)]),
        entries([("a", 2), ("b", 2)], [("a", 2)]),
        entries([("a", 2)], [("0", 1)]),
        entries([("0", 1)], [("2", 1)]),
        entries([("x", 1)]),
        entries([("-1", 1)]),
        entries([("a", 3)]),
        entries([], [("a", 2)]),
        entries([("a", 2)], []),
        entries([("a", 2)] * 201),
        b"{}",
        b'{"tree_metadata": []}',
        b'{"tree_metadata": {"a": 1}}',
    ],
)
def test_trees_that_contradict_themselves_are_corrupt(data):
    with pytest.raises(CorruptCheckpoint):
        decode_tree(data)


GOOD = encoded({"a": [1, {"b": 2}], "c": {}})


@given(st.integers(0, len(GOOD)), st.binary(max_size=5))
def test_any_bytes_may_be_overwritten(at, noise):
    try:
        found = decode_tree(GOOD[:at] + noise + GOOD[at + len(noise) :])
    except CorruptCheckpoint:
        return
    assert [entry.path for entry in found.entries] == leaf_paths(found.root)


def test_text_paths_and_names_agree():
    found = decode_tree(encoded({"a.b": {"c": [1]}}))
    assert text_path(found.entries[0].path) == ("a.b", "c", "0")
