# SPDX-License-Identifier: Apache-2.0
"""Following: the leaves of a live tree, if it has the very skeleton that one before had.

Knows that most programs save the same tree again and again, and that looking whether it is so costs
less than taking it apart. Knows nothing of leaves but that they are no containers.
"""

import json
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from jax import Array

from pertinax._tree.flatten import children_of, container_of, with_plain_keys
from pertinax._tree.skeleton import Node

_LEAVES = (Array, np.ndarray, np.generic)


def leaves_along(tree: Any, root: Node) -> list[Any] | None:
    """The leaves of `tree` as `flatten` has them, if its skeleton is exactly `root`; else None."""
    leaves: list[Any] = []
    return leaves if _follow(tree, root, leaves) else None


def _follow(value: Any, node: Node, leaves: list[Any]) -> bool:
    if node.kind == "leaf":
        if value is None or not (isinstance(value, _LEAVES) or children_of(value) is None):
            return False
        leaves.append(value)
        return True
    if node.kind == "none":
        return value is None
    if node.kind == "dict" and type(value) is dict and node.children:
        return _follow_dict(cast("dict[Any, Any]", value), node, leaves)
    return value is not None and _follow_container(value, node, leaves)


def _follow_dict(value: dict[Any, Any], node: Node, leaves: list[Any]) -> bool:
    """The usual container, without making a `Key` for each entry."""
    if len(value) != len(node.keys):
        return False
    for (name, child), key, below in zip(value.items(), node.keys, node.children, strict=True):
        if name is not key.value and not _same_key(name, key.value):
            return False
        if not _follow(child, below, leaves):
            return False
    return True


def _follow_container(value: Any, node: Node, leaves: list[Any]) -> bool:
    children = children_of(value)
    if children is None or len(children) != len(node.children):
        return False
    try:
        named = with_plain_keys(children, ())
    except ValueError:  # `flatten` says it better
        return False
    kind, name, static = container_of(value, children, named)
    if (kind, name) != (node.kind, node.type_name) or json.dumps(static) != json.dumps(node.static):
        return False
    if not children:
        is_mapping = name is not None and isinstance(value, Mapping)
        return is_mapping == node.is_mapping
    return all(
        key.kind == known.kind
        and _same_key(key.value, known.value)
        and _follow(child, below, leaves)
        for (key, child), known, below in zip(named, node.keys, node.children, strict=True)
    )


def _same_key(one: Any, other: Any) -> bool:
    """`True`, `1` and `1.0` are equal in Python, and so are `0.0` and `-0.0`; as keys of a tree
    they are not.
    """
    if type(one) is not type(other) or one != other:
        return False
    return type(one) is str or repr(one) == repr(other)
