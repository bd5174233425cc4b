# SPDX-License-Identifier: Apache-2.0
"""How an attempt ends when others are quicker, and what stays of it then: nothing of its own."""

import json
import os
import platform
import re
import threading
from typing import Any

import pytest

from pertinax._store.objects.attempts import Attempt, Attempts, End, Holding
from pertinax._store.objects.draft import finish, is_whole, remove_below
from pertinax._store.objects.store import ATTEMPT, MARKER
from pertinax._store.objects.writer import ObjectWriter
from pertinax._store.owner import new_token
from pertinax.errors import CheckpointExists, StorageError, WriterConflict
from tests.objects.buckets import FRONT, Memory, Shelf
from tests.objects.scenes import FINAL, LEASE_S, PLACE, ROOT, at, fill, is_clean, save, visible_tag

TAKEN = End("abandoned", "somebody else").encode()


def signs() -> list[str]:
    """The threads that give signs of life."""
    return [one.name for one in threading.enumerate() if PLACE in one.name]


def unique(shelf: Shelf) -> list[str]:
    return [key for key in shelf.objects if re.fullmatch(r"[0-9a-f]{32}", key.rpartition("/")[2])]


def end_key(shelf: Shelf) -> str:
    (key,) = (key for key in shelf.objects if ATTEMPT in key)
    return f"{key}.end"


def test_who_is_taken_for_dead_at_the_last_moment_is_told_and_leaves_nothing_of_its_own():
    shelf = Shelf()

    def be_quicker(method: str, key: str) -> None:
        if method == "create" and key.endswith(".end"):
            shelf.store(key, TAKEN)

    draft = at(Memory(shelf, be_quicker)).open_draft(FINAL)
    fill(draft, "a")
    assert len(unique(shelf)) == 2
    with pytest.raises(WriterConflict, match="another process has taken over"):
        draft.commit(replace=False)
    assert unique(shelf) == []
    assert f"{PLACE}/pertinax.json" in shelf.objects  # may be the successor's
    assert visible_tag(shelf) is None
    draft.abandon()


def test_who_was_taken_for_dead_gives_up_only_what_is_its_own():
    shelf = Shelf()
    draft = at(Memory(shelf)).open_draft(FINAL)
    fill(draft, "a")
    shelf.store(end_key(shelf), TAKEN)
    draft.abandon()
    assert unique(shelf) == []
    assert f"{PLACE}/pertinax.json" in shelf.objects


@pytest.mark.parametrize("shared", [True, False])
def test_what_a_late_writer_has_sent_goes_unless_others_write_with_us(shared: bool):
    shelf = Shelf()
    with at(Memory(shelf)).open_draft(FINAL, shared=shared) as draft:
        fill(draft, "a")
        shelf.store(f"{PLACE}/default/d/{'2' * 32}", b"late")
        draft.commit(replace=False)
    assert visible_tag(shelf) == "a"
    assert is_clean(shelf) == (not shared)


def test_the_marker_of_the_checkpoint_comes_last_whenever_its_writer_made_it():
    memory = Memory(Shelf())
    with at(memory).open_draft(FINAL) as draft:
        draft.write_file(MARKER, b"all")
        draft.write_file(f"default/{MARKER}", b"item")
        draft.commit(replace=False)
    made = [key for method, key in memory.log if method == "create" and key.endswith(MARKER)]
    assert made == [f"{PLACE}/default/{MARKER}", f"{PLACE}/{MARKER}"]


def test_what_was_given_up_is_not_committed_any_more():
    shelf = Shelf()
    draft = at(Memory(shelf)).open_draft(FINAL)
    fill(draft, "a")
    draft.abandon()
    assert shelf.content() == {}
    with pytest.raises(RuntimeError, match="already over"):
        draft.commit(replace=False)
    draft.abandon()
    assert shelf.content() == {}


def test_what_the_store_says_while_it_is_published_is_an_error_of_storage():
    shelf = Shelf()
    broken = False

    def fail(method: str, key: str) -> None:
        if broken and method == "list":
            raise FileNotFoundError(2, "no such bucket", key)

    draft = at(Memory(shelf, fail)).open_draft(FINAL)
    fill(draft, "a")
    broken = True
    with pytest.raises(StorageError, match="could not publish the checkpoint"):
        draft.commit(replace=False)
    broken = False
    draft.abandon()
    assert at(Memory(shelf)).clean(f"{FRONT}/{ROOT}") == []
    assert visible_tag(shelf) == "a"  # it had been decided
    assert is_clean(shelf)


def test_a_draft_that_cannot_be_opened_gives_no_more_signs_of_life_and_its_reason_is_told():
    shelf = Shelf()
    save(Memory(shelf), "a")

    def fail(method: str, key: str) -> None:
        if method == "delete":
            raise ConnectionResetError(104, "the server is gone", key)

    threads = threading.active_count()
    with pytest.raises(CheckpointExists):
        at(Memory(shelf, fail)).open_draft(FINAL)
    assert threading.active_count() == threads


def test_what_was_hidden_is_shown_again_only_by_who_holds_it():
    shelf = Shelf()
    save(Memory(shelf), "a")
    publish = at(Memory(shelf))
    hidden = publish.hide(FINAL)
    shelf.store(end_key(shelf), TAKEN)
    with pytest.raises(WriterConflict):
        publish.restore(hidden)
    assert visible_tag(shelf) is None


def test_a_reason_for_not_hiding_is_told_and_not_what_failed_next():
    shelf = Shelf()
    save(Memory(shelf), "a")
    reading = False

    def fail(method: str, key: str) -> None:
        nonlocal reading
        reading = reading or (method == "get" and key.endswith(MARKER))
        if reading:
            name = "first" if method == "get" else "second"
            raise ConnectionResetError(104, name, key)

    with pytest.raises(ConnectionResetError, match="first"):
        at(Memory(shelf, fail)).hide(FINAL)
    assert visible_tag(shelf) == "a"


def test_one_that_goes_alone_needs_no_threads_and_none_that_goes_no_request():
    shelf = Shelf()
    save(Memory(shelf), "a")
    threads = set[str]()
    memory = Memory(shelf, lambda method, key: threads.add(threading.current_thread().name))
    assert at(memory).hide_all([]) == ({}, {})
    assert threads == set()
    hidden, failures = at(memory).hide_all([FINAL])
    assert (list(hidden), failures) == ([FINAL], {})
    assert not any(name.startswith("pertinax-hide") for name in threads)


def test_finishing_for_the_dead_is_said_and_not_finishing_is_not(caplog: pytest.LogCaptureFixture):
    shelf = Shelf()
    publish = at(Memory(shelf))
    attempt = Attempt(PLACE, "1" * 32, "", "save", "elsewhere", 1)
    whole = End("complete", "1" * 32, {}, {MARKER: "Finished by attempt x"})
    missing = End("complete", "1" * 32, {"gone": 3}, {MARKER: "Finished by attempt x"})
    assert publish.roll_forward(attempt, missing) is False
    assert caplog.text == ""
    assert publish.roll_forward(attempt, whole) is True
    assert "finished the save of a dead writer" in caplog.text
    assert finish(Memory(shelf), attempt, whole) is True


def test_who_has_lost_the_place_removes_nothing_more_of_it():
    shelf = Shelf()
    attempts = Attempts(Memory(shelf), lease_s=1e-9)  # each check asks
    claim = attempts.claim(PLACE, "delete", roll_forward=lambda *_: False)
    holding = Holding(attempts, claim.attempt)
    shelf.store(f"{PLACE}/x", b"1")
    remove_below(Memory(shelf), PLACE, holding)
    assert f"{PLACE}/x" not in shelf.objects
    shelf.store(f"{PLACE}/x", b"2")
    shelf.store(claim.attempt.end_key, TAKEN)
    with pytest.raises(WriterConflict):
        remove_below(Memory(shelf), PLACE, holding)
    assert shelf.content()[f"{PLACE}/x"] == b"2"


def test_who_loses_the_place_over_the_last_removal_leaves_the_rest_to_the_other(
    caplog: pytest.LogCaptureFixture,
):
    shelf = Shelf()
    save(Memory(shelf), "a")

    def take_over(method: str, key: str) -> None:
        if method == "delete" and not any("default" in one for one in shelf.objects):
            shelf.store(end_key(shelf), TAKEN)

    memory = Memory(shelf, after=take_over)
    publish = at(memory)
    publish.attempts = Attempts(memory, lease_s=1e-9)
    publish.remove(publish.hide(FINAL))
    assert "somebody else removes" in caplog.text
    assert list(shelf.content().values())[-1] == TAKEN


def test_what_a_listing_shows_is_not_asked_for_again():
    memory = Memory(Shelf())
    end = End("complete", "1" * 32, {"a": 3, "b": 4}, {})
    assert is_whole(memory, PLACE, end, {f"{PLACE}/a": 3, f"{PLACE}/b": 4})
    assert memory.log == []
    assert not is_whole(memory, PLACE, end, {f"{PLACE}/a": 3, f"{PLACE}/b": 5})
    assert memory.log == [("head", f"{PLACE}/b")]


WHOLE = {"verdict": "complete", "by": "x", "objects": {"a": 3}, "markers": {"m": "text"}}


@pytest.mark.parametrize(
    "told",
    [
        *({**WHOLE, "verdict": "maybe"}, {**WHOLE, "objects": {"a": "3"}}, {"verdict": "complete"}),
        *({**WHOLE, "markers": {"m": 1}}, {**WHOLE, "objects": [3]}, [], 3, None),
    ],
)
def test_an_end_that_makes_no_sense_is_that_of_a_save_that_was_given_up(told: Any):
    shelf = Shelf()
    attempts = Attempts(Memory(shelf), lease_s=LEASE_S)
    attempt = Attempt(PLACE, "1" * 32, "", "save", "elsewhere", 1)
    assert attempts.ended(attempt) is None
    shelf.store(attempt.end_key, json.dumps(WHOLE).encode())
    assert attempts.ended(attempt) == End("complete", "x", {"a": 3}, {"m": "text"})
    shelf.store(attempt.end_key, json.dumps(told).encode())
    assert attempts.ended(attempt) == End("abandoned", "?")


def test_only_a_proof_of_death_or_an_end_counts_where_nobody_waits():
    shelf = Shelf()
    attempts = Attempts(Memory(shelf), lease_s=LEASE_S)
    mine = new_token()
    host, boot, space, pid, _, chance = mine.split("-")
    dead = f"{host}-{boot}-{space}-{pid}-12345-{chance}"
    fates = {mine: False, dead: True, "a-stranger": False}
    for i, (owner, over) in enumerate(fates.items()):
        attempt = Attempt(PLACE, f"{i}" * 32, owner, "save", "here", 1)
        shelf.store(attempt.key, attempt.encode())
        assert attempts.is_proven_over(PLACE, attempt.key) is over
        shelf.store(attempt.end_key, TAKEN)
        assert attempts.is_proven_over(PLACE, attempt.key)
    assert attempts.is_proven_over(PLACE, f"{PLACE}/{ATTEMPT}{'9' * 32}")


def test_why_a_small_file_was_not_written_is_told_and_where():
    def fail(method: str, key: str) -> None:
        raise ConnectionResetError(104, "first" if method == "create" else "second", key)

    writer = ObjectWriter(Memory(Shelf(), fail), "x", 0)
    writer.write_at(0, [b"1"])
    with pytest.raises(OSError, match="first"):
        writer.sync()
    with pytest.raises(OSError, match="earlier write failed: first") as caught:
        writer.write_at(1, [b"2"])
    assert caught.value.filename == f"{FRONT}/x"


def test_of_a_large_file_that_is_given_up_no_thread_stays():
    shelf = Shelf()
    writer = ObjectWriter(Memory(shelf), "x", 64 << 20)
    writer.write_at(0, [bytes(17 << 20)])
    assert any(one.name == "pertinax-upload" for one in threading.enumerate())
    writer.abandon()
    assert not any(one.name == "pertinax-upload" for one in threading.enumerate())
    assert shelf.content() == {}


def test_a_conflict_says_on_which_host_and_by_which_process():
    shelf = Shelf()
    with at(Memory(shelf)).open_draft(FINAL), pytest.raises(WriterConflict) as caught:
        save(Memory(shelf), "b")
    assert f"written by process {os.getpid()} on {platform.node()}, last" in str(caught.value)


def test_a_holder_that_has_lost_its_place_is_told_at_each_check():
    shelf = Shelf()
    attempts = Attempts(Memory(shelf), lease_s=LEASE_S)
    claim = attempts.claim(PLACE, "save", roll_forward=lambda *_: False)
    holding = Holding(attempts, claim.attempt)
    holding.check()
    shelf.store(claim.attempt.end_key, TAKEN)
    with pytest.raises(WriterConflict):
        holding.renew()
    for _ in range(2):
        with pytest.raises(WriterConflict):
            holding.check()
    holding.stop()
    assert signs() == []
