# SPDX-License-Identifier: Apache-2.0
"""MessagePack on the wire: one value after the other, from a file that nobody has vouched for.

Knows the heads of values and where their bytes end; large ones are not read, only located, so that
arrays can be mapped from the file and a hostile length sizes no allocation (the library for it
makes room for what a head announces). Knows nothing of what extensions mean.
"""

import struct
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, NoReturn, final

from pertinax._tree.skeleton import MAX_DEPTH
from pertinax.errors import CorruptCheckpoint

Read = Callable[[int, int], bytes]
"""`read(offset, length)` gives bytes of the file."""
_WINDOW_BYTES: Final = 1 << 16
_NUMBERS: Final[Mapping[int, str]] = {
    0xCA: ">f",
    0xCB: ">d",
    0xCC: ">B",
    0xCD: ">H",
    0xCE: ">I",
    0xCF: ">Q",
    0xD0: ">b",
    0xD1: ">h",
    0xD2: ">i",
    0xD3: ">q",
}
_CONSTANTS: Final[Mapping[int, bool | None]] = {0xC0: None, 0xC2: False, 0xC3: True}
# Heads that a length follows: what it counts, and how many bytes it has.
_SIZED: Final[Mapping[int, tuple[str, int]]] = {
    0xC4: ("bin", 1),
    0xC5: ("bin", 2),
    0xC6: ("bin", 4),
    0xC7: ("ext", 1),
    0xC8: ("ext", 2),
    0xC9: ("ext", 4),
    0xD9: ("str", 1),
    0xDA: ("str", 2),
    0xDB: ("str", 4),
    0xDC: ("array", 2),
    0xDD: ("array", 4),
    0xDE: ("map", 2),
    0xDF: ("map", 4),
}


class Blob(NamedTuple):
    """Raw bytes, left where they are: `start <= position < stop` in the file."""

    start: int
    stop: int


class Extension(NamedTuple):
    """An extension's `code`, and where its payload lies."""

    code: int
    start: int
    stop: int


@final
class Cursor:
    """A place in the file, and the window of bytes around it that was read."""

    def __init__(self, read: Read, length: int, file: str) -> None:
        self._read = read
        self._file = file
        self._window = b""
        self._origin = 0
        self.position = 0
        self.stop = length

    def within(self, start: int, stop: int) -> "Cursor":
        """Another cursor, for a part of the file."""
        inner = Cursor(self._read, stop, self._file)
        inner.position = start
        if self._origin <= start and stop <= self._origin + len(self._window):
            inner._window, inner._origin = self._window, self._origin
        return inner

    def take(self, count: int) -> bytes:
        """The next bytes. Raises `CorruptCheckpoint` if there are fewer."""
        start = self.position - self._origin
        if not 0 <= start <= start + count <= len(self._window):
            self.skip(0, need=count)
            length = min(self.stop - self.position, max(count, _WINDOW_BYTES))
            self._window = self._read(self.position, length)
            self._origin, start = self.position, 0
        if self.position + count > self.stop:
            self.skip(0, need=count)
        self.position += count
        return self._window[start : start + count]

    def skip(self, count: int, *, need: int = 0) -> None:
        """Pass over bytes; `need` more must be there, or it is `CorruptCheckpoint`."""
        missing = self.position + count + need - self.stop
        if missing > 0:
            self.corrupt(f"incomplete: {missing} bytes are missing")
        self.position += count

    def corrupt(self, reason: str) -> NoReturn:
        """Raise `CorruptCheckpoint` about the bytes here."""
        where = min(self.position, self.stop)
        raise CorruptCheckpoint(
            f"as MessagePack: {reason}", file=self._file, start=where, stop=self.stop
        )


def read_value(cursor: Cursor, depth: int = 0) -> Any:
    """The value at the cursor: plain Python, with `Blob` for bytes and `Extension`.

    Raises `CorruptCheckpoint` for anything that is no MessagePack, or is nested too deep.
    """
    if depth > MAX_DEPTH:
        cursor.corrupt(f"nested more than {MAX_DEPTH} deep")
    head = cursor.take(1)[0]
    if head < 0x80:
        return head
    if head >= 0xE0:
        return head - 0x100
    if head in _CONSTANTS:
        return _CONSTANTS[head]
    if head in _NUMBERS:
        form = _NUMBERS[head]
        return struct.unpack(form, cursor.take(struct.calcsize(form)))[0]
    kind, count = _kind_of(cursor, head)
    if kind == "str":
        return _text(cursor, count)
    if kind == "bin":
        start = cursor.position
        cursor.skip(count)
        return Blob(start, start + count)
    if kind == "ext":
        code = struct.unpack(">b", cursor.take(1))[0]
        start = cursor.position
        cursor.skip(count)
        return Extension(code, start, start + count)
    if kind == "array":
        cursor.skip(0, need=count)
        return [read_value(cursor, depth + 1) for _ in range(count)]
    return _map(cursor, count, depth)


def _kind_of(cursor: Cursor, head: int) -> tuple[str, int]:
    """What follows the head, and how much of it."""
    if head < 0x90:
        return "map", head & 0x0F
    if head < 0xA0:
        return "array", head & 0x0F
    if head < 0xC0:
        return "str", head & 0x1F
    if 0xD4 <= head <= 0xD8:
        return "ext", 1 << (head - 0xD4)
    if head not in _SIZED:
        cursor.corrupt(f"no value begins with {head:#04x}")
    kind, width = _SIZED[head]
    return kind, int.from_bytes(cursor.take(width), "big")


def _text(cursor: Cursor, count: int) -> str:
    try:
        return cursor.take(count).decode()
    except UnicodeDecodeError as error:
        cursor.corrupt(f"text that is not UTF-8: {error.reason}")


def _map(cursor: Cursor, count: int, depth: int) -> dict[str | int, Any]:
    cursor.skip(0, need=2 * count)
    out: dict[str | int, Any] = {}
    for _ in range(count):
        key = read_value(cursor, depth + 1)
        if type(key) is not str and type(key) is not int:
            cursor.corrupt(f"a key cannot be a {type(key).__name__}")
        if key in out:
            cursor.corrupt(f"the key {key!r:.60} stands there twice")
        out[key] = read_value(cursor, depth + 1)
    return out
