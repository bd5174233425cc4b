# SPDX-License-Identifier: Apache-2.0
from hypothesis import given
from hypothesis import strategies as st

from pertinax._formats.metadata.names import orbax_names
from pertinax._formats.metadata.strings import encode_strings
from pertinax._tree.flatten import flatten
from pertinax._tree.skeleton import leaf_paths, walk


def names(tree, strings=frozenset()):
    return [name.name for name in orbax_names(flatten(tree).root, strings)]


def test_names_are_keys_joined_with_dots_in_the_order_of_the_tree():
    tree = {"a": [1, {"b": 2}], "e": {}, "t": ((), None)}
    found = orbax_names(flatten(tree).root)
    assert [name.name for name in found] == ["a.0", "a.1.b", "e", "t.0", "t.1"]
    assert found[1].keys == ("a", "1", "b")
    assert found[1].key_types == (2, 1, 2)
    assert [(name.path, name.node) for name in found] == list(walk(flatten(tree).root))


def test_a_tree_that_is_a_leaf_has_the_empty_name():
    assert names(5) == [""]
    assert names({}) == [""]


def test_children_with_the_same_text_get_numbers():
    assert names({1: 0, "1": 0, "1#2": 0}) == ["1", "1#3", "1#2"]


def test_leaves_with_the_same_name_are_told_apart_at_the_key_with_the_dot():
    assert names({"a": {"b": 0}, "a.b": 0}) == ["a.b", "a.b#2"]
    assert names({"a.b": 0, "a": {"b": 0}}) == ["a.b#2", "a.b"]
    assert names({"a.0": [1, 2], "a": [[1, 2, 3]]}) == [
        "a.0#2.0",
        "a.0#2.1",
        "a.0.0",
        "a.0.1",
        "a.0.2",
    ]
    assert names({"a.b": 0, "a.b#2": 0, "a": {"b": 0}}) == ["a.b#3", "a.b#2", "a.b"]


def test_strings_get_names_that_are_good_pointers():
    assert names({"a~b": "s", "a-b": "t"}, {0, 1}) == ["a-b#2", "a-b"]
    assert names({"h": "s", "h/k": "t"}, {0, 1}) == ["h#2", "h/k"]
    assert names({"h": 1, "h/k": "t"}, {1}) == ["h", "h/k"]
    assert names({"a": ["s"], "a.0/k": "t"}, {0, 1}) == ["a#2.0", "a.0/k"]


def test_keys_that_are_no_text_are_spelled_out():
    assert names({"a\ud800": 1}) == ["a\\ud800"]


def test_five_thousand_collisions_are_resolved():
    tree = {"a": {f"b{i}": 0 for i in range(5000)}} | {f"a.b{i}": 0 for i in range(5000)}
    found = names(tree)
    assert len(set(found)) == 10_000
    assert found[0] == "a.b0"
    assert found[5000] == "a.b0#2"


KEYS = st.sampled_from(
    ["a", "b", "a.b", "a.b.a", "", ".", "a/b", "/", "~", "a~", "0", "0.0", "a#2", 0, 1, None]
)
TREES = st.recursive(
    st.integers() | st.text(max_size=3) | st.none(),
    lambda inner: st.dictionaries(KEYS, inner, max_size=5) | st.lists(inner, max_size=3),
    max_leaves=12,
)


@given(TREES)
def test_names_are_unique_for_every_tree(tree):
    flat = flatten(tree)
    strings = {i for i, leaf in enumerate(flat.leaves) if isinstance(leaf, str)}
    found = orbax_names(flat.root, strings)
    assert found == orbax_names(flat.root, strings)
    leaves = [name for name in found if name.node.kind == "leaf"]
    assert [name.path for name in leaves] == leaf_paths(flat.root)
    assert len({name.name for name in leaves}) == len(leaves)
    assert len({name.keys for name in found}) == len(found)
    assert all(name.name == ".".join(name.keys) for name in found)
    encode_strings({leaves[i].name: "x" for i in strings})
    for name in found:
        for key, text, kind in zip(name.path, name.keys, name.key_types, strict=True):
            assert kind == 2 or text == str(key.value)
