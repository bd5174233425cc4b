# SPDX-License-Identifier: Apache-2.0
"""A power cut at any operation of a save: `load` finds the old tree or the new one, whole."""

import os

import pytest

from pertinax.testing import CrashingStore
from tests.crash.scenes import (
    NEW,
    OLD,
    clean_and_save_again,
    count,
    cuts,
    disk,
    replace,
    replace_async,
    replace_by_directory,
    save,
    save_async,
    save_directory,
    save_files,
    seen,
)

pytestmark = pytest.mark.crash

CASES = [
    pytest.param(None, save, True, id="save"),
    pytest.param(None, save_async, True, id="save_async"),
    pytest.param(OLD, replace, True, id="replace"),
    pytest.param(OLD, replace_async, True, id="replace_async"),
    pytest.param(OLD, replace, False, id="replace-without-exchange"),
    pytest.param(None, save_files, True, id="save-files"),
    pytest.param(None, save_directory, True, id="save-directory"),
    pytest.param(OLD, replace_by_directory, True, id="replace-by-directory"),
]


@pytest.fixture(autouse=True)
def dead_owners(monkeypatch):
    """After the reboot nobody who wrote tokens lives."""
    monkeypatch.setattr("pertinax._store.leftovers.owner_alive", lambda _: False)


def spread(before, program, exchange, part):
    """Every `parts`-th operation, so that the parts together are all of them."""
    index, parts = part
    return range(index, count(before, program, exchange=exchange), parts)


@pytest.mark.slow
@pytest.mark.parametrize("part", [(i, 4) for i in range(4)], ids=lambda part: f"part{part[0]}")
@pytest.mark.parametrize(("old", "program", "exchange"), CASES)
def test_after_a_cut_anywhere_the_old_tree_or_the_new_one_is_there(
    old, program, exchange, part, campaign_size
):
    before = disk(old)
    allowed = {None, "new"} if old is None else {"old", "new"}
    for cut, (words, after) in enumerate(
        cuts(
            before,
            program,
            exchange=exchange,
            operations=spread(before, program, exchange, part),
            limit=8,
        )
    ):
        assert seen(after) in allowed, words
        campaign_size("power cuts: saves and replacements")
        if cut % 5 == 0:
            clean_and_save_again(after)


@pytest.mark.parametrize(("old", "program", "exchange"), CASES)
def test_the_last_operations_are_cut_in_every_way(old, program, exchange):
    """From the rename on: syncs of directories, the removal of the old one."""
    before = disk(old)
    allowed = {None, "new"} if old is None else {"old", "new"}
    store = CrashingStore(before, exchange=exchange)
    program(store)
    first = next(i for i, words in enumerate(store.log) if words.startswith(("rename", "exchange")))
    operations = range(max(first - 2, 0), min(first + 6, store.operations))
    states = set()
    for words, after in cuts(before, program, exchange=exchange, operations=operations, limit=40):
        found = seen(after)
        states.add(found)
        assert found in allowed, words
    assert states == allowed


@pytest.mark.parametrize(("old", "program", "exchange"), CASES)
def test_what_returned_is_durable(old, program, exchange):
    store = CrashingStore(disk(old), exchange=exchange)
    program(store)
    for after in store.crash_states(200):
        assert seen(after) == "new"


@pytest.mark.campaign
@pytest.mark.parametrize(("old", "program", "exchange"), CASES)
def test_campaign_every_cut_with_many_states(old, program, exchange, campaign_size):
    seed = int(os.environ.get("PERTINAX_SEED", "0"))
    limit = int(os.environ.get("PERTINAX_STATES", "30"))
    before = disk(old)
    allowed = {None, "new"} if old is None else {"old", "new"}
    total = count(before, program, exchange=exchange)
    for words, after in cuts(
        before, program, exchange=exchange, operations=range(total), limit=limit, seed=seed
    ):
        assert seen(after) in allowed, (seed, words)
        campaign_size("power cuts: saves and replacements")
        clean_and_save_again(after)


def test_the_oracle_can_fail():
    broken = disk(NEW)
    (name,) = [entry.name for entry in broken.list_dir("/runs/c/d")]
    broken.find(f"/runs/c/d/{name}").content[100] ^= 1
    with pytest.raises(Exception, match="checksum"):
        seen(broken)
