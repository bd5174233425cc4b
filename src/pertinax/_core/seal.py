"""Sealing: notes and a ledger over a directory that somebody else has filled.

Knows drafts whose items were written by handlers of the Orbax door, ours and the user's own: files
of every kind, not all of them synced. Knows nothing of what they hold; each is read once, synced
and vouched for.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Any

from pertinax._formats.crc import file_crc
from pertinax._formats.item import write_file
from pertinax._formats.ledger import LEDGER_FILE, encode_step_ledger, vouched_files
from pertinax._formats.manifest import FileRecord
from pertinax._formats.metadata.commit import COMMIT_FILE, encode_commit
from pertinax._formats.metadata.step_metadata import (
    STEP_FILE,
    StepMetadata,
    decode_step,
    encode_step,
)
from pertinax._store.contract import Store
from pertinax._store.draft import Draft
from pertinax._store.local import sync_file
from pertinax._version import VERSION

_READ_BYTES = 1 << 24


def seal(
    draft: Draft,
    *,
    begun_ns: int,
    item_handlers: str | Mapping[str, str] | None,
    custom: Mapping[str, Any] | None = None,
) -> None:
    """Write `_CHECKPOINT_METADATA`, the commit marker and, above items, the ledger; sync what is
    not yet durable.

    Files that an item's own ledger vouches for are durable already and are not read again.
    `item_handlers` is the class name of the handler, or one for each item. What a note from the
    beginning of the save says of times, metrics and custom facts is kept. Raises `StorageError`.
    """
    store, path = draft.store, draft.path
    own_item = store.stat(f"{path}/{LEDGER_FILE}") is not None
    notes = {COMMIT_FILE: encode_commit(draft.final)}
    notes[STEP_FILE] = encode_step(_final_note(store, path, item_handlers, begun_ns, custom or {}))
    records = list(_records(store, path, ""))
    if not own_item:
        records += [FileRecord(name, len(data), file_crc(data)) for name, data in notes.items()]
        items = sorted({record.name.partition("/")[0] for record in records if "/" in record.name})
        facts = {"writer": f"pertinax {VERSION}", "saved_at_ns": begun_ns, "items": items}
        notes[LEDGER_FILE] = encode_step_ledger(records, facts)
    for name, data in notes.items():
        write_file(store, f"{path}/{name}", data)


def _final_note(
    store: Store,
    path: str,
    item_handlers: str | Mapping[str, str] | None,
    begun_ns: int,
    custom: Mapping[str, Any],
) -> StepMetadata:
    """Takes the place of the note from the beginning of the save, if there is one."""
    so_far = StepMetadata()
    if store.stat(f"{path}/{STEP_FILE}") is not None:
        with store.open(f"{path}/{STEP_FILE}") as reader:
            so_far = decode_step(reader.read(0, reader.length))
        store.remove_file(f"{path}/{STEP_FILE}")
    return StepMetadata(
        item_handlers,
        so_far.metrics,
        begun_ns if so_far.init_timestamp_nsecs is None else so_far.init_timestamp_nsecs,
        so_far.commit_timestamp_nsecs or time.time_ns(),
        {**so_far.custom, **custom},
    )


def _records(
    store: Store, root: str, below: str, vouched: frozenset[str] = frozenset()
) -> Iterator[FileRecord]:
    """A record of every file below `root` that no ledger there vouches for, and of those ledgers.

    `vouched` are names relative to `root`; such files are not opened.
    """
    directory = f"{root}/{below}".rstrip("/")
    entries = sorted(store.list_dir(directory), key=lambda entry: entry.name)
    if any(entry.name == LEDGER_FILE for entry in entries):
        with store.open(f"{directory}/{LEDGER_FILE}") as reader:
            names = vouched_files(reader.read(0, reader.length))
        vouched |= {f"{below}/{name}".lstrip("/") for name in names}
    for entry in entries:
        name = f"{below}/{entry.name}".lstrip("/")
        if entry.is_dir:
            yield from _records(store, root, name, vouched)
        elif name not in vouched:
            yield _record(store, root, name)


def _record(store: Store, root: str, name: str) -> FileRecord:
    sync_file(store, f"{root}/{name}")
    crc = length = 0
    with store.open(f"{root}/{name}") as reader:
        while length < reader.length:
            data = reader.read(length, min(_READ_BYTES, reader.length - length))
            crc = file_crc(data, crc)
            length += len(data)
    return FileRecord(name, length, crc)
