# SPDX-License-Identifier: Apache-2.0
"""Merging: the keys of several databases as those of one, without copying their data.

Knows how the names of processes' databases are spelled, and what one key in two databases means.
Knows nothing of disks or of what keys mean. Each writer has a database of its own, below the root
of the merged one; there, values that were written inline are repeated and all others are references
into the files of their own database.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from pertinax._formats.ocdbt.btree import Reference, Value
from pertinax._formats.ocdbt.reader import Read, read_database

PROCESS_PREFIX = "ocdbt.process_"
_PROCESS = re.compile(re.escape(PROCESS_PREFIX) + r"([A-Za-z0-9]+)")


def process_databases(names: Iterable[str]) -> list[str]:
    """Those of `names` that are directories of a process's database, in the order of processes."""
    found = [match for match in map(_PROCESS.fullmatch, names) if match]
    found.sort(key=lambda match: (not match[1].isdecimal(), len(match[1]), match[1]))
    return [match[0] for match in found]


def merge_databases(databases: Iterable[str], read: Read) -> dict[bytes, Value]:
    """Every key of the databases at these paths below the root, in byte order.

    `read` is that of `read_database`, for paths below the root. A database that was never written
    to is empty. Raises `ValueError` if two of them have different values for a key, beside what
    `read_database` raises.
    """
    merged: dict[bytes, Value] = {}
    differing: list[bytes] = []
    for path in databases:
        for key, value in _entries(path, read).items():
            if key in merged and not _equal(merged[key], value, read):
                differing.append(key)
            merged[key] = value
    if differing:
        listed = ", ".join(key.decode("utf-8", "backslashreplace") for key in differing[:10])
        raise ValueError(
            f"{len(differing)} keys have different values in the databases of two processes: "
            f"{listed}"
        )
    return dict(sorted(merged.items()))


def _entries(path: str, read: Read) -> Mapping[bytes, Value]:
    def below(file: str, offset: int, length: int | None) -> bytes:
        return read(f"{path}/{file}", offset, length)

    try:
        entries = read_database(below)
    except FileNotFoundError:
        return {}
    return {
        key: value if isinstance(value, bytes) else _moved(value, path)
        for key, value in entries.items()
    }


def _moved(value: Reference, path: str) -> Reference:
    return Reference(f"{path}/{value.file}", value.offset, value.length)


def _equal(one: Value, other: Value, read: Read) -> bool:
    """Replicated data may be written by more than one process; then it is the same everywhere."""
    return one == other or _content(one, read) == _content(other, read)


def _content(value: Value, read: Read) -> bytes:
    return value if isinstance(value, bytes) else read(value.file, value.offset, value.length)
