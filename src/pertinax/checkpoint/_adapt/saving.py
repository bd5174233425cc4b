"""Saving: a tree and the args of its leaves, on their way into the directory of an item.

Knows `SaveArgs` and the directory that a handler is given. The plan, the bytes and the files are
the engine's.
"""

import dataclasses
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from pertinax._core.options import SaveOptions
from pertinax._core.places import locate
from pertinax._core.prepare import prepare
from pertinax._core.write import check_room
from pertinax._formats.item import ItemContent, write_item
from pertinax._formats.ledger import LEDGER_FILE
from pertinax._formats.metadata.array_metadatas import ARRAY_METADATAS_DIR
from pertinax._formats.metadata.sharding import SHARDING_FILE
from pertinax._formats.metadata.strings import STRINGS_FILE
from pertinax._formats.metadata.tree_metadata import TREE_FILE
from pertinax._formats.ocdbt import MANIFEST_FILE
from pertinax._store.contract import Store
from pertinax._store.leftovers import parent_of, remove_tree
from pertinax._store.workers import Workers
from pertinax._tree.flatten import children_of
from pertinax._version import VERSION
from pertinax.checkpoint._adapt.threads import start
from pertinax.checkpoint._adapt.trees import align
from pertinax.checkpoint.type_handlers import SaveArgs
from pertinax.typing import PathLike

_OUR_FILES = frozenset({LEDGER_FILE, TREE_FILE, SHARDING_FILE, STRINGS_FILE, MANIFEST_FILE})
_OUR_DIRS = frozenset({ARRAY_METADATAS_DIR, "d"})


def hold(item: Any, save_args: Any = None) -> ItemContent:
    """Understand `item` and hold its bytes: then the program may change what it passed in.

    Raises `UnsupportedLeaf`, or `ValueError` for an empty item or `save_args` of another structure.
    """
    if item is None or children_of(item) == []:
        raise ValueError("Found empty item: there is nothing to save")
    content = prepare(item, _options(item, save_args), "hold")
    facts = {"writer": f"pertinax {VERSION}", "saved_at_ns": time.time_ns()}
    return dataclasses.replace(content, facts={**content.facts, **facts})


def begin_write(directory: PathLike, content: ItemContent) -> "Future[None]":
    """Write `content` into `directory` on a thread; its end is returned."""
    store, path = locate(directory)
    return start(lambda: _write(store, path, content), "pertinax-write-item")


def _write(store: Store, path: str, content: ItemContent) -> None:
    check_room(store, path, content.plan.total_bytes)
    clear_item(store, path)
    with Workers(SaveOptions().threads, "pertinax-write") as workers:
        write_item(store, path, content, workers=workers, progress=_ignore)


def _ignore(_: int) -> None:
    pass


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
    for entry in entries:
        if entry.is_dir and (entry.name in _OUR_DIRS or entry.name.startswith("ocdbt.process_")):
            remove_tree(store, f"{path}/{entry.name}")
        elif not entry.is_dir and entry.name in _OUR_FILES:
            store.remove_file(f"{path}/{entry.name}")


def make_dirs(store: Store, path: str) -> None:
    """Make a directory and the parents it lacks."""
    if store.stat(path) is None:
        make_dirs(store, parent_of(path))
        store.make_dir(path)


def _options(item: Any, save_args: Any) -> SaveOptions:
    if save_args is None:
        return SaveOptions()
    found = align(item, save_args, "save_args")
    args = [one if isinstance(one, SaveArgs) else SaveArgs() for one in found]
    return SaveOptions(chunk_bytes=_limits(args), dtypes=_dtypes(args))


def _limits(args: Sequence[SaveArgs]) -> list[int | None] | None:
    limits = [one.chunk_byte_size for one in args]
    return limits if any(limit is not None for limit in limits) else None


def _dtypes(args: Sequence[SaveArgs]) -> list[str | None] | None:
    names = [None if one.dtype is None else np.dtype(one.dtype).name for one in args]
    return names if any(name is not None for name in names) else None
