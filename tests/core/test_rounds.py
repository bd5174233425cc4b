# SPDX-License-Identifier: Apache-2.0
"""What a save does for the other processes of its job, seen from one of them."""

from collections.abc import Callable
from typing import Any, Self

import pytest

import pertinax
from pertinax._core.options import SaveOptions
from pertinax._core.write import _Counter, _read_back, _shared_draft
from pertinax._hosts.alone import Monologue
from pertinax._plan.topology import ALONE, Topology
from pertinax._store.memory import MemoryStore
from pertinax._store.publishing import publishing
from pertinax.errors import PeerFailed
from pertinax.testing import FaultyStore
from tests.objects.buckets import FRONT, Memory, Shelf, bucket

PRIMARY, SECOND = Topology(0, (0, 1), 0), Topology(1, (0, 1), 0)


class Told:
    """A round in which the primary says one thing, and each phase is noted."""

    def __init__(self, topology: Topology, said: Any = None, failed: str = "") -> None:
        self.topology = topology
        self.said = said
        self.failed = failed
        self.phases: list[str] = []

    def agree(self, phase: str, decide: Callable[[], Any]) -> Any:
        self.phases.append(phase)
        return decide() if self.topology.is_primary else self.said

    def collect(self, phase: str, value: Any, decide: Callable[[Any], Any]) -> Any:
        self.phases.append(phase)
        return decide(dict.fromkeys(self.topology.members, value))

    def check(self) -> None:
        if self.failed:
            raise PeerFailed(self.failed, process=1, phase="write", operation="save")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.phases.append("left" if kind is None else f"left with {kind.__name__}")

    def fail(self, error: BaseException) -> None:
        self.phases.append(f"failed: {error}")


@pytest.mark.parametrize("who", [PRIMARY, SECOND])
def test_processes_wait_for_one_another_before_and_after_they_read_back(who):
    store = MemoryStore()
    pertinax.save("/draft", {"a": 1}, store=store)
    with publishing(store).join_draft("/c", "/draft") as draft:
        talk = Told(who)
        _read_back(draft, SaveOptions(read_back=True), talk)
    assert talk.phases == ["all is written", "read back"]


def test_who_is_not_the_primary_writes_into_its_draft_and_leaves_it_there():
    store = MemoryStore()
    store.make_dir("/draft")

    def work():
        with _shared_draft(store, "/c", SaveOptions(), Told(SECOND, "/draft")) as draft:
            assert (draft.path, draft.final) == ("/draft", "/c")
            draft.write_file("x", b"y")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert [entry.name for entry in store.list_dir("/draft")] == ["x"]


@pytest.mark.parametrize(("topology", "left"), [(PRIMARY, True), (ALONE, False)])
def test_in_a_bucket_what_other_processes_wrote_is_removed_by_who_is_alone(topology, left):
    shelf = Shelf()
    requests = Memory(shelf)
    talk = Monologue() if topology.alone else Told(topology)
    with _shared_draft(bucket(requests), f"{FRONT}/run/7", SaveOptions(), talk) as draft:
        requests.put("run/7/d/of-another", b"theirs")
        draft.write_file("pertinax.json", b"{}")
        draft.write_file("commit_success.txt", f"{draft.write_id}".encode())
        draft.commit(replace=False)
    assert ("run/7/d/of-another" in shelf.content()) == left
    assert "run/7/pertinax.json" in shelf.content()


def test_a_writer_stops_when_another_process_has_failed():
    told = []
    counter = _Counter(10, lambda done, total: told.append((done, total)), Told(PRIMARY))
    counter.add(3)
    counter.finish()
    assert told == [(3, 10), (10, 10)]
    with pytest.raises(PeerFailed, match="out of memory"):
        _Counter(10, None, Told(PRIMARY, failed="out of memory")).add(1)


@pytest.mark.parametrize(("broken", "end"), [(False, "left"), (True, "left with StorageError")])
def test_the_thread_of_a_save_leaves_the_round_with_what_became_of_it(monkeypatch, broken, end):
    talk = Told(ALONE)
    monkeypatch.setattr("pertinax._core.save._begin", lambda final: talk)
    error = OSError(5, "Input/output error")
    store = FaultyStore(MemoryStore(), fail_at=6, error=error) if broken else MemoryStore()
    pending = pertinax.save_async("/c", {"a": 1}, store=store)
    assert (pending.exception() is not None) == broken
    assert talk.phases[-1] == end
