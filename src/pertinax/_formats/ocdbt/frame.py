# SPDX-License-Identifier: Apache-2.0
"""Frames: the envelope of the manifest and of every tree node.

Knows magic numbers, lengths, zstd and CRC-32C. Knows nothing of what is inside. Nothing is decoded
before the checksum over the whole frame has been found right.
"""

from __future__ import annotations

from typing import final

import zstandard

from pertinax._formats.crc import crc32c
from pertinax._formats.ocdbt.columns import Budget, Cursor
from pertinax.errors import CorruptCheckpoint, NewerFormat

MANIFEST = 0x0CDB3A2A
NODE = 0x0CDB20DE

_HEADER_BYTES = 12
_LEAST_BYTES = _HEADER_BYTES + 2 + 4
_ZSTD = 1
_MAX_WINDOW_BYTES = 1 << 27


@final
class UnsupportedDatabase(NotImplementedError):
    """OCDBT that only TensorStore can read: a numbered manifest, or an unknown compression."""


def encode_frame(magic: int, body: bytes, *, compress: bool) -> bytes:
    """The bytes of one frame."""
    if compress:
        body = zstandard.ZstdCompressor().compress(body)
    length = _LEAST_BYTES + len(body)
    head = magic.to_bytes(4, "big") + length.to_bytes(8, "little") + bytes((0, int(compress)))
    checksum = crc32c(body, crc32c(head))
    return b"".join((head, body, checksum.to_bytes(4, "little")))


def decode_frame(frame: bytes, magic: int, *, file: str, start: int, budget: Budget) -> Cursor:
    """Check the frame and open its body.

    Raises `CorruptCheckpoint`, `NewerFormat` for a later version of the frame format, or
    `UnsupportedDatabase` for a compression that we do not know.
    """
    _check_envelope(frame, magic, file=file, start=start)
    budget.earn(len(frame))
    # Both are varints, but every value that we know is one byte long.
    version, compression = frame[_HEADER_BYTES], frame[_HEADER_BYTES + 1]
    if version:
        raise NewerFormat(f"file {file!r}: OCDBT frame version {version}, but only 0 is known")
    if compression > _ZSTD:
        raise UnsupportedDatabase(f"file {file!r}: OCDBT compression method {compression}")
    body = frame[_HEADER_BYTES + 2 : -4]
    if compression == _ZSTD:
        body = _decompress(body, file=file, budget=budget)
    budget.spend(len(body), file=file)
    return Cursor(body, file=file, start=start, stop=start + len(frame), budget=budget)


def _check_envelope(frame: bytes, magic: int, *, file: str, start: int) -> None:
    reason = ""
    if len(frame) < _LEAST_BYTES:
        reason = f"{len(frame)} bytes cannot hold a frame"
    elif (found := int.from_bytes(frame[:4], "big")) != magic:
        reason = f"frame begins with {found:#010x} where {magic:#010x} was expected"
    elif (length := int.from_bytes(frame[4:12], "little")) != len(frame):
        reason = f"frame says {length} bytes, but {len(frame)} are stored"
    elif (stored := int.from_bytes(frame[-4:], "little")) != (
        computed := crc32c(memoryview(frame)[:-4])
    ):
        reason = f"CRC-32C is {computed:#010x}, the frame says {stored:#010x}"
    if reason:
        raise CorruptCheckpoint(reason, file=file, start=start, stop=start + len(frame))


def _decompress(packed: bytes, *, file: str, budget: Budget) -> bytes:
    limit = budget.left_bytes
    out: list[bytes] = []
    total = 0
    decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
    # Piece by piece: a declared content size is the writer's word and must not size an allocation.
    try:
        for piece in decompressor.read_to_iter(packed):
            out.append(piece)
            total += len(piece)
            if total > limit:
                reason = f"zstd body grows past the {limit} bytes that are plausible"
                raise CorruptCheckpoint(reason, file=file)
    except zstandard.ZstdError as error:
        raise CorruptCheckpoint(f"zstd body is damaged: {error}", file=file) from error
    return b"".join(out)
