# SPDX-License-Identifier: Apache-2.0
"""From a live tree to its leaves and its skeleton.

Knows Python's containers by heart and asks JAX's registry about all others. Knows nothing of what
leaves are. Dictionaries keep the order in which they were filled, and their keys may be of any
type: JAX itself sorts keys, and refuses a dictionary whose keys cannot be compared.
"""

import collections
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from jax import Array, tree_util

from pertinax._tree.paths import Key, Path, path_text
from pertinax._tree.skeleton import LEAF, MAX_DEPTH, NONE, Node, NodeKind, encode_value, is_plain

_PLAIN_LEAVES = frozenset({int, float, bool, complex, str, bytes})
_FACTORIES: Mapping[str, Callable[[], Any]] = {
    "list": list,
    "dict": dict,
    "int": int,
    "float": float,
    "set": set,
    "str": str,
}


@dataclass(frozen=True, slots=True)
class Flat:
    """A tree taken apart: `leaves[i]` stands at `paths[i]`; `root` is the skeleton."""

    leaves: list[Any]
    paths: list[Path]
    root: Node


def flatten(tree: Any) -> Flat:
    """Take `tree` apart. Raises `ValueError` when it is nested too deep (or in itself)."""
    leaves: list[Any] = []
    paths: list[Path] = []
    root = _walk(tree, (), leaves, paths)
    return Flat(leaves, paths, root)


def _walk(value: Any, path: Path, leaves: list[Any], paths: list[Path]) -> Node:
    if len(path) > MAX_DEPTH:
        raise ValueError(
            f"nested more than {MAX_DEPTH} deep at {path[0].value}/{path[1].value}/..."
        )
    if value is None:
        return NONE
    children = children_of(value)
    if children is None:
        leaves.append(value)
        paths.append(path)
        return LEAF
    named = with_plain_keys(children, path)
    nodes = tuple(_walk(child, (*path, key), leaves, paths) for key, child in named)
    keys = tuple(key for key, _ in named)
    kind, name, static = container_of(value, children, named)
    is_mapping = name is not None and not nodes and isinstance(value, Mapping)
    return Node(kind, keys, nodes, name, static, is_mapping and named is children)


def container_of(
    value: Any, children: list[tuple[Key, Any]], named: list[tuple[Key, Any]]
) -> tuple[NodeKind, str | None, Any]:
    """Kind, type name and static fields of the node of a container; `named` are its children with
    plain keys.
    """
    if named is not children:
        return "custom", type_name(type(value)), None
    return _container(value, children)


def with_plain_keys(children: list[tuple[Key, Any]], path: Path) -> list[tuple[Key, Any]]:
    """The same list if all keys can be written down; else one with their text, as in Orbax."""
    if all(type(key.value) is str or is_plain(key.value) for key, _ in children):
        return children
    texts = [str(key.value) for key, _ in children]
    if len(set(texts)) < len(texts):
        raise ValueError(
            f"two keys at {path_text(path)!r} have the same text: {', '.join(sorted(texts))[:200]}"
        )
    return [
        (Key(key.kind, text), child) for (key, child), text in zip(children, texts, strict=True)
    ]


def children_of(value: Any) -> list[tuple[Key, Any]] | None:
    """Keys and children of a container, or None for a leaf. `None` is an empty container."""
    kind = type(value)
    if kind in _PLAIN_LEAVES or isinstance(value, Array):
        return None
    if kind is dict or kind is collections.OrderedDict or kind is collections.defaultdict:
        return [(Key("key", key), child) for key, child in value.items()]
    if kind is list or kind is tuple:
        return [(Key("index", i), child) for i, child in enumerate(value)]
    if is_namedtuple(value):
        return [
            (Key("attr", name), child) for name, child in zip(value._fields, value, strict=True)
        ]
    return _registered_children(value)


def is_namedtuple(value: Any) -> bool:
    """A tuple with named fields, by its type's own account."""
    return isinstance(value, tuple) and hasattr(cast("Any", type(value)), "_fields")


def _registered_children(value: Any) -> list[tuple[Key, Any]] | None:
    if value is None:
        return []
    if tree_util.default_registry.flatten_one_level(value) is None:
        return None
    pairs, _ = tree_util.tree_flatten_with_path(value, is_leaf=_other_than(value))
    return [(_key_of(keypath[0], i), child) for i, (keypath, child) in enumerate(pairs)]


def _other_than(value: Any) -> Callable[[Any], bool]:
    """Stops JAX one level below `value`."""
    return lambda part: part is not value


def _key_of(entry: Any, position: int) -> Key:
    if isinstance(entry, tree_util.SequenceKey):
        return Key("index", entry.idx)
    if isinstance(entry, tree_util.DictKey):
        return Key("key", entry.key)
    if isinstance(entry, tree_util.GetAttrKey):
        return Key("attr", entry.name)
    if isinstance(entry, tree_util.FlattenedIndexKey):
        # Nodes registered without names: their position is all that tells children apart.
        return Key("index", position)
    return Key("key", str(entry))


def _container(value: Any, children: list[tuple[Key, Any]]) -> tuple[NodeKind, str | None, Any]:
    kind = type(value)
    for plain, name in _PLAIN_CONTAINERS:
        if kind is plain:
            return name, None, None
    if kind is collections.defaultdict:
        name = getattr(value.default_factory, "__name__", None)
        known = name is not None and _FACTORIES.get(name) is value.default_factory
        return ("default_dict" if known or name is None else "dict"), None, name if known else None
    if is_namedtuple(value):
        return "namedtuple", type_name(kind), None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        static = static_fields(value, {key.value for key, _ in children})
        if static is not None:
            return "dataclass", type_name(kind), static
    return "custom", type_name(kind), None


_PLAIN_CONTAINERS: tuple[tuple[type, NodeKind], ...] = (
    (dict, "dict"),
    (list, "list"),
    (tuple, "tuple"),
    (collections.OrderedDict, "ordered_dict"),
)


def static_fields(value: Any, child_names: set[Any]) -> dict[str, Any] | None:
    """Fields of a dataclass that are no children, as JSON; None if some field is not plain data."""
    names = [field.name for field in dataclasses.fields(value)]
    if not child_names <= set(names):
        return None
    try:
        return {
            name: encode_value(getattr(value, name)) for name in names if name not in child_names
        }
    except (TypeError, AttributeError):
        return None


def type_name(kind: type) -> str:
    """`module:qualname`, the name under which `rebuild` looks for the class."""
    return f"{kind.__module__}:{kind.__qualname__}"


def factory_named(name: str | None) -> Callable[[], Any] | None:
    """The default factory of a `defaultdict` by its recorded name."""
    return None if name is None else _FACTORIES.get(name)
