"""OCDBT: the key-value container of Orbax checkpoints, written and read without TensorStore.

Knows bytes, keys and places in files (SPEC.md has the format). Knows nothing of arrays or of
checkpoints.
"""

from pertinax._formats.ocdbt.btree import Reference, Value
from pertinax._formats.ocdbt.manifest import MANIFEST_FILE
from pertinax._formats.ocdbt.reader import (
    Database,
    Read,
    UnsupportedDatabase,
    open_database,
    read_database,
)
from pertinax._formats.ocdbt.writer import EncodedDatabase, encode_database

__all__ = [
    "MANIFEST_FILE",
    "Database",
    "EncodedDatabase",
    "Read",
    "Reference",
    "UnsupportedDatabase",
    "Value",
    "encode_database",
    "open_database",
    "read_database",
]
