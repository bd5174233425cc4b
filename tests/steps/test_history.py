# SPDX-License-Identifier: Apache-2.0
"""The history is what the disk shows."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from pertinax import Manager
from pertinax._steps.history import StepRecord, list_steps, read_metrics, read_record
from pertinax._steps.naming import PlainNaming
from pertinax._steps.recovery import open_root
from pertinax._store.contract import Entry, Store
from pertinax._store.leftovers import REPLACED, hidden_name
from pertinax._store.local import LocalStore
from pertinax._store.memory import MemoryStore
from pertinax.errors import CheckpointNotFound, CorruptCheckpoint, StorageError
from pertinax.policies import Best, Latest
from pertinax.testing import CrashingStore, FaultyStore
from tests.steps.trees import ROOT, Intercepted, fill, hidden, names, same, state

PLAIN = PlainNaming()


def read_history(
    store: Store, root: str, naming: PlainNaming, *, metrics: bool, times: bool
) -> list[StepRecord]:
    """The visible steps with their notes, as `Notes` reads them one by one."""
    found = list_steps(store, root, naming)
    records = (
        read_record(store, step, place, metrics=metrics, times=times)
        for step, place in found.items()
    )
    return [record for record in records if record is not None]


def put(store: Store, path: str, content: bytes) -> None:
    with store.create(path) as writer:
        writer.write_at(0, [content])


def overwrite(store: Store, path: str, content: bytes) -> None:
    store.remove_file(path)
    put(store, path, content)


def test_only_finished_directories_with_the_name_of_a_step_count() -> None:
    disk = MemoryStore()
    fill(disk, [1, 3])
    for name in ["metadata", "04", "5.orbax-checkpoint-tmp-0", "6.orbax-checkpoint-tmp", "-7"]:
        disk.make_dir(f"{ROOT}/{name}")
    disk.make_dir(hidden_name(f"{ROOT}/8"))
    put(disk, f"{ROOT}/9", b"a file")
    assert list_steps(disk, ROOT, PLAIN) == {1: f"{ROOT}/1", 3: f"{ROOT}/3"}


def test_listing_is_one_listing_and_opens_no_file() -> None:
    disk = MemoryStore()
    fill(disk, list(range(12)))
    calls: list[str] = []
    watched = Intercepted(disk, lambda method, path: calls.append(method))
    assert list(list_steps(watched, ROOT, PLAIN)) == list(range(12))  # type: ignore[arg-type]
    assert calls == ["list_dir"]


def test_steps_come_in_the_order_of_numbers() -> None:
    disk = MemoryStore()
    fill(disk, [100, 9, 10, 1])
    assert list(list_steps(disk, ROOT, PLAIN)) == [1, 9, 10, 100]
    assert [one.step for one in read_history(disk, ROOT, PLAIN, metrics=True, times=True)] == [
        *[1, 9, 10, 100]
    ]


def test_a_step_that_was_set_aside_counts_under_its_own_name() -> None:
    disk = MemoryStore()
    fill(disk, [1, 2])
    disk.rename(f"{ROOT}/2", hidden_name(f"{ROOT}/2") + REPLACED)
    assert list_steps(disk, ROOT, PLAIN) == {1: f"{ROOT}/1", 2: f"{ROOT}/2"}
    (_, two) = read_history(disk, ROOT, PLAIN, metrics=True, times=True)
    assert two.metrics == {"loss": 2.0}
    assert two.readable
    manager = Manager(ROOT, store=disk)  # its owner, this process, lives: not restored
    assert same(manager.load(2), state(2))
    assert manager.metrics(2) == {"loss": 2.0}
    assert hidden(disk)


@pytest.mark.usefixtures("dead_owners")
def test_a_step_that_a_dead_process_set_aside_gets_its_name_back() -> None:
    disk = MemoryStore()
    fill(disk, [1])
    disk.rename(f"{ROOT}/1", hidden_name(f"{ROOT}/1") + REPLACED)
    Manager(ROOT, store=disk).close()
    assert names(disk) == ["1"]


def test_a_step_behind_a_link_counts(tmp_path: Path) -> None:
    store, root = LocalStore(), str(tmp_path / "runs")
    with Manager(tmp_path / "elsewhere", background=False) as other:
        other.save(5, state(5))
    with Manager(root) as manager:
        os.symlink(tmp_path / "elsewhere" / "5", f"{root}/5")
        os.symlink(tmp_path / "nowhere", f"{root}/6")
        assert manager.steps() == [5]
        assert same(manager.load(5), state(5))
        manager.delete(5)
        assert manager.steps() == []
    assert list_steps(store, str(tmp_path / "elsewhere"), PLAIN)


def test_times_are_those_of_the_commit(tmp_path: Path) -> None:
    with Manager(tmp_path, background=False) as manager:
        for step in (1, 2):
            manager.save(step, state(step))
        first, second = manager.history()
    assert 0 < first.time_ns < second.time_ns
    os.unlink(tmp_path / "1" / "_CHECKPOINT_METADATA")
    os.utime(tmp_path / "1", ns=(0, 12345))
    assert manager.history()[0].time_ns == 12345


def test_nothing_is_read_that_nobody_asks_for() -> None:
    disk = MemoryStore()
    fill(disk, [1, 2])
    opened: list[str] = []
    watched: Store = Intercepted(
        disk, lambda method, path: opened.append(path) if method == "open" else None
    )  # type: ignore[assignment]
    bare = read_history(watched, ROOT, PLAIN, metrics=False, times=False)
    assert [(one.step, one.time_ns, one.metrics) for one in bare] == [(1, 0, None), (2, 0, None)]
    assert opened == []
    read_history(watched, ROOT, PLAIN, metrics=False, times=True)
    assert {path.rpartition("/")[2] for path in opened} == {"_CHECKPOINT_METADATA"}


@pytest.mark.parametrize(
    "damage", [b"", b'{"loss": 1', b'{"loss": 9.0}', b"\xff\xfe", b"[" * 100_000]
)
def test_damaged_metrics_stop_nothing_but_are_never_believed(
    damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    disk = MemoryStore()
    fill(disk, [1, 2, 3])
    overwrite(disk, f"{ROOT}/1/metrics/metrics", damage)
    manager = Manager(ROOT, store=disk, keep=Latest(1) | Best(1, "loss", "max"))
    one, two, _ = manager.history()
    assert (one.metrics, one.readable) == (None, False)
    assert (two.metrics, two.readable) == ({"loss": 2.0}, True)
    assert "unreadable notes step=1" in caplog.text
    assert manager.best("loss") == 2
    with pytest.raises(CorruptCheckpoint, match="metrics/metrics"):
        manager.metrics(1)
    manager.save(4, state(4))
    manager.close()
    assert manager.steps() == [1, 3, 4]  # nobody knows what step 1 is worth


def test_lost_metrics_are_damage_too() -> None:
    disk = MemoryStore()
    fill(disk, [1])
    disk.remove_file(f"{ROOT}/1/metrics/metrics")
    with pytest.raises(CorruptCheckpoint, match="missing"):
        read_metrics(disk, f"{ROOT}/1")


def test_a_step_that_vanishes_while_we_look_was_never_there() -> None:
    disk = MemoryStore()
    fill(disk, [1, 2, 3])

    def lose(method: str, path: str) -> None:
        if method == "open" and path.startswith(f"{ROOT}/2/") and disk.stat(f"{ROOT}/2"):
            disk.rename(f"{ROOT}/2", hidden_name(f"{ROOT}/2"))

    watched: Store = Intercepted(disk, lose)  # type: ignore[assignment]
    past = read_history(watched, ROOT, PLAIN, metrics=True, times=True)
    assert [one.step for one in past] == [1, 3]
    assert all(one.readable for one in past)


def test_a_missing_root_says_so() -> None:
    with pytest.raises(CheckpointNotFound):
        list_steps(MemoryStore(), "/nowhere", PLAIN)
    with pytest.raises(CheckpointNotFound):
        open_root(MemoryStore(), "/nowhere", create=False)


def test_a_root_that_is_a_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="directory"):
        Manager(tmp_path / "file")
    with pytest.raises(StorageError):
        Manager(tmp_path / "file" / "below")
    with pytest.raises(StorageError, match="a root of steps is a directory"):
        open_root(LocalStore(), str(tmp_path / "file"))


def test_a_new_root_is_durable_with_its_parents() -> None:
    store = CrashingStore()
    open_root(store, "/a/b/c")
    assert all(after.stat("/a/b/c") is not None for after in store.crash_states(50))


def test_a_root_that_cannot_be_cleaned_can_be_read(caplog: pytest.LogCaptureFixture) -> None:
    disk = MemoryStore()
    fill(disk, [1])
    blind = FaultyStore(disk, fail_at=1, error=PermissionError(13, "no"))
    assert open_root(blind, ROOT) == []
    assert "leftovers stay" in caplog.text


def test_a_new_root_with_permissions_is_durable_with_its_parents(tmp_path: Path) -> None:
    store = CrashingStore()
    assert open_root(store, "/a/b/c", mode=0o700) == []
    assert all(after.stat("/a/b/c") is not None for after in store.crash_states(50))
    open_root(LocalStore(), str(tmp_path / "a" / "b"), mode=0o700)
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "a").stat().st_mode & 0o777 != 0o700


@pytest.mark.parametrize(
    ("method", "mode", "told"),
    [
        ("stat", None, "could not look at the directory: broken"),
        ("make_dir", None, "could not make the directory: broken"),
        ("make_dir", 0o700, "could not make the directory: broken"),
    ],
)
def test_a_root_that_cannot_be_made_says_so(method: str, mode: int | None, told: str) -> None:
    def refuse(called: str, path: str) -> None:
        if called == method:
            raise OSError(errno.EIO, "broken", path)

    store: Any = Intercepted(MemoryStore(), refuse)
    with pytest.raises(StorageError, match=told):
        open_root(store, ROOT, mode=mode)


@pytest.mark.usefixtures("dead_owners")
def test_what_was_removed_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    disk = MemoryStore()
    fill(disk, [1])
    assert open_root(disk, ROOT) == []
    assert "removed leftovers" not in caplog.text
    left = [hidden_name(f"{ROOT}/2"), hidden_name(f"{ROOT}/.pertinax/steps")]
    disk.make_dir(left[0])
    disk.make_dir(f"{ROOT}/.pertinax")
    put(disk, left[1], b"half")
    assert open_root(disk, ROOT) == left
    assert f"removed leftovers of dead processes root={ROOT} count=2" in caplog.text
    assert names(disk) == [".pertinax", "1"]
    assert names(disk, f"{ROOT}/.pertinax") == []


def test_a_root_that_cannot_be_cleaned_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    disk = MemoryStore()
    fill(disk, [1])
    disk.make_dir(f"{ROOT}/.pertinax")

    def refuse(method: str, path: str) -> None:
        if method == "list_dir":
            raise PermissionError(13, "no", path)

    store: Any = Intercepted(disk, refuse)
    assert open_root(store, ROOT) == []
    assert caplog.text.count("leftovers stay") == 1


class Loose:
    """Many spellings of a step; it is written with three digits."""

    def name(self, step: int) -> str:
        return f"{step:03d}"

    def step(self, name: str) -> int | None:
        number = name.partition(".")[0]
        return int(number) if number.isdecimal() else None


@pytest.mark.parametrize(
    ("spellings", "chosen"),
    [(["1", "001", "01"], "001"), (["1", "01"], "1"), (["0001", "001"], "001"), (["1"], "1")],
)
def test_of_many_names_of_one_step_one_counts(spellings: list[str], chosen: str) -> None:
    for order in (spellings, spellings[::-1]):
        disk = MemoryStore()
        disk.make_dir("/runs")
        disk.make_dir(ROOT)
        for name in order:
            disk.make_dir(f"{ROOT}/{name}")
        shown: Any = Shuffled(disk, order)
        assert list_steps(shown, ROOT, Loose()) == {1: f"{ROOT}/{chosen}"}


class Shuffled:
    """A disk that lists names in an order of its own."""

    def __init__(self, inner: MemoryStore, order: list[str]) -> None:
        self._inner, self._order = inner, order

    def list_dir(self, path: str) -> list[Entry]:
        found = {entry.name: entry for entry in self._inner.list_dir(path)}
        return [found[name] for name in self._order]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def test_what_was_set_aside_counts_only_where_its_name_is_free_and_its_own() -> None:
    disk = MemoryStore()
    fill(disk, [1])
    put(disk, f"{ROOT}/2", b"a file that somebody has put here")
    disk.make_dir(hidden_name(f"{ROOT}/2") + REPLACED)
    put(disk, hidden_name(f"{ROOT}/3") + REPLACED, b"a file")
    disk.make_dir(hidden_name(hidden_name(f"{ROOT}/4")) + REPLACED)
    assert list_steps(disk, ROOT, PLAIN) == {1: f"{ROOT}/1"}
    assert list_steps(disk, ROOT, Loose()) == {1: f"{ROOT}/1"}


def test_a_time_that_nobody_asked_for_is_none() -> None:
    disk = MemoryStore()
    fill(disk, [1])
    opened: list[str] = []
    watched: Any = Intercepted(
        disk, lambda method, path: opened.append(path) if method == "open" else None
    )
    (one,) = read_history(watched, ROOT, PLAIN, metrics=True, times=False)
    assert (one.time_ns, one.metrics, one.readable) == (0, {"loss": 1.0}, True)
    assert not [path for path in opened if path.endswith("_CHECKPOINT_METADATA")]


def test_a_time_that_cannot_be_read_is_none() -> None:
    disk = MemoryStore()
    fill(disk, [1])

    def refuse(method: str, path: str) -> None:
        if method == "open" and path.endswith("_CHECKPOINT_METADATA"):
            raise OSError(errno.EIO, "broken", path)

    store: Any = Intercepted(disk, refuse)
    (one,) = read_history(store, ROOT, PLAIN, metrics=True, times=True)
    assert (one.time_ns, one.metrics, one.readable) == (0, None, False)


@pytest.mark.parametrize(("metrics", "times"), [(True, False), (False, True), (True, True)])
def test_a_step_without_notes_that_vanishes_while_we_look_was_never_there(
    metrics: bool, times: bool
) -> None:
    disk = MemoryStore()
    fill(disk, [1])
    disk.make_dir(f"{ROOT}/2")

    def lose(method: str, path: str) -> None:
        if method == "open" and path.startswith(f"{ROOT}/2/") and disk.stat(f"{ROOT}/2"):
            disk.rename(f"{ROOT}/2", hidden_name(f"{ROOT}/2"))

    watched: Any = Intercepted(disk, lose)
    assert read_record(watched, 2, f"{ROOT}/2", metrics=metrics, times=times) is None
    assert read_record(disk, 2, f"{ROOT}/2", metrics=metrics, times=times) is None
    assert read_record(disk, 1, f"{ROOT}/1", metrics=metrics, times=times) is not None


def test_metrics_without_a_ledger_are_read_and_those_that_it_does_not_name_are_not() -> None:
    disk = MemoryStore()
    with Manager(ROOT, store=disk, background=False) as manager:
        manager.save(1, state(1), metrics={"loss": 1.0})
        manager.save(2, state(2))
    disk.make_dir(f"{ROOT}/2/metrics")
    put(disk, f"{ROOT}/2/metrics/metrics", b'{"loss": 2.0}')
    assert read_metrics(disk, f"{ROOT}/2") is None
    disk.remove_file(f"{ROOT}/2/pertinax.json")
    assert read_metrics(disk, f"{ROOT}/2") == {"loss": 2.0}
    disk.remove_file(f"{ROOT}/2/metrics/metrics")
    assert read_metrics(disk, f"{ROOT}/2") is None


def test_who_asks_for_metrics_is_told_why_there_are_none() -> None:
    disk = MemoryStore()
    fill(disk, [1])

    def refuse(method: str, path: str) -> None:
        if method == "stat":
            raise OSError(errno.EIO, "broken", path)

    store: Any = Intercepted(disk, refuse)
    with pytest.raises(StorageError, match="could not read the metrics: broken"):
        read_metrics(store, f"{ROOT}/1")
    with pytest.raises(CheckpointNotFound, match=f"no step at {ROOT}/2"):
        read_metrics(disk, f"{ROOT}/2")


def test_a_root_that_cannot_be_listed_says_so() -> None:
    def refuse(method: str, path: str) -> None:
        if method == "list_dir":
            raise OSError(errno.EIO, "broken", path)

    store: Any = Intercepted(MemoryStore(), refuse)
    with pytest.raises(StorageError, match="could not list the steps: broken"):
        list_steps(store, ROOT, PLAIN)


def test_a_step_of_which_nobody_asks_anything_is_not_looked_at() -> None:
    disk = MemoryStore()
    fill(disk, [1])
    calls: list[str] = []
    watched: Any = Intercepted(disk, lambda method, path: calls.append(method))
    place = f"{ROOT}/1"
    found = read_record(watched, 1, place, metrics=False, times=False)
    assert found == StepRecord(1, 0, None, place)
    assert calls == []


def test_a_step_that_vanishes_between_its_ledger_and_its_metrics_is_not_a_damaged_one() -> None:
    disk = MemoryStore()
    fill(disk, [1])

    def lose(method: str, path: str) -> None:
        if method == "open" and path.endswith("metrics/metrics"):
            disk.rename(f"{ROOT}/1", hidden_name(f"{ROOT}/1"))

    watched: Any = Intercepted(disk, lose)
    assert read_record(watched, 1, f"{ROOT}/1", metrics=True, times=False) is None


@pytest.mark.parametrize("note", [b"{}", None])
def test_the_time_in_the_note_comes_first_then_that_of_the_directory(note: bytes | None) -> None:
    disk = MemoryStore()
    fill(disk, [1])
    place = f"{ROOT}/1"
    if note is not None:
        overwrite(disk, f"{place}/_CHECKPOINT_METADATA", note)
    disk.rename(f"{place}/default", f"{place}/moved")  # so that the directory changes once more
    changed_ns = disk.stat(place).mtime_ns  # type: ignore[union-attr]
    found = read_record(disk, 1, place, metrics=False, times=True)
    assert found is not None
    assert (found.time_ns == changed_ns) == (note is not None)
    assert 0 < found.time_ns <= changed_ns


@pytest.mark.parametrize("damage", [b"", b'{"loss": 1', b"\xff\xfe", b"[" * 100_000])
def test_metrics_that_nothing_vouches_for_are_damaged_if_they_are_no_json(damage: bytes) -> None:
    disk = MemoryStore()
    fill(disk, [1])
    disk.remove_file(f"{ROOT}/1/pertinax.json")
    overwrite(disk, f"{ROOT}/1/metrics/metrics", damage)
    with pytest.raises(CorruptCheckpoint, match="not JSON"):
        read_metrics(disk, f"{ROOT}/1")


@pytest.mark.parametrize("name", ["pertinax.json", "_CHECKPOINT_METADATA"])
def test_a_directory_in_the_place_of_a_note_is_damage(name: str) -> None:
    disk = MemoryStore()
    fill(disk, [1])
    disk.remove_file(f"{ROOT}/1/{name}")
    disk.make_dir(f"{ROOT}/1/{name}")
    found = read_record(disk, 1, f"{ROOT}/1", metrics=True, times=True)
    assert found is not None
    assert not found.readable
