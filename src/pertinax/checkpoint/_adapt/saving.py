# SPDX-License-Identifier: Apache-2.0
"""Saving: a tree and the args of its leaves, on their way into the directory of an item.

Knows `SaveArgs` and the directory that a handler is given. The plan, the bytes and the files are
the engine's, or those of type handlers that the program has registered.
"""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Final

import jax
import numpy as np
from etils import epath

from pertinax._core.open import read_file
from pertinax._core.options import SaveOptions
from pertinax._core.places import locate
from pertinax._core.plans import Plans
from pertinax._core.prepare import Elsewhere, prepare_flat, take_apart
from pertinax._core.write import check_room
from pertinax._formats.item import ItemContent, write_item
from pertinax._formats.ledger import LEDGER_FILE, vouched_files
from pertinax._formats.metadata.array_metadatas import ARRAY_METADATAS_DIR
from pertinax._formats.metadata.sharding import SHARDING_FILE
from pertinax._formats.metadata.step_metadata import STEP_FILE
from pertinax._formats.metadata.strings import STRINGS_FILE
from pertinax._formats.metadata.tree_metadata import TREE_FILE
from pertinax._formats.ocdbt import MANIFEST_FILE
from pertinax._formats.parts import Exchange
from pertinax._formats.zarr.array import METADATA_KEY
from pertinax._hosts import Round, handed_over
from pertinax._plan.topology import Topology
from pertinax._store.contract import Store
from pertinax._store.leftovers import parent_of, remove_tree
from pertinax._store.publishing import publishing
from pertinax._store.workers import Workers
from pertinax._tree.flatten import Flat, children_of
from pertinax._version import VERSION
from pertinax.checkpoint._adapt.leaf_handlers import (
    STOCK,
    Batch,
    HandlersAtWork,
    Settings,
    bytes_of,
    serialize,
    sort_out,
    typestrs_of,
)
from pertinax.checkpoint._adapt.meeting import Meeting, who_hears_of_progress
from pertinax.checkpoint._adapt.telemetry import record_deprecated, record_held, record_written
from pertinax.checkpoint._adapt.threads import start
from pertinax.checkpoint._adapt.trees import align
from pertinax.checkpoint.type_handlers import SaveArgs
from pertinax.errors import CorruptCheckpoint, PertinaxError, UnsupportedLeaf
from pertinax.typing import PathLike

_LOG: Final = logging.getLogger(__name__)
_OUR_FILES = frozenset({LEDGER_FILE, TREE_FILE, SHARDING_FILE, STRINGS_FILE, MANIFEST_FILE})
_OUR_DIRS = frozenset({ARRAY_METADATAS_DIR, "d"})
_DEFAULTS = SaveOptions()
_SMALL_CHUNK_BYTES = 1 << 20


class DeletedArray(PertinaxError, RuntimeError, ValueError):
    """An array was deleted or donated before it was saved; JAX raises `RuntimeError` for that."""


@dataclasses.dataclass(frozen=True, slots=True)
class Held:
    """A tree whose bytes the program cannot change any more, but for those of `batches`.

    Attributes:
        content: what the engine writes.
        options, settings: how.
        values, args: of all leaves.
        batches: leaves for type handlers of the program.
    """

    content: ItemContent
    options: SaveOptions
    settings: Settings
    values: Sequence[Any]
    args: Sequence[SaveArgs]
    batches: Sequence[Batch]


def hold(
    item: Any,
    save_args: Any = None,
    options: SaveOptions = _DEFAULTS,
    settings: Settings = STOCK,
    *,
    names: Any = None,
    topology: Topology,
    plans: Plans | None = None,
) -> Held:
    """Understand `item` and hold its bytes: then the program may change what it passed in.

    What `save_args` say of leaves is added to the options; `names` is a tree like the item, with
    the name of each leaf, if not the usual ones. What `plans` remembers of a save before need not
    be worked out again. Raises `UnsupportedLeaf`, `DeletedArray`, or `ValueError` for an empty
    item, `save_args` or names of another structure, or leaves without a type handler.
    """
    if item is None or children_of(item) == []:
        raise ValueError("Found empty item: there is nothing to save")
    began_ns = time.time_ns()
    flat = take_apart(item, plans)
    given = None if names is None else [str(one) for one in align(item, names, "get_param_names")]
    values, batches = sort_out(flat, settings)
    args = _args_of(item, save_args, len(values))
    try:
        content = prepare_flat(
            Flat(list(values), flat.paths, flat.root),
            _options(args, options) if save_args is not None else options,
            "hold",
            topology,
            Elsewhere(typestrs_of(batches), given),
            plans=plans,
        )
    except UnsupportedLeaf as error:
        if _has_deleted_array(flat):
            raise DeletedArray(str(error)) from error
        raise
    facts = {"writer": f"pertinax {VERSION}", "saved_at_ns": began_ns}
    content = dataclasses.replace(content, facts={**content.facts, **facts})
    return Held(content, options, settings, values, args, batches)


def _has_deleted_array(flat: Flat) -> bool:
    return any(isinstance(leaf, jax.Array) and leaf.is_deleted() for leaf in flat.leaves)


async def begin_write(
    directory: PathLike, meeting: Meeting, take: Callable[[Topology], Held]
) -> "Future[None]":
    """Let `take` hold a tree, let type handlers take their leaves, and write all others into
    `directory` on a thread.

    When this returns, the program may change every value. The future is that of all files, of all
    processes.
    """
    with contextlib.ExitStack() as stack:
        path = locate(directory)[1]
        talk = stack.enter_context(meeting.begin_part("item", path, beside=parent_of(path)))
        host = meeting.options.primary_host
        return await _begin(directory, take(talk.topology), talk, stack, primary_host=host)


async def _begin(
    directory: PathLike,
    held: Held,
    talk: Round,
    stack: contextlib.ExitStack,
    *,
    primary_host: int | None,
) -> "Future[None]":
    store, path = locate(directory)
    content = held.content
    if held.batches:
        # Before the handlers begin: what they write must not be taken for the item before.
        _clear(store, path, talk)
        inside = epath.Path(path)
        futures = await serialize(
            inside,
            held.batches,
            values=held.values,
            names=[leaf.name for leaf in content.leaves],
            args=held.args,
            settings=held.settings,
            primary_host=primary_host,
        )
        content = dataclasses.replace(
            content,
            others=HandlersAtWork(futures, held.batches, inside),
            check_others=held.settings.validate,
        )
    leads = talk.topology.is_primary
    total = _written_bytes(content) + bytes_of(held.batches, held.values, leads=leads)
    with handed_over(stack) as on_thread:

        def write() -> None:
            with on_thread:
                _write(store, path, content, held.options, total, talk=talk)

        future = start(write, "pertinax-write-item")
    record_held(total, content.facts["saved_at_ns"])
    return future


def _clear(store: Store, path: str, talk: Round) -> None:
    """The primary makes room for the item; all wait until it has."""
    talk.agree("make room for the item", lambda: clear_item(store, path))


def _write(
    store: Store,
    path: str,
    content: ItemContent,
    options: SaveOptions,
    total_bytes: int,
    *,
    talk: Round,
) -> None:
    others = content.others
    if others is None:
        _clear(store, path, talk)
        _write_all(store, path, content, options, total_bytes, talk=talk)
        return
    try:
        _write_all(store, path, content, options, total_bytes, talk=talk)
    finally:
        # Also if our own part has failed: who gives up the directory must find nobody writing.
        others.wait()


def _write_all(
    store: Store,
    path: str,
    content: ItemContent,
    options: SaveOptions,
    total_bytes: int,
    *,
    talk: Round,
) -> None:
    check_room(store, path, content.plan.total_bytes)
    last_bytes_s = time.monotonic()

    moved = who_hears_of_progress()

    def progress(_: int) -> None:
        nonlocal last_bytes_s
        last_bytes_s = time.monotonic()
        moved()
        talk.check()

    with Workers(options.threads, "pertinax-write", budget_bytes=options.carried_bytes) as workers:
        write_item(
            store, path, content, workers=workers, progress=progress, exchange=Exchange(talk)
        )
        talk.agree("finish the item", _nothing)
    described_s = time.monotonic() - last_bytes_s
    record_written(total_bytes, content.facts["saved_at_ns"], described_s)


def _nothing() -> None:
    """There is nothing to say but that it is done."""


def _written_bytes(content: ItemContent) -> int:
    """Those of values, without the gaps between them, that this process writes."""
    return sum(piece.length for piece in content.plan.pieces)


def clear_item(store: Store, path: str) -> None:
    """Make the directory of an item, or remove the item that is in it.

    A handler may be used by itself, and twice.
    """
    if store.stat(path) is None:
        make_dirs(store, path)
        return
    entries = store.list_dir(path)
    if not any(entry.name == TREE_FILE for entry in entries):
        return
    ours = _OUR_FILES | {METADATA_KEY["zarr"], METADATA_KEY["zarr3"]} | _vouched(store, path)
    for entry in entries:
        below = f"{path}/{entry.name}"
        if not entry.is_dir:
            if entry.name in ours:
                store.remove_file(below)
        elif (
            entry.name in _OUR_DIRS | ours
            or entry.name.startswith("ocdbt.process_")
            or _holds_array(store, below)
        ):
            remove_tree(store, below)


def _vouched(store: Store, path: str) -> set[str]:
    """The first part of the name of each file that the item's ledger vouches for."""
    if store.stat(f"{path}/{LEDGER_FILE}") is None:
        return set()
    try:
        names = vouched_files(read_file(store, path, LEDGER_FILE))
    except CorruptCheckpoint:  # it goes, and what it stood for
        return set()
    return {name.partition("/")[0] for name in names} - {STEP_FILE}


def _holds_array(store: Store, path: str) -> bool:
    """Whether a leaf, or several, have their directories in a directory, or are it."""
    entries = store.list_dir(path)
    if any(entry.name in METADATA_KEY.values() for entry in entries):
        return True
    names = {entry.name for entry in entries}
    if TREE_FILE in names:  # another item
        return False
    return any(entry.is_dir and _holds_array(store, f"{path}/{entry.name}") for entry in entries)


def make_dirs(store: Store, path: str) -> None:
    """Make a directory and the parents it lacks."""
    if store.stat(path) is None:
        publishing(store).make_dirs(path)


def _args_of(item: Any, save_args: Any, count: int) -> list[SaveArgs]:
    if save_args is None:
        return [SaveArgs()] * count
    found = align(item, save_args, "save_args")
    args = [one if isinstance(one, SaveArgs) else SaveArgs() for one in found]
    if any(one.aggregate for one in args):
        record_deprecated("aggregate")
    return args


def _options(args: Sequence[SaveArgs], options: SaveOptions) -> SaveOptions:
    return dataclasses.replace(options, chunk_bytes=_limits(args), dtypes=_dtypes(args))


def _limits(args: Sequence[SaveArgs]) -> list[int | None] | None:
    limits = [one.chunk_byte_size for one in args]
    given = [limit for limit in limits if limit is not None]
    if not given:
        return None
    if min(given) < _SMALL_CHUNK_BYTES:
        _LOG.warning(
            "small chunks cost time chunk_byte_size=%d advised=%d", min(given), _SMALL_CHUNK_BYTES
        )
    return limits


def _dtypes(args: Sequence[SaveArgs]) -> list[str | None] | None:
    names = [None if one.dtype is None else np.dtype(one.dtype).name for one in args]
    return names if any(name is not None for name in names) else None
