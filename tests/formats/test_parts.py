# SPDX-License-Identifier: Apache-2.0
"""What a process of a job says of its chunks is taken only as it was written."""

import json

import numpy as np
import pytest

from pertinax._formats.crc import file_crc
from pertinax._formats.ledger import encode_chunks
from pertinax._formats.manifest import ChunkTable
from pertinax._formats.parts import _take
from pertinax._store.memory import MemoryStore
from pertinax.errors import CorruptCheckpoint


def written() -> tuple[MemoryStore, bytes]:
    one = np.array([0], np.int64)
    table = ChunkTable(("d/x",), one, one, one, one, one + 8, np.array([7], np.uint32))
    data = json.dumps(encode_chunks(table)).encode()
    store = MemoryStore()
    store.make_dir("/draft")
    with store.create("/draft/part.1") as writer:
        writer.write_at(0, [data])
    return store, data


def test_a_part_is_read_and_removed() -> None:
    store, data = written()
    table = _take(store, "/draft", "part.1", len(data), file_crc(data))
    assert (table.files, table.length.tolist()) == (("d/x",), [8])
    assert store.list_dir("/draft") == []


@pytest.mark.parametrize("what", ["bytes", "length"])
def test_a_part_that_is_not_what_its_process_wrote_is_refused(what: str) -> None:
    store, data = written()
    if what == "bytes":  # another place for the chunk, and still JSON
        changed = data.replace(b'"d/x"', b'"d/y"')
        store.find("/draft/part.1").content[:] = changed  # type: ignore[union-attr]
    told = len(data) + (what == "length")
    with pytest.raises(CorruptCheckpoint, match=r"part\.1.*not the part that its process wrote"):
        _take(store, "/draft", "part.1", told, file_crc(data))
