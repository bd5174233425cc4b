# SPDX-License-Identifier: Apache-2.0
"""What is bounded in a bucket: bytes on their way, data files, objects of one request; and whose
notes a listing keeps to itself.
"""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import pertinax
from pertinax._core.options import SaveOptions
from pertinax._store.contract import Buffer
from pertinax._store.local import LocalStore
from pertinax._store.objects.store import ATTEMPT
from pertinax._store.objects.writer import ObjectWriter
from tests.objects.buckets import Memory, Shelf, bucket
from tests.objects.scenes import FINAL, PLACE, at, save

MIB = 1 << 20


class Gated(Memory):
    """Takes no piece of an upload before it may."""

    def __init__(self, shelf: Shelf) -> None:
        super().__init__(shelf)
        self.may = threading.Event()

    def upload(
        self, key: str, pieces: Iterator[Buffer], part_bytes: int, parts_at_once: int
    ) -> None:
        assert self.may.wait(60)
        super().upload(key, pieces, part_bytes, parts_at_once)


def test_who_writes_faster_than_the_bucket_takes_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first wait finds more than a part in the queue; only then does the upload begin."""
    memory = Gated(Shelf())
    waits: list[bool] = []

    class Watched(threading.Condition):
        def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
            waits.append(bool(predicate()))
            memory.may.set()
            return super().wait_for(predicate, timeout)

    monkeypatch.setattr(threading, "Condition", Watched)
    with ObjectWriter(memory, "x", 40 * MIB, window_bytes=20 * MIB) as writer:
        for number in range(10):
            if number == 9:
                memory.may.set()
            writer.write_at(number * 4 * MIB, [bytes([number]) * (4 * MIB)])
    assert False in waits
    assert memory.shelf.content()["x"] == b"".join(bytes([n]) * (4 * MIB) for n in range(10))


def test_more_objects_than_one_request_takes_are_deleted_all() -> None:
    requests = pertinax.ObjectStore("memory://a-thousand-and-more").requests
    keys = [f"run/{number}" for number in range(1003)]
    for key in keys:
        requests.put(key, b"1")
    requests.delete(keys)
    assert [one.key for page in requests.list("run") for one in page] == []


def test_data_files_in_a_bucket_are_cut_at_two_gib_unless_a_size_is_asked_for() -> None:
    """docs/object-stores.md says so."""
    store = bucket(Memory(Shelf()))
    assert SaveOptions().on(store).file_bytes == 2 << 30
    assert SaveOptions(file_bytes=5).on(store).file_bytes == 5
    assert not SaveOptions().on(LocalStore()).file_bytes


def test_a_view_of_a_checkpoint_does_not_show_who_writes_or_deletes_it() -> None:
    shelf = Shelf()
    memory = Memory(shelf)
    save(memory, "a")
    memory.put(f"{PLACE}/{ATTEMPT}{'1' * 32}", b"{}")
    view = at(memory).view(FINAL)
    names = {entry.name for entry in view.list_dir(FINAL)}
    assert names == {"default", "pertinax.json", "commit_success.txt"}
    pertinax.save("other", {"w": np.arange(3)}, store=bucket(memory))
    memory.put(f"other/{ATTEMPT}{'1' * 32}", b"{}")
    assert pertinax.verify("other", store=bucket(memory)).ok
