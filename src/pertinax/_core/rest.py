# SPDX-License-Identifier: Apache-2.0
"""The rest: what lies in a checkpoint beside the bytes that a load returns.

Knows which files the ledgers vouch for, and how a load compares them while it reads arrays. Knows
nothing of values, and nothing of what those files say.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import numpy as np

from pertinax._core.open import Found, Opened, check_large_file
from pertinax._formats.ledger import LEDGER_FILE
from pertinax._formats.manifest import FileRecord
from pertinax._hosts import job_share
from pertinax._store.contract import traits_of
from pertinax._store.workers import Workers
from pertinax.errors import CorruptCheckpoint

T = TypeVar("T")
_THREADS = 8
_SMALL_BYTES = 1 << 20
"""Files of a step's other items are compared up to this length: metrics, counters, ledgers."""


class Share(NamedTuple):
    """Of `parts` equal shares of the files and chunks, the one with this number."""

    number: int = 0
    parts: int = 1

    def of(self, things: Sequence[T]) -> Sequence[T]:
        """Ours of `things`."""
        return things[self.number :: self.parts]


class Rest(NamedTuple):
    """Of one item: `rows` of the chunk table that no leaf owns, and files, by their directory."""

    opened: Opened
    rows: list[int]
    files: list[tuple[str, FileRecord]]


def rest_of(found: Found, opened: Opened, *, alone: bool) -> Rest:
    """What a load of all leaves of an item has not read: our share of it, in a job of several
    processes. `alone`: other items of a step are no concern of it.
    """
    manifest = opened.manifest
    share = Share(*job_share())
    files = [(opened.directory, record) for record in manifest.files]
    files += [(found.directory, record) for record in _files_of_step(found, opened, alone=alone)]
    rows = np.flatnonzero(manifest.chunks.leaf < 0).tolist()
    return Rest(opened, list(share.of(rows)), list(share.of(files)))


def _files_of_step(found: Found, opened: Opened, *, alone: bool) -> Iterator[FileRecord]:
    if opened.step is None:
        return
    item = opened.directory.removeprefix(f"{found.directory}/")
    for record in opened.step.files:
        if f"{item}/{LEDGER_FILE}" == record.name:
            continue  # it was compared when the item was opened
        own = "/" not in record.name or record.name.startswith(f"{item}/")
        if own or (not alone and record.length <= _SMALL_BYTES):
            yield record


@contextmanager
def checked_beside(rest: Rest) -> Iterator[None]:
    """Compare the files with their checksums while the block runs. Raises `CorruptCheckpoint`, at
    the end, unless the block itself has failed.
    """
    store = rest.opened.store
    count = min(len(rest.files), max(1, min(_THREADS, traits_of(store).read_threads)))
    with Workers(count, "pertinax-rest") as workers:
        compared = [
            workers.submit(lambda d=directory, r=record: check_large_file(store, d, r))
            for directory, record in rest.files
        ]
        try:
            yield
        except BaseException:
            for one in compared:
                one.cancel()
            raise
        try:
            for one in compared:
                one.result()
        except CorruptCheckpoint as error:
            error.add_note('every leaf is as it was written: check="read" loads them')
            raise
