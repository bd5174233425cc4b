# SPDX-License-Identifier: Apache-2.0
"""Who may write at a place: claims, signs of life, and what is left of those who are gone."""

import logging
import threading
import time

import pytest

from pertinax._store.objects.attempts import Attempt, Attempts, Claim, End, Holding
from pertinax._store.objects.store import ATTEMPT
from pertinax.errors import WriterConflict
from tests.objects.buckets import FRONT, Memory, Shelf
from tests.objects.scenes import LEASE_S, PLACE, ROOT, at, is_clean, save, visible_tag

OTHER_HOST = "deadbeef-deadbeef-deadbeef-42-42-00000000"
PROBE = f"{PLACE}/{ATTEMPT}probe.{'a' * 32}"


def elsewhere(write_id: str = "1" * 32) -> Attempt:
    """An attempt of another host, of which nobody can say from here whether it lives."""
    return Attempt(PLACE, write_id, OTHER_HOST, "save", "elsewhere", 42)


def claim(attempts: Attempts, *, patient: bool = True) -> Claim:
    return attempts.claim(PLACE, "save", roll_forward=lambda *_: False, patient=patient)


class Rivals:
    """Others, each of whom begins right after we have said that we are here."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.count = 0

    def come(self, method: str, key: str) -> None:
        if method == "put" and key.startswith(f"{PLACE}/{ATTEMPT}") and "probe" not in key:
            self.count += 1
            rival = elsewhere(f"{self.count:032x}")
            self.shelf.store(rival.key, rival.encode())

    def go(self) -> None:
        for key in [key for key in self.shelf.objects if ATTEMPT in key]:
            del self.shelf.objects[key]


def test_of_two_that_begin_at_once_who_stays_is_the_one_who_writes():
    shelf = Shelf()
    rivals = Rivals(shelf)
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:  # twice we come back too early
            rivals.go()

    def come(method: str, key: str) -> None:
        if not rivals.count:
            rivals.come(method, key)

    attempts = Attempts(Memory(shelf, after=come), lease_s=LEASE_S, sleep=pause)
    claimed = claim(attempts, patient=False)
    assert claimed.over == ()
    assert [key for key in shelf.objects if ATTEMPT in key] == [claimed.attempt.key]
    assert len(pauses) == 3
    assert all(0 <= one <= 1.2 for one in pauses)


def test_where_somebody_comes_in_between_each_time_we_give_up():
    shelf = Shelf()
    rivals = Rivals(shelf)
    attempts = Attempts(
        Memory(shelf, after=rivals.come), lease_s=LEASE_S, sleep=lambda _: rivals.go()
    )
    with pytest.raises(WriterConflict, match=f"too many others want to write {FRONT}/{PLACE}"):
        claim(attempts)
    assert rivals.count == 6
    assert shelf.objects == {}


def test_who_lives_and_does_not_go_is_told_in_the_end():
    shelf = Shelf()
    rivals = Rivals(shelf)

    def come(method: str, key: str) -> None:
        if not rivals.count:
            rivals.come(method, key)

    pauses: list[float] = []
    attempts = Attempts(Memory(shelf, after=come), lease_s=LEASE_S, sleep=pauses.append)
    with pytest.raises(WriterConflict, match="is being written by process 42 on elsewhere"):
        claim(attempts, patient=False)
    assert len(pauses) == 5
    assert list(shelf.objects) == [elsewhere(f"{1:032x}").key]


def test_probes_of_the_dead_are_removed():
    shelf = Shelf()
    shelf.store(PROBE, b"")
    claimed = claim(Attempts(Memory(shelf), lease_s=LEASE_S))
    assert list(shelf.objects) == [claimed.attempt.key]
    assert claimed.names == frozenset()


def test_an_attempt_that_ends_while_we_wait_for_its_owner_is_no_obstacle():
    shelf = Shelf()
    owner = elsewhere()
    shelf.store(owner.key, owner.encode())
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        shelf.objects.pop(owner.key, None)

    claimed = claim(Attempts(Memory(shelf), lease_s=LEASE_S, sleep=pause))
    assert claimed.over == ()
    assert pauses[0] == LEASE_S / 6
    assert list(shelf.objects) == [claimed.attempt.key]


def test_what_the_owner_said_before_us_counts():
    """We take it for dead, and its last word comes before ours."""
    shelf = Shelf()
    owner = elsewhere()
    shelf.store(owner.key, owner.encode())
    shelf.late_s += LEASE_S
    said = End("complete", owner.write_id, {}, {"commit_success.txt": "done"})

    def before(method: str, key: str) -> None:
        if method == "create":
            shelf.store(owner.end_key, said.encode())

    asked: list[End] = []

    def roll_forward(attempt: Attempt, end: End) -> bool:
        asked.append(end)
        return False

    attempts = Attempts(Memory(shelf, before), lease_s=LEASE_S)
    claimed = attempts.claim(PLACE, "save", roll_forward=roll_forward)
    assert asked == [said]
    assert claimed.over == (owner,)


def test_an_owner_that_ends_well_while_we_close_it_for_dead_has_ended_well():
    """Its own end was there and is gone again: ours, which came too late, must not stay."""
    shelf = Shelf()
    owner = elsewhere()
    shelf.store(owner.key, owner.encode())
    shelf.late_s += LEASE_S

    def after(method: str, key: str) -> None:
        if method == "create":
            shelf.objects.pop(owner.key)

    claimed = claim(Attempts(Memory(shelf, after=after), lease_s=LEASE_S, sleep=lambda _: None))
    assert claimed.over == ()
    assert list(shelf.objects) == [claimed.attempt.key]


def test_an_attempt_that_nobody_can_close_stays_open():
    shelf = Shelf()

    def down(method: str, key: str) -> None:
        if method == "create":
            raise ConnectionResetError(104, "the server is gone", key)

    attempts = Attempts(Memory(shelf, down), lease_s=LEASE_S)
    with pytest.raises(ConnectionResetError):
        attempts.close(elsewhere(), End("complete", "me"))
    assert attempts.ended(elsewhere()) is None


@pytest.mark.parametrize(
    "said",
    [
        b"{",
        b"\xff",
        b"[]",
        b'"complete"',
        b'{"verdict": "complete", "objects": [1], "markers": {}}',
        b'{"verdict": "complete", "objects": {"a": "b"}, "markers": {}}',
        b'{"verdict": "complete", "objects": {}, "markers": {"a": 1}}',
    ],
)
def test_a_last_word_that_makes_no_sense_completes_nothing(said):
    shelf = Shelf()
    owner = elsewhere()
    shelf.store(owner.key, owner.encode())
    shelf.store(owner.end_key, said)
    shelf.store(f"{PLACE}/default/d/{'2' * 32}", b"half")
    assert Attempts(Memory(shelf), lease_s=LEASE_S).ended(owner) == End("abandoned", "?")
    save(Memory(shelf), "b")
    assert visible_tag(shelf) == "b"
    assert is_clean(shelf)


@pytest.mark.parametrize("said", [b"{", b"[]", b"{}", b'{"owner": "x", "kind": "save"}'])
def test_an_attempt_that_makes_no_sense_is_over_after_its_lease(said):
    shelf = Shelf()
    shelf.store(elsewhere().key, said)
    pauses: list[float] = []
    attempts = Attempts(Memory(shelf), lease_s=LEASE_S, sleep=pauses.append)
    with pytest.raises(WriterConflict, match=r"process 0 on \?, last heard of 0 s ago"):
        claim(attempts, patient=False)
    assert not attempts.is_proven_over(PLACE, elsewhere().key)
    shelf.late_s += LEASE_S
    assert claim(attempts, patient=False).over == (Attempt(PLACE, "1" * 32, "", "save", "?", 0),)
    assert pauses == []


def test_what_somebody_wants_to_write_or_delete_is_said():
    shelf = Shelf()
    owner = Attempt(PLACE, "1" * 32, OTHER_HOST, "delete", "elsewhere", 42)
    shelf.store(owner.key, owner.encode())
    assert Attempts(Memory(shelf), lease_s=LEASE_S).read(PLACE, "1" * 32) == owner
    with pytest.raises(WriterConflict, match="is being deleted by process 42 on elsewhere"):
        claim(Attempts(Memory(shelf), lease_s=LEASE_S), patient=False)


def held(shelf: Shelf, memory: Memory, lease_s: float = LEASE_S, **options) -> Holding:
    attempts = Attempts(memory, lease_s=lease_s)
    return Holding(attempts, claim(attempts).attempt, **options)


def test_a_sign_of_life_is_given_only_when_the_last_was_long_ago():
    shelf = Shelf()
    memory = Memory(shelf)
    holding = held(shelf, memory)
    memory.log.clear()
    holding.check()
    assert memory.log == []
    often = held(Shelf(), memory := Memory(Shelf()), lease_s=1e-9)
    memory.log.clear()
    often.check()
    assert memory.log[-1] == ("put", often.attempt.key)


def test_who_was_taken_for_dead_is_told_so_each_time():
    shelf = Shelf()
    holding = held(shelf, Memory(shelf))
    Attempts(Memory(shelf), lease_s=LEASE_S).close(holding.attempt, End("abandoned", "another"))
    with pytest.raises(WriterConflict, match="another process has taken over"):
        holding.renew()
    with pytest.raises(WriterConflict, match=r"was not heard of for 60 s"):
        holding.check()


@pytest.mark.parametrize("ending", ["taken over", "forgotten"])
def test_signs_of_life_come_by_themselves_until_the_attempt_is_over(
    ending: str, caplog: pytest.LogCaptureFixture
):
    """Also after one that did not get through."""
    shelf = Shelf()
    signs = threading.Semaphore(0)
    fails = threading.Event()

    def before(method: str, key: str) -> None:
        if method == "put" and not fails.is_set():
            fails.set()
            raise ConnectionResetError(104, "the server is gone", key)

    def after(method: str, key: str) -> None:
        if method == "put":
            signs.release()

    attempts = Attempts(Memory(shelf), lease_s=0.06)
    attempt = claim(attempts).attempt
    attempts = Attempts(Memory(shelf, before, after), lease_s=0.06)
    with caplog.at_level(logging.WARNING):
        holding = Holding(attempts, attempt, thread=True)
        for _ in range(3):
            assert signs.acquire(timeout=60)
        if ending == "taken over":
            attempts.close(attempt, End("abandoned", "another"))
        else:
            del shelf.objects[attempt.key]
        name = f"pertinax-lease-{attempt.write_id}"
        until = time.monotonic() + 60
        for thread in [one for one in threading.enumerate() if one.name == name]:
            thread.join(max(0, until - time.monotonic()))
            assert not thread.is_alive()
    assert "no sign of life" in caplog.text
    with pytest.raises(WriterConflict):
        holding.check()


def test_without_its_clock_the_store_tells_no_age():
    """The object that asked for the time is gone before its time is read: nobody dies of that."""
    shelf = Shelf()
    owner = elsewhere()
    shelf.store(owner.key, owner.encode())
    shelf.late_s += 10 * LEASE_S

    def after(method: str, key: str) -> None:
        if method == "put" and "probe" in key:
            shelf.objects.pop(key, None)

    with pytest.raises(WriterConflict, match="last heard of 0 s ago"):
        claim(Attempts(Memory(shelf, after=after), lease_s=LEASE_S), patient=False)


def test_a_dry_run_names_what_is_proven_dead_and_touches_nothing():
    shelf = Shelf()
    dead = Attempt(PLACE, "1" * 32, OTHER_HOST, "save", "elsewhere", 42)
    shelf.store(f"{PLACE}/data", b"half")
    shelf.store(dead.key, dead.encode())
    root = f"{FRONT}/{ROOT}"
    before = shelf.content()
    assert at(Memory(shelf)).clean(root, dry_run=True) == []
    shelf.store(dead.end_key, End("abandoned", "x").encode())
    assert at(Memory(shelf)).clean(root, dry_run=True) == [f"{FRONT}/{PLACE}"]
    shelf.store(f"{PLACE}/commit_success.txt", b"visible")
    assert at(Memory(shelf)).clean(root, dry_run=True) == []
    del shelf.objects[dead.key]
    del shelf.objects[f"{PLACE}/commit_success.txt"]
    assert at(Memory(shelf)).clean(root, dry_run=True) == [f"{FRONT}/{PLACE}"]
    del shelf.objects[dead.end_key]
    assert before.keys() - shelf.objects.keys() == {dead.key}
