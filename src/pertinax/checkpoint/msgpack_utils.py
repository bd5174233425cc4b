# SPDX-License-Identifier: Apache-2.0
"""Trees as bytes, in the spelling that old checkpoints and small files of programs have.

Knows its two functions. The spelling is the engine's; nothing else needs to be installed for it.
"""

from typing import Any

from pertinax._formats.msgpack import MAX_CHUNK_BYTES, decode, encode, materialize

MAX_CHUNK_SIZE = MAX_CHUNK_BYTES
"""Arrays of more bytes are cut into parts of at most as many."""


def msgpack_serialize(pytree: Any, in_place: bool = False) -> bytes:
    """The bytes of a tree of dicts, lists and tuples with arrays, Python's values and numbers of
    numpy as leaves.

    With `in_place` nothing is copied: large arrays in the given dicts are replaced by their parts,
    and those on a device by arrays on the host. Raises `ValueError` for anything else, such as
    arrays of objects.

    >>> msgpack_restore(msgpack_serialize({"step": 3}))
    {'step': 3}
    """
    return encode(pytree, in_place=in_place, max_chunk_bytes=MAX_CHUNK_SIZE)


def msgpack_restore(encoded_pytree: bytes) -> Any:
    """The tree out of those bytes; arrays come back as arrays of numpy that cannot be written to.

    Raises `ValueError` for bytes that are no such tree, `TypeError` for an unknown dtype.
    """
    data = memoryview(encoded_pytree).cast("B")

    def read(offset: int, length: int) -> bytes:
        return bytes(data[offset : offset + length])

    return materialize(decode(read, len(data), "the bytes given"), read)
