# SPDX-License-Identifier: Apache-2.0
"""Transformations: leaves that were renamed, dropped or computed anew between two versions of a
program. Deprecated, as in Orbax: plain Python on the restored tree says the same.

Knows what a transformation may say, and applies them to trees in memory. Knows nothing of
checkpoints; `_adapt.transformed` applies the same while restoring.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

import jax.monitoring

from pertinax._tree.flatten import flatten
from pertinax._tree.paths import text_path
from pertinax._tree.rebuild import refill
from pertinax.checkpoint._adapt.transforms import Named, Rules
from pertinax.checkpoint.tree import from_flat_dict, is_empty_node, to_flat_dict
from pertinax.checkpoint.type_handlers import RestoreArgs
from pertinax.errors import PertinaxError

_LOG: Final = logging.getLogger(__name__)
_EVENT: Final = "/jax/orbax/deprecation/apply_transformations"

ValueFn = Callable[..., Any]
MultiValueFn = Callable[..., Any]


class InvalidTransform(PertinaxError, ValueError, AssertionError):
    """A transformation that says two things at once."""


@dataclasses.dataclass
class Transform:
    r"""Where one leaf of the new tree comes from; without anything said, from the same key.

    Attributes:
        original_key: the key in the original tree, with `/` between levels, or a tuple of its
            levels. `\1` means the first group of the regular expression that the new key matched.
        use_fallback: take the value that transformations otherwise replace: that of the new tree,
            or of the original if new values are the default.
        value_fn: makes the new value of the original one.
        multi_value_fn: makes the new value of the new key and the whole original tree.

    Raises `InvalidTransform` (a `ValueError` and an `AssertionError`) for fields that contradict
    each other: `use_fallback` and `multi_value_fn` go with nothing else.
    """

    original_key: str | tuple[str, ...] | None = None
    use_fallback: bool = False
    value_fn: ValueFn | None = None
    multi_value_fn: MultiValueFn | None = None

    def __post_init__(self) -> None:
        taken = self.original_key is not None or self.value_fn is not None
        if (self.use_fallback or self.multi_value_fn is not None) and (
            taken or (self.use_fallback and self.multi_value_fn is not None)
        ):
            raise InvalidTransform(
                "use_fallback and multi_value_fn each stand alone; original_key and value_fn may "
                f"go together: {self}"
            )


@dataclasses.dataclass
class RestoreTransform(Transform):
    """A transformation of leaves while they are restored.

    Here `value_fn` may have a second parameter without a default, and `multi_value_fn` has a third
    one: the `RestoreArgs` of the new leaf.

    Attributes:
        multi_value_fn_input_args: for each stored leaf that `multi_value_fn` needs, by a regular
            expression of its key, how to restore it. Other leaves are not read; the function finds
            their metadata in their places.
    """

    multi_value_fn_input_args: Mapping[str, RestoreArgs] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.multi_value_fn_input_args and self.multi_value_fn is None:
            raise InvalidTransform(f"multi_value_fn_input_args are for a multi_value_fn: {self}")


def apply_transformations(
    original_tree: Any,
    transformations: Any,
    new_tree: Any,
    default_to_original: bool = True,
) -> Any:
    r"""A tree like `new_tree` with leaves of `original_tree`.

    `transformations` is a dict of `Transform`s by key; keys are regular expressions that a key of
    the new tree (with `/` between its levels) must match as a whole; of several that match, the
    last in alphabetical order counts. Leaves without a transformation are taken from the original
    where it has them, or stay if not `default_to_original`. Raises `ValueError` if a key that is
    asked for is not in the original.

    >>> apply_transformations({"a": 1}, {"(.*)_new": Transform(original_key=r"\1")}, {"a_new": 0})
    {'a_new': 1}
    """
    _LOG.warning("transformations are deprecated: change the restored tree in plain Python")
    jax.monitoring.record_event(_EVENT)
    if is_empty_node(new_tree):
        return {}
    rules = Rules(transformations)
    original = Named(to_flat_dict(original_tree))
    flat = flatten(new_tree)
    out = list(flat.leaves)
    for i, path in enumerate(map(text_path, flat.paths)):
        choice = rules.choose(path, original, default_to_original=default_to_original)
        if choice is None:
            continue
        value_fn = choice.rule.value_fn
        if choice.source is None:
            out[i] = choice.rule.multi_value_fn("/".join(path), original_tree)
        else:
            value = original.values[choice.source]
            out[i] = value if value_fn is None else value_fn(value)
    return refill(new_tree, out)


def merge_trees(*trees: Any, target: Any = None) -> Any:
    """All leaves of all trees; where keys meet, the later tree wins.

    Nested dicts, or the structure of `target`, which may have fewer leaves. Empty containers are
    left out. Raises `KeyError` if a leaf of the target is in none of the trees.

    >>> merge_trees({"a": 1, "b": {"c": 2}}, {"b": {"c": 3}})
    {'a': 1, 'b': {'c': 3}}
    """
    merged: dict[tuple[str, ...], Any] = {}
    for tree in trees:
        flat: dict[tuple[str, ...], Any] = to_flat_dict(tree)
        _make_room(merged, flat)
        merged |= flat
    return from_flat_dict(merged, target=target)


def _make_room(merged: dict[tuple[str, ...], Any], flat: Mapping[tuple[str, ...], Any]) -> None:
    """Take out leaves where the later tree has a container, and what is below its leaves."""
    containers = {path[:i] for path in flat for i in range(len(path))}
    for path in list(merged):
        if path in containers or any(path[:i] in flat for i in range(len(path))):
            del merged[path]


def intersect_trees(*trees: Any, target: Any = None) -> Any:
    """The leaves whose keys all trees have, with the values of the last tree.

    Nested dicts, or the structure of `target`. Raises `KeyError` if some tree lacks a leaf of it.

    >>> intersect_trees({"a": 1, "b": 2}, {"b": 3})
    {'b': 3}
    """
    flats: list[dict[tuple[str, ...], Any]] = [to_flat_dict(tree) for tree in trees]
    last = flats[-1] if flats else {}
    kept = {path: leaf for path, leaf in last.items() if all(path in flat for flat in flats)}
    return from_flat_dict(kept, target=target)
