# SPDX-License-Identifier: Apache-2.0
"""The databases that others have written into an item, and the one that is made of all.

Knows where they lie, how they become one, and what a whole array looks like in it. Knows nothing of
who wrote them; how keys are merged is `ocdbt.merge`'s.
"""

import math
import uuid
from collections.abc import Mapping

from pertinax._formats.database import encode_arrays
from pertinax._formats.ocdbt import (
    MANIFEST_FILE,
    Read,
    Value,
    merge_databases,
    process_databases,
    read_database,
)
from pertinax._formats.zarr.array import METADATA_KEY, split_chunk_key
from pertinax._formats.zarr.v2 import parse
from pertinax._store.contract import Store
from pertinax._store.failures import storage_errors

_LISTED = 20


def entries_of_others(store: Store, directory: str) -> dict[bytes, Value]:
    """All keys in the processes' databases of an item, as references below `directory`.

    Raises `ValueError` if they contradict one another, `CorruptCheckpoint` if one is damaged.
    """
    names = process_databases(entry.name for entry in store.list_dir(directory) if entry.is_dir)
    return merge_databases(names, reading(store, directory))


def merge_item(store: Store, directory: str, *, validate: bool) -> bool:
    """Make one database of an item's, what the item's own has included, and make it durable.

    Without databases of processes nothing is done, and the answer is False. With `validate`, raises
    `ValueError` for arrays that are not whole (Zarr v2 only).
    """
    entries = entries_of_others(store, directory)
    if not entries:
        return False
    read = reading(store, directory)
    has_own = store.stat(f"{directory}/{MANIFEST_FILE}") is not None
    if has_own:
        entries = dict(sorted((read_database(read) | entries).items()))
    if validate:
        check_whole(entries, read)
    name = f"d/{uuid.uuid4().hex}"
    database = encode_arrays(list(entries.items()), name, 0)
    with storage_errors("merge databases", directory):
        if store.stat(f"{directory}/d") is None:
            store.make_dir(f"{directory}/d")
        if has_own:
            store.remove_file(f"{directory}/{MANIFEST_FILE}")
        for file, content in ((name, database.nodes), (MANIFEST_FILE, database.manifest)):
            with store.create(f"{directory}/{file}") as writer:
                writer.write_at(0, [content])
                writer.sync()
        store.sync_dir(f"{directory}/d")
        store.sync_dir(directory)
    return True


def check_whole(entries: Mapping[bytes, Value], read: Read) -> None:
    """Raise `ValueError` naming all Zarr v2 arrays that have metadata and no chunk, or chunks and
    no metadata.

    An array without elements has no chunk.
    """
    metadata: dict[str, Value] = {}
    chunks: set[str] = set()
    others: set[str] = set()  # metadata may have another name, by the writer's wish
    for key, value in entries.items():
        text = key.decode("utf-8", "surrogateescape")
        split = split_chunk_key("zarr", text)
        name, _, last = text.rpartition("/")
        if split is not None:
            chunks.add(split[0])
        elif last == METADATA_KEY["zarr"]:
            metadata[name] = value
        else:
            others.add(name)
    owners = {_owner(name, metadata) for name in chunks}
    lost = sorted(owners - metadata.keys() - others)
    empty = [n for n in sorted(metadata.keys() - owners) if _needs_chunks(metadata[n], n, read)]
    if empty or lost:
        raise ValueError(
            f"arrays are not whole: with metadata but without data {_some(empty)}, with data but "
            f"without metadata {_some(lost)}"
        )


def reading(store: Store, directory: str) -> Read:
    """`read` of the databases below `directory`."""

    def read(file: str, offset: int, length: int | None) -> bytes:
        with store.open(f"{directory}/{file}") as reader:
            return reader.read(offset, reader.length - offset if length is None else length)

    return read


def _owner(name: str, metadata: Mapping[str, Value]) -> str:
    """The array that a chunk belongs to: where `/` separates indices, some of them look like keys
    of the tree.
    """
    shorter = name
    while shorter and shorter not in metadata:
        shorter, _, last = shorter.rpartition("/")
        if not last.isdecimal():
            return name
    return shorter or name


def _needs_chunks(value: Value, name: str, read: Read) -> bool:
    """Not without elements, nor where absent chunks have a meaning."""
    text = value if isinstance(value, bytes) else read(value.file, value.offset, value.length)
    array = parse(text, f"{name}/.zarray")
    return math.prod(array.shape) > 0 and array.fill is None and array.codec != "tensorstore"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"[{', '.join(names[:_LISTED])}]{more}"
