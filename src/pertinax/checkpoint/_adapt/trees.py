# SPDX-License-Identifier: Apache-2.0
"""Trees as the mirrored API sees them: text keys, dicts and lists, and trees that run side by side.

Knows how the API names keys and flattens containers. Knows nothing of files or arrays.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pertinax._formats.metadata.names import OrbaxName, key_type
from pertinax._tree.flatten import children_of
from pertinax._tree.paths import Path, path_text
from pertinax._tree.skeleton import Node

MISSING = object()
"""Stands where the other tree has an empty container instead of a leaf."""


def align(tree: Any, other: Any, what: str) -> list[Any]:
    """For each leaf of `tree`, in the engine's order, what stands at its place in `other`.

    The containers must be alike; where `other` has an empty container for a leaf, the answer is
    `MISSING`. Raises `ValueError`, naming the first place that differs; `what` says what `other`
    is.
    """
    return list(_align(tree, other, (), what))


def _align(value: Any, other: Any, path: Path, what: str) -> Iterator[Any]:
    if value is None:
        return
    children = children_of(value)
    if children is None:
        below = [] if other is None else children_of(other)
        if below:
            raise ValueError(
                f"structure mismatch: {what} has a container at {path_text(path)!r}, "
                "the tree a leaf"
            )
        yield MISSING if below is not None else other
        return
    if not children:
        return
    others = children_of(other) if other is not None else []
    if others is None or type(other) is not type(value):
        raise ValueError(
            f"structure mismatch: {what} has {type(other).__name__} at {path_text(path)!r}, "
            f"the tree {type(value).__name__}"
        )
    by_key = dict(others)
    if by_key.keys() != dict(children).keys():
        raise ValueError(
            f"structure mismatch: {what} has the keys {_listed(by_key)} at {path_text(path)!r}, "
            f"the tree {_listed(dict(children))}"
        )
    for key, child in children:
        yield from _align(child, by_key[key], (*path, key), what)


def _listed(keyed: Mapping[Any, Any]) -> str:
    return "[" + ", ".join(str(key.value) for key in list(keyed)[:20]) + "]"


def empty_value(node: Node) -> Any:
    """What an empty container comes back as; those of libraries, unless mappings, as None."""
    if node.kind in ("dict", "ordered_dict", "default_dict") or node.is_mapping:
        return {}
    if node.kind in ("list", "tuple"):
        return [] if node.kind == "list" else ()
    return None


def nest(root: Node, names: Sequence[OrbaxName], values: Sequence[Any]) -> Any:
    """Dicts and lists with `values` at `names`, those of all leaves and empty containers.

    Keys are those of the tree, as text, also where files call them otherwise; where two keys have
    the same text, those of the files.
    """
    if not root.children:
        return values[0]
    top: dict[str, Any] = {}
    for name, value in zip(names, values, strict=True):
        below = top
        for text in name.keys[:-1]:
            below = below.setdefault(text, {})
        below[name.keys[-1]] = value
    return _with_lists(root, top)


def _with_lists(node: Node, below: dict[str, Any]) -> Any:
    if not node.children:
        return below
    # Both are in flattening order, so that children need no look-up.
    texts = [str(key.value) for key in node.keys]
    if len(set(texts)) < len(texts):
        counts = Counter(texts)
        texts = [
            text if counts[text] == 1 else stored for text, stored in zip(texts, below, strict=True)
        ]
    built = {
        text: _with_lists(child, value) if child.children else value
        for text, child, value in zip(texts, node.children, below.values(), strict=True)
    }
    return list(built.values()) if key_type(node) == 1 else built
