# SPDX-License-Identifier: Apache-2.0
"""When a save happens, what it refuses, and what it leaves behind."""

import datetime as dt
import json
import os
import pathlib

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from tests.checkpoint.manager.sides import names, same, tree


def options(ocp, **more):
    return ocp.CheckpointManagerOptions(**more)


def save(ocp, manager, step, **more):
    return manager.save(step, args=ocp.args.StandardSave(tree(step)), **more)


# ---------------------------------------------------------------------------------- when it is time


def test_intervals_are_anchored_at_zero_and_the_first_step_is_saved(ocp, root):
    with ocp.CheckpointManager(root, options=options(ocp, save_interval_steps=2)) as manager:
        assert [step for step in range(1, 8) if save(ocp, manager, step)] == [1, 2, 4, 6]
        assert manager.latest_step() == 6
        assert not save(ocp, manager, 4)


def test_extra_steps_are_saved_besides_the_interval(ocp, root):
    chosen = options(ocp, save_interval_steps=2, save_on_steps=[3])
    with ocp.CheckpointManager(root, options=chosen) as manager:
        assert all(manager.should_save(step) for step in range(6))
        save(ocp, manager, 1)
        assert [step for step in range(6) if manager.should_save(step)] == [2, 3, 4]


def test_extra_steps_alone(ocp, root):
    chosen = options(ocp, save_interval_steps=10000, save_on_steps={1, 3, 5})
    with ocp.CheckpointManager(root, options=chosen) as manager:
        assert [step for step in range(6) if save(ocp, manager, step)] == [0, 1, 3, 5]


def test_force_saves_whatever_the_interval_says(ocp, root):
    with ocp.CheckpointManager(root, options=options(ocp, save_interval_steps=2)) as manager:
        for step in range(5):
            save(ocp, manager, step)
        assert save(ocp, manager, 5, force=True)
        manager.wait_until_finished()
        assert list(manager.all_steps()) == [0, 2, 4, 5]


@pytest.mark.row("R214")
def test_a_function_decides_instead_of_the_intervals(ocp, root):
    asked = []

    def decide(step, latest=None):
        asked.append((step, latest))
        return step == 3

    chosen = options(ocp, save_interval_steps=2, should_save_fn=decide)
    with ocp.CheckpointManager(root, options=chosen) as manager:
        assert [step for step in range(5) if save(ocp, manager, step)] == [3]
    assert asked == [(0, None), (1, None), (2, None), (3, None), (4, 3)]


def test_preemption_saves_at_once_and_the_grid_stays(ocp, root, monkeypatch):
    from jax.experimental import multihost_utils

    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", lambda step: step == 2)
    with ocp.CheckpointManager(root, options=options(ocp, save_interval_steps=4)) as manager:
        assert [step for step in range(10) if save(ocp, manager, step)] == [0, 2, 4, 8]
        assert manager.reached_preemption(2)
        assert not manager.reached_preemption(3)


@pytest.mark.wd("W-29")
def test_preemption_at_a_saved_step_saves_nothing_and_is_no_error(ours, root, monkeypatch):
    from jax.experimental import multihost_utils

    asked = []
    with ours.CheckpointManager(root) as manager:
        save(ours, manager, 2)
        monkeypatch.setattr(
            multihost_utils,
            "reached_preemption_sync_point",
            lambda step: asked.append(step) or True,
        )
        assert save(ours, manager, 2) is False
        assert asked == [2]


@pytest.mark.wd("W-27")
def test_an_interval_of_zero_leaves_the_extra_steps(ours, root):
    chosen = options(ours, save_interval_steps=0, save_on_steps=[3])
    with ours.CheckpointManager(root, options=chosen) as manager:
        assert [step for step in range(6) if save(ours, manager, step)] == [0, 3]


# ----------------------------------------------------------------------------------------- refusals


@pytest.mark.row("R215")
def test_a_saved_step_never_changes(ocp, root):
    from importlib import import_module

    error = import_module(f"{ocp.__name__}.checkpoint_manager").StepAlreadyExistsError
    assert issubclass(error, ValueError)
    with ocp.CheckpointManager(root) as manager:
        save(ocp, manager, 5)
        assert not save(ocp, manager, 5)
        with pytest.raises(error):
            manager.save(5, args=ocp.args.StandardSave(tree(9)), force=True)
        restored = manager.restore(5, args=ocp.args.StandardRestore(tree()))
        assert same(restored, tree(5))
    assert names(root) == ["5"]


def test_a_step_that_somebody_else_saved_is_refused(ours, root):
    with ours.CheckpointManager(root) as first, ours.CheckpointManager(root) as second:
        save(ours, first, 1)
        first.wait_until_finished()
        with pytest.raises(ValueError, match="already exists"):
            save(ours, second, 1)
        assert second.all_steps() == []
        second.reload()
        assert second.all_steps() == [1]


WRONG = {
    "nothing": (lambda ocp: {}, ValueError, "Must provide `args`"),
    "args where items belong": (
        lambda ocp: {"items": ocp.args.StandardSave(tree())},
        ValueError,
        "args=",
    ),
    "no args at all": (lambda ocp: {"args": tree()}, ValueError, "CheckpointArgs"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_refused_and_settle_nothing(ocp, root, case):
    make, error, phrase = WRONG[case]
    with ocp.CheckpointManager(root) as manager, pytest.raises(error, match=phrase):
        manager.save(0, **make(ocp))
    assert names(root) == []


OURS_ONLY = {
    "a reserved name": (
        lambda ocp: ocp.args.Composite(metrics=ocp.args.JsonSave({})),
        ValueError,
        "reserved",
    ),
    "no items": (lambda ocp: ocp.args.Composite(), ValueError, "no items"),
    "None for an unknown item": (lambda ocp: ocp.args.Composite(x=None), ValueError, "`None`"),
    "an item that is no args": (lambda ocp: ocp.args.Composite(x=3), TypeError, "CheckpointArgs"),
}


@pytest.mark.wd("W-12")
@pytest.mark.parametrize("case", OURS_ONLY)
def test_wrong_items_are_refused_before_anything_is_written(ours, root, case):
    make, error, phrase = OURS_ONLY[case]
    with ours.CheckpointManager(root) as manager:
        with pytest.raises(error, match=phrase):
            manager.save(0, args=make(ours))
        assert names(root) == []
        # and nothing is settled: one item without a name is still fine
        assert save(ours, manager, 0)


@pytest.mark.wd("W-27")
@pytest.mark.parametrize(
    ("step", "error"), [("1", TypeError), (1.0, TypeError), (None, TypeError), (-1, ValueError)]
)
def test_a_step_is_a_whole_number(ours, root, step, error):
    with ours.CheckpointManager(root) as manager, pytest.raises(error):
        save(ours, manager, step)


@pytest.mark.parametrize("kind", [np.int64, np.uint8, jnp.int32])
def test_a_step_may_be_any_integer(ocp, root, kind):
    with ocp.CheckpointManager(root) as manager:
        assert manager.save(kind(3), args=ocp.args.StandardSave(tree(3)))
        assert [int(step) for step in manager.all_steps()] == [3]
        if ocp.__name__.startswith("pertinax"):
            assert type(manager.latest_step()) is type(manager.all_steps()[0]) is int
        assert not save(ocp, manager, 3)
    assert names(root) == ["3"]


# -------------------------------------------------------------------------------------- the options


@pytest.mark.wd("W-04")
@pytest.mark.row("R126")
def test_read_only_neither_saves_nor_deletes_nor_makes_a_root(ours, root):
    chosen = options(ours, read_only=True, max_to_keep=3, save_on_steps=[1], create=True)
    neutral = (chosen.save_interval_steps, chosen.max_to_keep, chosen.create, chosen.save_on_steps)
    assert neutral == (0, None, False, frozenset())
    with pytest.raises(ValueError, match="does not exist"):
        ours.CheckpointManager(root, options=chosen)
    assert not root.exists()
    with ours.CheckpointManager(root) as manager:
        save(ours, manager, 0)
    with ours.CheckpointManager(root, options=chosen) as manager:
        assert manager.should_save(1) is False
        assert save(ours, manager, 1) is False
        assert save(ours, manager, 1, force=True) is False
        manager.delete(0)
        manager.delete(77)
        assert manager.all_steps() == [0]
        assert same(manager.restore(0), tree(0))
    assert names(root) == ["0"]


@pytest.mark.wd("W-35")
@pytest.mark.parametrize(
    "wrong",
    [
        {"max_to_keep": -1},
        {"best_mode": "best"},
        {"best_mode": None},
        {"todelete_subdir": "a/b"},
        {"todelete_subdir": "12"},
    ],
)
def test_options_without_meaning_are_refused(ours, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        options(ours, **wrong)


def test_best_mode_is_checked_again_by_the_manager(ours, root):
    chosen = options(ours)
    chosen.best_mode = "best"
    with pytest.raises(ValueError, match="best_mode"):
        ours.CheckpointManager(root, options=chosen)


@pytest.mark.row("R055")
def test_a_missing_root_is_made_unless_told_otherwise(ours, root):
    ocp = ours
    with pytest.raises(ValueError, match="does not exist"):
        ocp.CheckpointManager(root, options=options(ocp, create=False))
    with ocp.CheckpointManager(root / "deep"):
        assert (root / "deep").is_dir()
    with ocp.CheckpointManager(str(root / "deep"), options=options(ocp, create=False)) as manager:
        assert isinstance(manager.directory, pathlib.Path | os.PathLike)


@pytest.mark.row("R037")
@pytest.mark.parametrize(
    ("prefix", "length", "name"),
    [(None, None, "3"), ("ckpt", None, "ckpt_3"), (None, 6, "000003"), ("a_b", 4, "a_b_0003")],
)
def test_names_of_steps(ocp, root, prefix, length, name):
    chosen = options(ocp, step_prefix=prefix, step_format_fixed_length=length)
    for other in ("metadata_1", "7x", "_SNAPSHOTS", "x_5"):
        (root / other).mkdir(parents=True)
    with ocp.CheckpointManager(root, options=chosen) as manager:
        save(ocp, manager, 3)
    assert (root / name).is_dir()
    with ocp.CheckpointManager(root, options=chosen) as manager:
        assert list(manager.all_steps()) == [3]
        assert same(manager.restore(3, args=ocp.args.StandardRestore(tree())), tree(3))


def test_a_format_of_several_names(ours, root):
    step = ours.path.step
    old, new = step.standard_name_format(), step.standard_name_format("run", 4)
    with ours.CheckpointManager(root, options=options(ours, step_name_format=old)) as manager:
        save(ours, manager, 1)
    both = step.composite_name_format(new, [new, old])
    chosen = options(ours, step_name_format=both, max_to_keep=2)
    with ours.CheckpointManager(root, options=chosen) as manager:
        save(ours, manager, 2)
        manager.wait_until_finished()
        assert names(root) == ["1", "run_0002"]
        assert same(manager.restore(1), tree(1))
        save(ours, manager, 3)
        manager.wait_until_finished()
        assert names(root) == ["run_0002", "run_0003"]
        with pytest.raises(ValueError, match="run_0009"):
            manager.restore(9)


@pytest.mark.wd("W-17")
@pytest.mark.row("R220")
@pytest.mark.wd("Kw-19")
def test_permission_bits_reach_steps_and_items(ours, root):
    umask = os.umask(0)
    try:
        files = ours.options.FileOptions(path_permission_mode=0o750)
        with ours.CheckpointManager(
            root, options=options(ours, file_options=files), metadata={"a": 1}
        ) as manager:
            save(ours, manager, 0)
        places = ["0", "0/default", "metadata"]
        if ours.__name__.startswith("pertinax"):
            places.append(".")  # the root that the manager has made
        for place in places:
            assert (root / place).stat().st_mode & 0o777 == 0o750, place
    finally:
        os.umask(umask)


# ----------------------------------------------------------------------------------------- deletion


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize("subdir", [None, "trash"])
@pytest.mark.parametrize("background", [True, False])
def test_removed_steps_go_where_the_options_say(ours, root, asynchronous, subdir, background):
    chosen = options(
        ours,
        max_to_keep=2,
        enable_async_checkpointing=asynchronous,
        todelete_subdir=subdir,
        enable_background_delete=background,
        step_prefix="s",
    )
    with ours.CheckpointManager(root, options=chosen) as manager:
        for step in range(5):
            save(ours, manager, step)
    assert names(root) == ["s_3", "s_4", *([subdir] if subdir else [])]
    if subdir:
        assert names(root / subdir) == ["s_0", "s_1", "s_2"]


@pytest.mark.wd("W-14")
def test_a_name_that_is_taken_in_the_trash_harms_nothing(ours, root):
    chosen = options(ours, max_to_keep=1, todelete_subdir="trash")
    for _ in range(2):
        with ours.CheckpointManager(root, options=chosen) as manager:
            save(ours, manager, 1)
            manager.delete(1)
    assert names(root / "trash") == ["1", "1.1"]


@pytest.mark.row("R019")
def test_delete(ours, root):
    with ours.CheckpointManager(root) as manager:
        save(ours, manager, 0)
        manager.delete(0)  # also while it is being written
        assert manager.all_steps() == []
        assert names(root) == []
        with pytest.raises(ValueError, match="non-existent step"):
            manager.delete(0)


@pytest.mark.wd("W-13")
def test_delete_takes_the_step_and_not_a_leftover_of_its_name(ours, root):
    with ours.CheckpointManager(root) as manager:
        save(ours, manager, 0)
        manager.wait_until_finished()
        (root / "0.orbax-checkpoint-tmp-17").mkdir()
        manager.delete(0)
        assert names(root) == ["0.orbax-checkpoint-tmp-17"]


@pytest.mark.row("R052")
def test_leftovers_are_neither_listed_nor_in_the_way_and_go_on_demand(ours, root):
    leftover = root / "5.orbax-checkpoint-tmp-3"
    leftover.mkdir(parents=True)
    (root / "note.orbax-checkpoint-tmp-1").write_text("a file")
    with ours.CheckpointManager(root) as manager:
        assert manager.all_steps() == []
        save(ours, manager, 5)
    assert leftover.exists()
    with ours.CheckpointManager(
        root, options=options(ours, cleanup_tmp_directories=True)
    ) as manager:
        assert manager.all_steps() == [5]
    assert names(root) == ["5", "note.orbax-checkpoint-tmp-1"]


# -------------------------------------------------------------------------------- metrics, metadata


@pytest.mark.wd("W-06")
@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (jnp.float32(0.5), 0.5),
        (np.float32(0.25), 0.25),
        (np.float64(0.1), 0.1),
        (ml_dtypes.bfloat16(2), 2.0),
        (np.int8(-3), -3),
        (jnp.arange(3), [0, 1, 2]),
        (True, True),
        ((1, "a", None), [1, "a", None]),
    ],
)
def test_metrics_of_any_numeric_type_are_stored(ours, root, given, stored):
    def manager():
        return ours.CheckpointManager(root, options=options(ours, best_fn=lambda metrics: 0))

    with manager() as one:
        one.save(0, args=ours.args.StandardSave(tree()), metrics={"loss": given})
        one.wait_until_finished()
        assert one.metrics(0) == {"loss": stored}
    with manager() as other:
        assert other.metrics(0) == {"loss": stored}
        assert other.best_step() == 0
    assert json.loads((root / "0/metrics/metrics").read_text()) == {"loss": stored}


@pytest.mark.wd("W-05", "W-06")
@pytest.mark.parametrize(
    ("metrics", "error"),
    [({"loss": object()}, TypeError), ({"loss": {1, 2}}, TypeError), ({"other": 1}, KeyError)],
)
def test_metrics_that_cannot_be_used_are_refused_before_anything_is_written(
    ours, root, metrics, error
):
    chosen = options(ours, best_fn=lambda metrics: metrics["loss"])
    with ours.CheckpointManager(root, options=chosen) as manager:
        with pytest.raises(error):
            save(ours, manager, 0, metrics=metrics)
        assert names(root) == []
        assert save(ours, manager, 0, metrics={"loss": 1})
        assert manager.metrics(0) == {"loss": 1}


def test_a_loop_may_reuse_its_dictionary(ours, root):
    chosen = options(ours, best_fn=lambda metrics: metrics["loss"], max_to_keep=1, best_mode="min")
    metrics = {}
    with ours.CheckpointManager(root, options=chosen) as manager:
        for step, loss in enumerate([3, 1, 2]):
            metrics["loss"] = loss
            save(ours, manager, step, metrics=metrics)
        assert manager.best_step() == 1
        assert manager.all_steps() == [1]


def test_metrics_are_not_tracked_without_a_measure(ocp, root):
    with ocp.CheckpointManager(root) as manager:
        save(ocp, manager, 0, metrics={"loss": 1})
        save(ocp, manager, 1)
        manager.wait_until_finished()
        assert manager.metrics(0) is None
        assert manager.best_step() == 1
    assert not (root / "0/metrics").exists()


@pytest.mark.wd("W-08")
def test_a_damaged_metrics_file_stops_nothing_and_its_step_is_never_removed(ours, root):
    chosen = options(ours, best_fn=lambda metrics: metrics["loss"], max_to_keep=1)
    with ours.CheckpointManager(root, options=chosen) as manager:
        save(ours, manager, 0, metrics={"loss": 1})
    (root / "0/metrics/metrics").write_text('{"los')
    with ours.CheckpointManager(root, options=chosen) as manager:
        assert manager.all_steps() == [0]
        assert manager.best_step() is None
        save(ours, manager, 1, metrics={"loss": 1})
        save(ours, manager, 2, metrics={"loss": 2})
        manager.wait_until_finished()
        assert manager.all_steps() == [0, 2]


def test_metadata_of_a_root_is_written_once(ours, root):
    ocp = ours
    with ocp.CheckpointManager(root, metadata={"version": 1.1}) as manager:
        assert dict(manager.metadata()) == {"version": 1.1}
        save(ocp, manager, 0)
    with ocp.CheckpointManager(root, metadata={"version": 2}) as manager:
        assert dict(manager.metadata()) == {"version": 1.1}
    with ocp.CheckpointManager(root) as manager:
        assert dict(manager.metadata()) == {"version": 1.1}
        assert list(manager.all_steps()) == [0]


@pytest.mark.row("R121")
def test_metadata_of_a_root_that_has_none(ours, root):
    with ours.CheckpointManager(root) as manager:
        assert manager.metadata() == {}
    read_only = options(ours, read_only=True)
    with ours.CheckpointManager(root, options=read_only, metadata={"a": 1}) as manager:
        assert manager.metadata() == {"a": 1}
    assert names(root) == []
    with pytest.raises(TypeError):
        ours.CheckpointManager(root, metadata={"a": object()})


def test_two_infos_are_equal_if_step_and_time_are(ours):
    now = dt.datetime.now(tz=dt.UTC)
    info = ours.checkpoint_manager.CheckpointInfo
    assert info(jnp.int32(3), now, {"a": 1}) == info(3, now)
    assert hash(info(3, now)) == hash(info(3, now, None, True))
    assert info(3, now) != info(4, now)
    assert "3" in str(info(3, now))


def test_each_save_and_restore_is_logged_as_one_entry(ours, root):
    entries = []

    class Keep(ours.logging.AbstractLogger):
        def log_entry(self, msg, *args, **kwargs):
            entries.append(msg)

    with ours.CheckpointManager(root, logger=Keep()) as manager:
        save(ours, manager, 0)
        save(ours, manager, 0)
        manager.restore(0)
    saved, restored = entries
    assert (saved["step"], saved["event_type"], saved["synchronous"]) == (0, "save", False)
    assert {name for name, value in saved.items() if value is None} == {"preemption_received_at"}
    assert (restored["step"], restored["event_type"]) == (0, "restore")
    assert None not in restored.values()
