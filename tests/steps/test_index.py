# SPDX-License-Identifier: Apache-2.0
"""The index saves reading and decides nothing: the steps themselves have the last word."""

import contextlib
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pertinax import Manager
from pertinax._steps.index import PRIVATE_DIR, Index, Row, index_path, read_index, write_index
from pertinax._store.contract import Store
from pertinax._store.leftovers import hidden_name
from pertinax._store.local import LocalStore
from pertinax._store.memory import FileNode, MemoryStore
from pertinax.policies import Best, EverySteps, Latest
from pertinax.testing import CrashingStore, SimulatedDeath
from tests.steps.trees import ROOT, Intercepted, fill, names, state

MANY = 70


def many_steps(root: Path, *, losses: Callable[[int], float] = float) -> None:
    """Whole steps at the price of one: directories of links."""
    with Manager(root, background=False) as manager:
        for step in range(3):
            manager.save(step, state(step), metrics={"loss": losses(step)})
    for step in range(3, MANY):
        clone(root / str(step % 3), root / str(step))


def clone(source: Path, target: Path) -> None:
    for folder, _, files in os.walk(source):
        place = target / os.path.relpath(folder, source)
        place.mkdir()
        for name in files:
            os.link(os.path.join(folder, name), place / name)


class Calls:
    def __init__(self, disk: Store | None = None) -> None:
        self.made: list[tuple[str, str]] = []
        self.store: Any = Intercepted(
            disk or LocalStore(), lambda method, path: self.made.append((method, path))
        )

    def of(self, method: str) -> list[str]:
        return [path for name, path in self.made if name == method]


def opened_steps(calls: Calls) -> set[str]:
    return {path for path in calls.of("open") if PRIVATE_DIR not in path}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    many_steps(tmp_path)
    return tmp_path


def test_the_next_process_opens_one_file_instead_of_all(root: Path) -> None:
    expected = Manager(root).history()
    calls = Calls()
    again = Manager(root, store=calls.store)
    calls.made.clear()
    assert again.history() == expected
    assert again.best("loss") == max(step for step in range(MANY) if step % 3 == 0)
    assert opened_steps(calls) == set()
    assert calls.of("open") == [index_path(str(root))]


def test_a_process_reads_the_notes_of_a_step_once(root: Path) -> None:
    calls = Calls()
    manager = Manager(root, store=calls.store)
    manager.history()
    calls.made.clear()
    manager.history()
    assert manager.best("loss", "max") == max(step for step in range(MANY) if step % 3 == 2)
    assert calls.of("open") == []


def settle(root: Path) -> None:
    """Nothing has happened here for a while."""
    os.utime(root, ns=(0, os.stat(root).st_mtime_ns - 10**10))


def stated_steps(calls: Calls) -> set[str]:
    return {path.rpartition("/")[2] for path in calls.of("stat")} & set(map(str, range(MANY)))


def test_while_nothing_has_changed_steps_are_not_even_looked_at(root: Path) -> None:
    expected = Manager(root).history()
    settle(root)
    for looked in (True, False):  # the first who comes compares, and says so in the index
        calls = Calls()
        again = Manager(root, store=calls.store)
        assert again.history() == expected
        assert (len(stated_steps(calls)) > 1) == looked
        calls.made.clear()
        assert again.history() == expected
        assert stated_steps(calls) == set()


@pytest.mark.parametrize("same_process", [True, False])
def test_any_change_in_the_root_makes_us_look_again(root: Path, same_process: bool) -> None:
    Manager(root).history()
    settle(root)
    Manager(root).history()
    reader = Manager(root)
    assert reader.best("loss") == 69
    with Manager(root) as other:
        other.delete(30)
        other.save(30, state(30), metrics={"loss": -7.0})
    settle(root)  # another time than before, if an old one
    assert (reader if same_process else Manager(root)).best("loss") == 30


def test_a_root_that_has_just_changed_is_not_trusted_to_change_its_time(root: Path) -> None:
    for _ in range(2):
        Manager(root).history()
    assert read_index(LocalStore(), str(root)).root_ns is None


def test_small_roots_have_no_index() -> None:
    disk = MemoryStore()
    fill(disk, list(range(12)))
    Manager(ROOT, store=disk).history()
    assert PRIVATE_DIR not in names(disk)


def test_a_manager_leaves_an_index_of_its_own_steps(tmp_path: Path) -> None:
    with Manager(tmp_path, background=False) as manager:
        for step in range(MANY):
            manager.save(step, {"step": step}, metrics={"loss": step})
    rows = read_index(LocalStore(), str(tmp_path)).rows
    assert {name: row.metrics for name, row in rows.items()} == {
        str(step): {"loss": step} for step in range(MANY)
    }


def test_a_step_that_was_made_anew_is_read_anew(root: Path) -> None:
    assert Manager(root).best("loss") == 69
    with Manager(root) as other:
        other.delete(30)
        other.save(30, state(30), metrics={"loss": -7.0})
    assert Manager(root).best("loss") == 30
    assert Manager(root).history()[30].metrics == {"loss": -7.0}


def test_steps_that_are_gone_are_gone(root: Path) -> None:
    Manager(root).history()
    with Manager(root) as other:
        for step in range(3, MANY):
            other.delete(step)
    assert [one.step for one in Manager(root).history()] == [0, 1, 2]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "torn": lambda data: data[: len(data) // 2],
    "a bit": lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:],
    "zeros": lambda data: bytes(len(data)),
    "other text": lambda data: b"hello\n",
    "another number": lambda data: data.replace(b'"loss":2.0', b'"loss":7.0', 1),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_index_is_no_index_and_is_made_anew(root: Path, how: str) -> None:
    expected = Manager(root).history()
    path = Path(index_path(str(root)))
    good = path.read_bytes()
    path.write_bytes(DAMAGE[how](good))
    assert path.read_bytes() != good
    assert read_index(LocalStore(), str(root)) == Index({})
    assert Manager(root).history() == expected
    assert len(read_index(LocalStore(), str(root)).rows) == MANY


GOOD = {"root_ns": 3, "names": ["1"], "changed_ns": [1], "times_ns": [2], "metrics": [None]}


@pytest.mark.parametrize(
    "columns",
    [
        [],
        {},
        {**GOOD, "changed_ns": ["x"]},
        {**GOOD, "names": ["1", "2"]},
        {**GOOD, "names": [["1"]]},
        {**GOOD, "metrics": [None, None]},
        {**GOOD, "root_ns": "x"},
        {**GOOD, "times_ns": [True]},
        {"root_ns": 3, "names": 3, "changed_ns": 3, "times_ns": 3, "metrics": 3},
    ],
)
def test_an_index_of_another_shape_is_no_index(columns: Any) -> None:
    from pertinax._formats.crc import file_crc

    disk = MemoryStore()
    write_index(disk, ROOT, Index({}))
    body = json.dumps(columns).encode()
    node = disk.find(index_path(ROOT))
    assert isinstance(node, FileNode)
    node.content[:] = b"pertinax steps 1 %08x\n%s\n" % (file_crc(body), body)
    assert read_index(disk, ROOT) == Index({})


def lie(root: Path, step: int, metrics: Any) -> None:
    """An index that says something else, and is otherwise perfect."""
    Manager(root).history()
    index = read_index(LocalStore(), str(root))
    rows = {**index.rows, str(step): index.rows[str(step)]._replace(metrics=metrics)}
    write_index(LocalStore(), str(root), Index(rows, index.root_ns))
    assert Manager(root).history()[step].metrics == metrics  # only a hint, but believed so far


def test_an_index_that_lies_deletes_nothing(root: Path) -> None:
    lie(root, 69, {"loss": 99.0})  # one of the best, if it is asked itself
    best = {step for step in range(MANY) if step % 3 == 0}
    with Manager(root, keep=Best(len(best), "loss")) as manager:
        manager.save(100, state(100), metrics={"loss": 50.0})
    assert manager.steps() == [*sorted(best), 100]


def test_policies_that_go_by_number_open_nothing(root: Path) -> None:
    calls = Calls()
    with Manager(root, store=calls.store, keep=Latest(60) | EverySteps(10)) as manager:
        calls.made.clear()
        manager.save(200, state(200))
        manager.wait()
        steps = {path.split("/")[-2] for path in opened_steps(calls)}
        assert steps <= {"200"}
    assert len(manager.steps()) == 60 + 2


def test_a_save_asks_as_little_of_ten_thousand_steps_as_of_one(root: Path) -> None:
    """What `save` does before it returns; the rest is the business of its thread."""

    def calls_before_writing(place: Path) -> list[str]:
        calls = Calls()
        manager = Manager(place, store=calls.store, keep=Best(1000, "loss"))
        manager.save(1000, state(1000), metrics={"loss": 1})
        manager.wait()
        calls.made.clear()
        manager._line._writer.write = lambda *_, **__: None  # type: ignore[method-assign]
        manager.save(1001, state(1001), metrics={"loss": 1})
        manager.close()
        return [method for method, path in calls.made if PRIVATE_DIR not in path]

    (root / "small").mkdir()
    assert calls_before_writing(root) == calls_before_writing(root / "small") == ["stat"]


def test_opening_lists_twice_and_reads_the_newest_note_only(root: Path) -> None:
    calls = Calls()
    manager = Manager(root, store=calls.store, keep=Best(3, "loss"))
    assert [path for path in calls.of("list_dir") if PRIVATE_DIR not in path] == [str(root)] * 2
    assert calls.of("open") == [f"{root}/69/_CHECKPOINT_METADATA"]
    calls.made.clear()
    assert manager.latest() == 69
    assert [method for method, _ in calls.made] == ["list_dir"]


# -------------------------------------------------------------------------------------- writing it

ONE = Index({"1": Row(1, 1, None)})
ROWS = Index({str(step): Row(step, step + 1, {"loss": float("inf")}) for step in range(5)}, 7)


@pytest.mark.parametrize("exchange", [True, False])
def test_a_power_cut_leaves_the_old_index_the_new_one_or_none(exchange: bool) -> None:
    first = CrashingStore(exchange=exchange)
    write_index(first, ROOT, ONE)
    first.sync_dir(f"{ROOT}/{PRIVATE_DIR}")
    found: list[Index] = []
    for cut in range(99):
        store = CrashingStore(exchange=exchange)
        write_index(store, ROOT, ONE)
        store.sync_dir(f"{ROOT}/{PRIVATE_DIR}")
        begun = store.operations
        dying = store.after_kill(die_at=cut)
        with contextlib.suppress(SimulatedDeath):
            write_index(dying, ROOT, ROWS)
        found += [read_index(after, ROOT) for after in dying.crash_states(6, seed=begun + cut)]
        if dying.operations <= cut:
            break
    assert all(index in (Index({}), ONE, ROWS) for index in found)
    assert {len(index.rows) for index in found} >= {1, 5}


def test_an_index_that_cannot_be_written_is_no_failure(root: Path) -> None:
    def refuse(method: str, path: str) -> None:
        if PRIVATE_DIR in path and method in ("create", "make_dir", "rename"):
            raise OSError(errno.EROFS, "read-only", path)

    store: Any = Intercepted(LocalStore(), refuse)
    assert len(Manager(root, store=store).history()) == MANY
    assert not (root / PRIVATE_DIR).exists()


@pytest.mark.usefixtures("dead_owners")
def test_what_a_dead_process_left_of_an_index_is_removed() -> None:
    disk = MemoryStore()
    write_index(disk, ROOT, ROWS)
    with disk.create(hidden_name(index_path(ROOT))) as writer:
        writer.write_at(0, [b"half"])
    Manager(ROOT, store=disk).close()
    assert names(disk, f"{ROOT}/{PRIVATE_DIR}") == ["steps"]


@pytest.mark.parametrize("how", ["kept by a policy", "deleted by hand"])
def test_what_is_known_of_a_step_goes_with_it(how: str) -> None:
    """However long a run is: what its manager knows, and the index, are as large as what lives."""
    disk = MemoryStore()
    keep = 2 if how == "kept by a policy" else None
    with Manager(ROOT, store=disk, keep=keep, background=False) as manager:
        for step in range(150):
            manager.save(step, {"n": step}, metrics={"loss": step})
            if keep is None and step > 1:
                manager.delete(step - 2)
        assert len(manager._writer.notes._rows) <= 3
    assert manager.steps() == [148, 149]
    assert read_index(disk, ROOT) == Index({})  # for so few there is none
