# SPDX-License-Identifier: Apache-2.0
"""One item on its way to the disk: array bytes in their layout, Orbax's sidecars, and the ledger
last.

Knows which files an item directory has and in which order they are written. Knows nothing of how a
directory becomes visible (`_store.draft`) nor of several items in one checkpoint (`_core`).
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, final

from pertinax._device.snapshot import Snapshot
from pertinax._formats.crc import file_crc
from pertinax._formats.data_file import Content, Progress, chunk_table
from pertinax._formats.layout import DEFAULT_LAYOUT, Layout
from pertinax._formats.ledger import LEDGER_FILE, encode_ledger
from pertinax._formats.manifest import (
    ChunkTable,
    FileRecord,
    Manifest,
    StoredLeaf,
    lacks_chunks,
)
from pertinax._formats.metadata.array_metadatas import (
    ARRAY_METADATAS_DIR,
    ArrayEntry,
    array_metadatas_file,
    encode_array_metadatas,
)
from pertinax._formats.metadata.commit import COMMIT_FILE
from pertinax._formats.metadata.names import OrbaxName
from pertinax._formats.metadata.sharding import SHARDING_FILE, encode_sharding
from pertinax._formats.metadata.step_metadata import STEP_FILE
from pertinax._formats.metadata.strings import STRINGS_FILE, encode_strings
from pertinax._formats.metadata.text import join_json
from pertinax._formats.metadata.tree_metadata import (
    TREE_FILE,
    ValueEntry,
    empty_value_type,
    encode_tree,
)
from pertinax._formats.parts import Exchange
from pertinax._formats.vouching import vouch
from pertinax._hosts import Monologue
from pertinax._plan.write import WritePlan
from pertinax._store.contract import Store
from pertinax._store.failures import storage_errors
from pertinax._store.workers import Workers
from pertinax._tree.quiet import collector_paused
from pertinax._tree.skeleton import Node

_ALONE = Exchange(Monologue())
_ORBAX_TYPES: Mapping[str, str] = {
    "jax": "jax.Array",
    "key": "jax.Array",
    "numpy": "np.ndarray",
    "bytes": "np.ndarray",
    "str": "string",
}


class Others(Protocol):
    """Who writes into the directory of an item beside us. Both may be called again."""

    def wait(self) -> None:
        """Return when what they write on this process is written; raises what kept them from it."""
        ...

    def finish(self) -> None:
        """Let them add to what is written now by all processes. Called on the primary."""
        ...


@final
class Described:
    """Files that say of an item what does not change while its plan holds: they are made once."""

    __slots__ = ("_files",)

    def __init__(self) -> None:
        self._files: Mapping[str, bytes] | None = None

    def files(self, make: Callable[[], Mapping[str, bytes]]) -> dict[str, bytes]:
        """What `make` returned when it was called first. Any thread may ask."""
        if self._files is None:
            self._files = make()
        return dict(self._files)


@dataclass(frozen=True, slots=True)
class ItemContent:
    """Everything that goes into one item.

    Attributes:
        root, leaves, values: as in `Manifest`.
        names: Orbax's names of every leaf and empty container, in flattening order.
        write_shapes: shape of one written piece of each leaf.
        plan, snapshot: the bytes, and where they go.
        layout: in which files, and in which dialect of Zarr.
        facts: what else the ledger shall tell.
        beside: small files that belong to the item as well (name -> content).
        others: who else writes into the item's directory; None: nobody does.
        check_others: whether arrays in their databases must be whole.
        described: shared by all items of the same plan.
    """

    root: Node
    leaves: Sequence[StoredLeaf]
    values: Mapping[int, Any]
    names: Sequence[OrbaxName]
    write_shapes: Sequence[tuple[int, ...]]
    plan: WritePlan
    snapshot: Snapshot
    layout: Layout = DEFAULT_LAYOUT
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    beside: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    others: Others | None = None
    check_others: bool = True
    described: Described = field(default_factory=Described)


def write_item(
    store: Store,
    directory: str,
    content: ItemContent,
    *,
    workers: Workers,
    progress: Progress,
    exchange: Exchange = _ALONE,
) -> FileRecord | None:
    """Write all files of an item into `directory`, which exists, and make their bytes durable.

    Several processes write array bytes; all the rest is the primary's, which returns the record of
    the ledger, the others None. Names are made durable by whoever publishes the directory. Raises
    `StorageFull`, `StorageError`, `SnapshotChanged` if a held array was written to meanwhile, and
    `PeerFailed` or `PeerAbsent`.
    """
    files = dict(content.beside)
    table = chunk_table((), ())
    together = content.others is not None and not exchange.talk.topology.alone
    if together:
        _meet_others(content, exchange)
    has_arrays = any(leaf.codec != "none" for leaf in content.leaves)
    # All processes must come to the same answer, whatever each can see by now.
    if has_arrays or (together and _merges(content)) or _others(store, directory, content):
        table, arrays = _write_arrays(
            store, directory, content, workers, progress, exchange=exchange
        )
        files |= arrays
    if not exchange.talk.topology.is_primary:
        return None
    with collector_paused(len(content.leaves)):
        beside = sidecars(content)
    if content.others is not None:
        content.others.wait()
        content.others.finish()
        beside |= _with_those_of_others(store, directory, beside)
    if any(name.startswith(f"{ARRAY_METADATAS_DIR}/") for name in beside):
        with storage_errors("make a directory", directory):
            store.make_dir(f"{directory}/{ARRAY_METADATAS_DIR}")
    files |= beside
    records = [FileRecord(name, len(data), file_crc(data)) for name, data in sorted(files.items())]
    if content.others is not None:
        # The publisher's notes may lie here already, and change until the end.
        records += vouch(store, directory, {*table.files, *files, STEP_FILE, COMMIT_FILE})
    facts = {"save_id": uuid.uuid4().hex, **content.facts}
    manifest = Manifest(
        "pertinax",
        content.root,
        tuple(content.leaves),
        table,
        content.values,
        content.layout.driver,
        content.layout.container,
        files=tuple(records),
        facts=facts,
        partial=exchange.talk.topology.apart and lacks_chunks(content.leaves, table),
    )
    files[LEDGER_FILE] = encode_ledger(manifest)
    workers.run_all(
        [lambda n=n, d=d: write_file(store, f"{directory}/{n}", d) for n, d in files.items()]
    )
    ledger = files[LEDGER_FILE]
    return FileRecord(LEDGER_FILE, len(ledger), file_crc(ledger))


def write_file(store: Store, path: str, data: bytes) -> None:
    """Write a small file whole and make its bytes durable."""
    with storage_errors("write a file", path), store.create(path) as writer:
        writer.write_at(0, [data])
        writer.sync()


def _write_arrays(
    store: Store,
    directory: str,
    content: ItemContent,
    workers: Workers,
    progress: Progress,
    *,
    exchange: Exchange,
) -> tuple[ChunkTable, dict[str, bytes]]:
    """The array bytes, durable; returns their chunks, and small files that belong to them."""
    # Half of the container's code reads what others wrote, and a load of ours needs none of it.
    if content.layout.container == "directory":
        from pertinax._formats.directory.writer import write_directories as write
    else:
        from pertinax._formats.database import write_database as write

    bytes_ = Content(
        content.leaves,
        content.plan,
        content.snapshot,
        lambda: _others(store, directory, content),
    )
    driver = content.layout.driver
    return write(
        store,
        directory,
        bytes_,
        driver,
        workers=workers,
        progress=progress,
        exchange=exchange,
    )


def _merges(content: ItemContent) -> bool:
    """Whether databases of others become part of the item's; without one there is nothing to be
    part of.
    """
    return content.layout.container == "ocdbt"


def _meet_others(content: ItemContent, exchange: Exchange) -> None:
    """Wait until others have written what they write on every process."""
    if content.others is not None:
        content.others.wait()
        exchange.talk.collect(f"others {exchange.item}".rstrip(), None, _nothing)


def _nothing(_: Mapping[int, Any]) -> None:
    """It is enough that all are here."""


def _others(store: Store, directory: str, content: ItemContent) -> Mapping[bytes, Any]:
    """What others say in databases that they have written into the item, once they have."""
    if content.others is None or not _merges(content):
        return {}
    from pertinax._formats.merged import check_whole, entries_of_others, reading

    content.others.wait()
    content.others.finish()
    found = entries_of_others(store, directory)
    if content.check_others and content.layout.driver == "zarr":
        check_whole(found, reading(store, directory))
    return found


def _with_those_of_others(
    store: Store, directory: str, files: Mapping[str, bytes]
) -> dict[str, bytes]:
    """Files of JSON that we write and others have written, too: one of both. Theirs is removed."""
    out: dict[str, bytes] = {}
    for name in (SHARDING_FILE, STRINGS_FILE):
        path = f"{directory}/{name}"
        if name not in files or store.stat(path) is None:
            continue
        with store.open(path) as reader:
            out[name] = join_json(reader.read(0, reader.length), files[name], name)
        store.remove_file(path)
    return out


def sidecars(content: ItemContent) -> dict[str, bytes]:
    """Orbax's own files, so that it restores the item without arguments."""
    files = content.described.files(lambda: _describe(content))
    texts = {content.leaves[i].name: str(value) for i, value in content.values.items()}
    if texts:
        files[STRINGS_FILE] = encode_strings(texts)
    return files


def _describe(content: ItemContent) -> dict[str, bytes]:
    """Those that say nothing of values."""
    arrays = [
        ArrayEntry(leaf.name, shape, leaf.chunk_shape, leaf.impl)
        for leaf, shape in zip(content.leaves, content.write_shapes, strict=True)
        if leaf.kind == "key"  # of all others the file says nothing that Orbax would miss
    ]
    shardings = {leaf.name: leaf.sharding for leaf in content.leaves if leaf.sharding is not None}
    layout = content.layout
    ocdbt, zarr3 = layout.container == "ocdbt", layout.driver == "zarr3"
    files = {TREE_FILE: encode_tree(_tree_entries(content), use_ocdbt=ocdbt, use_zarr3=zarr3)}
    if arrays:
        files[array_metadatas_file(0)] = encode_array_metadatas(arrays)
    if shardings:
        files[SHARDING_FILE] = encode_sharding(shardings)
    return files


def _tree_entries(content: ItemContent) -> list[tuple[OrbaxName, ValueEntry]]:
    leaves = iter(zip(content.leaves, content.write_shapes, strict=True))
    entries: list[tuple[OrbaxName, ValueEntry]] = []
    for name in content.names:
        if name.node.kind != "leaf":
            entries.append((name, ValueEntry(empty_value_type(name.node))))
            continue
        leaf, write_shape = next(leaves)
        if leaf.typestr is not None:
            entries.append((name, ValueEntry(leaf.typestr)))
            continue
        kind = "string" if leaf.codec == "none" else _ORBAX_TYPES.get(leaf.kind, "scalar")
        entries.append((name, ValueEntry(kind, write_shape if kind == "jax.Array" else None)))
    return entries
