# SPDX-License-Identifier: Apache-2.0
"""Trees by the names of their keys: taken apart, put together, described.

Knows JAX's keys and how the mirrored API spells them. Knows nothing of files.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import jax
import numpy as np
from jax import tree_util

T = TypeVar("T")
PyTree = Any
PyTreeOf = PyTree | T
"""A tree whose leaves are of one type: `PyTreeOf[int]`. For readers; nothing checks it."""
PyTreeKey = (
    tree_util.SequenceKey | tree_util.DictKey | tree_util.GetAttrKey | tree_util.FlattenedIndexKey
)
PyTreePath = tuple[PyTreeKey, ...]


class BrokenSequence(ValueError, AssertionError):
    """Positions of a sequence that do not count from 0: a tree cannot be made of them."""


def get_key_name(key: Any) -> str | int:
    """The name of one of JAX's keys. Raises `ValueError` for any other object."""
    if isinstance(key, tree_util.SequenceKey):
        return key.idx
    if isinstance(key, tree_util.DictKey):
        return str(key.key)
    if isinstance(key, tree_util.GetAttrKey):
        return key.name
    if isinstance(key, tree_util.FlattenedIndexKey):
        return key.key
    raise ValueError(f"{key!r} is not a key of a tree")


def is_dict_key(key: Any) -> bool:
    """Whether it is a key of a mapping, or an attribute."""
    return isinstance(key, tree_util.DictKey | tree_util.GetAttrKey)


def is_sequence_key(key: Any) -> bool:
    """Whether it is a position in a sequence."""
    return isinstance(key, tree_util.SequenceKey | tree_util.FlattenedIndexKey)


def tuple_path_from_keypath(keypath: Sequence[Any]) -> tuple[str, ...]:
    """The keys of a path as text."""
    return tuple(str(get_key_name(key)) for key in keypath)


def is_empty_node(x: Any) -> bool:
    """Whether `x` is a container without children; `None` is one."""
    return tree_util.tree_structure(x).num_nodes == 1 and not tree_util.all_leaves([x])


def is_empty_or_leaf(x: Any) -> bool:
    """Whether nothing lies below `x`."""
    return is_empty_node(x) or tree_util.all_leaves([x])


def get_param_names(item: Any) -> Any:
    """The same tree with the name of each leaf and empty container: its keys, joined by dots."""

    def name(keypath: Sequence[Any], _: Any) -> str:
        return ".".join(tuple_path_from_keypath(keypath))

    return tree_util.tree_map_with_path(name, item, is_leaf=is_empty_or_leaf)


def to_flat_dict(
    tree: Any,
    sep: str | None = None,
    keep_empty_nodes: bool = False,
    is_leaf: Callable[[Any], bool] | None = None,
) -> dict[Any, Any]:
    """Leaves by their path: a tuple of texts, or with `sep` one text.

    `is_leaf` decides what is a leaf, if given.
    Raises `ValueError` if two leaves get the same text.
    """
    if is_leaf is None and keep_empty_nodes:
        is_leaf = is_empty_or_leaf
    pairs, _ = tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)
    paths = [tuple_path_from_keypath(keypath) for keypath, _ in pairs]
    texts: list[Any] = paths if sep is None else [sep.join(path) for path in paths]
    flat = {text: value for text, (_, value) in zip(texts, pairs, strict=True)}
    if len(flat) < len(pairs):
        twice = next(text for text, count in Counter(texts).items() if count > 1)
        raise ValueError(f"two leaves of the tree have the same text {twice!r}")
    return flat


def from_flat_dict(flat_dict: Mapping[Any, Any], target: Any = None, sep: str | None = None) -> Any:
    """The inverse of `to_flat_dict`: nested dicts, or the structure of `target`.

    Raises `KeyError` if a leaf of the target is not there; what the target lacks is left out.
    """
    if target is not None:
        pairs, treedef = tree_util.tree_flatten_with_path(target)
        paths = [tuple_path_from_keypath(path) for path, _ in pairs]
        keys = paths if sep is None else [sep.join(path) for path in paths]
        return tree_util.tree_unflatten(treedef, [flat_dict[key] for key in keys])
    out: dict[str, Any] = {}
    for key, value in flat_dict.items():
        path = key if sep is None else key.split(sep)
        if not path:
            return value  # the tree is a leaf
        below = out
        for text in path[:-1]:
            below = below.setdefault(text, {})
        below[path[-1]] = value
    return out


def from_flattened_with_keypath(flat_with_keys: Sequence[tuple[Sequence[Any], Any]]) -> Any:
    """Dicts and lists from leaves with their key paths; positions of a sequence must come in order.

    Raises `ValueError` for nothing at all, `BrokenSequence` for positions out of order.
    """
    if not flat_with_keys:
        raise ValueError("there is nothing to make a tree of")
    if not flat_with_keys[0][0]:
        return flat_with_keys[0][1]
    groups: dict[str | int, list[tuple[Sequence[Any], Any]]] = {}
    for path, value in flat_with_keys:
        groups.setdefault(get_key_name(path[0]), []).append((path[1:], value))
    built = {name: from_flattened_with_keypath(group) for name, group in groups.items()}
    if not is_sequence_key(flat_with_keys[0][0][0]):
        return built
    if list(built) != list(range(len(built))):
        raise BrokenSequence(f"positions of a sequence out of order: {list(built)}")
    return list(built.values())


def serialize_tree(tree: Any, keep_empty_nodes: bool = False) -> Any:
    """The tree as dicts with text keys and lists; empty containers stay only if asked for.

    Raises `ValueError` if nothing is left, and `BrokenSequence` if what is left out stood before
    other elements of a sequence.
    """
    pairs, _ = tree_util.tree_flatten_with_path(tree, is_leaf=is_empty_or_leaf)
    if not keep_empty_nodes:
        pairs = [(path, value) for path, value in pairs if not is_empty_node(value)]
    return from_flattened_with_keypath(pairs)


def deserialize_tree(serialized: Any, target: Any, keep_empty_nodes: bool = False) -> Any:
    """The structure of `target` with leaves out of `serialized`, each found by its path.

    What else `serialized` has is left out. Raises `KeyError` if a leaf is not there.
    """

    def pick(keypath: Sequence[Any], value: Any) -> Any:
        if is_empty_node(value) and not keep_empty_nodes:
            return value
        found = serialized
        for key in keypath:
            found = _child(found, get_key_name(key))
        return found

    return tree_util.tree_map_with_path(pick, target, is_leaf=is_empty_or_leaf)


def _child(container: Any, name: str | int) -> Any:
    if isinstance(container, Mapping):
        mapping = cast("Mapping[Any, Any]", container)
        return mapping[name] if name in mapping else mapping[str(name)]
    if isinstance(container, list | tuple) and str(name).isdecimal():
        elements = cast("Sequence[Any]", container)
        if int(name) < len(elements):
            return elements[int(name)]
    raise KeyError(name)


def to_shape_dtype_struct(
    x: Any, dtype: Any = None, scalar_dtype: Callable[[Any], Any] | type | None = None
) -> Any:
    """Shape and dtype of a leaf as a `jax.ShapeDtypeStruct`, of JAX's own the sharding as well.

    Python numbers come back as they are, or through `scalar_dtype`. Raises `ValueError` for text
    and whatever else has no shape.
    """
    if isinstance(x, jax.Array | jax.ShapeDtypeStruct):
        sharding = getattr(x, "sharding", None)
        return jax.ShapeDtypeStruct(x.shape, dtype or x.dtype, sharding=sharding)
    if isinstance(x, np.ndarray):
        array = cast("np.ndarray[Any, Any]", x)
        return jax.ShapeDtypeStruct(array.shape, dtype or array.dtype)
    if isinstance(x, int | float | complex | np.number):
        return scalar_dtype(x) if scalar_dtype is not None else x
    if hasattr(x, "shape") and hasattr(x, "dtype"):  # metadata of a stored leaf
        sharding = x.sharding.to_jax_sharding() if x.sharding is not None else None
        return jax.ShapeDtypeStruct(x.shape, dtype or x.dtype, sharding=sharding)
    raise ValueError(f"{type(x).__name__} has no shape")
