# SPDX-License-Identifier: Apache-2.0
"""A draft in a bucket: what its writer sees of it, and how it ends when somebody else comes."""

import uuid

import pytest

from pertinax._store.contract import Entry, Stat, Store
from pertinax._store.objects.attempts import Attempt, Attempts, End
from pertinax._store.objects.draft import is_whole
from pertinax._store.objects.publishing import MarkerPublishing
from pertinax._store.objects.store import MARKER
from pertinax.errors import CheckpointExists, InvalidOption, StorageError, WriterConflict
from pertinax.testing import ObjectStoreTests
from pertinax.testing.store_tests import get, put
from tests.objects.buckets import FRONT, Memory, Shelf, bucket
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

MARK = f"{PLACE}/{MARKER}"


def patient(requests: Memory, sleep) -> MarkerPublishing:
    """Publishing that calls `sleep` instead of sleeping."""
    publish = at(requests)
    publish.attempts = Attempts(requests, lease_s=LEASE_S, sleep=sleep)
    return publish


class TestTheStoreOfADraft(ObjectStoreTests):
    @pytest.fixture
    def store_and_root(self) -> tuple[Store, str]:
        draft = at(Memory(Shelf())).open_draft(FINAL)
        return draft.store, f"{FINAL}/root"


@pytest.mark.parametrize("name", ["", ".", "..", "a//b", "/a", "a/", "a/../b", "./a"])
def test_a_name_that_leads_out_of_the_draft_is_refused(name):
    with at(Memory(Shelf())).open_draft(FINAL) as draft:
        for ask in (draft.locate, draft.make_dir):
            with pytest.raises(ValueError, match="not a name inside a checkpoint"):
                ask(name)
        assert draft.locate("a/b") == f"{FINAL}/a/b"


def test_a_draft_lies_where_the_checkpoint_will_be_and_nowhere_else():
    publish = at(Memory(Shelf()))
    for path in (f"{FINAL}.tmp", f"{FRONT}/elsewhere"):
        with pytest.raises(InvalidOption, match="cannot lie elsewhere"):
            publish.open_draft(FINAL, path=path)
        with pytest.raises(InvalidOption, match="cannot lie elsewhere"):
            publish.join_draft(FINAL, path)
    with pytest.raises(InvalidOption, match="is a bucket: a checkpoint needs a name in it"):
        publish.open_draft(FRONT)
    with publish.open_draft(f"{FINAL}/", path=f"{FINAL}/") as draft:
        assert (draft.final, draft.path) == (FINAL, FINAL)


def test_a_draft_is_committed_once_and_by_its_owner():
    shelf = Shelf()
    memory = Memory(shelf)
    with at(memory).open_draft(FINAL, shared=True) as draft:
        with at(memory).join_draft(FINAL, FINAL) as joined:
            assert joined.write_id is None
            assert joined.write_file("default/d/of-another", b"theirs") == 6
            with pytest.raises(RuntimeError, match="not ours to commit"):
                joined.commit(replace=False)
        fill(draft, "a")
        draft.commit(replace=False)
        with pytest.raises(RuntimeError, match="already over"):
            draft.commit(replace=False)
    content = shelf.content()
    assert content.pop(f"{PLACE}/default/d/of-another") == b"theirs"
    assert content[MARK].startswith(b"a ")


def test_the_writer_sees_the_markers_that_it_made_and_nobody_else_does():
    shelf = Shelf()
    publish = at(Memory(shelf))
    with publish.open_draft(FINAL) as draft:
        store = draft.store
        assert store.list_dir(FINAL) == []
        found = store.stat(FINAL)
        assert found is not None
        assert found.is_dir
        with pytest.raises(FileNotFoundError):
            store.list_dir(f"{FINAL}/default")
        put(store, f"{FINAL}/default/{MARKER}", b"item")
        assert store.list_dir(f"{FINAL}/default/") == [Entry(MARKER, is_dir=False)]
        with pytest.raises(FileExistsError):
            store.create(f"{FINAL}/default/{MARKER}")
        assert get(store, f"{FINAL}/default/{MARKER}") == b"item"
        found = store.stat(f"{FINAL}/default/{MARKER}")
        assert found is not None
        assert found.length == 4
        put(store, f"{FINAL}/default/x", b"1")
        assert store.list_dir(f"{FINAL}/default") == [
            Entry("x", is_dir=False),
            Entry(MARKER, is_dir=False),
        ]
        assert get(store, f"{FINAL}/default/x") == b"1"
        assert not [key for key in shelf.objects if key.endswith(MARKER)]
        assert publish.find_visible(FINAL) is None


def test_a_draft_is_a_directory_also_where_a_listing_does_not_show_it_yet():
    with at(Memory(Shelf())).join_draft(FINAL, FINAL) as joined:
        assert joined.store.stat(FINAL) == Stat(is_dir=True, length=0, mtime_ns=0)
        assert joined.store.list_dir(FINAL) == []
        assert joined.store.stat(f"{FINAL}/default") is None


def test_what_the_writer_takes_back_is_no_part_of_the_checkpoint():
    shelf = Shelf()
    with at(Memory(shelf)).open_draft(FINAL) as draft:
        fill(draft, "a")
        put(draft.store, f"{FINAL}/default/x", b"1")
        draft.store.remove_file(f"{FINAL}/default/x")
        put(draft.store, f"{FINAL}/second/{MARKER}", b"item")
        draft.store.remove_file(f"{FINAL}/second/{MARKER}")
        draft.commit(replace=False)
    assert visible_tag(shelf) == "a"
    assert is_clean(shelf)


def test_a_checkpoint_whose_writer_makes_no_marker_gets_one():
    shelf = Shelf()
    with at(Memory(shelf)).open_draft(FINAL) as draft:
        draft.write_file("x", b"1")
        write_id = draft.write_id
        draft.commit(replace=False)
    assert shelf.content() == {
        MARK: f"Finished by attempt {write_id}".encode(),
        f"{PLACE}/x": b"1",
    }


def test_a_write_after_somebody_took_over_is_refused():
    shelf = Shelf()
    memory = Memory(shelf)
    publish = bucket(memory, lease_s=1e-9).publishing()
    with publish.open_draft(FINAL) as draft:
        assert draft.write_id is not None
        attempt = publish.attempts.read(PLACE, draft.write_id)
        assert attempt is not None
        publish.attempts.close(attempt, End("abandoned", "another"))
        with pytest.raises(WriterConflict, match="taken over"):
            draft.store.create(f"{FINAL}/x")


def rival() -> Attempt:
    return Attempt(PLACE, "1" * 32, "deadbeef-deadbeef-deadbeef-4-4-00000000", "save", "other", 4)


def test_who_comes_while_we_end_is_waited_for_until_it_has_gone_away():
    shelf = Shelf()
    memory = Memory(shelf)
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 10:
            memory.delete([rival().key])

    with patient(memory, sleep).open_draft(FINAL) as draft:
        fill(draft, "a")
        memory.put(rival().key, rival().encode())
        draft.commit(replace=False)
    assert pauses == [0.3] * 10
    assert visible_tag(shelf) == "a"
    assert is_clean(shelf)


def test_who_comes_while_we_end_and_stays_has_the_place():
    """What only we can have written is removed, the rest may be the other's."""
    shelf = Shelf()
    memory = Memory(shelf)
    pauses: list[float] = []
    with patient(memory, pauses.append).open_draft(FINAL) as draft:
        fill(draft, "a")
        memory.put(rival().key, rival().encode())
        with pytest.raises(WriterConflict, match="taken over"):
            draft.commit(replace=False)
    assert len(pauses) == 10
    assert set(shelf.content()) == {
        rival().key,
        f"{PLACE}/default/_METADATA",
        f"{PLACE}/pertinax.json",
    }


@pytest.mark.parametrize("down", [False, True])
def test_a_checkpoint_of_which_something_was_removed_is_not_published(down: bool):
    shelf = Shelf()

    def before(method: str, key: str) -> None:
        if method == "delete" and down and "/d/" in key:
            raise ConnectionResetError(104, "the server is gone", key)

    memory = Memory(shelf, before)
    with at(memory).open_draft(FINAL) as draft:
        fill(draft, "a")
        lost = next(key for key in shelf.objects if "/d/" in key)
        del shelf.objects[lost]
        with pytest.raises(WriterConflict, match="taken over"):
            draft.commit(replace=False)
    assert visible_tag(shelf) is None
    assert len([key for key in shelf.objects if "/d/" in key]) == (1 if down else 0)


def test_an_object_that_a_listing_does_not_show_yet_is_asked_for():
    shelf = Shelf()
    memory = Memory(shelf)
    memory.put(f"{PLACE}/x", b"12")
    end = End("complete", "me", {"x": 2}, {})
    assert is_whole(memory, PLACE, end, {})
    assert is_whole(memory, PLACE, end, {f"{PLACE}/x": 1})
    assert not is_whole(memory, PLACE, End("complete", "me", {"x": 3}, {}), {})
    assert not is_whole(memory, PLACE, End("complete", "me", {"x": 2, "y": 0}, {}), {})


def test_a_marker_that_could_not_be_made_is_made_by_whoever_comes_next():
    shelf = Shelf()
    down = True

    def before(method: str, key: str) -> None:
        if down and method == "create" and key == MARK:
            raise ConnectionResetError(104, "the server is gone", key)

    memory = Memory(shelf, before)
    draft = at(memory).open_draft(FINAL)
    fill(draft, "a")
    with pytest.raises(StorageError, match="the server is gone"):
        draft.commit(replace=False)
    draft.abandon()
    assert visible_tag(shelf) is None
    down = False
    with pytest.raises(CheckpointExists):
        save(memory, "b")
    assert visible_tag(shelf) == "a"
    assert is_clean(shelf)


def test_a_checkpoint_that_was_decided_and_of_which_something_is_gone_is_not_finished():
    shelf = Shelf()

    def before(method: str, key: str) -> None:
        if method == "create" and key == MARK:
            raise ConnectionResetError(104, "the server is gone", key)

    draft = at(Memory(shelf, before)).open_draft(FINAL)
    fill(draft, "a")
    with pytest.raises(StorageError):
        draft.commit(replace=False)
    draft.abandon()
    del shelf.objects[f"{PLACE}/pertinax.json"]
    save(Memory(shelf), "b")
    assert visible_tag(shelf) == "b"
    assert is_clean(shelf)


def test_another_checkpoint_in_the_place_is_not_replaced():
    """Somebody who asked nobody has put a marker there."""
    shelf = Shelf()
    memory = Memory(shelf)
    with at(memory).open_draft(FINAL, shared=True) as draft:
        draft.write_file("x", b"1")
        memory.put(MARK, b"mine")
        with pytest.raises(CheckpointExists, match="there is a checkpoint at"):
            draft.commit(replace=False)
    assert shelf.content() == {MARK: b"mine", f"{PLACE}/x": b"1"}


def test_a_checkpoint_that_is_done_is_done_even_if_the_notes_of_it_stay():
    shelf = Shelf()
    down = False

    def before(method: str, key: str) -> None:
        if down and method == "delete" and "attempt" in key:
            raise ConnectionResetError(104, "the server is gone", key)

    memory = Memory(shelf, before)
    with at(memory).open_draft(FINAL) as draft:
        fill(draft, "a")
        down = True
        draft.commit(replace=False)
    down = False
    assert visible_tag(shelf) == "a"
    assert not is_clean_but_for_notes(shelf)
    with pytest.raises(CheckpointExists):
        save(memory, "b")
    assert is_clean(shelf)


def is_clean_but_for_notes(shelf: Shelf) -> bool:
    return not any("attempt" in key for key in shelf.objects)


def test_a_draft_that_cannot_be_opened_leaves_what_was_there():
    shelf = Shelf()
    memory = Memory(shelf)
    save(memory, "a")
    before = shelf.content()
    with pytest.raises(CheckpointExists):
        at(memory).open_draft(FINAL)
    assert shelf.content() == before


def test_markers_go_first_and_the_checkpoint_s_own_before_those_of_items():
    shelf = Shelf()
    save(Memory(shelf), "a")
    memory = Memory(shelf)
    delete(memory)
    gone = [key for method, key in memory.log if method == "delete" and "attempt" not in key]
    assert gone[:2] == [MARK, f"{PLACE}/default/{MARKER}"]
    assert shelf.objects == {}


def test_what_could_not_be_hidden_is_still_there():
    """The request to hide fails, carried out or not: what is there in the end is what is told."""
    for carried_out in (False, True):
        shelf = Shelf()
        save(Memory(shelf), "a")

        def fail(method: str, key: str) -> None:
            if method == "delete" and key == MARK:
                raise ConnectionResetError(104, "the server is gone", key)

        when = {"after": fail} if carried_out else {"before": fail}
        publish = at(Memory(shelf, **when))
        if carried_out:
            publish.remove(publish.hide(FINAL))
            assert shelf.objects == {}
        else:
            with pytest.raises(ConnectionResetError):
                publish.hide(FINAL)
            assert visible_tag(shelf) == "a"
            assert is_clean(shelf)


def test_a_marker_that_vanishes_before_it_is_read_was_taken_by_another():
    shelf = Shelf()
    save(Memory(shelf), "a")

    def before(method: str, key: str) -> None:
        if method == "get" and key == MARK:
            del shelf.objects[MARK]

    with pytest.raises(FileNotFoundError):
        at(Memory(shelf, before)).hide(FINAL)
    assert not any("attempt" in key for key in shelf.objects)


def test_of_many_that_are_hidden_each_has_its_own_failure():
    shelf = Shelf()
    finals = [f"{FRONT}/{ROOT}/{step}" for step in (7, 8)]
    for final in finals:
        save(Memory(shelf), "a", final)

    def fail(method: str, key: str) -> None:
        if method == "head" and key == MARK:
            raise ConnectionResetError(104, "the server is gone", key)

    publish = at(Memory(shelf, fail))
    hidden, failures = publish.hide_all(finals)
    assert list(hidden) == [finals[1]]
    assert isinstance(failures[finals[0]], ConnectionResetError)
    assert publish.hide_all([]) == ({}, {})
    hidden, failures = publish.hide_all([finals[1]])
    assert (hidden[finals[1]].names, failures) == ((), {})


def test_what_another_program_left_is_removed_when_it_is_asked_for():
    shelf = Shelf()
    memory = Memory(shelf)
    assert not at(memory).remove_unfinished(FINAL)
    memory.put(f"{PLACE}/theirs", b"1")
    assert at(memory).remove_unfinished(FINAL)
    assert shelf.objects == {}
    save(memory, "a")
    assert not at(memory).remove_unfinished(FINAL)
    assert visible_tag(shelf) == "a"


def test_what_somebody_else_removes_is_left_to_him():
    shelf = Shelf()
    memory = Memory(shelf)
    save(memory, "a")
    publish = at(memory)
    hidden = publish.hide(FINAL)
    before = shelf.content()
    attempt = publish.attempts.read(PLACE, hidden.names[0])
    assert attempt is not None
    publish.attempts.close(attempt, End("abandoned", "another"))
    publish.remove(hidden)
    assert shelf.content().keys() == {*before, attempt.end_key}
    publish.attempts.forget([attempt])
    publish.remove(hidden)
    publish.restore(hidden)
    assert MARK not in shelf.objects


def test_a_small_file_is_put_in_the_place_of_another():
    shelf = Shelf()
    publish = at(Memory(shelf))
    for content in (b"one", b"two"):
        publish.replace_file(f"{FRONT}/{ROOT}/notes.json", content)
        assert shelf.content() == {f"{ROOT}/notes.json": content}
    publish.make_dirs(f"{FRONT}/{ROOT}")
    publish.clean_beside(FINAL)
    assert publish.replaces is False
    assert len(shelf.objects) == 1


def test_an_item_is_visible_with_its_step_and_a_step_with_its_marker():
    shelf = Shelf()
    memory = Memory(shelf)
    save(memory, "a")
    publish = at(memory)
    assert publish.find_visible(f"{FINAL}/") == FINAL
    assert publish.find_visible(f"{FINAL}/nothing") is None
    assert publish.find_visible(FRONT) is None
    assert publish.look(f"{FINAL}/") == "visible"
    assert publish.look(f"{FRONT}/{ROOT}") == "other"
    assert publish.look(f"{FRONT}/nothing") == "missing"
    memory.put("file", b"1")
    assert publish.look(f"{FRONT}/file") == "other"
    assert publish.look(FRONT) == "other"
    assert at(Memory(Shelf())).look(FRONT) == "missing"


def test_files_that_only_we_can_have_written_have_names_like_ours():
    """Of what is written under names that others use as well nothing is removed."""
    shelf = Shelf()
    memory = Memory(shelf)
    with patient(memory, lambda _: None).open_draft(FINAL) as draft:
        ours = uuid.uuid4().hex
        names = [f"d/{ours}", f"d/{ours}0", f"d/{ours[1:]}", f"d/{ours.upper()}G", f"{ours}/x"]
        for name in names:
            draft.write_file(name, b"1")
        memory.put(rival().key, rival().encode())
        with pytest.raises(WriterConflict):
            draft.commit(replace=False)
    assert shelf.content().keys() == {rival().key, *(f"{PLACE}/{name}" for name in names[1:])}
