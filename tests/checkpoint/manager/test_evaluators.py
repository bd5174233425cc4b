# SPDX-License-Identifier: Apache-2.0
"""Evaluators: steps as they appear, held while they are read, whatever the trainer deletes."""

import inspect
import itertools
import pathlib
import subprocess
import sys
import threading
from typing import Any

import jax
import pytest

from tests.checkpoint.manager import sides

NOW: Any = {"timeout": 0, "seconds_to_sleep": 0}


def save(ocp: Any, root: Any, *steps: int, **options: Any) -> None:
    with ocp.CheckpointManager(root, options=ocp.CheckpointManagerOptions(**options)) as manager:
        for step in steps:
            manager.save(step, args=ocp.args.StandardSave(sides.tree(step)), force=True)


def wait(ocp: Any, root: Any, **options: Any) -> Any:
    return ocp.checkpoint_utils.wait_for_new_checkpoint(path(root), **(NOW | options))


def steps_of(ocp: Any, root: Any, **options: Any) -> Any:
    return ocp.checkpoint_utils.checkpoints_iterator(path(root), **(NOW | options))


def path(root: Any) -> Any:
    from etils import epath

    return epath.Path(root)


def snapshots(root: pathlib.Path) -> list[str]:
    found = sides.names(root / "_SNAPSHOTS") if (root / "_SNAPSHOTS").exists() else []
    return [name for name in found if not name.startswith(".")]


@pytest.mark.row("R021")
def test_the_names_of_the_module_and_their_defaults(ours):
    utils = ours.checkpoint_utils
    assert set(utils.__all__) == {
        *("STANDARD_ARRAY_TYPES", "checkpoints_iterator", "construct_restore_args"),
        *("get_snapshot_dir_from_step_dir", "wait_for_new_checkpoint"),
    }
    wanted = {"seconds_to_sleep": 1, "timeout": None, "timeout_fn": None, "step_prefix": None}
    wanted |= {"step_format_fixed_length": None, "step_name_format": None}
    for function in (utils.checkpoints_iterator, utils.wait_for_new_checkpoint):
        taken = inspect.signature(function).parameters
        assert wanted.items() <= {name: one.default for name, one in taken.items()}.items()


@pytest.mark.row("R066")
@pytest.mark.parametrize(("until", "given"), [(None, 3), (1, 3), (3, 3), (4, -1)])
def test_the_newest_step_from_a_given_one_on_comes_at_once(ocp, root, until, given):
    save(ocp, root, 0, 1, 2, 3)
    with wait(ocp, root, until_step=until) as step:
        assert step == given
        assert snapshots(root) == ([] if given == -1 else ["3"])
    assert snapshots(root) == []


@pytest.mark.wd("W-25")
def test_a_root_that_is_not_there_yet_is_waited_for(ours, root):
    looks = itertools.count()

    def make_it() -> bool:
        if next(looks) == 2:
            save(ours, root, 5)
        return False

    with wait(ours, root, timeout_fn=make_it) as step:
        assert step == 5
    assert next(looks) == 3


@pytest.mark.row("R196")
def test_the_function_is_asked_when_time_is_over_whether_to_give_up(ocp, root):
    save(ocp, root, 0)
    calls: list[int] = []

    def fourth() -> bool:
        calls.append(1)
        return len(calls) >= 4

    with wait(ocp, root, until_step=1, timeout_fn=fourth) as step:
        assert step == -1
    assert len(calls) == 4


@pytest.mark.row("R203")
def test_a_step_that_is_there_comes_whatever_the_function_says(ocp, root):
    save(ocp, root, 0)
    with wait(ocp, root, timeout_fn=lambda: True) as step:
        assert step == 0
    assert list(steps_of(ocp, root, timeout_fn=lambda: True)) == [0]


def test_iteration_skips_to_the_newest_and_ends_when_nothing_comes(ocp, root):
    save(ocp, root, 0, 1)
    seen: list[int] = []
    for step in steps_of(ocp, root):
        seen.append(step)
        assert snapshots(root) == [str(step)]
        if step == 1:
            save(ocp, root, 2, 3)
    assert seen == [1, 3]
    assert snapshots(root) == []


def test_iteration_goes_on_as_long_as_the_function_does_not_say_stop(ocp, root):
    save(ocp, root, 0, 1)
    calls: list[int] = []

    def fourth() -> bool:
        calls.append(1)
        return len(calls) >= 4

    assert list(steps_of(ocp, root, timeout_fn=fourth)) == [1]
    assert len(calls) == 5


def test_steps_are_not_closer_than_the_interval(ours, root, monkeypatch):
    save(ours, root, 0)
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    for step in steps_of(ours, root, min_interval_secs=7):
        if step == 0:
            save(ours, root, 1)
    assert [round(one) for one in slept] == [7, 7]


@pytest.mark.row("R064")
def test_a_step_can_be_read_although_its_trainer_deletes_it(ours, root):
    save(ours, root, 0)
    for step in steps_of(ours, root):
        with ours.CheckpointManager(root) as trainer:
            trainer.delete(step)
            assert trainer.all_steps() == []
        held = ours.checkpoint_utils.get_snapshot_dir_from_step_dir(path(root) / str(step))
        with ours.StandardCheckpointer() as checkpointer:
            assert sides.same(checkpointer.restore(held / "default"), sides.tree(0))
        with ours.CheckpointManager(held.parent) as reader:
            assert sides.same(reader.restore(0), sides.tree(0))
    assert snapshots(root) == []


@pytest.mark.wd("W-24")
@pytest.mark.row("R074")
def test_two_evaluators_hold_one_step_and_the_last_lets_it_go(ours, root):
    save(ours, root, 0)
    one, other = steps_of(ours, root), steps_of(ours, root)
    assert (next(one), next(other)) == (0, 0)
    assert next(one, None) is None
    held = ours.checkpoint_utils.get_snapshot_dir_from_step_dir(path(root) / "0")
    with ours.CheckpointManager(root) as trainer:
        trainer.delete(0)
    with ours.CheckpointManager(held.parent) as reader:
        assert sides.same(reader.restore(0), sides.tree(0))
    assert next(other, None) is None
    assert sides.names(root / "_SNAPSHOTS") == []


@pytest.mark.row("R074")
def test_releasing_what_is_released_is_told_and_no_error(ours, root, caplog):
    save(ours, root, 0)
    names = ours.path.step.standard_name_format()
    assert ours.checkpoint_utils._snapshot_checkpoint(path(root), 0, names)
    assert snapshots(root) == ["0"]
    ours.checkpoint_utils._release_snapshot(path(root), 0, names)
    assert snapshots(root) == []
    ours.checkpoint_utils._release_snapshot(path(root), 0, names)
    assert "there is no snapshot to release" in caplog.text


def test_what_nobody_holds_any_more_goes_at_the_start(ocp, root):
    save(ocp, root, 0, 1)
    ocp.checkpoint_utils._snapshot_checkpoint(path(root), 0, ocp.path.step.standard_name_format())
    (root / "_SNAPSHOTS" / "17").mkdir()
    steps = steps_of(ocp, root)
    assert next(steps) == 1
    assert snapshots(root) == ["1"]
    steps.close()


DIE_HOLDING = """
import os, sys
from pertinax import checkpoint as ocp
steps = ocp.checkpoint_utils.checkpoints_iterator(sys.argv[1], timeout=0)
print(next(steps), flush=True)
os._exit(9)
"""


@pytest.mark.slow
def test_what_a_dead_evaluator_held_goes_at_the_next_start(ours, root):
    save(ours, root, 0)
    out = subprocess.run(
        [sys.executable, "-c", DIE_HOLDING, str(root)], capture_output=True, text=True, check=False
    )
    assert (out.stdout, out.returncode) == ("0\n", 9), out.stderr
    assert snapshots(root) == ["0"]
    save(ours, root, 1)
    steps = steps_of(ours, root)
    assert next(steps) == 1
    assert snapshots(root) == ["1"]
    steps.close()
    assert sides.names(root / "_SNAPSHOTS") == []


def test_an_error_of_the_reader_lets_the_step_go(ours, root):
    save(ours, root, 0)
    with pytest.raises(KeyError), wait(ours, root):
        raise KeyError
    assert snapshots(root) == []


@pytest.mark.wd("W-24")
def test_snapshots_may_lie_elsewhere_and_go_as_well(ours, root, tmp_path):
    save(ours, root, 0)
    elsewhere = path(tmp_path / "elsewhere")
    with wait(ours, root, snapshot_dir=elsewhere) as step:
        held = ours.checkpoint_utils.get_snapshot_dir_from_step_dir(path(root) / "0", elsewhere)
        assert (step, held) == (0, elsewhere / "0")
        assert (held / "default").is_dir()
    assert list(elsewhere.iterdir()) == []
    assert "_SNAPSHOTS" not in sides.names(root)


def test_where_no_snapshot_can_lie_the_way_out_is_named(ours, root, tmp_path):
    save(ours, root, 0)
    (tmp_path / "file").touch()
    with (
        pytest.raises(ValueError, match="Pass snapshot_dir"),
        wait(ours, root, snapshot_dir=path(tmp_path / "file" / "below")),
    ):
        pass


@pytest.mark.wd("W-23")
@pytest.mark.row("R171")
def test_steps_of_any_name_are_found_and_strangers_are_no_steps(ours, root):
    names = ours.path.step.standard_name_format("run_a", 6)
    save(ours, root, 7, step_name_format=names)
    (root / "a_b_3").mkdir()
    (root / "9").mkdir()
    assert list(steps_of(ours, root, step_name_format=names)) == [7]
    assert list(steps_of(ours, root, step_prefix="run_a", step_format_fixed_length=6)) == [7]
    found = ours.path.step.get_save_directory(7, root, "default", step_name_format=names)
    assert found == path(root) / "run_a_000007" / "default"
    assert found.exists()


@pytest.mark.wd("W-23")
def test_to_wait_beside_checkpoints_of_another_name_is_refused(ocp, root):
    save(ocp, root, 7, step_prefix="run")
    with pytest.raises(ValueError), wait(ocp, root):  # noqa: PT011 - two libraries, two texts
        pass


@pytest.mark.parametrize("prefix", [None, "old"])
def test_the_first_step_may_appear_at_any_moment_of_a_look(ours, root, prefix):
    """Not seen by one listing, and seen by the next: that is no checkpoint of another name."""
    made = ours.path.step
    names = made.composite_name_format(
        made.standard_name_format(),
        [made.standard_name_format(), made.standard_name_format("old")],
    )
    looks = itertools.count()

    class Late(type(names)):
        def find_all(self, base_path: Any) -> Any:
            yield from super().find_all(base_path)
            if next(looks) == 0:
                save(ours, root, 3, step_prefix=prefix)

    root.mkdir()
    late = Late(names.write_name_format, names.read_name_formats)
    with wait(ours, root, timeout=60, step_name_format=late) as step:
        assert step == 3
    assert next(looks) > 1


def test_a_step_that_goes_before_it_is_held_is_passed_over(ours, root, monkeypatch):
    save(ours, root, 1)
    from pertinax._steps import snapshots as engine

    real = engine._link_whole

    def too_late(store: Any, source: str, target: str) -> None:
        monkeypatch.setattr(engine, "_link_whole", real)
        with ours.CheckpointManager(root) as trainer:
            trainer.delete(1)
            trainer.save(2, args=ours.args.StandardSave(sides.tree(2)))
        real(store, source, target)

    monkeypatch.setattr(engine, "_link_whole", too_late)
    with wait(ours, root) as step:
        assert step == 2


def test_waiting_looks_again_after_each_pause_and_is_measured(ours, root):
    heard: list[str] = []

    def listen(name: str, *_: Any, **__: Any) -> None:
        heard.append(name)

    begun = threading.Event()
    trainer = threading.Thread(target=lambda: begun.wait() and save(ours, root, 4))
    trainer.start()
    jax.monitoring.register_event_duration_secs_listener(listen)
    begun.set()
    with wait(ours, root, timeout=60, seconds_to_sleep=0.01) as step:
        assert step == 4
    trainer.join()
    jax.monitoring.unregister_event_duration_listener(listen)
    assert heard.count("/jax/orbax/checkpoint_utils/wait_duration") == 1
