# SPDX-License-Identifier: Apache-2.0
"""Data files: their names, and the table of them that every manifest and node carries.

Knows what a harmless relative path is and how base paths nest. Knows nothing of what files contain.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final

from pertinax._formats.ocdbt.columns import Cursor, encode_strings, encode_varint

_MAX_PATH_BYTES = 4096
_MAX_NAME_BYTES = 255
_MAX_FILES = 1 << 20


def path_problem(path: str) -> str | None:
    """Why `path` must not be opened below a database root, or None if it is harmless."""
    if "\0" in path or "\\" in path or path[1:2] == ":":
        return f"path {path!r} holds a character that no data file has"
    if any(part in {"", ".", ".."} for part in path.split("/")):
        return f"path {path!r} is not a plain relative path"
    if any(len(part.encode()) > _MAX_NAME_BYTES for part in path.split("/")):
        return f"path {path[:40]!r}... has a part of more than {_MAX_NAME_BYTES} bytes"
    return None


def encode_file_table(paths: Sequence[str]) -> bytes:
    """The table of `paths`, sorted and distinct, none with a base path of its own."""
    if not paths:
        return b"\0"
    prefix, suffix, text = encode_strings([path.encode() for path in paths])
    return b"".join((encode_varint(len(paths)), prefix, suffix, bytes(len(paths)), text))


def number_files(files: Iterable[str]) -> dict[str, int]:
    """Distinct files in table order, and the id of each."""
    ordered = sorted(set(files), key=str.encode)
    return {file: number for number, file in enumerate(ordered)}


@final
@dataclass(frozen=True, slots=True)
class FileTable:
    """The files that one node or manifest refers to, by id."""

    paths: list[str]  # root-relative; unchecked, because the "missing" reference names an empty one
    bases: list[str]  # root-relative; under it the node found in that file resolves its own table

    def harmless_path(self, number: int, cursor: Cursor) -> str:
        path = self.paths[number]
        if problem := path_problem(path):
            raise cursor.corrupt(problem)
        return path


def decode_file_table(cursor: Cursor, *, base: str) -> FileTable:
    """Read a table whose paths lie below `base`."""
    rows = cursor.varint()
    if not rows:
        return FileTable([], [])
    if rows > _MAX_FILES or 2 * rows > cursor.left_bytes:
        raise cursor.corrupt(f"{rows} data files declared, with {cursor.left_bytes} bytes left")
    prefix = cursor.lengths(rows - 1, most=_MAX_PATH_BYTES)
    suffix = cursor.lengths(rows, most=_MAX_PATH_BYTES)
    base_lengths = cursor.lengths(rows, most=_MAX_PATH_BYTES).tolist()
    raw = cursor.strings(prefix, suffix, most=_MAX_PATH_BYTES)
    cursor.budget.spend(rows * (2 * len(base) + 200), file=cursor.file)
    if any(n > len(path) for n, path in zip(base_lengths, raw, strict=True)):
        raise cursor.corrupt("a base path is longer than its path")
    try:
        paths = [base + path.decode() for path in raw]
        bases = [base + path[:n].decode() for n, path in zip(base_lengths, raw, strict=True)]
    except UnicodeDecodeError as error:
        raise cursor.corrupt(f"a data file path is not UTF-8: {error}") from error
    return FileTable(paths, bases)
