# SPDX-License-Identifier: Apache-2.0
"""Chunk codecs: stored bytes to elements and back.

Knows raw bytes, zstd frames and Zarr v3 shards with one inner chunk. Knows nothing of shapes, keys
or files, and complains with `ValueError`: the caller knows which leaf and which file it was. Both
ways let go of the GIL while they work, and may run in many threads at once.
"""

import struct
from typing import Any, cast

import numpy as np
import zstandard
from numpy.typing import NDArray

from pertinax._formats.crc import crc32c
from pertinax._formats.manifest import Codec

_INDEX = struct.Struct("<QQI")
"""Offset and length of the inner chunk, and the checksum of those two."""
SHARD_OVERHEAD = _INDEX.size
_ABSENT = 2**64 - 1
_MAX_WINDOW = 1 << 27
"""What zstd itself takes for sane; a frame may claim 2 GiB of history."""

Bytes = bytes | bytearray | memoryview
Target = memoryview | NDArray[np.uint8]


def encode_chunk(codec: Codec, raw: Bytes, *, level: int = 1) -> bytes:
    """The stored form of a chunk's elements."""
    data = memoryview(raw).cast("B") if not isinstance(raw, bytes) else raw
    payload = bytes(data)
    if codec in ("zstd", "shard+zstd"):
        payload = zstandard.ZstdCompressor(level=level).compress(data)
    elif codec not in ("raw", "shard"):
        raise ValueError(f"cannot write codec {codec!r}")
    return payload + shard_index(len(payload)) if codec.startswith("shard") else payload


def shard_index(length: int) -> bytes:
    """What follows the `length` bytes of a shard's only inner chunk."""
    entry = struct.pack("<QQ", 0, length)
    return entry + struct.pack("<I", crc32c(entry))


def stored_length(codec: Codec, raw_length: int) -> int | None:
    """Bytes that a chunk of `raw_length` takes, or None where that depends on its content."""
    if codec == "raw":
        return raw_length
    return raw_length + SHARD_OVERHEAD if codec == "shard" else None


def decode_chunk(codec: Codec, stored: Bytes, out: Target, *, fill: Bytes = b"") -> None:
    """Fill `out`, the bytes of one whole chunk, from its stored form.

    `fill` is one element for a shard whose inner chunk is absent; none means zeros. Raises
    `ValueError` if `stored` is not the stored form of exactly so many bytes.
    """
    data = memoryview(stored).cast("B")
    target = memoryview(cast("Any", out)).cast("B")
    if codec in ("shard", "shard+zstd"):
        inner = _inner_chunk(data)
        if inner is None:
            _fill(target, fill)
            return
        data = inner
    if codec in ("zstd", "shard+zstd"):
        _decompress(data, target)
    elif codec in ("raw", "shard"):
        if len(data) != len(target):
            raise ValueError(f"expected {len(target)} bytes, found {len(data)}")
        _copy(data, target)
    else:
        raise ValueError(f"cannot read codec {codec!r}")


def _inner_chunk(data: memoryview) -> memoryview | None:
    end = len(data) - _INDEX.size
    if end < 0:
        raise ValueError(f"a shard of {len(data)} bytes has no room for its index")
    offset, length, crc = _INDEX.unpack_from(data, end)
    if crc32c(data[end : end + 16]) != crc:
        raise ValueError("the shard's index does not match its checksum")
    if offset == length == _ABSENT:
        return None
    if offset + length > end:
        raise ValueError(f"the shard's index points at {offset}+{length} of {end} bytes")
    return data[offset : offset + length]


def _decompress(data: memoryview, target: memoryview) -> None:
    try:
        said = zstandard.get_frame_parameters(data).content_size
        if said not in (len(target), zstandard.CONTENTSIZE_UNKNOWN):
            raise ValueError(f"expected {len(target)} bytes, the zstd frame says {said}")
        # A context of our own: they must not be shared between threads, and cost microseconds.
        engine = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
        with engine.stream_reader(data) as reader:
            done = 0
            while done < len(target):
                count = reader.readinto(target[done:])
                if count == 0:
                    raise ValueError(f"expected {len(target)} bytes, the zstd frame has {done}")
                done += count
            if reader.read(1):
                raise ValueError(f"expected {len(target)} bytes, the zstd frame has more")
    except zstandard.ZstdError as error:
        raise ValueError(f"not a zstd frame: {error}") from None


def _fill(target: memoryview, fill: Bytes) -> None:
    whole = np.frombuffer(target, np.uint8)
    if len(fill) == 0:
        whole[:] = 0
        return
    element = np.frombuffer(fill, np.uint8)
    if len(whole) % len(element):
        raise ValueError(f"{len(whole)} bytes are no multiple of an element of {len(element)}")
    whole.reshape(-1, len(element))[:] = element


def _copy(data: memoryview, target: memoryview) -> None:
    # numpy lets go of the GIL for this, a memoryview assignment does not
    np.copyto(np.frombuffer(target, np.uint8), np.frombuffer(data, np.uint8))
