"""Lines of the log, by which one can follow a save in a job of many threads."""

import logging
import re

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from pertinax import checkpoint as ocp

TREE = {"a": np.arange(3)}
PREFIX = r"^\[process=0\]\[thread={}\]"


@pytest.fixture(autouse=True)
def all_lines(caplog):
    caplog.set_level(logging.INFO)


def said(caplog: pytest.LogCaptureFixture, words: str) -> list[str]:
    lines = [record.getMessage() for record in caplog.records]
    return [line for line in lines if words in line]


@pytest.mark.row("R006")
@pytest.mark.parametrize("background", [True, False])
def test_saves_and_restores_of_a_manager_are_told_with_their_path(tmp_path, caplog, background):
    options = ocp.CheckpointManagerOptions(enable_async_checkpointing=background)
    with ocp.CheckpointManager(tmp_path, options=options) as manager:
        manager.save(7, args=ocp.args.StandardSave(TREE))
        manager.wait_until_finished()
        manager.restore(7, args=ocp.args.StandardRestore())
    path = str(tmp_path / "7")
    (begun,) = said(caplog, "save begins")
    assert begun.endswith(f"path={path}")
    assert len(said(caplog, "[step=7] save is done")) == 1
    (begun,) = said(caplog, "[step=7] restore begins")
    (done,) = said(caplog, "[step=7] restore is done")
    assert begun.endswith(path)
    assert done.endswith(path)


@pytest.mark.row("R249")
def test_lines_of_a_save_in_the_background_name_process_thread_and_step(tmp_path, caplog):
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(3, args=ocp.args.StandardSave(TREE))
        manager.wait_until_finished()
    lines = said(caplog, "[step=3]")
    assert re.match(PREFIX.format("MainThread") + r"\[step=3\] save begins", lines[0])
    for line in lines[1:]:
        assert re.match(PREFIX.format("save_finalize") + r"\[step=3\]", line)
    waits = said(caplog, "[wait_until_finished]")
    assert re.match(PREFIX.format("MainThread"), waits[0])


@pytest.mark.row("R250")
def test_a_failure_in_the_background_is_told_with_its_traceback(tmp_path, caplog):
    def refuse() -> None:
        raise OSError("the disk is gone")

    told = ocp.AsyncOptions(post_finalization_callback=refuse)
    options = ocp.CheckpointManagerOptions(async_options=told)
    with ocp.CheckpointManager(tmp_path, options=options) as manager:
        manager.save(3, args=ocp.args.StandardSave(TREE))
        with pytest.raises(OSError, match="the disk is gone"):
            manager.wait_until_finished()
    (record,) = [one for one in caplog.records if "background save failed" in one.getMessage()]
    assert record.levelname == "ERROR"
    assert record.exc_info is not None
    assert re.match(PREFIX.format("save_finalize"), record.getMessage())


def test_a_save_before_preemption_says_how_much_work_it_has_saved(tmp_path, monkeypatch):
    heard: dict[str, float] = {}
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, seconds, **_: heard.update({name: seconds})
    )
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", lambda step: step == 5)
    name = "/jax/checkpoint/write/preempt/duration_saved_secs"
    options = ocp.CheckpointManagerOptions(save_interval_steps=4, max_to_keep=1)
    with ocp.CheckpointManager(tmp_path, options=options) as manager:
        for step in range(6):
            manager.save(step, args=ocp.args.StandardSave(TREE))
            manager.wait_until_finished()
            assert (name in heard) is (step == 5)
        assert manager.all_steps() == [5]
    assert 0 <= heard[name] < 60
