# SPDX-License-Identifier: Apache-2.0
"""A writer that was taken for dead and goes on: it publishes nothing, and what it still sends does
not stay in another's checkpoint.
"""

import pytest

from pertinax._store.objects.attempts import End
from pertinax.errors import WriterConflict
from tests.objects.buckets import Memory, Shelf
from tests.objects.scenes import FINAL, PLACE, at, fill, is_clean, save, visible_tag

LATE = f"{PLACE}/default/d/{'9' * 32}"


def test_who_is_taken_for_dead_in_the_moment_of_its_decision_publishes_nothing():
    """After its last sign of life, and before its last word; and nothing was removed yet."""
    shelf = Shelf()

    def be_faster(method: str, key: str) -> None:
        if method == "create" and key.endswith(".end"):
            shelf.store(key, End("abandoned", "another").encode())

    with at(Memory(shelf, be_faster)).open_draft(FINAL) as draft:
        fill(draft, "a")
        with pytest.raises(WriterConflict, match="taken over"):
            draft.commit(replace=False)
    assert visible_tag(shelf) is None
    save(Memory(shelf), "b")
    assert visible_tag(shelf) == "b"
    assert is_clean(shelf)


@pytest.mark.parametrize("shared", [False, True])
def test_what_comes_late_from_a_writer_before_is_no_part_of_the_checkpoint(shared: bool):
    """Unless others write here as well, of whose files the one that commits does not know."""
    shelf = Shelf()
    memory = Memory(shelf)
    with at(memory).open_draft(FINAL, shared=shared) as draft:
        fill(draft, "a")
        memory.put(LATE, b"late")
        draft.commit(replace=False)
    assert visible_tag(shelf) == "a"
    assert (LATE in shelf.objects) == shared
    assert is_clean(shelf) == (not shared)
