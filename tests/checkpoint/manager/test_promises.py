# SPDX-License-Identifier: Apache-2.0
"""What release notes promised of a manager, promise by promise, where no other test has it."""

import inspect
import json
import logging
import threading
from typing import Any

import jax
import pytest

from tests.checkpoint.manager.sides import Clock, names, same, tree
from tests.checkpoint.manager.test_async import manager, save, slow  # noqa: F401 - fixtures


def store(ocp: Any, one: Any, step: int, **more: Any) -> bool:
    return one.save(step, args=ocp.args.StandardSave(tree(step)), **more)


@pytest.mark.row("R005")
def test_a_step_that_has_lost_its_metrics_has_none_and_that_is_told(ours, root, caplog):
    options = ours.CheckpointManagerOptions(best_fn=lambda metrics: metrics["loss"])
    with ours.CheckpointManager(root, options=options) as one:
        store(ours, one, 0, metrics={"loss": 1.0})
        store(ours, one, 1, metrics={"loss": 0.5})
    (root / "0" / "metrics" / "metrics").unlink()
    with (
        caplog.at_level(logging.INFO),
        ours.CheckpointManager(root, options=options) as one,
    ):
        assert one.metrics(0) is None
        assert one.metrics(1) == {"loss": 0.5}
        assert (one.all_steps(), one.best_step()) == ([0, 1], 1)
    assert [line for line in caplog.messages if "metrics" in line and "step=0" in line]


@pytest.mark.row("R017")
def test_unfinished_steps_with_a_prefix_are_cleaned_as_well(ours, root):
    (root / "checkpoint_0.orbax-checkpoint-tmp-3").mkdir(parents=True)
    options = ours.CheckpointManagerOptions(step_prefix="checkpoint", cleanup_tmp_directories=True)
    with ours.CheckpointManager(root, options=options):
        assert names(root) == []


@pytest.mark.row("R025")
@pytest.mark.parametrize("asynchronous", [True, False])
def test_preempted_between_writing_and_committing(ours, root, monkeypatch, asynchronous):
    atomicity = ours.path.atomicity
    options = ours.CheckpointManagerOptions(enable_async_checkpointing=asynchronous)
    one = ours.CheckpointManager(root, options=options)
    with monkeypatch.context() as patch:
        patch.setattr(atomicity.AtomicRenameTemporaryPath, "finalize", lambda _: None)
        store(ours, one, 0)
        one.wait_until_finished()
    assert one.all_steps() == [0]
    one.reload()
    assert one.all_steps() == []
    with pytest.raises(FileNotFoundError):
        one.restore(0)
    one.close()
    (leftover,) = root.iterdir()
    note = json.loads((leftover / "_CHECKPOINT_METADATA").read_text())
    assert note["init_timestamp_nsecs"]
    assert not note.get("commit_timestamp_nsecs")

    with ours.CheckpointManager(root) as other:
        assert store(ours, other, 0)
        other.wait_until_finished()
        assert same(other.restore(0), tree(0))
        other.delete(0)
    metadata = ours.metadata.checkpoint_metadata_store(enable_write=True, blocking_write=True)
    path = type(other.directory)
    by_hand = atomicity.AtomicRenameTemporaryPath(
        path(leftover), path(root) / "0", checkpoint_metadata_store=metadata
    )
    by_hand.finalize()
    found = ours.step.standard_name_format().find_step(path(root), 0)
    assert found.commit_timestamp_nsecs >= found.init_timestamp_nsecs > 0
    with ours.CheckpointManager(root) as last:
        assert last.all_steps() == [0]


@pytest.mark.row("R034")
def test_a_preempted_step_is_kept_only_where_the_grid_has_it(ocp, root, monkeypatch):
    import datetime as dt

    from jax.experimental import multihost_utils

    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", lambda step: step == 5)
    with Clock().running() as clock:
        options = ocp.CheckpointManagerOptions(
            max_to_keep=1, save_interval_steps=4, keep_time_interval=dt.timedelta(hours=4)
        )
        with ocp.CheckpointManager(root, options=options) as one:
            saved = []
            for step in range(14):
                if store(ocp, one, step):
                    saved.append(step)
                clock.advance(hours=1)
            assert saved == [0, 4, 5, 8, 12]
            assert list(one.all_steps()) == [0, 4, 8, 12]


@pytest.mark.row("R073", "R089")
def test_what_goes_is_settled_when_a_save_starts_and_goes_after_its_commit(
    manager,  # noqa: F811 - a fixture
    slow,  # noqa: F811
    root,
    monkeypatch,
):
    from pertinax.checkpoint._adapt.removal import Removal

    seen: list[tuple[str, list[str]]] = []
    remove = Removal.remove

    def removing(self: Any, path: Any, **how: Any) -> bool:
        seen.append((path.name, names(root)))
        return remove(self, path, **how)

    monkeypatch.setattr(Removal, "remove", removing)
    with manager(max_to_keep=1) as one:
        save(one, slow, 1)
        one.wait_until_finished()
        slow.go.clear()
        save(one, slow, 2)
        assert one.all_steps() == [2]  # settled
        assert seen == []
        slow.go.set()
        one.wait_until_finished()
        assert seen == [("1", ["1", "2"])]  # 2 was there first
        save(one, slow, 3)
    assert seen[1:] == [("2", ["2", "3"])]


@pytest.mark.row("R118")
def test_the_protocol_lists_the_methods_of_the_manager(ours):
    protocol = ours.AbstractCheckpointManager
    members = {
        *("directory", "all_steps", "latest_step", "best_step", "reload", "reached_preemption"),
        *("should_save", "delete", "save", "restore", "item_metadata", "metadata", "metrics"),
        *("wait_until_finished", "check_for_errors", "close"),
    }
    assert getattr(protocol, "_is_protocol", False)
    assert {name for name in vars(protocol) if not name.startswith("_")} == members
    for name in members - {"directory"}:
        wanted = inspect.signature(getattr(protocol, name)).parameters
        found = inspect.signature(getattr(ours.CheckpointManager, name)).parameters
        assert {n: p.default for n, p in wanted.items()} == {
            n: p.default for n, p in found.items()
        }, name
        assert vars(ours.CheckpointManager)[name] is not vars(protocol)[name]


@pytest.mark.row("R133")
def test_a_failure_does_not_disturb_the_grid_of_times(manager, slow, root):  # noqa: F811
    import datetime as dt

    with (
        Clock().running() as clock,
        manager(max_to_keep=1, keep_time_interval=dt.timedelta(hours=2)) as one,
    ):
        for step in range(8):
            slow.fail = step == 2  # where the grid would have had it
            save(one, slow, step)
            if slow.fail:
                with pytest.raises(OSError, match="no room"):
                    one.wait_until_finished()
            one.check_for_errors()
            clock.advance(hours=1)
            if not slow.fail:
                one.wait_until_finished()
        assert one.all_steps() == [0, 3, 5, 7]
    assert names(root) == ["0", "3", "5", "7"]


@pytest.mark.row("R137")
def test_checkpointers_are_an_old_way_and_that_is_told(ours, root, caplog):
    heard: list[str] = []

    def listen(name: str, **_: Any) -> None:
        heard.append(name)

    jax.monitoring.register_event_listener(listen)
    with ours.CheckpointManager(root, ours.PyTreeCheckpointer()) as one:
        one.save(0, tree(1))
        assert same(one.restore(0), tree(1))
    jax.monitoring.unregister_event_listener(listen)
    assert "/jax/orbax/deprecation/checkpoint_manager_legacy_init" in heard
    assert "/jax/orbax/checkpoint_manager/init" in heard
    assert [r for r in caplog.records if r.levelno == logging.WARNING and "old way" in r.message]


@pytest.mark.row("R143")
def test_a_step_that_is_not_saved_waits_for_no_other(manager, slow, root):  # noqa: F811
    with manager(save_interval_steps=2) as one:
        slow.go.clear()
        assert save(one, slow, 0)
        assert save(one, slow, 1) is False
        assert one.is_saving_in_progress()
        assert "0" not in names(root)
        slow.go.set()


@pytest.mark.row("R155")
def test_to_read_again_is_deprecated_and_done(ours, root, caplog):
    with ours.CheckpointManager(root) as one, ours.CheckpointManager(root) as other:
        store(ours, other, 3)
        other.wait_until_finished()
        assert one.all_steps() == []
        assert one.all_steps(read=True) == [3]
    told = [r for r in caplog.records if r.levelno == logging.WARNING and "reload" in r.message]
    assert len(told) == 1


@pytest.mark.row("R162")
def test_read_only_resets_what_would_write_and_tells_each(ours, caplog):
    import datetime as dt

    wanted = {
        "save_interval_steps": (2, 0),
        "max_to_keep": (3, None),
        "keep_time_interval": (dt.timedelta(hours=1), None),
        "keep_period": (4, None),
        "should_save_fn": (lambda step, latest: True, None),
        "save_on_steps": ([1], frozenset()),
        "create": (True, False),
        "cleanup_tmp_directories": (True, False),
        "todelete_subdir": ("gone", None),
    }
    options = ours.CheckpointManagerOptions(
        read_only=True, enable_background_delete=True, **{n: v for n, (v, _) in wanted.items()}
    )
    assert {name: getattr(options, name) for name in wanted} == {
        name: neutral for name, (_, neutral) in wanted.items()
    }
    assert options.enable_background_delete
    warned = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert all(sum(f" {name}=" in line for line in warned) == 1 for name in wanted)
    caplog.clear()
    ours.CheckpointManagerOptions(read_only=True, save_interval_steps=0, create=False)
    assert caplog.records == []


@pytest.mark.row("R180")
def test_leaving_the_block_commits_and_closes(ours, root):
    with ours.CheckpointManager(root) as one:
        store(ours, one, 0)
    assert names(root) == ["0"]
    with pytest.raises(RuntimeError, match="closed"):
        store(ours, one, 1)


@pytest.mark.wd("W-18", "Kw-19")
@pytest.mark.row("R238")
@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_program_may_bring_its_way_to_commit(ours, root, asynchronous):
    did: list[tuple[str, str]] = []

    class Mine(ours.path.atomicity.AtomicRenameTemporaryPath):
        async def create(self, **options: Any) -> Any:
            did.append(("create", self.get_final().name))
            return await super().create(**options)

        def finalize(self) -> None:
            did.append(("finalize", self.get_final().name))
            super().finalize()

    options = ours.CheckpointManagerOptions(
        temporary_path_class=Mine, enable_async_checkpointing=asynchronous
    )
    with ours.CheckpointManager(root, options=options) as one:
        store(ours, one, 7)
        assert same(one.restore(7), tree(7))
    both = [("create", "7"), ("create", "default"), ("finalize", "default"), ("finalize", "7")]
    assert did == both


@pytest.mark.row("R246")
def test_none_means_the_latest(ocp, root):
    with ocp.CheckpointManager(root) as one:
        for step in (0, 2, 4):
            store(ocp, one, step)
        one.wait_until_finished()
        assert same(one.restore(None, args=ocp.args.StandardRestore(tree())), tree(4))


@pytest.mark.row("R252")
def test_options_are_defined_once(ours, root):
    for name in ("AsyncOptions", "MultiprocessingOptions", "FileOptions"):
        assert getattr(ours.checkpoint_manager, name) is getattr(ours.options, name)
    assert ours.AsyncOptions is ours.options.AsyncOptions
    common: dict[str, Any] = {
        "multiprocessing_options": ours.options.MultiprocessingOptions(),
        "file_options": ours.options.FileOptions(path_permission_mode=0o700),
    }
    later: dict[str, Any] = {"async_options": ours.options.AsyncOptions(timeout_secs=9)}
    ours.Checkpointer(ours.JsonCheckpointHandler(), **common).close()
    ours.AsyncCheckpointer(ours.StandardCheckpointHandler(), **common, **later).close()
    options = ours.CheckpointManagerOptions(**common, **later)
    ours.CheckpointManager(root, options=options).close()


@pytest.mark.row("R170", "R176")
def test_a_save_does_not_wait_for_the_bytes_of_old_steps(ours, root, monkeypatch):
    from pertinax._store import leftovers

    go = threading.Event()
    remove = leftovers.remove_tree

    def blocked(*args: Any) -> None:
        assert go.wait(60)
        remove(*args)

    monkeypatch.setattr(leftovers, "remove_tree", blocked)
    options = ours.CheckpointManagerOptions(max_to_keep=1, enable_background_delete=True)
    with ours.CheckpointManager(root, options=options) as one:
        for step in range(3):
            assert store(ours, one, step)
            one.wait_until_finished()
        assert [name for name in names(root) if "tmp" not in name] == ["2"]
        assert len(names(root)) == 3  # invisible, and still taking room
        go.set()
    assert names(root) == ["2"]


@pytest.mark.wd("W-30", "W-36")
def test_the_next_save_does_not_wait_for_the_bytes_of_old_steps_but_waiting_does(
    ours, root, monkeypatch
):
    from pertinax._store import leftovers

    go = threading.Event()
    remove = leftovers.remove_tree

    def blocked(*args: Any) -> None:
        assert go.wait(60)
        remove(*args)

    monkeypatch.setattr(leftovers, "remove_tree", blocked)
    options = ours.CheckpointManagerOptions(max_to_keep=1)
    with ours.CheckpointManager(root, options=options) as one:
        for step in range(3):  # the save of 2 comes while 0 is being removed
            assert store(ours, one, step)
        assert one.is_saving_in_progress()
        go.set()
        one.wait_until_finished()
        assert names(root) == ["2"]


@pytest.mark.wd("W-36")
def test_where_another_step_hardly_fits_a_save_waits_for_the_bytes_of_old_ones(
    ours, root, monkeypatch
):
    import collections
    import shutil

    from pertinax._store import leftovers

    go = threading.Event()
    begun = threading.Event()
    remove = leftovers.remove_tree
    usage = collections.namedtuple("usage", "total used free")  # noqa: PYI024 - as shutil has it

    def blocked(*args: Any) -> None:
        begun.set()
        assert go.wait(60)
        remove(*args)

    def nearly_full(_: Any) -> Any:
        threading.Timer(0.05, go.set).start()
        return usage(10**9, 10**9 - 10, 10)

    monkeypatch.setattr(leftovers, "remove_tree", blocked)
    monkeypatch.setattr(shutil, "disk_usage", nearly_full)
    options = ours.CheckpointManagerOptions(max_to_keep=1)
    with ours.CheckpointManager(root, options=options) as one:
        store(ours, one, 0)
        store(ours, one, 1)
        assert begun.wait(60)
        store(ours, one, 2)
        assert go.is_set()
    assert names(root) == ["2"]


@pytest.mark.wd("W-36")
def test_a_step_that_cannot_be_deleted_fails_no_save_and_stays_known(ours, root, monkeypatch):
    from pertinax._store import leftovers

    def failing(*_: Any) -> None:
        raise OSError(5, "no, says the test")

    options = ours.CheckpointManagerOptions(max_to_keep=1)
    with ours.CheckpointManager(root, options=options) as one:
        store(ours, one, 0)
        one.wait_until_finished()
        with monkeypatch.context() as patch:
            patch.setattr(leftovers, "hide_all", failing)
            store(ours, one, 1)
            one.wait_until_finished()
        assert (one.all_steps(), names(root)) == ([0, 1], ["0", "1"])
        store(ours, one, 2)
    assert names(root) == ["2"]


def test_a_manager_tells_jax_how_long_each_thing_took(ours, root):
    heard: dict[str, list[float]] = {}

    def listen(name: str, value: float, **_: Any) -> None:
        heard.setdefault(name, []).append(value)

    jax.monitoring.register_event_duration_secs_listener(listen)
    options = ours.CheckpointManagerOptions(max_to_keep=1)
    with ours.CheckpointManager(root, options=options) as one:
        for step in range(3):
            store(ours, one, step)
        one.wait_until_finished()
        one.reload()
    jax.monitoring.unregister_event_duration_listener(listen)
    write = "/jax/checkpoint/write/"
    stages = ("wait_for_prev_duration_secs", "get_old_steps_duration_secs")
    for name in (*stages, "remove_steps_duration_secs", "duration_since_last_checkpoint_secs"):
        assert len(heard[write + name]) == 3, name
    assert heard[write + "old_steps_examined_count"] == [1, 2, 2]
    assert len(heard["/jax/checkpoint/read/load_all_step_metadata_duration_secs"]) == 2
    assert len(heard["/jax/orbax/checkpoint_manager/standard_checkpoint_deleter/duration"]) == 2
