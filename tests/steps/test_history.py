# SPDX-License-Identifier: Apache-2.0
"""The history is what the disk shows."""

import os
from pathlib import Path

import pytest

from pertinax import Manager
from pertinax._steps.history import StepRecord, list_steps, read_metrics, read_record
from pertinax._steps.naming import PlainNaming
from pertinax._steps.recovery import open_root
from pertinax._store.contract import Store
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
