# SPDX-License-Identifier: Apache-2.0
"""The simulated disk finds the mistakes that people make."""

from collections.abc import Callable

import pytest

from pertinax._store.contract import Store
from pertinax._store.leftovers import find_visible, hidden_name
from pertinax.testing import CrashingStore, read_tree
from tests.store.scenes import FINAL, NEW, OLD, Content, after_return, crashes, disk_with, seen


def program(*skip: str) -> Callable[[Store], None]:
    """A save that is right when nothing is skipped."""

    def run(store: Store) -> None:
        path = hidden_name(FINAL)
        store.make_dir(path)
        for name, body in NEW.items():
            if name.endswith("/"):
                store.make_dir(f"{path}/{name[:-1]}")
                continue
            with store.create(f"{path}/{name}") as writer:
                writer.write_at(0, [body])
                if "file sync" not in skip:
                    writer.sync()
        for name in ("e/f", "e", "d"):
            if f"{name} sync" not in skip:
                store.sync_dir(f"{path}/{name}")
        if "top sync" not in skip:
            store.sync_dir(path)
        store.rename(path, FINAL)
        if "parent sync" not in skip:
            store.sync_dir("/runs")

    return run


def violations(run: Callable[[Store], None], allowed: tuple[Content | None, ...]) -> int:
    return sum(seen(after) not in allowed for *_, after in crashes(disk_with(None), run))


def test_the_right_program_passes() -> None:
    assert violations(program(), (None, NEW)) == 0
    assert all(seen(after) == NEW for after in after_return(disk_with(None), program()))


@pytest.mark.parametrize("forgotten", ["file sync", "d sync", "e sync", "e/f sync", "top sync"])
def test_a_forgotten_sync_is_found(forgotten: str) -> None:
    assert violations(program(forgotten), (None, NEW)) > 0


def test_a_forgotten_sync_of_the_parent_loses_a_save_that_returned() -> None:
    run = program("parent sync")
    assert violations(run, (None, NEW)) == 0
    states = [seen(after) for after in after_return(disk_with(None), run)]
    assert None in states
    assert NEW in states


def test_replacing_by_delete_and_rename_is_found() -> None:
    def run(store: Store) -> None:
        for name in ("e/f/deep", "d/meta", "array"):
            store.remove_file(f"{FINAL}/{name}")
        for name in ("/e/f", "/e", "/d", ""):
            store.remove_dir(FINAL + name)
        program()(store)

    found = [seen(after) for *_, after in crashes(disk_with(OLD), run)]
    assert any(state not in (OLD, NEW) for state in found)


def test_deleting_the_old_before_the_exchange_is_durable_is_found() -> None:
    def run(store: Store) -> None:
        path = "/runs/new"
        store.make_dir(path)
        for name, body in {"array": NEW["array"], "meta": b"x"}.items():
            with store.create(f"{path}/{name}") as writer:
                writer.write_at(0, [body])
                writer.sync()
        store.sync_dir(path)
        store.exchange(path, FINAL)
        store.remove_file(f"{path}/array")
        store.sync_dir(path)
        store.sync_dir("/runs")

    allowed = (OLD, {"array": NEW["array"], "meta": b"x"})
    found = [seen(after) for *_, after in crashes(disk_with(OLD), run)]
    assert any(state not in allowed for state in found)


def test_writing_in_place_is_found() -> None:
    def run(store: Store) -> None:
        store.rename(f"{FINAL}/array", f"{FINAL}/away")
        with store.create(f"{FINAL}/array") as writer:
            writer.write_at(0, [NEW["array"]])
            writer.sync()
        store.sync_dir(FINAL)

    found = [seen(after) for *_, after in crashes(disk_with(OLD), run)]
    assert any(state is not None and "array" not in state for state in found)


def test_unsynced_bytes_survive_whole_torn_short_and_not_at_all() -> None:
    store = CrashingStore()
    with store.create("/f") as writer:
        writer.write_at(0, [b"x" * 10_000])
    store.sync_dir("/")
    found = {read_tree(after, "/")["f"] for after in store.crash_states(200)}
    assert b"" in found
    assert b"x" * 10_000 in found
    assert any(len(one) == 10_000 and one.count(b"x") > 0 for one in found if 0 in one)
    assert any(0 < len(one) < 10_000 for one in found)
    assert len(found) > 10


def test_synced_bytes_and_names_always_survive() -> None:
    store = CrashingStore()
    with store.create("/f", 4) as writer:
        writer.write_at(0, [b"safe"])
        writer.sync()
        store.sync_dir("/")
        writer.write_at(4, [b" not"])
    for after in store.crash_states(200):
        assert read_tree(after, "/")["f"][:4] == b"safe"


def test_few_pending_names_are_tried_in_every_combination() -> None:
    store = CrashingStore()
    for name in "abcdef":
        store.make_dir(f"/{name}")
    found = {frozenset(read_tree(after, "/")) for after in store.crash_states(200)}
    assert len(found) == 2**6


def test_a_rename_survives_as_a_whole_but_two_are_independent() -> None:
    store = CrashingStore()
    for name in "ab":
        store.make_dir(f"/{name}")
    store.sync_dir("/")
    store.rename("/a", "/c")
    store.rename("/b", "/d")
    found = {"".join(sorted(read_tree(after, "/"))) for after in store.crash_states(64)}
    assert found == {"a/b/", "b/c/", "a/d/", "c/d/"}


def test_states_are_the_same_for_the_same_seed() -> None:
    def states(seed: int) -> list[Content]:
        store = CrashingStore()
        with store.create("/f") as writer:
            writer.write_at(0, [bytes(range(256)) * 60])
        return [read_tree(after, "/") for after in store.crash_states(30, seed)]

    assert states(1) == states(1)
    assert states(1) != states(2)


def test_a_simulated_disk_starts_from_a_copy() -> None:
    disk = disk_with(OLD)
    store = CrashingStore(disk)
    store.rename(FINAL, "/runs/other")
    assert seen(disk) == OLD
    assert find_visible(store, FINAL) is None
