# SPDX-License-Identifier: Apache-2.0
"""Stored trees: an item on disk as the mirrored API shows it, and its way back into the program.

Knows how targets, restore args and stored leaves are paired by the API's rules: structures must
agree exactly, types need not, and empty containers of the target win. The reading itself is the
engine's.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from pertinax._core.foreign import check_before_others_read
from pertinax._core.open import (
    Found,
    Opened,
    check_file,
    check_step,
    detect_aside,
    open_item,
    read_file,
    read_settled,
)
from pertinax._core.options import LoadOptions
from pertinax._core.orders import Order, carry_out
from pertinax._core.places import locate
from pertinax._formats.ledger import LEDGER_FILE, decode_ledger
from pertinax._formats.metadata.names import OrbaxName, orbax_names
from pertinax._formats.metadata.tree_metadata import TREE_FILE
from pertinax._store.contract import Store
from pertinax._store.leftovers import parent_of
from pertinax._tree.flatten import Flat, flatten
from pertinax._tree.paths import Path, exact_path, path_text, text_path
from pertinax._tree.quiet import collector_paused
from pertinax._tree.rebuild import refill
from pertinax._tree.skeleton import walk
from pertinax.checkpoint._adapt.absent import (
    absent,
    has_layouts,
    raise_if_absent,
    refuse_absent,
)
from pertinax.checkpoint._adapt.leaf_handlers import (
    STOCK,
    Batch,
    Settings,
    StoredInfos,
    describe,
    deserialize,
    left_to_engine,
    sort_out_stored,
)
from pertinax.checkpoint._adapt.old_values import (
    DEFAULT_LAYOUT,
    OldLayout,
    is_old,
    open_old,
    want_aggregated,
    want_untyped,
)
from pertinax.checkpoint._adapt.telemetry import record_deprecated, record_read
from pertinax.checkpoint._adapt.trees import align, empty_value, nest
from pertinax.checkpoint._adapt.wishes import Translator, Wanted
from pertinax.checkpoint.type_handlers import RestoreArgs
from pertinax.errors import CheckpointNotFound, CorruptCheckpoint, Misfit, RestoreMismatch
from pertinax.typing import PathLike

_CAST: Final = LoadOptions(cast="lossy", shapes="fit")


class StoredTree:
    """One item that was opened; no more is read at a time than the settings allow.

    `slots[i]` is the leaf that stands at `names[i]`, None for an empty container.
    """

    def __init__(self, opened: Opened, settings: Settings = STOCK) -> None:
        self.opened = opened
        self._settings = settings
        budget = settings.concurrent_bytes
        self._options = (
            _CAST
            if budget is None
            else replace(_CAST, budget_bytes=min(budget, _CAST.budget_bytes))
        )
        self.leaves = opened.manifest.leaves
        self.root = opened.manifest.root
        texts = {i for i, leaf in enumerate(self.leaves) if leaf.typestr == "string"}
        texts |= set(opened.manifest.values)
        self.names: list[OrbaxName] = orbax_names(self.root, texts)
        self.slots: list[int | None] = []
        count = 0
        for name in self.names:
            is_leaf = name.node.kind == "leaf"
            self.slots.append(count if is_leaf else None)
            count += is_leaf

    def nest(self, values: Sequence[Any]) -> Any:
        """Dicts and lists with one of `values` for each leaf; empty containers as usual."""
        at_slots = [
            empty_value(name.node) if slot is None else values[slot]
            for name, slot in zip(self.names, self.slots, strict=True)
        ]
        return nest(self.root, self.names, at_slots)

    def read(self, wanted: Sequence[tuple[int, RestoreArgs]]) -> list[Any]:
        """Values of leaves, as the args ask for each.

        Raises `RestoreMismatch` with all that cannot be, and `ValueError` for leaves of a type
        that no type handler is registered for.
        """
        batches = self._sort_out(wanted)
        if not batches:
            return self._read_own(wanted)
        theirs = {i for batch in batches for i in batch.leaves}
        own = self._read_own([pair for i, pair in enumerate(wanted) if i not in theirs])
        unseen = [batch for batch in batches if not left_to_engine(batch)]
        if unseen:
            leaves = {wanted[i][0] for batch in unseen for i in batch.leaves}
            check_before_others_read(self.opened, leaves)
        infos = self._infos()
        found = deserialize(
            batches,
            [infos.of(self.leaves[leaf]) for leaf, _ in wanted],
            [args for _, args in wanted],
            lambda at, args: self._read_own(
                [(wanted[i][0], a) for i, a in zip(at, args, strict=True)]
            ),
        )
        rest = iter(own)
        return [found[i] if i in theirs else next(rest) for i in range(len(wanted))]

    def describe_theirs(self) -> dict[int, Any]:
        """What type handlers of the program say of their leaves, by position."""
        known = [
            (i, RestoreArgs())
            for i, leaf in enumerate(self.leaves)
            if leaf.kind != "foreign" or self._settings.handlers.has(leaf.typestr)
        ]
        batches = self._sort_out(known)
        if not batches:
            return {}
        infos = self._infos()
        told = [infos.of(self.leaves[leaf]) for leaf, _ in known]
        return {known[i][0]: one for i, one in describe(batches, told).items()}

    def _sort_out(self, wanted: Sequence[tuple[int, RestoreArgs]]) -> list[Batch]:
        manifest = self.opened.manifest
        if manifest.aggregated or not manifest.typed:
            return []  # an old release wrote it, before there were type handlers
        return sort_out_stored(self.leaves, wanted, self._settings)

    def _infos(self) -> StoredInfos:
        zarr3 = self.opened.manifest.array_driver == "zarr3"
        return StoredInfos(self.opened.directory, use_zarr3=zarr3, settings=self._settings)

    def _read_own(self, wanted: Sequence[tuple[int, RestoreArgs]]) -> list[Any]:
        refuse_absent(self.opened, [leaf for leaf, _ in wanted])
        translator = Translator(lambda: has_layouts(self.opened))
        wishes = [self._want(translator, leaf, args) for leaf, args in wanted]
        if translator.misfits:
            raise RestoreMismatch(self.opened.path, translator.misfits, len(self.leaves))
        orders = [Order(leaf, want.wish) for (leaf, _), want in zip(wanted, wishes, strict=True)]
        began_s = time.monotonic()
        values = carry_out(self.opened, orders, self._options)
        translator.report()
        values = [
            value if want.finish is None else want.finish(value)
            for value, want in zip(values, wishes, strict=True)
        ]
        record_read(values, began_s)
        return values

    def _want(self, translator: Translator, leaf: int, args: RestoreArgs) -> Wanted:
        manifest = self.opened.manifest
        if leaf in manifest.aggregated:
            return want_aggregated(translator, self.leaves[leaf], args)
        if not manifest.typed:
            return want_untyped(translator, self.leaves[leaf], args)
        return translator.want(self.leaves[leaf], args)


def open_tree(
    directory: PathLike, old: OldLayout = DEFAULT_LAYOUT, settings: Settings = STOCK
) -> StoredTree:
    """Open the item in `directory`, finished or not; `old` says what may stand for `_METADATA`.

    Raises `FileNotFoundError` if there is no tree in it, `CorruptCheckpoint` if it is not the one
    that was saved.
    """
    store, path = locate(directory)
    stat = store.stat(path)
    if stat is None:
        raise CheckpointNotFound(2, "no directory to restore from", path)
    opened = None
    if store.stat(f"{path}/{TREE_FILE}") is None:
        opened = open_old(store, path, old)
        if opened is not None:
            record_deprecated("missing_metadata")
            if store.stat(f"{path}/{old.aggregate_file}") is None:
                record_deprecated("missing_structure")
                record_deprecated("inferred_structure")
    else:
        ours = detect_aside(store, path).kind == "pertinax"
        try:
            opened = open_item(store, path, path, ours, aggregate_file=old.aggregate_file)
        except CorruptCheckpoint as error:
            raise_if_absent(store, path, error)
            raise
    if opened is None:
        raise CheckpointNotFound(
            2, f"No structure could be identified, for there is no {TREE_FILE}", path
        )
    check_beside(store, path, LEDGER_FILE)
    return StoredTree(opened, settings)


def check_beside(store: Store, directory: str, name: str) -> None:
    """Compare a file of an item with the ledger of its step, or of the item itself."""
    parent, item = parent_of(directory), os.path.basename(directory)
    for where, text in ((directory, name), (parent, f"{item}/{name}")):
        if name != LEDGER_FILE or where == parent:
            check_step(Found(store, where, where, detect_aside(store, where)), text)


def check_files(directory: PathLike, item: str | None = None) -> None:
    """Compare the files that handlers of the program wrote with the ledger above them.

    Those of one item, or of all; a tree checks its own. Raises `CorruptCheckpoint`, and
    `FileNotFoundError` for a file that is gone, as their own reading would.
    """
    store, path = locate(directory)
    if store.stat(f"{path}/{LEDGER_FILE}") is None or store.stat(f"{path}/{TREE_FILE}") is not None:
        return
    ledger = decode_ledger(read_file(store, path, LEDGER_FILE))
    for record in ledger.files:
        if item is None or record.name.startswith(f"{item}/"):
            if store.stat(f"{path}/{record.name}") is None:
                raise absent(path, record.name)
            check_file(store, path, record)


def restore_all(
    directory: PathLike,
    restore_args: Any = None,
    *,
    settings: Settings = STOCK,
    old: OldLayout = DEFAULT_LAYOUT,
) -> Any:
    """The whole tree as dicts and lists; `restore_args` must be a tree like that, if given."""

    def read() -> Any:
        return _restore_all(open_tree(directory, old, settings), restore_args)

    return read_settled(directory, None, read)


def _restore_all(stored: StoredTree, restore_args: Any) -> Any:
    count = len(stored.leaves)
    with collector_paused(count):
        args = [RestoreArgs()] * count
        if restore_args is not None:
            args = args_of(stored.nest(list(range(count))), restore_args)
        return stored.nest(stored.read(list(enumerate(args))))


def restore_into(
    directory: PathLike,
    item: Any,
    restore_args: Any = None,
    *,
    settings: Settings = STOCK,
    old: OldLayout = DEFAULT_LAYOUT,
) -> Any:
    """A tree like `item`; of its leaves nothing but their places counts.

    A difference in structure is `RestoreMismatch`, with all differences; but of a tree that an old
    release wrote, `item` may be a part.
    """
    flat = flatten(item)

    def read() -> Any:
        stored = open_tree(directory, old, settings)
        default = RestoreArgs()
        args = [default] * len(flat.leaves)
        if restore_args is not None:
            args = _args_for(stored, item, flat, restore_args)
        return _restore_flat(stored, item, flat, args)

    with collector_paused(len(flat.leaves)):
        return read_settled(directory, None, read)


def _args_for(stored: StoredTree, item: Any, flat: Flat, restore_args: Any) -> list[RestoreArgs]:
    """The args for each leaf of `item`; for an old tree they may be a tree like the stored one."""
    try:
        return args_of(item, restore_args)
    except ValueError:
        if not is_old(stored.opened):
            raise
        every = args_of(stored.nest(list(range(len(stored.leaves)))), restore_args)
    pairing = _Pairing(stored)
    slots = [None if i is None else stored.slots[i] for i in map(pairing.take, flat.paths)]
    return [RestoreArgs() if slot is None else every[slot] for slot in slots]


def restore_flat(
    directory: PathLike,
    item: Any,
    flat: Flat,
    args: Sequence[RestoreArgs],
    *,
    settings: Settings = STOCK,
) -> Any:
    """The same for an item that was taken apart already, with the args of each leaf."""

    def read() -> Any:
        stored = open_tree(directory, settings=settings)
        return _restore_flat(stored, item, flat, args)

    with collector_paused(len(flat.leaves)):
        return read_settled(directory, None, read)


def _restore_flat(stored: StoredTree, item: Any, flat: Flat, args: Sequence[RestoreArgs]) -> Any:
    pairing = _Pairing(stored)
    positions = [pairing.take(path) for path in flat.paths]
    for path, node in walk(flat.root):
        if node.kind != "leaf":
            pairing.take(path)
    pairing.refuse_differences(part_will_do=is_old(stored.opened))
    out = list(flat.leaves)
    wanted: list[tuple[int, RestoreArgs]] = []
    places: list[int] = []
    for i, position in enumerate(positions):
        if position is None:
            continue
        leaf = stored.slots[position]
        if leaf is None:
            out[i] = empty_value(stored.names[position].node)
        else:
            places.append(i)
            wanted.append((leaf, args[i]))
    for i, value in zip(places, stored.read(wanted), strict=True):
        out[i] = value
    return refill(item, out)


def args_of(tree: Any, restore_args: Any) -> list[RestoreArgs]:
    """The restore args for each leaf of `tree`; whatever else stands there means the default."""
    found = align(tree, restore_args, "restore_args")
    return [args if isinstance(args, RestoreArgs) else RestoreArgs() for args in found]


class _Pairing:
    """Places of a target, each looked up among those of the stored tree."""

    def __init__(self, stored: StoredTree) -> None:
        self._stored = stored
        self._plain = {exact_path(name.path): i for i, name in enumerate(stored.names)}
        self._text: dict[tuple[str, ...], int] = {}
        for i, name in enumerate(stored.names):
            self._text.setdefault(text_path(name.path), i)
        self._named = {name.keys: i for i, name in enumerate(stored.names)}
        self._taken: set[int] = set()
        self._absent: list[Path] = []

    def take(self, path: Path) -> int | None:
        """The position of the stored leaf or empty container at `path`, None if it is not there."""
        text = text_path(path)
        for table, key in (
            (self._plain, exact_path(path)),
            (self._text, text),
            (self._named, text),
        ):
            found = table.get(key)  # type: ignore[arg-type] - keys of each table are of its own type
            if found is not None:
                self._taken.add(found)
                return found
        self._absent.append(path)
        return None

    def refuse_differences(self, *, part_will_do: bool) -> None:
        """Raise `RestoreMismatch` if some place is on one side only; `part_will_do`: if the target
        has one that is not stored.
        """
        names = self._stored.names
        misfits = [
            Misfit(
                path_text(path),
                "not stored",
                "in the target",
                "structure mismatch: the target must not have it",
            )
            for path in self._absent
        ]
        misfits += [
            Misfit(
                path_text(name.path),
                "stored",
                "not in target",
                "structure mismatch: the target must have it",
            )
            for i, name in enumerate(names)
            if i not in self._taken and not part_will_do
        ]
        if misfits:
            total = len(names) + len(self._absent)
            raise RestoreMismatch(self._stored.opened.path, misfits, total)
