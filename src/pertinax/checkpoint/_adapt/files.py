# SPDX-License-Identifier: Apache-2.0
"""Looking at files and directories, wherever they are.

Knows paths as programs give them, and asks the engine's store about them: epath has no way into
some object stores, and remembers lists of others that are out of date. Writes nothing.
"""

import os

from etils import epath

from pertinax._core.places import locate
from pertinax.typing import PathLike


def exists(path: PathLike) -> bool:
    """Whether anything is there."""
    store, place = locate(path)
    return store.stat(place) is not None


def is_dir(path: PathLike) -> bool:
    """Whether a directory is there."""
    store, place = locate(path)
    found = store.stat(place)
    return found is not None and found.is_dir


def is_file(path: PathLike) -> bool:
    """Whether a file is there."""
    store, place = locate(path)
    found = store.stat(place)
    return found is not None and not found.is_dir


def children(directory: PathLike) -> list[tuple[str, bool]]:
    """What lies in a directory, by one listing: names, and whether they are directories.

    Raises `FileNotFoundError`.
    """
    if is_remote(directory):
        store, place = locate(directory)
        return [(entry.name, entry.is_dir) for entry in store.list_dir(place)]
    # Links to directories count as such, which a store does not tell.
    with os.scandir(epath.Path(directory)) as entries:
        return [(entry.name, entry.is_dir()) for entry in entries]


def read_bytes(file: PathLike) -> bytes:
    """All of a file. Raises `FileNotFoundError`."""
    store, place = locate(file)
    with store.open(place) as reader:
        return reader.read(0, reader.length)


def mtime_s(path: PathLike) -> float:
    """When it was changed last, in seconds since the epoch. Raises `FileNotFoundError`."""
    store, place = locate(path)
    found = store.stat(place)
    if found is None:
        raise FileNotFoundError(2, "no such file or directory", place)
    return found.mtime_ns / 1e9


def is_remote(path: PathLike) -> bool:
    """Whether it lies in an object store: no directories of its own, no names that change."""
    return "://" in os.fspath(path) and not os.fspath(path).startswith("file://")
