# SPDX-License-Identifier: Apache-2.0
"""Trees are taken apart and put together again, all of them, in the order in which they were
built.
"""

import collections
import dataclasses
import enum
import json

import jax
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pertinax._tree.flatten import flatten
from pertinax._tree.paths import path_text
from pertinax._tree.rebuild import ABSENT, inexact_nodes, rebuild, refill
from pertinax._tree.skeleton import MAX_DEPTH, Node, decode, encode, leaf_paths, walk
from pertinax.testing import trees as forest
from pertinax.testing.trees import Pair, differences


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Layer:
    kernel: object
    bias: object
    name: str = dataclasses.field(default="dense", metadata={"static": True})
    sizes: tuple = dataclasses.field(default=(3, 4.5, None, b"x"), metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Frozen:
    inner: object
    act: object = dataclasses.field(default=len, metadata={"static": True})


@jax.tree_util.register_pytree_node_class
class Ring:
    def __init__(self, *parts):
        self.parts = parts

    def tree_flatten(self):
        return self.parts, len(self.parts)

    @classmethod
    def tree_unflatten(cls, _, parts):
        return cls(*parts)


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


def through_json(root: Node) -> Node:
    return decode(json.loads(json.dumps(encode(root))))


@given(forest.trees())
def test_any_tree_survives_flattening_and_its_skeleton_survives_json(tree):
    flat = flatten(tree)
    root = through_json(flat.root)
    assert encode(root) == encode(flat.root)
    assert [path_text(p) for p in leaf_paths(root)] == [path_text(p) for p in flat.paths]
    assert differences(tree, rebuild(root, flat.leaves)) == []
    assert differences(tree, refill(tree, flat.leaves)) == []
    assert inexact_nodes(root) == []


SAME_TYPES = [
    {},
    [],
    (),
    None,
    5,
    {"a": {}, "b": [], "c": (), "d": None, "e": [[], ((), {})]},
    {1: 1, "1": 2, True if False else 2: 3, None: 4, b"1": 5, (1, "1"): 6, 1.5: 7, 2j: 8, (): 9},
    {"z": 1, "a": 2},
    collections.OrderedDict([("z", 1), ("a", 2)]),
    collections.defaultdict(list, z=1),
    collections.defaultdict(None, z=1),
    Pair(1, Pair([], {})),
    [Pair(None, None)],
    Layer(1, [2, {"x": 3}]),
    {1 << 70: 1, -(1 << 70): 2},
]


@pytest.mark.parametrize("tree", SAME_TYPES, ids=repr)
def test_each_container_comes_back_as_itself(tree):
    flat = flatten(tree)
    back = rebuild(through_json(flat.root), flat.leaves)
    assert type(back) is type(tree)
    assert differences(tree, back) == [] if not dataclasses.is_dataclass(tree) else back == tree


def test_true_and_one_are_different_keys():
    for tree in ({True: 5}, {1: 5}, {1.0: 5}, {"1": 5}):
        flat = flatten(tree)
        (key,) = rebuild(through_json(flat.root), flat.leaves)
        assert type(key) is type(next(iter(tree)))


def test_custom_nodes_come_back_as_dicts_and_say_so_and_refill_exactly():
    tree = {"ring": Ring(1, [2]), "frozen": Frozen(3)}
    flat = flatten(tree)
    root = through_json(flat.root)
    assert rebuild(root, flat.leaves) == {"ring": {0: 1, 1: [2]}, "frozen": {"inner": 3}}
    assert [(path_text(p), n.rpartition(":")[2]) for p, n in inexact_nodes(root)] == [
        ("ring", "Ring"),
        ("frozen", "Frozen"),
    ]
    again = refill(tree, ["x", "y", "z"])
    assert again["ring"].parts == ("x", ["y"])
    assert again["frozen"] == Frozen("z")


@pytest.mark.parametrize(
    "keys", [(Colour.RED, Colour.BLUE), (np.int64(3), "x"), (frozenset({1}), 2)], ids=repr
)
def test_keys_of_other_types_become_their_text_and_say_so(keys):
    tree = {"d": {key: i for i, key in enumerate(keys)}}
    flat = flatten(tree)
    root = through_json(flat.root)
    assert rebuild(root, flat.leaves) == {"d": {str(key): i for i, key in enumerate(keys)}}
    assert inexact_nodes(root) != []
    assert refill(tree, flat.leaves) == tree


def test_two_keys_with_one_text_are_refused():
    with pytest.raises(ValueError, match="the same text"):
        flatten({"d": {np.int64(3): 1, "3": 2}})


def optimizers():
    masked = optax.masked(optax.adam(1e-3), {"w": True, "b": False})
    injected = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1, momentum=0.9)
    return [
        optax.adam(1e-3),
        optax.chain(optax.clip(1.0), optax.adamw(optax.linear_schedule(1.0, 0.0, 5))),
        masked,
        injected,
        optax.MultiSteps(optax.lion(1e-3), 4),
    ]


@pytest.mark.parametrize("which", range(5))
def test_states_of_optax_come_back(which):
    params = {"w": jax.numpy.ones((2, 3)), "b": jax.numpy.zeros(3)}
    state = optimizers()[which].init(params)
    flat = flatten(state)
    assert len(flat.leaves) == len(jax.tree.leaves(state))
    assert all(a is b for a, b in zip(flat.leaves, jax.tree.leaves(state), strict=True))
    again = refill(state, flat.leaves)
    assert jax.tree.structure(again) == jax.tree.structure(state)
    back = rebuild(through_json(flat.root), flat.leaves)
    if not inexact_nodes(flat.root):
        assert jax.tree.structure(back) == jax.tree.structure(state)


def test_the_deepest_tree_passes_and_a_deeper_one_does_not():
    def nest(depth):
        tree = 1
        for _ in range(depth):
            tree = [tree]
        return tree

    flat = flatten(nest(MAX_DEPTH))
    assert rebuild(through_json(flat.root), flat.leaves) == nest(MAX_DEPTH)
    with pytest.raises(ValueError, match="nested more than"):
        flatten(nest(MAX_DEPTH + 1))
    endless = []
    endless.append(endless)
    with pytest.raises(ValueError, match="nested more than"):
        flatten(endless)


def test_a_part_of_a_tree_keeps_the_places_of_what_is_there():
    flat = flatten({"a": [1, 2, 3], "b": {"c": 4}, "e": {}, "t": Pair(5, 6)})
    leaves = [ABSENT, 2, 3, ABSENT, ABSENT, 6]
    assert rebuild(flat.root, leaves) == {"a": {1: 2, 2: 3}, "t": {"second": 6}}


def test_a_class_that_a_file_names_is_never_run_nor_imported():
    evil = {"t": "dataclass", "n": "antigravity:Nope", "s": {}, "k": ["a"], "c": [0]}
    assert rebuild(decode(evil), [1]) == {"a": 1}
    for name in (
        "os:system",
        "subprocess:Popen",
        "builtins:type",
        "json:",
        ":",
        "a:b:c",
        "sys:modules",
    ):
        assert rebuild(decode(evil | {"n": name}), [1]) == {"a": 1}
        pair = {"t": "namedtuple", "n": name, "k": ["a"], "c": [0]}
        assert tuple(rebuild(decode(pair), [1])) == (1,)
    assert "antigravity" not in __import__("sys").modules


class Guarded(Exception):
    pass


Guarded = dataclasses.dataclass(Guarded)
Guarded.__annotations__ = {}


def test_a_dataclass_that_cannot_be_filled_comes_back_as_a_dict():
    name = f"{__name__}:Guarded"
    node = {"t": "dataclass", "n": name, "s": {}, "k": [], "c": []}
    assert rebuild(decode({"t": "list", "c": [0, node]}), [1]) == [1, {}]


PLAIN_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["dict", "index", "key"]),
    lambda below: (
        st.lists(below, max_size=4)
        | st.dictionaries(
            st.sampled_from(["t", "n", "s", "k", "c", "int", "float", "bytes", "tuple", "complex"]),
            below,
        )
    ),
    max_leaves=30,
)


def try_skeleton(data):
    try:
        root = decode(data)
    except ValueError:
        return False
    leaves = [1] * len(leaf_paths(root))
    rebuild(root, leaves)
    inexact_nodes(root)
    assert list(walk(root)) or not root.children
    return True


@given(PLAIN_JSON)
def test_a_hostile_skeleton_is_refused_with_a_value_error(data):
    try_skeleton(data)


@given(forest.trees(st.integers()), st.data())
def test_a_skeleton_with_one_thing_changed_is_refused_or_harmless(tree, data):
    text = json.dumps(encode(flatten(tree).root))
    spots = [i for i, c in enumerate(text) if c in '[]{}",:0tcnsk']
    if not spots:
        return
    at = data.draw(st.sampled_from(spots))
    new = data.draw(
        st.sampled_from(
            ["[]", "{}", "0", "null", '"t"', "1e999", "", '{"t":"leaf","c":[]}', "[[1],2]"]
        )
    )
    try:
        changed = json.loads(text[:at] + new + text[at + 1 :])
    except ValueError:
        return
    try_skeleton(changed)


@pytest.mark.parametrize(
    "data",
    [
        {"t": "leaf", "c": []},
        {"t": "leaf", "k": [], "c": [{"t": "list", "c": []}]},
        {"t": "none", "k": [["key", "a"]], "c": [0]},
        {"t": ["dict"], "k": [], "c": []},
        {"t": "dict", "k": ["a", "a"], "c": [0, 0]},
        {"t": "dict", "k": [[["a"], 1]], "c": [0]},
        {"t": "custom", "k": ["a"], "c": [0]},
        {"t": "default_dict", "s": ["list"], "k": [], "c": []},
        {"t": "dataclass", "n": "a:b", "s": {"x": [1]}, "k": [], "c": []},
        {"t": "dict", "k": [{"int": [1]}], "c": [0]},
        {"t": "dict", "k": [{"int": "1" * 5000}], "c": [0]},
        {"t": "list", "c": {}},
        {"t": "dict", "k": ["a"], "c": []},
        {"t": "dict", "c": [0]},
        {"t": "list", "n": 5, "c": []},
        True,
        "leaf",
        1,
    ],
    ids=str,
)
def test_each_broken_skeleton_is_refused(data):
    assert try_skeleton(data) is False


def test_a_skeleton_nested_without_end_is_refused():
    data = 0
    for _ in range(5000):
        data = {"t": "list", "c": [data]}
    assert try_skeleton(data) is False
    key = "x"
    for _ in range(400):
        key = {"tuple": [key]}
    assert try_skeleton({"t": "dict", "k": [key], "c": [0]}) is False
