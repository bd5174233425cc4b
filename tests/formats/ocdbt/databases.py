# SPDX-License-Identifier: Apache-2.0
"""Databases on disk for the OCDBT tests: ours, and TensorStore's.

Knows how to lay a database out in a directory and how to ask TensorStore about it. Holds no tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorstore as ts

from pertinax._formats.ocdbt import (
    EncodedDatabase,
    Reference,
    Value,
    encode_database,
    read_database,
)

DATA_FILE = "d/" + "0123456789abcdef" * 2
UUID = bytes(range(16))
COMMIT_TIME_NS = 1_750_000_000_000_000_000


class Directory:
    """The `read` callable of `read_database`, over a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, file: str, offset: int, length: int | None) -> bytes:
        with (self.root / file).open("rb") as stream:
            stream.seek(offset)
            content = stream.read() if length is None else stream.read(length)
        if length is not None and len(content) < length:
            raise EOFError(f"{file}: {len(content)} of {length} bytes at {offset}")
        return content


class Memory:
    """The `read` callable of `read_database`, over an encoded database that never saw a disk."""

    def __init__(self, database: EncodedDatabase, offset: int = 0) -> None:
        self.files = {
            "manifest.ocdbt": database.manifest,
            DATA_FILE: bytes(offset) + database.nodes,
        }

    def __call__(self, file: str, offset: int, length: int | None) -> bytes:
        if file not in self.files:
            raise FileNotFoundError(file)
        content = self.files[file]
        stop = len(content) if length is None else offset + length
        if stop > len(content):
            raise EOFError(file)
        return content[offset:stop]


def encode(entries: Mapping[bytes, Value], *, offset: int = 0, **options: Any) -> EncodedDatabase:
    return encode_database(
        sorted(entries.items()),
        data_file=DATA_FILE,
        offset=offset,
        commit_time_ns=COMMIT_TIME_NS,
        uuid=UUID,
        **options,
    )


def write_database(
    root: Path, values: Mapping[bytes, bytes], *, align: int = 4096, **options: Any
) -> dict[bytes, Value]:
    """Write `values` as our own database: those above 100 bytes aligned and out of line."""
    entries: dict[bytes, Value] = {}
    content = bytearray()
    for key, value in values.items():
        if len(value) <= 100:
            entries[key] = value
            continue
        content += bytes(-len(content) % align)
        entries[key] = Reference(DATA_FILE, len(content), len(value))
        content += value
    database = encode(entries, offset=len(content), **options)
    (root / "d").mkdir(parents=True)
    (root / DATA_FILE).write_bytes(content + database.nodes)
    (root / "manifest.ocdbt").write_bytes(database.manifest)
    return entries


def open_kvstore(root: Path, **config: Any) -> ts.KvStore:
    spec = {"driver": "ocdbt", "base": f"file://{root}/"}
    return ts.KvStore.open(spec | ({"config": config} if config else {})).result()


def tensorstore_view(root: Path) -> dict[bytes, bytes]:
    """Every key and value as TensorStore sees them."""
    store = open_kvstore(root)
    keys = store.list().result()
    reads = [store.read(key) for key in keys]
    return {key: read.result().value for key, read in zip(keys, reads, strict=True)}


def our_view(root: Path) -> dict[bytes, bytes]:
    """Every key and value as we see them."""
    read = Directory(root)
    return {
        key: value if isinstance(value, bytes) else read(value.file, value.offset, value.length)
        for key, value in read_database(read).items()
    }
