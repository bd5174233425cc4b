# SPDX-License-Identifier: Apache-2.0
"""Loading: a stored tree, or the part of it that a target asks for, back as live values.

Knows the order of a load. Knows nothing of formats and files beyond what opens and fetches them.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import jax
from jax.sharding import Sharding

from pertinax._core.match import describe_misfits, fit, pair
from pertinax._core.open import Opened, find, open_found, read_settled
from pertinax._core.options import Arrays, Cast, Check, Extra, LoadOptions, Missing, Shapes
from pertinax._core.orders import Order, carry_out
from pertinax._core.rest import Rest, checked_beside, rest_of
from pertinax._device.shardings import sharding_from_text
from pertinax._device.wishes import Wish, WishReader
from pertinax._formats.manifest import StoredLeaf
from pertinax._store.contract import Store
from pertinax._tree.flatten import flatten
from pertinax._tree.paths import path_text
from pertinax._tree.quiet import collector_paused
from pertinax._tree.rebuild import ABSENT, node_at, rebuild, refill
from pertinax._tree.select import select_paths
from pertinax._tree.skeleton import Node, leaf_paths
from pertinax.errors import InvalidOption, Misfit, RestoreMismatch, UnsupportedLeaf
from pertinax.typing import PathLike, PyTree


def load(
    path: PathLike,
    target: PyTree = None,
    *,
    select: str | Sequence[str] | None = None,
    missing: Missing = "error",
    extra: Extra = "error",
    cast: Cast = "error",
    shapes: Shapes = "error",
    sharding: Sharding | Literal["stored"] | None = None,
    arrays: Arrays = "jax",
    check: Check = "all",
    mmap: bool = True,
    budget_bytes: int = 1 << 30,
    item: str | None = None,
    store: Store | None = None,
) -> PyTree:
    """Read the checkpoint at `path`; every byte that is returned has been verified.

    If every leaf is read, so is all else that was saved with them: a damaged note for Orbax, say,
    changes no value, and still this is not the checkpoint that was written.

    Without a target the tree comes back exactly as it was saved, container and key types included;
    nodes that only their own library can make (custom pytree nodes) come back as dicts, and
    `describe` lists them. Arrays come to the default device; no device or sharding of the saving
    program is needed.

    With a target (arrays, `jax.ShapeDtypeStruct`s, numpy arrays, plain values; `...` for whatever
    is stored) the result has its structure, types and shardings, on any number of devices.
    Everything must fit, and all misfits are listed in one error, unless you choose otherwise:

    Args:
        path: what was saved there; also checkpoints of Orbax, which cannot be verified.
        target: the tree to restore into; its leaves are not changed.
        select: glob or globs of leaves to read (`"params/**"`); only their bytes are read. Other
            leaves are left out, or, with a target, stay as they are in it.
        missing: target leaves that are not stored: `"error"` or `"keep"` yours.
        extra: stored leaves that the target lacks: `"error"` or `"ignore"`.
        cast: differing dtypes: `"error"`, `"lossless"` (convert if every value survives) or
            `"lossy"`.
        shapes: differing shapes: `"error"`, `"cut"` at the end, `"pad"` with zeros, or both:
            `"fit"`.
        sharding: without a target: one for all arrays, or `"stored"` for the saved layout where the
            devices exist.
        arrays: without a target: `"jax"`, or `"numpy"` for numpy instead of `jax.Array`.
        check: `"read"` compares only what is needed with its checksums, when all that matters is
            that these values are good.
        mmap: use the pages of local files as they are where possible. They stay good when the
            checkpoint is deleted. False reads into memory.
        budget_bytes: how much memory the load may use beside the values that it returns; a chunk
            that is larger by itself goes alone. Mapped pages of files do not count.
        item: which tree of a step, if there are several.
        store: where to read, if not this machine's files.

    Raises:
        CheckpointNotFound, NotACheckpoint, UnfinishedCheckpoint, NewerFormat: nothing to load.
        CorruptCheckpoint: bytes differ from those written; names file, leaf and byte range.
        RestoreMismatch: the target does not fit.
    """
    options = LoadOptions(
        missing, extra, cast, shapes, mmap, arrays, check, budget_bytes=budget_bytes
    )
    if target is not None and sharding is not None:
        raise InvalidOption(
            "sharding= is for loads without a target: give the target's leaves their shardings"
        )

    def read() -> PyTree:
        found = find(path, store)
        opened = open_found(found, item)
        rest = None
        if options.check == "all" and opened.manifest.verified:
            rest = partial(rest_of, found, opened, alone=item is not None)
        with collector_paused(len(opened.manifest.leaves)):
            if target is None:
                return _load_all(opened, rest, select, sharding, options)
            return _load_into(opened, rest, target, select, options)

    return read_settled(path, store, read)


def _load_all(
    opened: Opened,
    rest: Callable[[], Rest] | None,
    select: str | Sequence[str] | None,
    sharding: Any,
    options: LoadOptions,
) -> PyTree:
    leaves = opened.manifest.leaves
    chosen = _selected([leaf.path for leaf in leaves], select)
    orders: list[Order] = []
    misfits: list[Misfit] = []
    known: dict[tuple[Any, ...], Wish] = {}  # most leaves are alike, but for their names
    for i, leaf in enumerate(leaves):
        if not chosen[i]:
            continue
        wish = known.get(leaf[2:])
        if wish is None:
            wish = _own_wish(leaf, sharding, options)
            misfit = fit(leaf, wish, leaf.path, options)
            if misfit is None:
                known[leaf[2:]] = wish
            else:
                misfits.append(misfit)
        orders.append(Order(i, wish))
    _refuse(opened, misfits, len(orders))
    values = _carried_out(opened, rest, orders, options)
    out: list[Any] = [ABSENT] * len(leaves)
    for order, value in zip(orders, values, strict=True):
        out[order.leaf] = value
    return rebuild(opened.manifest.root, out)


def _own_wish(leaf: StoredLeaf, sharding: Any, options: LoadOptions) -> Wish:
    """What a leaf becomes when nobody asks for anything special."""
    if leaf.kind == "foreign":
        raise UnsupportedLeaf(
            f"leaf {path_text(leaf.path)!r} was written by a type handler of its own program, for "
            f"{leaf.typestr!r}: only that can read it; select= leaves it out"
        )
    if leaf.kind == "jax" and options.arrays == "numpy":
        return Wish("numpy", leaf.dtype, leaf.shape)
    where = sharding
    if sharding == "stored":
        where = sharding_from_text(leaf.sharding) if leaf.sharding is not None else None
    elif sharding is not None and not isinstance(sharding, Sharding):
        raise InvalidOption(
            f'sharding={sharding!r} means nothing: give a jax.sharding.Sharding or "stored"'
        )
    if leaf.kind == "jax":
        return Wish("jax", leaf.dtype, leaf.shape, where)
    if leaf.kind == "key":
        return Wish("key", None, leaf.shape[:-1], where, leaf.impl)
    return Wish(leaf.kind)


def _selected(paths: Sequence[Any], select: str | Sequence[str] | None) -> list[bool]:
    if select is None:
        return [True] * len(paths)
    if not isinstance(select, str) and not (
        isinstance(select, Iterable) and all(isinstance(pattern, str) for pattern in select)
    ):
        raise InvalidOption(f"select={select!r} means nothing: give a glob or several")
    try:
        return select_paths(paths, select)
    except ValueError as error:
        raise InvalidOption(f"select: {error}; `describe` lists the leaves") from error


def _refuse(opened: Opened, misfits: Sequence[Misfit], leaf_count: int) -> None:
    if misfits:
        raise RestoreMismatch(opened.path, describe_misfits(misfits), leaf_count)


@dataclass(frozen=True, slots=True)
class Ordered:
    """What a target asks of a checkpoint: `orders`, whose values belong at `places` of `leaves`,
    those of the `target`.
    """

    target: PyTree
    leaves: list[Any]
    places: list[int]
    orders: list[Order]

    def filled(self, values: Sequence[Any]) -> PyTree:
        """The target, with the values of the orders in it."""
        out = list(self.leaves)
        for i, value in zip(self.places, values, strict=True):
            out[i] = value
        return refill(self.target, out)


def _load_into(
    opened: Opened,
    rest: Callable[[], Rest] | None,
    target: PyTree,
    select: str | Sequence[str] | None,
    options: LoadOptions,
) -> PyTree:
    ordered = order(opened, target, select, options)
    return ordered.filled(_carried_out(opened, rest, ordered.orders, options))


def _carried_out(
    opened: Opened, rest: Callable[[], Rest] | None, orders: Sequence[Order], options: LoadOptions
) -> list[Any]:
    """The values; where all leaves are wanted, the `rest` is checked with them."""
    if rest is None or len(orders) < len(opened.manifest.leaves):
        return carry_out(opened, orders, options)
    left = rest()
    with checked_beside(left):
        return carry_out(opened, orders, options, beside=left.rows)


def order(
    opened: Opened, target: PyTree, select: str | Sequence[str] | None, options: LoadOptions
) -> Ordered:
    """Match a target against the stored tree. Raises `RestoreMismatch` with all that differs."""
    leaves = opened.manifest.leaves
    target = _open_ellipses(target, opened.manifest.root)
    flat = flatten(target)
    chosen = _selected(flat.paths, select)
    picked = [i for i, yes in enumerate(chosen) if yes]
    paths = [flat.paths[i] for i in picked]
    reader = WishReader()
    wishes = [reader.wish_of(flat.leaves[i], flat.paths[i]) for i in picked]
    keepable = [
        not isinstance(flat.leaves[i], jax.ShapeDtypeStruct) and flat.leaves[i] is not ...
        for i in picked
    ]
    if select is not None:
        options = replace(options, extra="ignore")  # it leaves stored leaves out by intent
    pairing = pair(leaves, paths, wishes, keepable=keepable, options=options)
    _refuse(opened, pairing.misfits, pairing.leaf_count)
    wanted = [
        (i, s, wish)
        for i, s, wish in zip(picked, pairing.stored, wishes, strict=True)
        if s is not None
    ]
    orders = [
        Order(s, _own_wish(leaves[s], None, options) if w.kind == "any" else w)
        for _, s, w in wanted
    ]
    return Ordered(target, list(flat.leaves), [i for i, _, _ in wanted], orders)


def _open_ellipses(target: PyTree, root: Node) -> PyTree:
    """Each `...` that stands where a whole container is stored becomes that container, of `...`."""
    flat = flatten(target)
    if not any(leaf is ... for leaf in flat.leaves):
        return target
    opened: list[Any] = []
    for leaf, path in zip(flat.leaves, flat.paths, strict=True):
        node = node_at(root, path) if leaf is ... else None
        if node is None or node.kind == "leaf":
            opened.append(leaf)
        else:
            opened.append(rebuild(node, [...] * len(leaf_paths(node))))
    return refill(target, opened)
