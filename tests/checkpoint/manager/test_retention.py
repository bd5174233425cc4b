# SPDX-License-Identifier: Apache-2.0
"""Which steps live: every worked example, on both libraries, and the rules beyond them."""

import datetime as dt
import math

import pytest

from pertinax._steps.history import StepRecord
from pertinax.checkpoint._adapt.retention import ManagerRetention, Quality, best_record
from tests.checkpoint.manager.sides import Clock, tree

HOURS = dt.timedelta(hours=1)
LOSSES = [5, 2, 4, 3, 7, 1, 10, 9, 7, 4]
BY_VALUE = {"best_fn": lambda metrics: metrics["loss"]}


def constant(_step: int) -> dict:
    return {"loss": 1.0}


def growing(step: int) -> dict:
    return {"loss": float(step)}


def listed(step: int) -> dict:
    return {"loss": LOSSES[step]}


def sometimes(step: int) -> dict | None:
    return growing(step) if step % 2 == 0 else None


EXAMPLES = [
    ({"max_to_keep": 2}, range(5), None, [3, 4]),
    ({"max_to_keep": 0}, range(5), None, []),
    (
        {"max_to_keep": 0, "keep_period": 3, "keep_time_interval": 5 * HOURS},
        range(9),
        None,
        [0, 3, 5, 6],
    ),
    ({"max_to_keep": 2, "keep_period": 4}, range(0, 12, 2), None, [0, 4, 8, 10]),
    ({"max_to_keep": 2, "keep_time_interval": 3 * HOURS}, range(10), None, [0, 3, 6, 8, 9]),
    (
        {"max_to_keep": 3, "keep_time_interval": 3 * HOURS, "best_mode": "min", **BY_VALUE},
        range(10),
        growing,
        [0, 1, 2, 3, 6, 9],
    ),
    ({"max_to_keep": 2, "best_mode": "min", **BY_VALUE}, range(10), listed, [1, 5]),
    ({"max_to_keep": 2, "best_mode": "max", **BY_VALUE}, range(5), constant, [3, 4]),
    ({"max_to_keep": 2, "best_mode": "min", **BY_VALUE}, range(5), constant, [3, 4]),
    ({"max_to_keep": 2, **BY_VALUE}, range(5), None, [0, 1, 2, 3, 4]),
    (
        {"max_to_keep": 2, "keep_checkpoints_without_metrics": False, **BY_VALUE},
        range(5),
        None,
        [3, 4],
    ),
    ({"max_to_keep": 2, **BY_VALUE}, range(8), sometimes, [1, 3, 4, 5, 6, 7]),
    (
        {"max_to_keep": 2, "keep_checkpoints_without_metrics": False, **BY_VALUE},
        range(8),
        sometimes,
        [4, 6],
    ),
]


@pytest.mark.row("R061")
@pytest.mark.parametrize(("options", "steps", "metrics", "expected"), EXAMPLES)
def test_worked_examples(ocp, root, options, steps, metrics, expected):
    with (
        Clock().running() as clock,
        ocp.CheckpointManager(root, options=ocp.CheckpointManagerOptions(**options)) as manager,
    ):
        for step in steps:
            measured = None if metrics is None else metrics(step)
            manager.save(step, metrics=measured, args=ocp.args.StandardSave(tree(step)))
            clock.advance(hours=1)
        manager.wait_until_finished()
        assert list(manager.all_steps()) == expected
        manager.reload()
        assert list(manager.all_steps()) == expected


def test_a_restart_goes_on_with_the_grid_of_the_times_on_disk(ours, root):
    options = ours.CheckpointManagerOptions(max_to_keep=2, keep_time_interval=3 * HOURS)
    with Clock().running() as clock:
        times = {}
        with ours.CheckpointManager(root, options=options) as manager:
            for step in range(10):
                manager.save(step, args=ours.args.StandardSave(tree(step)))
                times[step] = clock.now
                clock.advance(hours=1)
        with ours.CheckpointManager(root, options=options) as manager:
            for info in manager._checkpoints:
                info.time = times[info.step]
            for step in range(10, 20):
                manager.save(step, args=ours.args.StandardSave(tree(step)))
                clock.advance(hours=1)
        assert manager.all_steps() == [0, 3, 6, 9, 12, 15, 18, 19]


@pytest.mark.wd("W-33")
def test_times_of_old_steps_are_those_of_their_notes(ours, root):
    options = ours.CheckpointManagerOptions(max_to_keep=2, keep_time_interval=3 * HOURS)
    with ours.CheckpointManager(root, options=options) as manager:
        manager.save(0, args=ours.args.StandardSave(tree()))
    note = ours.path.step.Metadata(0, ours.path.step.epath.Path(root) / "0")
    with ours.CheckpointManager(root, options=options) as manager:
        (info,) = manager._checkpoints
        assert info.time == note.commit_timestamp
        assert note.init_timestamp_nsecs <= note.commit_timestamp_nsecs


def history(*metrics):
    return [StepRecord(step, step, one, "") for step, one in enumerate(metrics)]


def keep(quality, count, *metrics, **more):
    return ManagerRetention(count, quality=quality, **more).keep(history(*metrics))


def test_nan_is_the_worst_there_is_whichever_end_is_good():
    for mode in ("min", "max"):
        quality = Quality(lambda metrics: metrics, mode)
        assert keep(quality, 1, math.nan, 3.0, math.nan) == {1}
        assert best_record(history(math.nan, 3.0, math.nan), quality).step == 1


def test_metrics_that_the_function_does_not_understand_count_as_none():
    quality = Quality(lambda metrics: metrics["loss"])
    assert keep(quality, 1, {"loss": 1}, {"accuracy": 1}, {"loss": 2}) == {1, 2}
    assert best_record(history({"other": 1}), quality) is None


@pytest.mark.wd("W-34")
def test_without_room_a_period_holds_steps_without_metrics_too():
    quality = Quality(lambda metrics: metrics)
    assert keep(quality, 0, None, 1.0, None, 2.0, period=2, keep_without_metrics=False) == {0, 2}


@pytest.mark.wd("W-26")
def test_an_older_step_saved_by_force_is_not_removed_at_once(ours, root):
    options = ours.CheckpointManagerOptions(max_to_keep=2)
    with ours.CheckpointManager(root, options=options) as manager:
        for step in (10, 20, 5):
            manager.save(step, args=ours.args.StandardSave(tree(step)), force=True)
        manager.wait_until_finished()
        assert manager.all_steps() == [5, 10, 20]
        assert manager.latest_step() == 20
        manager.save(30, args=ours.args.StandardSave(tree()))
        manager.wait_until_finished()
        assert manager.all_steps() == [20, 30]


def test_best_retention_goes_on_after_a_restart(ocp, root):
    def manager():
        options = ocp.CheckpointManagerOptions(max_to_keep=2, best_mode="min", **BY_VALUE)
        return ocp.CheckpointManager(root, options=options)

    for half in (range(5), range(5, 10)):
        with manager() as one:
            for step in half:
                one.save(step, metrics=listed(step), args=ocp.args.StandardSave(tree(step)))
    with manager() as one:
        assert list(one.all_steps()) == [1, 5]
        assert one.best_step() == 5
        assert one.metrics(1) == {"loss": 2}


@pytest.mark.parametrize(("mode", "kept"), [("max", 1), ("min", 2)])
def test_whatever_has_an_order_can_be_a_measure(ocp, root, mode, kept):
    def accuracy_then_loss(metrics):
        return metrics["accuracy"], -metrics["loss"]

    options = ocp.CheckpointManagerOptions(
        max_to_keep=1, best_fn=accuracy_then_loss, best_mode=mode
    )
    measured = [(1, 5), (1, 2), (0, 9), (0, 4)]
    with ocp.CheckpointManager(root, options=options) as manager:
        for step, (accuracy, loss) in enumerate(measured):
            metrics = {"accuracy": accuracy, "loss": loss}
            manager.save(step, metrics=metrics, args=ocp.args.StandardSave(tree(step)))
        manager.wait_until_finished()
        assert (list(manager.all_steps()), manager.best_step()) == ([kept], kept)


def test_measures_that_cannot_be_compared_count_as_equal():
    quality = Quality(lambda metrics: metrics)
    assert best_record(history(1.0, "text", 2), quality).step == 2
    assert best_record(history(3.0, "text"), quality).step == 1


@pytest.mark.wd("W-05")
@pytest.mark.parametrize("measure", [None, {"a": 1}, 1j])
def test_a_measure_without_an_order_is_refused_before_anything_is_written(ours, root, measure):
    options = ours.CheckpointManagerOptions(best_fn=lambda _: measure)
    with ours.CheckpointManager(root, options=options) as manager:
        with pytest.raises(TypeError, match="has no order"):
            manager.save(0, metrics={"a": 1}, args=ours.args.StandardSave(tree()))
        assert list(root.iterdir()) == []


def test_a_step_whose_metrics_cannot_be_read_is_not_judged(ours, root, caplog):
    """It may be the best of all; whoever looks at it decides."""
    options = ours.CheckpointManagerOptions(
        max_to_keep=1, best_fn=lambda m: m["loss"], keep_checkpoints_without_metrics=False
    )
    with ours.CheckpointManager(root, options=options) as manager:
        manager.save(0, args=ours.args.StandardSave(tree()), metrics={"loss": 1.0})
    (root / "0" / "metrics" / "metrics").write_text('{"loss":')
    with ours.CheckpointManager(root, options=options) as manager:
        for step, loss in ((1, 3.0), (2, 2.0)):
            manager.save(step, args=ours.args.StandardSave(tree()), metrics={"loss": loss})
            manager.wait_until_finished()
        assert manager.all_steps() == [0, 1]
    assert "unreadable notes step=0" in caplog.text
