# SPDX-License-Identifier: Apache-2.0
"""What a process of a job says of its chunks is taken only as it was written."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pertinax._formats.crc import BLOCK_BYTES, file_crc
from pertinax._formats.ledger import encode_chunks
from pertinax._formats.manifest import ChunkTable, StoredLeaf
from pertinax._formats.parts import Exchange, _take, digest_of, join_tables
from pertinax._hosts import Monologue
from pertinax._plan.topology import Topology
from pertinax._store.memory import MemoryStore
from pertinax._store.workers import Workers
from pertinax.errors import CorruptCheckpoint, StorageError, UnsupportedTopology


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


LEAVES = (StoredLeaf((), "a", "numpy", "int8", (4,), "int8", (2,)),)


def table(name: str, *chunks: tuple[int, int, int, int], crc: int = 0) -> ChunkTable:
    """Chunks by leaf, ordinal, offset and length; checksums count up from `crc`."""
    leaf, ordinal, offset, length = np.array(chunks, np.int64).reshape(-1, 4).T
    blocks = int(np.sum(-(-length // BLOCK_BYTES)))
    crcs = np.arange(crc, crc + blocks, dtype=np.uint32)
    return ChunkTable((f"{name}/0", f"{name}/1"), leaf, ordinal, leaf % 2, offset, length, crcs)


class Meeting:
    """A round whose primary gets what the others have given."""

    def __init__(self, topology: Topology, given: dict[int, Any]) -> None:
        self.topology, self.given = topology, given
        self.phases: list[str] = []

    def collect(self, phase: str, value: Any, decide: Callable[[Any], Any]) -> Any:
        self.phases.append(phase)
        self.given[self.topology.process] = value
        return decide(dict(sorted(self.given.items()))) if self.topology.is_primary else None


def give(store: MemoryStore, process: int, given: dict[int, Any], **other: Any) -> list[ChunkTable]:
    talk = Meeting(Topology(process, (0, 1, 2), 0), given)
    leaves = other.get("leaves", LEAVES)
    own = table(f"d{process}", (0, process, 8, 4), crc=process)
    with Workers(2, "test-parts") as workers:
        got = Exchange(talk, other.get("item", "")).give(
            store, "/draft", own, leaves, workers=workers
        )
    assert talk.phases == [other.get("phase", "write")]
    return got


def test_the_primary_gets_what_all_others_wrote_and_nobody_else_does() -> None:
    store = MemoryStore()
    store.make_dir("/draft")
    given: dict[int, Any] = {}
    item = {"item": "state", "phase": "write state"}
    assert give(store, 2, given, **item) == []
    assert give(store, 1, given, **item) == []
    assert sorted(one.name for one in store.list_dir("/draft")) == ["part.1", "part.2"]
    parts = give(store, 0, given, **item)
    assert [one.files[0] for one in parts] == ["d1/0", "d2/0"]
    assert [one.ordinal.tolist() for one in parts] == [[1], [2]]
    assert store.list_dir("/draft") == []


def test_who_saved_another_tree_is_named() -> None:
    store = MemoryStore()
    store.make_dir("/draft")
    given: dict[int, Any] = {}
    give(store, 1, given)
    give(store, 2, given, leaves=(*LEAVES, *LEAVES))
    with pytest.raises(UnsupportedTopology, match=r"processes \[2\] saved another tree"):
        give(store, 0, given)


def test_a_process_that_is_alone_gives_nothing() -> None:
    store = MemoryStore()
    with Workers(1, "test-parts") as workers:
        assert Exchange(Monologue()).give(store, "/", table("d"), LEAVES, workers=workers) == []
    assert store.list_dir("/") == []


def test_a_digest_tells_arrays_and_their_chunks_apart_and_nothing_else() -> None:
    (one,) = LEAVES
    own = digest_of(LEAVES)
    assert len(own) == 32
    for other in (
        one._replace(name="b"),
        one._replace(kind="jax"),
        one._replace(storage_dtype="uint8"),
        one._replace(shape=(5,)),
        one._replace(chunk_shape=(1,)),
    ):
        assert digest_of((other,)) != own
    assert digest_of((one._replace(sharding="{}"),)) == own
    assert digest_of((one._replace(name="\udcff"),)) != own


def test_tables_become_one_in_grid_order_and_each_chunk_keeps_its_own() -> None:
    long = BLOCK_BYTES + 1
    one = table("x", (-1, 0, 900, 7), (0, 1, 0, long), (1, 0, 100, 3 * BLOCK_BYTES), crc=10)
    other = table("y", (0, 0, 5, 2), (1, 1, 6, long), (0, 2, 7, 0), crc=20)
    assert join_tables([one]) is one
    both = join_tables([one, table("none"), other])
    assert both.files == ("x/0", "x/1", "none/0", "none/1", "y/0", "y/1")
    assert both.leaf.tolist() == [-1, 0, 0, 0, 1, 1]
    assert both.ordinal.tolist() == [0, 0, 1, 2, 0, 1]
    assert both.file.tolist() == [1, 4, 0, 4, 1, 5]
    assert both.offset.tolist() == [900, 5, 0, 7, 100, 6]
    assert both.length.tolist() == [7, 2, long, 0, 3 * BLOCK_BYTES, long]
    assert both.crc is not None
    assert both.crc.tolist() == [10, 20, 11, 12, 13, 14, 15, 21, 22]
    empty = join_tables([table("x"), table("y")])
    assert (len(empty), empty.crc.tolist()) == (0, [])  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("process", "method", "words"),
    [
        (1, "create", "write a part"),
        (0, "open", "read a part"),
        (0, "remove_file", "remove a part"),
    ],
)
def test_what_a_store_refuses_is_told_with_what_it_was_for(
    process: int, method: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()
    store.make_dir("/draft")
    given: dict[int, Any] = {}
    for other in {1, 2} - {process}:
        give(store, other, given)

    def refuse(_store: MemoryStore, path: str, *_: Any) -> Any:
        raise OSError(5, "Input/output error", path)

    monkeypatch.setattr(MemoryStore, method, refuse)
    with pytest.raises(StorageError, match=words):
        give(store, process, given)
