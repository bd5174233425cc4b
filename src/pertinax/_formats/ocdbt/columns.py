# SPDX-License-Identifier: Apache-2.0
"""Columns: how OCDBT lays out numbers and strings, many of a kind at a time.

Knows varints, byte strings and prefix-compressed string lists, both ways, and how much work a
reader may do. Knows nothing of what they mean. Every count and length is checked against the bytes
at hand before use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
import numpy.typing as npt

from pertinax.errors import CorruptCheckpoint

Numbers = npt.NDArray[np.uint64]

MISSING = 2**64 - 1
_MAX_VARINT_BYTES = 10
_LCP_WIDTH = (
    255  # longer shared prefixes are stored up to here only: it bounds the comparison matrix
)
_LCP_ROWS = 1 << 16


def encode_varint(value: int) -> bytes:
    """Unsigned LEB128 of one number."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_varints(values: Sequence[int] | npt.NDArray[np.integer]) -> bytes:
    """Unsigned LEB128 of each number, back to back."""
    numbers = np.asarray(values, np.uint64)
    if not numbers.size:
        return b""
    largest = int(numbers.max())
    if largest < 0x80:
        return numbers.astype(np.uint8).tobytes()
    widths = np.ones(numbers.size, np.int64)
    for bits in range(7, largest.bit_length(), 7):
        widths += numbers >> np.uint64(bits) != 0
    stops = np.cumsum(widths)
    starts = stops - widths
    out = np.empty(int(stops[-1]), np.uint8)
    for digit in range(int(widths.max())):
        used = widths > digit
        low = numbers[used] >> np.uint64(7 * digit) & np.uint64(0x7F)
        more = (widths[used] > digit + 1).astype(np.uint8) << 7
        out[starts[used] + digit] = low.astype(np.uint8) | more
    return out.tobytes()


def shared_prefix_lengths(strings: Sequence[bytes]) -> list[int]:
    """How many bytes each string, the first excepted, shares with the one before it (capped)."""
    out: list[int] = []
    for begin in range(0, len(strings) - 1, _LCP_ROWS):
        rows = strings[begin : begin + _LCP_ROWS + 1]
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        width = min(_LCP_WIDTH, max(1, int(lengths.max())))
        matrix = np.array(rows, f"S{width}").view(np.uint8).reshape(len(rows), width)
        differ = matrix[1:] != matrix[:-1]
        shared = np.where(differ.any(axis=1), differ.argmax(axis=1), width)
        shorter = np.minimum(lengths[1:], lengths[:-1])
        out += np.minimum(shared, shorter).tolist()
    return out


def encode_strings(strings: Sequence[bytes]) -> tuple[bytes, bytes, bytes]:
    """Prefix-compress: the prefix length column, the suffix length column, the suffix bytes."""
    shared = shared_prefix_lengths(strings)
    suffixes = [strings[0], *[s[n:] for s, n in zip(strings[1:], shared, strict=True)]]
    return encode_varints(shared), encode_varints(list(map(len, suffixes))), b"".join(suffixes)


@final
class Budget:
    """How much decoding the bytes read so far justify, over a whole database.

    Compression and shared prefixes let a small file stand for a lot of memory. Real databases reach
    about a hundred times their encoded size; past `PER_BYTE` times it is an attack or damage.
    """

    BASE_BYTES = 32 << 20
    PER_BYTE = 512

    def __init__(self) -> None:
        self.left_bytes = self.BASE_BYTES

    def earn(self, encoded_bytes: int) -> None:
        self.left_bytes += self.PER_BYTE * encoded_bytes

    def spend(self, decoded_bytes: int, *, file: str) -> None:
        if decoded_bytes > self.left_bytes:
            reason = (
                f"decodes to {decoded_bytes} bytes where at most {self.left_bytes} are plausible"
            )
            raise CorruptCheckpoint(reason, file=file)
        self.left_bytes -= decoded_bytes


@final
class Cursor:
    """Reads columns off the body of one frame; whatever does not fit raises `CorruptCheckpoint`."""

    __slots__ = ("body", "budget", "file", "position", "start", "stop")

    def __init__(self, body: bytes, *, file: str, start: int, stop: int, budget: Budget) -> None:
        self.body = body
        self.file = file
        self.start = start  # of the frame in its file: for error texts only
        self.stop = stop
        self.budget = budget
        self.position = 0

    @property
    def left_bytes(self) -> int:
        return len(self.body) - self.position

    def corrupt(self, reason: str) -> CorruptCheckpoint:
        return CorruptCheckpoint(reason, file=self.file, start=self.start, stop=self.stop)

    def take(self, length: int) -> bytes:
        if length > self.left_bytes:
            raise self.corrupt(f"{length} bytes wanted where {self.left_bytes} are left")
        begin = self.position
        self.position += length
        return self.body[begin : self.position]

    def byte(self) -> int:
        return self.take(1)[0]

    def varint(self) -> int:
        return int(self.varints(1)[0])

    def count(self, *, least_bytes: int, most: int) -> int:
        """A number of rows, from 1 to `most`, that take at least `least_bytes` each."""
        rows = self.varint()
        if not 1 <= rows <= most or rows * least_bytes > self.left_bytes:
            raise self.corrupt(f"{rows} rows declared, with {self.left_bytes} bytes left for them")
        return rows

    def varints(self, rows: int) -> Numbers:
        """A column of `rows` varints."""
        if rows > self.left_bytes:
            raise self.corrupt(f"{rows} numbers declared where {self.left_bytes} bytes are left")
        head = np.frombuffer(self.body, np.uint8, rows, self.position)
        if not (head & 0x80).any():
            self.position += rows
            return head.astype(np.uint64)
        reach = min(self.left_bytes, rows * _MAX_VARINT_BYTES)
        window = np.frombuffer(self.body, np.uint8, reach, self.position)
        stops = np.flatnonzero(window < 0x80)[:rows] + 1
        if stops.size < rows:
            raise self.corrupt("a column of numbers runs past the end")
        self.position += int(stops[-1])
        return self._assemble(window, stops)

    def _assemble(self, window: npt.NDArray[np.uint8], stops: npt.NDArray[np.int64]) -> Numbers:
        starts = np.concatenate((np.zeros(1, np.int64), stops[:-1]))
        widths = stops - starts
        widest = int(widths.max())
        if widest >= _MAX_VARINT_BYTES:
            longest = widths >= _MAX_VARINT_BYTES
            last = window[stops[longest] - 1]
            if widest > _MAX_VARINT_BYTES or int(last.max()) > 1:
                raise self.corrupt("a number does not fit 64 bits")
        values = np.zeros(stops.size, np.uint64)
        for digit in range(widest):
            used = widths > digit
            low = window[starts[used] + digit].astype(np.uint64) & np.uint64(0x7F)
            values[used] |= low << np.uint64(7 * digit)
        return values

    def lengths(self, rows: int, *, most: int) -> npt.NDArray[np.int64]:
        """A column of varints, none above `most`: safe to add up."""
        values = self.varints(rows)
        if rows and int(values.max()) > most:
            raise self.corrupt(f"length {int(values.max())} where at most {most} is allowed")
        return values.astype(np.int64)

    def little_endian_u64(self, rows: int) -> Numbers:
        return np.frombuffer(self.take(8 * rows), "<u8").astype(np.uint64)

    def strings(
        self, prefix: npt.NDArray[np.int64], suffix: npt.NDArray[np.int64], *, most: int
    ) -> list[bytes]:
        """The suffix bytes, put together with what each string shares with the one before it."""
        full = suffix.copy()
        full[1:] += prefix
        if (prefix > full[:-1]).any() or int(full.max()) > most:
            raise self.corrupt("a string shares more than the one before it has, or is too long")
        self.budget.spend(int(full.sum()), file=self.file)
        suffix_bytes = self.take(int(suffix.sum()))
        stops = np.cumsum(suffix).tolist()
        string = suffix_bytes[: stops[0]]
        out = [string]
        for shared, begin, stop in zip(prefix.tolist(), stops, stops[1:], strict=False):
            string = string[:shared] + suffix_bytes[begin:stop]
            out.append(string)
        return out

    def finish(self) -> None:
        """Nothing may be left."""
        if self.left_bytes:
            raise self.corrupt(f"{self.left_bytes} bytes too many")
