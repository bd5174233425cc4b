# SPDX-License-Identifier: Apache-2.0
"""Sealing: notes and a ledger over a directory that somebody else has filled.

Knows drafts whose items were written by handlers of the Orbax door, ours and the user's own: files
of every kind, not all of them synced. Knows nothing of what they hold; each is read once, synced
and vouched for.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pertinax._formats.crc import file_crc
from pertinax._formats.item import write_file
from pertinax._formats.ledger import (
    LEDGER_FILE,
    decode_ledger,
    encode_ledger,
    encode_step_ledger,
)
from pertinax._formats.manifest import FileRecord
from pertinax._formats.metadata.commit import COMMIT_FILE, encode_commit
from pertinax._formats.metadata.step_metadata import (
    STEP_FILE,
    StepMetadata,
    decode_step,
    encode_step,
)
from pertinax._formats.vouching import vouch
from pertinax._store.contract import Store
from pertinax._store.publishing import AnyDraft
from pertinax._version import VERSION


def seal(
    draft: AnyDraft,
    *,
    begun_ns: int,
    item_handlers: str | Mapping[str, str] | None,
    custom: Mapping[str, Any] | None = None,
    note_is_final: bool = True,
) -> None:
    """Write `_CHECKPOINT_METADATA`, the commit marker and, above items, the ledger; sync what is
    not yet durable.

    Files that an item's own ledger vouches for are durable already and are not read again.
    `item_handlers` is the class name of the handler, or one for each item. What a note from the
    beginning of the save says of times, metrics and custom facts is kept. With
    `note_is_final=False` somebody else will change the note once more, so the ledger does not vouch
    for it. Raises `StorageError`.
    """
    store, path = draft.store, draft.path
    own_item = store.stat(f"{path}/{LEDGER_FILE}") is not None
    notes = {COMMIT_FILE: encode_commit(draft.final, draft.write_id, vouched=not own_item)}
    notes[STEP_FILE] = encode_step(_final_note(store, path, item_handlers, begun_ns, custom or {}))
    records = list(vouch(store, path))
    if own_item:
        _add_to_ledger(store, path, [record for record in records if record.name != LEDGER_FILE])
    else:
        records += [
            FileRecord(name, len(data), file_crc(data))
            for name, data in notes.items()
            if note_is_final or name != STEP_FILE
        ]
        items = sorted({record.name.partition("/")[0] for record in records if "/" in record.name})
        facts = {"writer": f"pertinax {VERSION}", "saved_at_ns": begun_ns, "items": items}
        notes[LEDGER_FILE] = encode_step_ledger(records, facts)
    for name in (STEP_FILE, LEDGER_FILE, COMMIT_FILE):  # the marker last: it says that all is there
        if name in notes:
            write_file(store, f"{path}/{name}", notes[name])


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


def _add_to_ledger(store: Store, path: str, records: Sequence[FileRecord]) -> None:
    """Vouch for what a handler of the program has put into an item behind the engine's back."""
    if not records:
        return
    name = f"{path}/{LEDGER_FILE}"
    with store.open(name) as reader:
        manifest = decode_ledger(reader.read(0, reader.length))
    store.remove_file(name)
    files = tuple(sorted((*manifest.files, *records), key=lambda record: record.name))
    write_file(store, name, encode_ledger(replace(manifest, files=files)))
