# SPDX-License-Identifier: Apache-2.0
"""Leaves that the engine cannot read: what must be sure before somebody else reads them.

Knows which bytes of an item such a reader may come to see. Knows nothing of readers.
"""

from collections.abc import Set as AbstractSet
from dataclasses import replace

import numpy as np

from pertinax._core.fetch import Fetcher
from pertinax._core.open import Opened, check_large_file
from pertinax._core.options import LoadOptions
from pertinax._formats.item import write_file
from pertinax._formats.ledger import LEDGER_FILE, decode_ledger, encode_ledger, vouched_files
from pertinax._formats.manifest import FileRecord
from pertinax._formats.metadata.commit import COMMIT_FILE
from pertinax._formats.metadata.step_metadata import STEP_FILE
from pertinax._formats.vouching import vouch
from pertinax._store.contract import Store

_LOAD = LoadOptions()


def check_before_others_read(opened: Opened, leaves: AbstractSet[int]) -> None:
    """Compare with their checksums all files of the item, the container's own bytes, and those of
    `leaves`. Raises `CorruptCheckpoint`.

    Nothing vouches for a checkpoint of Orbax.
    """
    manifest = opened.manifest
    if not manifest.verified:
        return
    for record in manifest.files:
        check_large_file(opened.store, opened.directory, record)
    owners = manifest.chunks.leaf
    picked = np.flatnonzero((owners < 0) | np.isin(owners, list(leaves))).tolist()
    with Fetcher(
        opened.store, opened.directory, manifest, use_map=_LOAD.mmap, threads=_LOAD.threads
    ) as fetcher:
        for error in fetcher.check_rows(picked):
            raise error


def merge_late(store: Store, directory: str, *, validate: bool) -> None:
    """Merge databases of processes that were written into an item after it was finished.

    Without such nothing is done. Raises `ValueError` as `merge_item` does.
    """
    from pertinax._formats.merged import merge_item
    from pertinax._formats.ocdbt import MANIFEST_FILE, PROCESS_PREFIX, process_databases

    names = [entry.name for entry in store.list_dir(directory) if entry.is_dir]
    if not process_databases(names):
        return
    has_ledger = store.stat(f"{directory}/{LEDGER_FILE}") is not None
    if not has_ledger:
        merge_item(store, directory, validate=validate)
        return
    with store.open(f"{directory}/{LEDGER_FILE}") as reader:
        data = reader.read(0, reader.length)
    news = vouch(store, directory, vouched_files(data))
    if not any(record.name.startswith(PROCESS_PREFIX) for record in news):
        return
    merge_item(store, directory, validate=validate)
    manifest = decode_ledger(data)
    kept = [record for record in manifest.files if record.name != MANIFEST_FILE]
    known = {*(record.name for record in kept), *manifest.chunks.files, LEDGER_FILE}
    store.remove_file(f"{directory}/{LEDGER_FILE}")
    kept += vouch(store, directory, known | {STEP_FILE, COMMIT_FILE})
    files = tuple(sorted(kept, key=_name))
    write_file(store, f"{directory}/{LEDGER_FILE}", encode_ledger(replace(manifest, files=files)))


def _name(record: FileRecord) -> str:
    return record.name
