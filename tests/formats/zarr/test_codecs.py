# SPDX-License-Identifier: Apache-2.0
import struct

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from pertinax._formats.zarr.codecs import decode_chunk, encode_chunk, stored_length

CODECS = ["raw", "zstd", "shard", "shard+zstd"]


@pytest.mark.parametrize("codec", CODECS)
@given(raw=st.binary(min_size=1, max_size=200))
def test_chunks_come_back_as_they_were(codec, raw):
    stored = encode_chunk(codec, raw)
    assert stored_length(codec, len(raw)) in (None, len(stored))
    for out in (bytearray(len(raw)), np.empty(len(raw), np.uint8)):
        decode_chunk(codec, memoryview(stored), memoryview(out))
        assert bytes(out) == raw


@pytest.mark.parametrize("codec", CODECS)
@given(raw=st.binary(min_size=1, max_size=60), at=st.integers(0, 90), noise=st.binary(max_size=9))
def test_damaged_chunks_are_refused_or_have_the_right_length(codec, raw, at, noise):
    stored = encode_chunk(codec, raw)
    try:
        decode_chunk(codec, stored[:at] + noise + stored[at + 1 :], bytearray(len(raw)))
    except ValueError:
        return


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("wrong", [-1, 1, 1000])
def test_a_chunk_of_another_length_is_refused(codec, wrong):
    with pytest.raises(ValueError, match="expected"):
        decode_chunk(codec, encode_chunk(codec, bytes(50)), bytearray(50 + wrong))


def test_a_frame_that_does_not_say_its_size_is_decoded_but_never_beyond_the_target():
    raw = bytes(range(256)) * 1000
    engine = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    stored = engine.compress(raw) + engine.flush()
    out = bytearray(len(raw))
    decode_chunk("zstd", stored, out)
    assert out == raw
    for wrong in (-1, 1):
        with pytest.raises(ValueError, match="expected"):
            decode_chunk("zstd", stored, bytearray(len(raw) + wrong))


def test_a_frame_that_wants_a_huge_window_is_refused():
    parameters = zstandard.ZstdCompressionParameters(window_log=30, write_content_size=False)
    engine = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    stored = engine.compress(bytes(100)) + engine.flush()
    with pytest.raises(ValueError, match="zstd"):
        decode_chunk("zstd", stored, bytearray(100))


def test_a_shard_whose_inner_chunk_is_absent_is_filled():
    from pertinax._formats.crc import crc32c

    entry = struct.pack("<QQ", 2**64 - 1, 2**64 - 1)
    stored = entry + struct.pack("<I", crc32c(entry))
    out = np.ones(3, np.float32)
    decode_chunk("shard+zstd", stored, out.view(np.uint8), fill=np.float32(2.5).tobytes())
    assert out.tolist() == [2.5] * 3
    decode_chunk("shard", stored, out.view(np.uint8))
    assert out.tolist() == [0] * 3


def test_a_flipped_bit_in_the_index_of_a_shard_is_noticed():
    stored = bytearray(encode_chunk("shard", bytes(10)))
    stored[-6] ^= 1
    with pytest.raises(ValueError, match="checksum"):
        decode_chunk("shard", stored, bytearray(10))
