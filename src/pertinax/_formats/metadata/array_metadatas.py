# SPDX-License-Identifier: Apache-2.0
"""`array_metadatas/process_<n>`: what else Orbax 0.12 wants to know of its arrays.

Knows the file. All that readers need of it is which leaves are typed PRNG keys. Knows nothing of
arrays themselves.
"""

import json
from collections.abc import Iterable
from typing import NamedTuple

from pertinax._formats.metadata.text import Json
from pertinax._plan.boxes import Shape

ARRAY_METADATAS_DIR = "array_metadatas"
_IMPL = "random_key_impl"


class ArrayEntry(NamedTuple):
    """One `jax.Array`: its parameter name, the shapes of one shard and of one chunk, and the impl
    of a PRNG key.
    """

    name: str
    write_shape: Shape
    chunk_shape: Shape
    impl: str | None = None


def array_metadatas_file(process: int) -> str:
    """The file of one process."""
    return f"{ARRAY_METADATAS_DIR}/process_{process}"


def encode_array_metadatas(entries: Iterable[ArrayEntry]) -> bytes:
    """The file, as Orbax writes it."""
    items = [
        {
            "array_metadata": {
                "param_name": entry.name,
                "write_shape": entry.write_shape,
                "chunk_shape": entry.chunk_shape,
                "ext_metadata": None if entry.impl is None else {_IMPL: entry.impl},
            }
        }
        for entry in entries
    ]
    return json.dumps({"array_metadatas": items}).encode()


def decode_key_impls(data: bytes, file: str) -> dict[str, str]:
    """The PRNG implementation of each typed key. Raises `CorruptCheckpoint` for anything that is no
    such file.
    """
    impls: dict[str, str] = {}
    if _IMPL.encode() not in data:
        return impls
    for item in Json.parse(data, file).field("array_metadatas").array():
        entry = item.field("array_metadata")
        name = entry.field("param_name").text()
        extra = entry.field("ext_metadata")
        if isinstance(extra.value, dict) and extra.field(_IMPL).value is not None:
            impls[name] = extra.field(_IMPL).text()
    return impls
