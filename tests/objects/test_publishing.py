# SPDX-License-Identifier: Apache-2.0
"""A checkpoint in a bucket is there as a whole or not at all: whoever dies, stops or comes second,
and at whichever request.
"""

import contextlib
import itertools
import threading
from collections.abc import Iterator

import pytest

from pertinax._store.objects.attempts import Attempt, Attempts
from pertinax._store.objects.store import ATTEMPT, MARKER
from pertinax.errors import CheckpointExists, PertinaxError, StorageError, WriterConflict
from pertinax.testing import SimulatedDeath
from tests.objects.buckets import FRONT, Dying, Memory, Shelf
from tests.objects.scenes import (
    FINAL,
    LEASE_S,
    PLACE,
    ROOT,
    at,
    delete,
    fill,
    is_clean,
    save,
    visible_tag,
)

OTHER_HOST = "deadbeef-deadbeef-deadbeef-42-42-00000000"


def requests_of(work, shelf: Shelf) -> int:
    counted = Dying(shelf, 0)
    work(counted)
    return counted.requests


def cuts(count: int) -> Iterator[tuple[int, bool]]:
    for number in range(1, count + 1):
        for carried_out in (False, True):
            yield number, carried_out


def test_a_save_is_visible_when_it_is_done_and_leaves_nothing_else():
    shelf = Shelf()
    memory = Memory(shelf)
    save(memory, "a")
    assert visible_tag(shelf) == "a"
    assert is_clean(shelf)
    assert at(memory).find_visible(FINAL) == FINAL
    assert at(memory).find_visible(f"{FINAL}/default") == f"{FINAL}/default"
    last = [key for method, key in memory.log if method == "create"][-1]
    assert last == f"{PLACE}/{MARKER}"


def test_a_save_takes_no_more_requests_than_we_say():
    """docs/object-stores.md: about 14, and one for each file."""
    assert requests_of(lambda one: save(one, "a"), Shelf()) <= 14 + 6


@pytest.mark.crash
def test_a_writer_that_dies_at_any_request_leaves_a_whole_checkpoint_or_none():
    for number, carried_out in cuts(requests_of(lambda one: save(one, "a"), Shelf())):
        shelf = Shelf()
        with pytest.raises(SimulatedDeath):
            save(Dying(shelf, number, carried_out=carried_out), "a")
        seen = visible_tag(shelf)
        assert seen in (None, "a")
        shelf.late_s += LEASE_S + 1
        successor = Memory(shelf)
        try:
            save(successor, "b")
        except CheckpointExists:
            assert visible_tag(shelf) == "a"
        else:
            assert seen is None
            assert visible_tag(shelf) == "b"
        at(successor).clean(f"{FRONT}/{ROOT}")
        assert is_clean(shelf), (number, carried_out)


@pytest.mark.crash
def test_what_the_dead_left_is_finished_or_removed_when_the_root_is_opened():
    for number, carried_out in cuts(requests_of(lambda one: save(one, "a"), Shelf())):
        shelf = Shelf()
        with pytest.raises(SimulatedDeath):
            save(Dying(shelf, number, carried_out=carried_out), "a")
        before = visible_tag(shelf)
        at(Memory(shelf)).clean(f"{FRONT}/{ROOT}")
        assert visible_tag(shelf) in (before, "a")  # nobody is taken for dead before his time
        shelf.late_s += LEASE_S + 1
        at(Memory(shelf)).clean(f"{FRONT}/{ROOT}")
        assert is_clean(shelf), (number, carried_out)


@pytest.mark.crash
def test_a_deletion_that_dies_at_any_request_leaves_the_whole_or_nothing():
    shelf = Shelf()
    save(Memory(shelf), "a")
    for number, carried_out in cuts(requests_of(delete, shelf)):
        shelf = Shelf()
        save(Memory(shelf), "a")
        with pytest.raises(SimulatedDeath):
            delete(Dying(shelf, number, carried_out=carried_out))
        seen = visible_tag(shelf)
        shelf.late_s += LEASE_S + 1
        at(Memory(shelf)).clean(f"{FRONT}/{ROOT}")
        assert visible_tag(shelf) == seen
        assert is_clean(shelf), (number, carried_out)
        if seen is None:
            save(Memory(shelf), "b")
            assert visible_tag(shelf) == "b"


@pytest.mark.crash
def test_a_rescuer_that_dies_at_any_request_is_rescued_itself():
    """The writer dies between its decision and its marker, or before; so does the next one."""
    count = requests_of(lambda one: save(one, "a"), Shelf())
    for first in range(1, count + 1, 2):
        shelf = Shelf()
        with pytest.raises(SimulatedDeath):
            save(Dying(shelf, first), "a")
        kept = dict(shelf.objects)
        for second in range(1, 60):
            shelf = Shelf()
            shelf.objects, shelf.late_s = dict(kept), LEASE_S + 1
            rescuer = Dying(shelf, second)
            try:
                at(rescuer).clean(f"{FRONT}/{ROOT}")
            except SimulatedDeath:
                pass
            else:
                break
            shelf.late_s += LEASE_S + 1
            at(Memory(shelf)).clean(f"{FRONT}/{ROOT}")
            assert visible_tag(shelf) in (None, "a")
            assert is_clean(shelf), (first, second)


# What may happen while a writer is stopped for longer than its lease.
def _saves(shelf: Shelf) -> None:
    save(Memory(shelf), "b")


def _cleans(shelf: Shelf) -> None:
    at(Memory(shelf)).clean(f"{FRONT}/{ROOT}")


def _dies(shelf: Shelf) -> None:
    with pytest.raises(SimulatedDeath):
        save(Dying(shelf, 14), "b")


def _saves_again(shelf: Shelf) -> None:
    with contextlib.suppress(CheckpointExists):
        save(Memory(shelf), "b")
    delete(Memory(shelf))
    save(Memory(shelf), "c")


def _cleans_and_saves(shelf: Shelf) -> None:
    _cleans(shelf)
    save(Memory(shelf), "b")


class Stop:
    """Stops at a request, the first of some kinds from `number` on, for longer than the lease."""

    def __init__(self, shelf, number, meanwhile, others, *, before=None) -> None:
        self.shelf, self.number, self.meanwhile = shelf, number, meanwhile
        self.others, self.before = others, before
        self.seen, self.done = 0, False

    def __call__(self, method: str, key: str) -> None:
        self.seen += 1
        if self.done or self.seen < self.number or method not in (self.before or (method,)):
            return
        self.done = True
        self.shelf.late_s += LEASE_S + 1
        with contextlib.suppress(CheckpointExists):
            self.meanwhile(self.shelf)
        self.others.append(visible_tag(self.shelf))


@pytest.mark.crash
@pytest.mark.parametrize("meanwhile", [_saves, _cleans, _dies, _saves_again])
def test_a_writer_that_is_stopped_at_any_request_harms_nobody_when_it_wakes_up(meanwhile):
    count = requests_of(lambda one: save(one, "a"), Shelf())
    for number in range(1, count + 1):
        shelf = Shelf()
        others: list[str | None] = []
        stop = Stop(shelf, number, meanwhile, others)
        told = None
        with contextlib.suppress(CheckpointExists, WriterConflict, OSError):
            save(Memory(shelf, stop), "a")
            told = "a"
        tag = visible_tag(shelf)
        assert others
        if told == "a":
            # Who is told that it is saved finds it saved; if somebody finished it, and somebody
            # else deleted it since, its marker is the one thing that may be missing.
            assert tag == "a" or meanwhile is _saves_again, number
        if others[0] is not None:
            assert tag == others[0], number
        shelf.late_s += 2 * LEASE_S
        at(Memory(shelf)).clean(f"{FRONT}/{ROOT}")
        assert visible_tag(shelf) == tag


@pytest.mark.crash
def test_a_deletion_that_is_stopped_at_any_request_harms_no_successor():
    shelf = Shelf()
    save(Memory(shelf), "a")
    for number in range(1, requests_of(delete, shelf) + 1):
        shelf = Shelf()
        save(Memory(shelf), "a")
        # Between its last look at the clock and a request that removes nobody may be stopped for
        # long: that is the one thing a lease assumes.
        stop = Stop(shelf, number, _cleans_and_saves, [], before=("head", "get", "list"))
        with contextlib.suppress(PertinaxError, FileNotFoundError):
            delete(Memory(shelf, stop))
        assert visible_tag(shelf) in (None, "a", "b"), number


@pytest.mark.parametrize("method", ["put", "create", "delete"])
def test_a_lost_reply_is_no_lost_checkpoint(method):
    """The request was carried out, the reply did not come."""
    log = Memory(Shelf())
    save(log, "a")
    for number in range(1, sum(one == method for one, _ in log.log) + 1):
        shelf = Shelf()
        seen = itertools.count(1)

        def lose(what: str, key: str, number=number, seen=seen) -> None:
            if what == method and next(seen) == number:
                raise TimeoutError(110, "no reply", key)

        try:
            save(Memory(shelf, after=lose), "a")
        except OSError:
            # Nobody may say so of what was decided: the marker, or the word that all is there.
            assert method == "put", number
            assert visible_tag(shelf) is None
            shelf.late_s += LEASE_S + 1
            save(Memory(shelf), "a")
        assert visible_tag(shelf) == "a"
        at(Memory(shelf)).clean(f"{FRONT}/{ROOT}")
        assert visible_tag(shelf) == "a"


def test_a_second_writer_is_refused_at_once_and_told_by_whom():
    shelf = Shelf()
    with at(Memory(shelf)).open_draft(FINAL) as draft:
        with pytest.raises(WriterConflict, match=r"is being written by process \d+ on .* ago"):
            save(Memory(shelf), "b")
        fill(draft, "a")
        draft.commit(replace=False)
    assert visible_tag(shelf) == "a"
    with pytest.raises(CheckpointExists):
        save(Memory(shelf), "b")
    assert is_clean(shelf)


def _foreign(shelf: Shelf) -> Attempt:
    """Somebody on another host has begun, and left a file."""
    attempt = Attempt(PLACE, "1" * 32, OTHER_HOST, "save", "elsewhere", 42)
    memory = Memory(shelf)
    memory.put(attempt.key, attempt.encode())
    memory.put(f"{PLACE}/default/d/{'2' * 32}", b"half")
    return attempt


def test_an_owner_elsewhere_that_is_heard_of_again_lives():
    shelf = Shelf()
    attempt = _foreign(shelf)
    shelf.late_s += 30

    def sleep(seconds: float) -> None:
        Memory(shelf).put(attempt.key, attempt.encode())

    attempts = Attempts(Memory(shelf), lease_s=LEASE_S, sleep=sleep)
    with pytest.raises(WriterConflict, match="process 42 on elsewhere"):
        attempts.claim(PLACE, "save", roll_forward=lambda *_: False)


def test_an_owner_elsewhere_that_stays_silent_is_dead_when_its_time_is_over():
    shelf = Shelf()
    _foreign(shelf)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        shelf.late_s += seconds

    publish = at(Memory(shelf))
    publish.attempts = Attempts(Memory(shelf), lease_s=LEASE_S, sleep=sleep)
    with publish.open_draft(FINAL) as draft:
        fill(draft, "b")
        draft.commit(replace=False)
    assert LEASE_S - 1 <= sum(slept) <= LEASE_S + 11
    assert visible_tag(shelf) == "b"
    assert is_clean(shelf)


def test_cleaning_does_not_wait_for_anybody():
    shelf = Shelf()
    _foreign(shelf)
    assert at(Memory(shelf)).clean(f"{FRONT}/{ROOT}") == []
    assert f"{PLACE}/default/d/{'2' * 32}" in shelf.objects
    shelf.late_s += LEASE_S
    assert at(Memory(shelf)).clean(f"{FRONT}/{ROOT}") == [FINAL]
    assert is_clean(shelf)


@pytest.mark.parametrize("writers", [2, 4])
def test_of_several_that_begin_together_one_wins_and_the_others_are_refused(writers):
    for _ in range(10):
        shelf = Shelf()
        start = threading.Barrier(writers)
        told: list[object] = []

        def write(tag: str, start=start, shelf=shelf, told=told) -> None:
            start.wait()
            try:
                save(Memory(shelf), tag)
                told.append(tag)
            except (CheckpointExists, WriterConflict) as error:
                told.append(error)

        threads = [threading.Thread(target=write, args=(f"t{i}",)) for i in range(writers)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        winners = [one for one in told if isinstance(one, str)]
        assert winners == [visible_tag(shelf)]
        assert is_clean(shelf)


def test_a_save_that_fails_leaves_nothing():
    shelf = Shelf()
    with at(Memory(shelf)).open_draft(FINAL) as draft:
        fill(draft, "a")  # and then something goes wrong
    assert shelf.content() == {}


def test_what_is_no_leftover_of_ours_is_never_removed():
    shelf = Shelf()
    Memory(shelf).put(f"{PLACE}/notes.txt", b"precious")
    with pytest.raises(CheckpointExists, match="no save of ours left it"):
        save(Memory(shelf), "a")
    assert shelf.content() == {f"{PLACE}/notes.txt": b"precious"}
    assert at(Memory(shelf)).look(FINAL) == "other"


def test_what_is_hidden_can_be_seen_again_and_what_was_taken_over_is_left_alone():
    shelf = Shelf()
    save(Memory(shelf), "a")
    publish = at(Memory(shelf))
    hidden = publish.hide(FINAL)
    assert publish.find_visible(FINAL) is None
    assert publish.look(FINAL) == "unfinished"
    publish.restore(hidden)
    assert visible_tag(shelf) == "a"
    assert is_clean(shelf)
    hidden = publish.hide(FINAL)
    shelf.late_s += LEASE_S + 1
    save(Memory(shelf), "b")
    publish.remove(hidden)
    assert visible_tag(shelf) == "b"
    assert is_clean(shelf)


def test_attempts_are_shown_to_nobody():
    shelf = Shelf()
    with at(Memory(shelf)).open_draft(FINAL) as draft:
        draft.write_file("x", b"1")
        assert any(ATTEMPT in key for key in shelf.objects)
        assert [entry.name for entry in draft.store.list_dir(FINAL)] == ["x"]
        assert at(Memory(shelf)).list_root(f"{FRONT}/{ROOT}") == []


def test_many_steps_are_hidden_and_removed_and_a_root_is_one_listing():
    shelf = Shelf()
    finals = [f"{FRONT}/{ROOT}/{i}" for i in range(12)]
    for final in finals:
        save(Memory(shelf), "a", final)
    memory = Memory(shelf)
    publish = at(memory)
    assert len(publish.list_root(f"{FRONT}/{ROOT}")) == 12
    assert [method for method, _ in memory.log] == ["list"]
    hidden, failures = publish.hide_all([*finals[:10], f"{FRONT}/{ROOT}/99"])
    assert failures == {}
    assert [entry.name for entry in publish.list_root(f"{FRONT}/{ROOT}")] == ["10", "11"]
    for one in hidden.values():
        publish.remove(one)
    assert len(shelf.content()) == 12


def test_a_save_that_was_given_up_is_in_nobody_s_way():
    """Not in that of the process that gave it up, either, though it lives."""
    shelf = Shelf()
    down = False

    def fail(method: str, key: str) -> None:
        if down:
            raise ConnectionResetError(104, "the server is gone", key)

    requests = Memory(shelf, fail)
    draft = at(requests).open_draft(FINAL)
    fill(draft, "a")
    down = True
    with pytest.raises(StorageError):
        draft.commit(replace=False)
    draft.abandon()
    down = False
    assert visible_tag(shelf) is None
    assert any(ATTEMPT in key for key in shelf.content())
    save(requests, "b")
    assert visible_tag(shelf) == "b"
    assert is_clean(shelf)
