# SPDX-License-Identifier: Apache-2.0
"""Known weaknesses of Orbax's manager, where no other test shows what we do instead."""

import concurrent.futures
import inspect
import json
import logging
import threading
import time
from typing import Any

import pytest
from etils import epath

from tests.checkpoint.manager.sides import names, same, tree
from tests.checkpoint.manager.test_async import manager, save, slow  # noqa: F401 - fixtures


def by_loss(metrics: Any) -> float:
    return metrics["loss"]


def store(ocp: Any, one: Any, step: int, **more: Any) -> bool:
    return one.save(step, args=ocp.args.JsonSave(step), **more)


def told(caplog: Any, *words: str) -> bool:
    lines = [r.message for r in caplog.records if r.levelno >= logging.WARNING]
    return any(all(word in line for word in words) for line in lines)


def plain_format(ours: Any) -> Any:
    """A format of a program's own, which finds steps of two digits."""

    class Format:
        def build_name(self, step: int) -> str:
            return f"{step:02d}"

        def find_all(self, base: Any) -> Any:
            for path in epath.Path(base).iterdir():
                if path.name.isdigit():
                    yield ours.step.Metadata(int(path.name), path)

        def find_step(self, base: Any, step: int) -> Any:
            path = epath.Path(base) / self.build_name(step)
            if not path.exists():
                raise ValueError(f"no {path}")
            return ours.step.Metadata(step, path)

    return Format()


@pytest.mark.wd("W-06")
def test_metrics_that_go_nowhere_and_metrics_that_are_missing_are_told(ours, root, caplog):
    with ours.CheckpointManager(root) as one:
        store(ours, one, 0, metrics={"loss": 1})
    assert told(caplog, "metrics are not stored", "best_fn")
    caplog.clear()
    options = ours.CheckpointManagerOptions(best_fn=by_loss)
    with ours.CheckpointManager(root, options=options) as one:
        store(ours, one, 1)
    assert told(caplog, "best_fn is set", "no metrics")


@pytest.mark.wd("W-08")
def test_a_step_that_vanishes_while_the_root_is_read_was_never_there(ours, root):
    with ours.CheckpointManager(root) as one:
        store(ours, one, 10)
        store(ours, one, 11)
    names_ = plain_format(ours)
    find_all = names_.find_all

    def gone_at_once(base: Any) -> Any:
        for found in list(find_all(base)):
            yield found
            if found.step == 10:
                found.path.rmtree()

    names_.find_all = gone_at_once
    options = ours.CheckpointManagerOptions(step_name_format=names_, best_fn=by_loss)
    with ours.CheckpointManager(root, options=options) as one:
        assert one.all_steps() == [11]


@pytest.mark.wd("W-09")
@pytest.mark.parametrize("ask", ["restore", "item_metadata", "metrics"])
def test_a_step_that_is_being_saved_can_be_asked_for(
    manager,  # noqa: F811 - a fixture
    slow,  # noqa: F811
    ours,
    ask,
):
    slow.metadata = lambda directory: {"text": (directory / "text").read_text()}
    with manager(step_name_format=plain_format(ours), best_fn=by_loss) as one:
        slow.go.clear()
        save(one, slow, 3, metrics={"loss": 0.5})
        threading.Timer(0.05, slow.go.set).start()
        expected = {
            "restore": "text 3",
            "item_metadata": {"text": "text 3"},
            "metrics": {"loss": 0.5},
        }
        assert getattr(one, ask)(3) == expected[ask]


@pytest.mark.wd("W-10")
def test_preemption_where_nothing_is_kept_saves_and_fails_with_its_own_error(
    manager,  # noqa: F811
    slow,  # noqa: F811
    root,
    monkeypatch,
):
    from jax.experimental import multihost_utils

    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", lambda step: True)
    with manager(max_to_keep=0) as one:
        assert save(one, slow, 1)
        one.wait_until_finished()
        assert one.all_steps() == []
        slow.fail = True
        save(one, slow, 2)
        with pytest.raises(OSError, match="no room"):
            one.wait_until_finished()
    assert names(root) == []


@pytest.mark.wd("W-11")
def test_to_ask_whether_a_save_goes_on_never_waits_for_those_who_wait(
    manager,  # noqa: F811
    slow,  # noqa: F811
):
    with manager() as one, concurrent.futures.ThreadPoolExecutor(2) as pool:
        slow.go.clear()
        save(one, slow, 1)
        waiting = pool.submit(one.wait_until_finished)
        assert pool.submit(one.is_saving_in_progress).result(60) is True
        assert not waiting.done()
        slow.go.set()
        waiting.result(60)
        assert one.is_saving_in_progress() is False


@pytest.mark.wd("W-13")
def test_deleting_a_step_that_somebody_else_has_deleted_is_no_error(ours, root):
    with ours.CheckpointManager(root) as one:
        store(ours, one, 1)
        one.wait_until_finished()
        epath.Path(root / "1").rmtree()
        one.delete(1)
        assert one.all_steps() == []
        with pytest.raises(ValueError, match="non-existent step"):
            one.delete(1)


@pytest.mark.wd("W-14")
def test_a_deletion_that_fails_in_the_background_ends_no_other(ours, root, monkeypatch, caplog):
    from pertinax._store import leftovers

    remove = leftovers.remove_tree
    calls: list[str] = []

    def first_fails(store_: Any, path: str) -> None:
        calls.append(path)
        if len(calls) == 1:
            raise OSError(5, "no, says the test")
        remove(store_, path)

    monkeypatch.setattr(leftovers, "remove_tree", first_fails)
    options = ours.CheckpointManagerOptions(max_to_keep=1, enable_background_delete=True)
    with ours.CheckpointManager(root, options=options) as one:
        for step in range(4):
            store(ours, one, step)
    assert [name for name in names(root) if "tmp" not in name] == ["3"]
    assert len(names(root)) == 2  # of three, two are gone
    assert told(caplog, "still takes room", "no, says the test")


@pytest.mark.wd("W-15")
def test_what_the_caller_gave_serves_a_second_manager_as_it_did_the_first(ours, root):
    import jax

    args = ours.args
    registry = ours.DefaultCheckpointHandlerRegistry()
    items = args.Composite(
        state=args.StandardSave(tree(1)),
        config=args.JsonSave([1]),
        key=args.JaxRandomKeySave(jax.random.key(1)),
    )
    kinds = ("Standard", "Json", "JaxRandomKey")
    for (item, one), kind in zip(items.items(), kinds, strict=True):
        registry.add(item, type(one), getattr(ours, f"{kind}CheckpointHandler")())
    before = dict(registry.get_all_entries())
    for step in (0, 1):
        with ours.CheckpointManager(root, handler_registry=registry) as manager_:
            assert manager_.save(step, args=items)
    assert registry.get_all_entries() == before
    assert names(root) == ["0", "1"]


@pytest.mark.wd("W-16")
def test_to_ask_for_metrics_starts_no_thread(ours, root):
    options = ours.CheckpointManagerOptions(best_fn=by_loss, enable_async_checkpointing=False)
    with ours.CheckpointManager(root, options=options) as one:
        store(ours, one, 0, metrics={"loss": 1})
        before = threading.active_count()
        for _ in range(5):
            assert one.metrics(0) == {"loss": 1}
        assert threading.active_count() == before


@pytest.mark.wd("W-18", "Kw-17")
@pytest.mark.parametrize("clean", [False, True])
def test_steps_that_are_committed_by_a_marker_are_found_by_it_on_a_disk_too(
    ours, root, monkeypatch, clean
):
    with ours.CheckpointManager(root) as one:
        store(ours, one, 0)  # renamed
    by_marker = ours.path.atomicity.CommitFileTemporaryPath
    options = ours.CheckpointManagerOptions(temporary_path_class=by_marker)
    with ours.CheckpointManager(root, options=options) as one:
        store(ours, one, 1)
        one.wait_until_finished()
        with monkeypatch.context() as patch:
            patch.setattr(by_marker, "finalize", lambda self: None)
            store(ours, one, 2)
            one.wait_until_finished()
        one.reload()
        assert (one.all_steps(), one.latest_step()) == ([0, 1], 1)
        with pytest.raises(ValueError, match="Found incomplete checkpoint"):
            one.restore(2)
    again = ours.CheckpointManagerOptions(
        temporary_path_class=by_marker, cleanup_tmp_directories=clean
    )
    with ours.CheckpointManager(root, options=again) as one:
        assert names(root) == (["0", "1"] if clean else ["0", "1", "2"])
        assert store(ours, one, 2)
        assert [one.restore(step) for step in (0, 1, 2)] == [0, 1, 2]


@pytest.mark.wd("W-19")
def test_cleaning_an_object_store_leaves_alone_what_is_no_step(ours, root, monkeypatch):
    monkeypatch.setattr(ours.step, "is_gcs_path", lambda _path: True)
    for place in ("logs", "7", "run_8", "metadata"):
        (root / place).mkdir(parents=True)
    (root / "metadata" / "_CHECKPOINT_METADATA").write_text("{}")  # begun, and never finished
    options = ours.CheckpointManagerOptions(cleanup_tmp_directories=True)
    with ours.CheckpointManager(root, options=options):
        assert names(root) == ["logs"]


@pytest.mark.wd("W-21")
def test_a_long_history_is_read_from_one_file_and_what_counts_from_the_steps(
    ours, root, monkeypatch
):
    from pertinax._steps import notes

    options = ours.CheckpointManagerOptions(best_fn=by_loss)
    for step in range(100):
        (root / str(step) / "metrics").mkdir(parents=True)
        (root / str(step) / "metrics" / "metrics").write_text('{"loss": 0.5}')

    read: list[int] = []
    real = notes.read_record

    def counting(store_: Any, step: int, directory: str, **what: Any) -> Any:
        read.append(step)
        return real(store_, step, directory, **what)

    monkeypatch.setattr(notes, "read_record", counting)
    looking = ours.CheckpointManagerOptions(best_fn=by_loss, read_only=True)
    ours.CheckpointManager(root, options=looking).close()
    assert len(read) == 100
    assert ".pertinax" not in names(root)
    ours.CheckpointManager(root, options=options).close()
    read.clear()
    ours.CheckpointManager(root, options=looking).close()
    assert read == []  # all from the index


@pytest.mark.wd("W-21")
def test_an_index_that_lies_deletes_nothing(ours, root):
    from pertinax._steps import index
    from pertinax._store.local import LocalStore

    options = ours.CheckpointManagerOptions(best_fn=by_loss, max_to_keep=70)
    for step in range(70):
        (root / str(step) / "metrics").mkdir(parents=True)
        (root / str(step) / "metrics" / "metrics").write_text(f'{{"loss": {float(step)}}}')
    ours.CheckpointManager(root, options=options).close()
    where = LocalStore(), str(root)
    rows, root_ns = index.read_index(*where)
    assert rows["0"].metrics == {"loss": 0.0}
    rows = dict(rows) | {"69": rows["69"]._replace(metrics={"loss": -1.0})}
    index.write_index(*where, index.Index(rows, root_ns))
    with ours.CheckpointManager(root, options=options) as one:
        store(ours, one, 70, metrics={"loss": 70.0})
        one.wait_until_finished()
        assert one.all_steps() == list(range(1, 71))  # 0 is the worst, whatever is said of 69


@pytest.mark.wd("W-25")
def test_a_timeout_is_as_long_as_it_says_and_steps_may_be_large(ours, root):
    wait = ours.checkpoint_utils.wait_for_new_checkpoint
    begun_s = time.monotonic()
    with wait(root, timeout=0.2, seconds_to_sleep=0.15) as step:
        assert step == -1
    assert time.monotonic() - begun_s >= 0.2
    large = 2**40 + 1
    with ours.CheckpointManager(root) as one:
        store(ours, one, large)
    with wait(root, timeout=0) as step:
        assert step == large


@pytest.mark.wd("W-31")
def test_metadata_that_differ_from_what_is_stored_are_told(ours, root, caplog):
    ours.CheckpointManager(root, metadata={"version": 1}).close()
    ours.CheckpointManager(root, metadata={"version": 1}).close()
    assert not told(caplog, "metadata")
    with ours.CheckpointManager(root, metadata={"version": 2}) as one:
        assert one.metadata() == {"version": 1}
    assert told(caplog, "metadata", "{'version': 1}", "stays")


@pytest.mark.wd("W-33")
def test_options_that_change_nothing_are_told(ours, caplog):
    ours.CheckpointManagerOptions(keep_period=3, max_to_keep=2)
    assert not told(caplog, "max_to_keep")
    ours.CheckpointManagerOptions(keep_period=3)
    assert told(caplog, "without max_to_keep", "all steps stay")


@pytest.mark.wd("W-35")
def test_what_the_documentation_names_is_there_and_errors_show_what_was_given(ours):
    text = "".join(inspect.getdoc(module) or "" for module in (ours.utils, ours.checkpoint_utils))
    for name in ("unlock_existing_checkpoints", "get_tmp_directory", "create_tmp_directory"):
        assert name not in text
        assert not hasattr(ours.utils, name)
        assert not hasattr(ours.checkpoint_utils, name)
    with pytest.raises(ValueError, match="'worst'"):
        ours.CheckpointManagerOptions(best_mode="worst")


@pytest.mark.wd("W-03")
def test_a_fresh_manager_reads_items_of_every_kind_that_we_make(ours, root):
    import jax
    import numpy as np

    args = ours.args
    items = args.Composite(
        state=args.StandardSave(tree(1)),
        params=args.PyTreeSave({"a": [np.arange(2), 3]}),
        array=args.ArraySave(np.arange(3)),
        config=args.JsonSave({"a": [1]}),
        key=args.JaxRandomKeySave(jax.random.key(7)),
        state_of_numpy=args.NumpyRandomKeySave(np.random.RandomState(3).get_state()),
    )
    with ours.CheckpointManager(root) as one:
        one.save(0, args=items)
    with ours.CheckpointManager(root) as one:
        found = one.restore(0)
    assert set(found) == set(items)
    assert same(found.state, tree(1))
    assert same(found.params, {"a": [np.arange(2), 3]})
    assert same(found.array, np.arange(3))
    assert found.config == {"a": [1]}
    assert jax.random.key_data(found.key).tolist() == [0, 7]
    assert same(found.state_of_numpy[1], np.random.RandomState(3).get_state()[1])
    assert json.loads((root / "0" / "config" / "metadata").read_text()) == {"a": [1]}
