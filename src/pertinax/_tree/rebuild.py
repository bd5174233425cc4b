# SPDX-License-Identifier: Apache-2.0
"""From leaves back to a tree: after the skeleton alone, or into the shape of a living target.

Knows how containers are made. Never imports a module that a file names: a class is used only if the
program has imported it already, and it is filled without calling its code. What cannot be made
comes back as a dict.
"""

import collections
import dataclasses
import functools
import sys
from collections.abc import Iterator, Sequence
from typing import Any, cast

from jax import tree_util

from pertinax._tree.flatten import children_of, factory_named, is_namedtuple
from pertinax._tree.paths import Path
from pertinax._tree.skeleton import Node, decode_value

ABSENT = object()
"""Stands for a leaf that was not asked for; containers leave it out."""


def rebuild(root: Node, leaves: Sequence[Any]) -> Any:
    """The tree that `root` describes, with `leaves` in flattening order.

    `ABSENT` leaves are left out, and then so are empty containers. A sequence that lacks some of
    its elements comes back as a dict from position to element.
    """
    partial = any(leaf is ABSENT for leaf in leaves)
    return _build(root, iter(leaves), ABSENT if partial else None)


def inexact_nodes(root: Node, path: Path = ()) -> list[tuple[Path, str]]:
    """Nodes that `rebuild` can only give back as dicts in this process: path and type name."""
    found: list[tuple[Path, str]] = []
    if root.kind == "custom" or (root.kind == "dataclass" and _dataclass_named(root) is None):
        found.append((path, root.type_name or "?"))
    for key, child in zip(root.keys, root.children, strict=True):
        if child.children or child.kind in ("custom", "dataclass"):
            found += inexact_nodes(child, (*path, key))
    return found


def _build(node: Node, leaves: Iterator[Any], nothing: Any) -> Any:
    """`nothing` is what an empty container becomes in a partial tree, None in a whole one."""
    if node.kind == "leaf":
        return next(leaves)
    if not node.children and nothing is ABSENT:
        return ABSENT
    if node.kind == "none":
        return None
    children = [_build(child, leaves, nothing) for child in node.children]
    if children and all(child is ABSENT for child in children):
        return ABSENT
    if any(child is ABSENT for child in children):
        keys = (key.value for key in node.keys)
        return {k: c for k, c in zip(keys, children, strict=True) if c is not ABSENT}
    return _container(node, children)


def _container(node: Node, children: list[Any]) -> Any:
    match node.kind:
        case "list":
            return children
        case "tuple":
            return tuple(children)
        case "namedtuple":
            return _namedtuple(node, children)
        case "ordered_dict":
            return collections.OrderedDict(_items(node, children))
        case "default_dict":
            return collections.defaultdict(factory_named(node.static), _items(node, children))
        case "dataclass":
            return _dataclass(node, children)
        case _:
            return dict(_items(node, children))


def _items(node: Node, children: list[Any]) -> list[tuple[Any, Any]]:
    return [(key.value, child) for key, child in zip(node.keys, children, strict=True)]


def _class_named(name: str | None) -> type | None:
    """The class, if a module of this process has it. Nothing is imported: files run no code."""
    module, _, qualname = (name or "").partition(":")
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        # `vars`, not `getattr`: a module or class with a dynamic __getattr__ must not run for a
        # file's sake.
        found = vars(found).get(part) if hasattr(found, "__dict__") else None
    return found if isinstance(found, type) else None


def _namedtuple(node: Node, children: list[Any]) -> Any:
    fields = tuple(str(key.value) for key in node.keys)
    found = _class_named(node.type_name)
    if found is not None and issubclass(found, tuple) and getattr(found, "_fields", None) == fields:
        return tuple.__new__(found, children)
    name = (node.type_name or "").rpartition(":")[2].rpartition(".")[2]
    try:
        return _stand_in(name or "Fields", fields)(*children)
    except ValueError:  # a file may hold names that Python does not allow
        return dict(zip(fields, children, strict=True))


@functools.lru_cache(maxsize=256)
def _stand_in(name: str, fields: tuple[str, ...]) -> Any:
    """A named tuple for a class that is not there; always the same one, so that trees compare."""
    # The fields come from the file, so there are no types to give.
    return collections.namedtuple(name, fields)  # noqa: PYI024 # pyright: ignore[reportUntypedNamedTuple]


def _dataclass_named(node: Node) -> type | None:
    found = _class_named(node.type_name)
    if found is None or not dataclasses.is_dataclass(found) or not isinstance(node.static, dict):
        return None
    if found.__new__ is not object.__new__:
        return None  # it is more than its fields
    names = {field.name for field in dataclasses.fields(found)}
    given = {str(key.value) for key in node.keys} | set(cast("dict[str, Any]", node.static))
    return found if names == given else None


def _dataclass(node: Node, children: list[Any]) -> Any:
    found = _dataclass_named(node)
    if found is None:
        return dict(_items(node, children))
    value = object.__new__(found)
    for key, child in zip(node.keys, children, strict=True):
        object.__setattr__(value, str(key.value), child)
    for name, data in cast("dict[str, Any]", node.static).items():
        object.__setattr__(value, name, decode_value(data))
    return value


def refill(target: Any, leaves: Sequence[Any]) -> Any:
    """A tree like `target`, its leaves replaced by `leaves` in the order of `flatten`."""
    return _refill(target, iter(leaves))


def _refill(value: Any, leaves: Iterator[Any]) -> Any:
    if value is None:
        return None
    children = children_of(value)
    if children is None:
        return next(leaves)
    filled = [_refill(child, leaves) for _, child in children]
    kind = type(value)
    if kind is dict or kind is collections.OrderedDict:
        return kind(_pairs(children, filled))
    if kind is collections.defaultdict:
        return collections.defaultdict(value.default_factory, _pairs(children, filled))
    if kind is list or kind is tuple:
        return kind(filled)
    if is_namedtuple(value):
        return tuple.__new__(kind, filled)
    shape = tree_util.tree_structure(value, is_leaf=lambda x: x is not value)
    return tree_util.tree_unflatten(shape, filled)


def _pairs(children: list[tuple[Any, Any]], filled: list[Any]) -> list[tuple[Any, Any]]:
    return [(key.value, child) for (key, _), child in zip(children, filled, strict=True)]


def node_at(root: Node, path: Path) -> Node | None:
    """The node of a skeleton at `path`, by the very keys or else by their text, or None."""
    node = root
    for key in path:
        exact = [i for i, own in enumerate(node.keys) if own.value == key.value]
        alike = exact or [i for i, own in enumerate(node.keys) if str(own.value) == str(key.value)]
        if not alike:
            return None
        node = node.children[alike[0]]
    return node
