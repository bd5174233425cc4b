# SPDX-License-Identifier: Apache-2.0
"""Directory reader: which files hold the keys of each leaf.

Knows that a key is a file and a leaf a directory. Knows nothing of what is in the files.
"""

from collections.abc import Iterable, Iterator

from pertinax._formats.directory.names import is_inside
from pertinax._formats.ocdbt import Reference
from pertinax._formats.zarr.array import METADATA_KEY
from pertinax._store.contract import Store
from pertinax.errors import CorruptCheckpoint


def read_keys(
    store: Store, item: str, leaves: Iterable[tuple[str, int]], metadata_key: str
) -> dict[str, Reference]:
    """Every key of the leaves, given by name and depth of their directories, with the file that
    holds it.

    Leaves without a directory have no keys. Raises `CorruptCheckpoint` for a name that leads out of
    the item.
    """
    found: dict[str, Reference] = {}
    for name, depth in leaves:
        if name and not is_inside(name):
            reason = "its name leads out of the checkpoint"
            raise CorruptCheckpoint(reason, file="_METADATA", leaf=name)
        for key in _files_below(store, item, name, depth):
            if _is_key(key[len(name) :].lstrip("/"), metadata_key):
                stat = store.stat(f"{item}/{key}")
                if stat is not None and not stat.is_dir:
                    found[key] = Reference(key, 0, stat.length)
    return found


def find_arrays(store: Store, item: str, below: str = "") -> Iterator[str]:
    """Names of all directories in the item, at any depth, that hold the metadata of an array."""
    for entry in store.list_dir(f"{item}/{below}" if below else item):
        if not entry.is_dir:
            if below and entry.name in METADATA_KEY.values():
                yield below
        elif below or not _is_of_item(entry.name):
            yield from find_arrays(store, item, f"{below}/{entry.name}" if below else entry.name)


def _is_of_item(name: str) -> bool:
    return name in ("d", "array_metadatas") or name.startswith(("ocdbt.process_", "."))


def has_zarr3(store: Store, item: str, names: Iterable[str]) -> bool:
    """Whether the first of these leaves that has a directory is an array of Zarr v3."""
    for name in names:
        for driver, key in METADATA_KEY.items():
            if is_inside(name) and store.stat(f"{item}/{name}/{key}") is not None:
                return driver == "zarr3"
    return False


def _is_key(suffix: str, metadata_key: str) -> bool:
    return suffix == metadata_key or suffix[:1] == "c" or suffix[:1].isdigit()


def _files_below(store: Store, item: str, directory: str, depth: int) -> Iterator[str]:
    try:
        entries = store.list_dir(f"{item}/{directory}" if directory else item)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        key = f"{directory}/{entry.name}" if directory else entry.name
        if not entry.is_dir:
            yield key
        elif depth > 0 and (entry.name == "c" or entry.name.isdigit()):
            yield from _files_below(store, item, key, depth - 1)
