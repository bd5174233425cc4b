# SPDX-License-Identifier: Apache-2.0
"""OCDBT: the key-value container of Orbax checkpoints, written and read without TensorStore.

Knows bytes, keys and places in files (SPEC.md has the format). Knows nothing of arrays or of
checkpoints.
"""

from pertinax._formats.ocdbt.btree import Reference, Value
from pertinax._formats.ocdbt.manifest import MANIFEST_FILE
from pertinax._formats.ocdbt.merge import PROCESS_PREFIX, merge_databases, process_databases
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
    "PROCESS_PREFIX",
    "Database",
    "EncodedDatabase",
    "Read",
    "Reference",
    "UnsupportedDatabase",
    "Value",
    "encode_database",
    "merge_databases",
    "open_database",
    "process_databases",
    "read_database",
]
