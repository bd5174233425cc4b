# SPDX-License-Identifier: Apache-2.0
"""Vouching: records of files that somebody else has written.

Knows how a whole file is read once, synced and checksummed, and which files need that. Knows
nothing of what they hold.
"""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet

from pertinax._formats.crc import file_crc
from pertinax._formats.ledger import LEDGER_FILE, vouched_files
from pertinax._formats.manifest import FileRecord
from pertinax._store.contract import Store
from pertinax._store.failures import storage_errors
from pertinax._store.local import sync_file

_READ_BYTES = 1 << 24


def vouch(
    store: Store, root: str, vouched: AbstractSet[str] = frozenset(), *, below: str = ""
) -> Iterator[FileRecord]:
    """A record of every file below `root` that no ledger there vouches for, and of those ledgers.

    `vouched` are names relative to `root`; such files are not opened. All others are made durable
    (their names by whoever publishes the directory). Raises `StorageError`.
    """
    directory = f"{root}/{below}".rstrip("/")
    with storage_errors("look for files", directory):
        entries = sorted(store.list_dir(directory), key=lambda entry: entry.name)
    if any(entry.name == LEDGER_FILE for entry in entries):
        with store.open(f"{directory}/{LEDGER_FILE}") as reader:
            names = vouched_files(reader.read(0, reader.length))
        vouched |= {f"{below}/{name}".lstrip("/") for name in names}
    for entry in entries:
        name = f"{below}/{entry.name}".lstrip("/")
        if entry.is_dir:
            yield from vouch(store, root, vouched, below=name)
        elif name not in vouched:
            yield _record(store, root, name)


def _record(store: Store, root: str, name: str) -> FileRecord:
    path = f"{root}/{name}"
    with storage_errors("make a file durable", path):
        sync_file(store, path)
        return measure(store, root, name)


def measure(store: Store, root: str, name: str) -> FileRecord:
    """Length and checksum that a file has now; it is read in pieces, whatever its size.

    Raises `OSError`, and `EOFError` if it becomes shorter meanwhile.
    """
    crc = length = 0
    with store.open(f"{root}/{name}") as reader:
        while length < reader.length:
            data = reader.read(length, min(_READ_BYTES, reader.length - length))
            crc = file_crc(data, crc)
            length += len(data)
    return FileRecord(name, length, crc)
