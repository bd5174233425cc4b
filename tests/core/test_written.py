# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint says of itself, and what is checked before it is written."""

import errno
import json
from pathlib import Path

import numpy as np
import pytest

import pertinax
from pertinax._core.write import JSON_HANDLER, TREE_HANDLER, check_room
from pertinax._formats.ledger import LEDGER_FILE, decode_ledger
from pertinax._formats.metadata.step_metadata import STEP_FILE
from pertinax._store.contract import Stat, Traits
from pertinax._store.leftovers import REPLACED, hidden_name
from pertinax._store.memory import MemoryStore
from pertinax._version import VERSION
from pertinax.errors import CheckpointExists, InvalidOption, StorageError, StorageFull
from pertinax.testing import CrashingStore

SPARE = 1 << 20


def test_each_item_of_a_step_says_who_wrote_it_and_when(tmp_path: Path) -> None:
    with pertinax.Manager(tmp_path / "run") as manager:
        manager.save(1, {"w": np.arange(3)})
    ledgers = [
        decode_ledger(path.read_bytes())
        for path in sorted(tmp_path.rglob(LEDGER_FILE))
        if path.parent.parent.name == "1"
    ]
    assert ledgers
    for one in ledgers:
        assert one.facts["writer"] == f"pertinax {VERSION}"
        assert one.facts["saved_at_ns"] > 1.7e18


def test_the_notes_for_orbax_name_the_handler_of_the_tree_or_of_each_item(tmp_path: Path) -> None:
    pertinax.save(tmp_path / "c", {"n": 1})
    with pertinax.Manager(tmp_path / "run") as manager:
        manager.save(1, {"n": 1}, metrics={"loss": 1.0})
    one, several = (
        json.loads((path / STEP_FILE).read_text())["item_handlers"]
        for path in (tmp_path / "c", tmp_path / "run" / "1")
    )
    assert one == TREE_HANDLER
    assert several == {"default": TREE_HANDLER, "metrics": JSON_HANDLER}


class Roomy(MemoryStore):
    """A store with so many bytes of room, where `/there` is."""

    def __init__(self, free: int | None) -> None:
        super().__init__()
        self.free, self.asked = free, list[str]()
        self.make_dir("/there")

    def free_bytes(self, path: str) -> int | None:
        self.asked.append(path)
        return self.free


def test_what_plainly_does_not_fit_is_refused_and_what_may_fit_is_tried() -> None:
    for free in (1000 + SPARE, None):
        store = Roomy(free)
        check_room(store, "/there/not/yet/c", 1000)
        assert store.asked == ["/there"]
    store = Roomy(1000 + SPARE - 1)
    with pytest.raises(StorageFull, match=r"needs 1,049,576 bytes, 1,049,575 are") as told:
        check_room(store, "/c", 1000)
    assert store.asked == ["/"]
    assert (told.value.errno, told.value.filename) == (errno.ENOSPC, "/c")


def test_a_store_that_has_no_room_of_its_own_is_not_asked_for_it() -> None:
    class Paid(Roomy):
        traits = Traits(has_room=False)

        def absolute(self, text: str) -> str:
            return text

    store = Paid(0)
    check_room(store, "/there/c", 1000)
    assert store.asked == []


def test_a_place_that_vanishes_while_it_is_asked_for_room_is_an_error_of_storage() -> None:
    class Gone(Roomy):
        def free_bytes(self, path: str) -> int | None:
            raise FileNotFoundError(errno.ENOENT, "gone", path)

    with pytest.raises(StorageError, match="could not look for room"):
        check_room(Gone(None), "/there/c", 1000)


def test_progress_ends_with_all_bytes_and_never_goes_back(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    tree = {"a": np.arange(1000), "b": np.zeros(7, np.int8), "n": 3}
    pertinax.save(tmp_path / "c", tree, progress=lambda *both: seen.append(both))
    assert seen == sorted(seen)
    assert len({total for _, total in seen}) == 1
    assert seen[-1][0] == seen[-1][1] >= 8007


def test_a_path_that_is_taken_is_told_with_the_ways_out(tmp_path: Path) -> None:
    path = tmp_path / "c"
    for way in (pertinax.save, lambda *a, **k: pertinax.save_async(*a, **k).result()):
        way(path, {"n": 1}, exists="replace")
        with pytest.raises(CheckpointExists, match="choose another path"):
            way(path, {"n": 2})
        way(path, {"n": 3}, exists="skip")
        assert pertinax.load(path) == {"n": 1}
    skipped = pertinax.save_async(path, {"n": 3}, exists="skip")
    assert skipped.result() == str(path)
    assert skipped.statistics().total_bytes == 0


def test_nothing_is_written_where_a_save_is_skipped_or_refused() -> None:
    disk = MemoryStore()
    disk.make_dir("/there")
    pertinax.save("/there/c", {"n": 1}, store=disk)
    for aside in (False, True):
        if aside:  # by a replacement that is under way: it is the checkpoint
            disk.rename("/there/c", hidden_name("/there/c") + REPLACED)
        store = CrashingStore(disk)
        pertinax.save("/there/c", {"n": 2}, exists="skip", store=store)
        with pytest.raises(CheckpointExists):
            pertinax.save("/there/c", {"n": 2}, store=store)
        assert store.log == []


def test_in_a_bucket_nothing_is_replaced_and_the_way_out_is_told() -> None:
    url = "memory://written-tests/c"
    pertinax.save(url, {"n": 1})
    with pytest.raises(InvalidOption, match="nothing can be replaced without a moment"):
        pertinax.save(url, {"n": 2}, exists="replace")
    assert pertinax.load(url) == {"n": 1}


def test_a_target_that_vanishes_while_it_is_looked_at_is_an_error_of_storage() -> None:
    class Gone(MemoryStore):
        def stat(self, path: str) -> Stat | None:
            raise FileNotFoundError(errno.ENOENT, "gone", path)

    with pytest.raises(StorageError, match="could not look at the target"):
        pertinax.save("/there/c", {"n": 1}, store=Gone())
