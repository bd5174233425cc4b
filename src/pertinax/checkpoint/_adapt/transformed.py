# SPDX-License-Identifier: Apache-2.0
"""Restoring through transformations: first what comes from where, then the reading, then the
functions of the program.

Knows which stored leaves a set of transformations needs, and with which args each of them is to be
read; nothing else is read. The reading itself is that of any restore.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from etils import epath

from pertinax._core.open import read_settled
from pertinax._formats.manifest import StoredLeaf
from pertinax._formats.metadata.tree_metadata import empty_value_type
from pertinax._tree.flatten import flatten
from pertinax._tree.paths import text_path
from pertinax._tree.rebuild import refill
from pertinax.checkpoint._adapt.describe import describe_all
from pertinax.checkpoint._adapt.leaf_handlers import STOCK, Settings
from pertinax.checkpoint._adapt.old_values import DEFAULT_LAYOUT, OldLayout
from pertinax.checkpoint._adapt.stored import StoredTree, args_of, open_tree
from pertinax.checkpoint._adapt.transforms import Choice, Named, Names, Rules
from pertinax.checkpoint._adapt.trees import align, empty_value, nest
from pertinax.checkpoint.metadata.tree import ValueMetadataEntry
from pertinax.checkpoint.type_handlers import ParamInfo, RestoreArgs
from pertinax.typing import PathLike


class Orders:
    """Stored leaves to read; the same leaf with the same args is read once."""

    def __init__(self, stored: StoredTree) -> None:
        self._stored = stored
        self.wanted: list[tuple[int, RestoreArgs]] = []
        self._places: dict[int, list[int]] = {}
        self._values: list[Any] = []

    def add(self, leaf: int, args: RestoreArgs) -> int:
        """The place that the value will have."""
        places = self._places.setdefault(leaf, [])
        for place in places:
            if _same(self.wanted[place][1], args):
                return place
        places.append(len(self.wanted))
        self.wanted.append((leaf, args))
        return places[-1]

    def carry_out(self) -> None:
        """Read everything."""
        self._values = self._stored.read(self.wanted)

    def value(self, place: int) -> Any:
        """What was read."""
        return self._values[place]

    def first_values(self) -> dict[int, Any]:
        """A value for each leaf that was read, whoever wanted it."""
        return {leaf: self._values[places[0]] for leaf, places in self._places.items()}


def _same(one: RestoreArgs, other: RestoreArgs) -> bool:
    return one is other or (type(one) is type(other) and one == other)


class _Part(NamedTuple):
    """One leaf of the result: stored leaf -> place of its value among the orders."""

    choice: Choice
    args: RestoreArgs
    inputs: Mapping[int, int]


def restore_transformed(
    directory: PathLike,
    item: Any,
    restore_args: Any,
    transforms: Any,
    *,
    default_to_original: bool,
    old: OldLayout = DEFAULT_LAYOUT,
    settings: Settings = STOCK,
) -> Any:
    """A tree like `item`, made of leaves of the item in `directory` as `transforms` say.

    Raises `ValueError` for a key that is not stored.
    """
    rules = Rules(transforms)
    rules.check_for_restore()

    def read() -> Any:
        stored = open_tree(directory, old, settings)
        return _restore(stored, item, restore_args, rules, default_to_original)

    return read_settled(directory, None, read)


def _restore(
    stored: StoredTree, item: Any, restore_args: Any, rules: Rules, default_to_original: bool
) -> Any:
    original = Named({text_path(name.path): i for i, name in enumerate(stored.names)})
    by_names = _args_by_names(restore_args)
    flat = flatten(item)
    paths = [text_path(path) for path in flat.paths]
    planner = _Planner(stored, original)
    parts: list[_Part | None] = []
    for path in paths:
        choice = rules.choose(path, original, default_to_original=default_to_original)
        args = by_names.get(path, RestoreArgs())
        parts.append(None if choice is None else planner.part(choice, args))
    planner.orders.carry_out()
    maker = _Maker(stored, original, planner.orders)
    out = [
        own if part is None else maker.make(part, "/".join(path))
        for own, part, path in zip(flat.leaves, parts, paths, strict=True)
    ]
    return refill(item, out)


def _args_by_names(restore_args: Any) -> dict[Names, RestoreArgs]:
    flat = flatten(restore_args)
    return {
        text_path(path): args
        for path, args in zip(flat.paths, flat.leaves, strict=True)
        if isinstance(args, RestoreArgs)
    }


class _Planner:
    """Finds out what must be read."""

    def __init__(self, stored: StoredTree, original: Named) -> None:
        self._slots = stored.slots
        self._original = original
        self.orders = Orders(stored)

    def part(self, choice: Choice, args: RestoreArgs) -> _Part:
        wanted: list[tuple[Names, RestoreArgs]] = []
        if choice.source is not None:
            wanted.append((choice.source, args))
        else:
            for pattern, own in choice.rule.multi_value_fn_input_args.items():
                wanted += [(names, own) for names in self._original.matching(pattern)]
        inputs: dict[int, int] = {}
        for names, own in wanted:
            leaf = self._slots[self._original.values[names]]
            if leaf is not None:
                inputs[leaf] = self.orders.add(leaf, own)
        return _Part(choice, args, inputs)


class _Maker:
    """Makes the leaves of the result from what was read."""

    def __init__(self, stored: StoredTree, original: Named, orders: Orders) -> None:
        self._stored = stored
        self._original = original
        self._orders = orders
        self._known: list[Any] = list(describe_all(stored, epath.Path(stored.opened.path)))
        for leaf, value in orders.first_values().items():
            self._known[leaf] = value

    def make(self, part: _Part, key: str) -> Any:
        rule = part.choice.rule
        if part.choice.source is None:
            return rule.multi_value_fn(key, self._tree_for(part), part.args)
        position = self._original.values[part.choice.source]
        leaf = self._stored.slots[position]
        if leaf is None:
            value = empty_value(self._stored.names[position].node)
        else:
            value = self._orders.value(part.inputs[leaf])
        if rule.value_fn is None:
            return value
        if hasattr(rule, "multi_value_fn_input_args") and _takes_two(rule.value_fn):
            return rule.value_fn(value, part.args)
        return rule.value_fn(value)

    def _tree_for(self, part: _Part) -> Any:
        """The stored tree with all that was read, and the inputs of this part as it wants them."""
        values = list(self._known)
        for leaf, place in part.inputs.items():
            values[leaf] = self._orders.value(place)
        return self._stored.nest(values)


def _takes_two(function: Callable[..., Any]) -> bool:
    """Whether the second positional parameter has no default. Not if nobody can tell."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [
        p for p in parameters if p.kind in positional and p.default is inspect.Parameter.empty
    ]
    return len(needed) > 1


def restore_by_function(
    directory: PathLike,
    item: Any,
    restore_args: Any,
    function: Callable[[Any, Any, Any], tuple[Any, Any]],
    *,
    old: OldLayout = DEFAULT_LAYOUT,
    settings: Settings = STOCK,
) -> Any:
    """The tree that `function` makes of `item`, the stored tree and the infos of its leaves.

    It returns a tree and one like it, with the info of the stored leaf that belongs in each place;
    where there is none, what stands in the first tree stays. `restore_args` are a tree like these.
    Raises `ValueError` if the trees differ, or an info is of no stored leaf.
    """

    def read() -> Any:
        stored = open_tree(directory, old, settings)
        structure, infos = function(item, *_told(stored))
        return _restore_infos(stored, structure, infos, restore_args)

    return read_settled(directory, None, read)


def _told(stored: StoredTree) -> tuple[Any, Any]:
    """The stored tree with the entry of `_METADATA`, and with the info, of each leaf."""
    manifest = stored.opened.manifest
    place = epath.Path(stored.opened.path)
    entries: list[ValueMetadataEntry] = []
    infos: list[ParamInfo] = []
    for name, slot in zip(stored.names, stored.slots, strict=True):
        skip = slot is None or slot in manifest.aggregated
        typestr = empty_value_type(name.node) if slot is None else _typestr(stored.leaves[slot])
        entries.append(ValueMetadataEntry(typestr, skip))
        infos.append(
            ParamInfo(
                name=name.name,
                path=place / name.name,
                parent_dir=place,
                skip_deserialize=skip,
                is_ocdbt_checkpoint=manifest.container == "ocdbt",
                use_zarr3=manifest.array_driver == "zarr3",
            )
        )
    return nest(stored.root, stored.names, entries), nest(stored.root, stored.names, infos)


def _typestr(leaf: StoredLeaf) -> str:
    if leaf.typestr is not None:
        return leaf.typestr
    names = {"jax": "jax.Array", "key": "jax.Array", "numpy": "np.ndarray", "bytes": "np.ndarray"}
    return "string" if leaf.kind == "str" else names.get(leaf.kind, "scalar")


def _restore_infos(stored: StoredTree, structure: Any, infos: Any, restore_args: Any) -> Any:
    flat = flatten(structure)
    args = [RestoreArgs()] * len(flat.leaves)
    if restore_args is not None:
        args = args_of(structure, restore_args)
    positions = {name.name: i for i, name in enumerate(stored.names)}
    out = list(flat.leaves)
    places: list[int] = []
    wanted: list[tuple[int, RestoreArgs]] = []
    for i, info in enumerate(align(structure, infos, "param_infos")):
        if not isinstance(info, ParamInfo):
            continue
        position = positions.get(info.name or "")
        if position is None:
            raise ValueError(f"param_infos: no leaf called {info.name!r} is stored")
        slot = stored.slots[position]
        if slot is None:
            out[i] = empty_value(stored.names[position].node)
        else:
            places.append(i)
            wanted.append((slot, args[i]))
    for i, value in zip(places, stored.read(wanted), strict=True):
        out[i] = value
    return refill(structure, out)
