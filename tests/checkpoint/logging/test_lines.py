# SPDX-License-Identifier: Apache-2.0
"""Lines of the log, by which one can follow a save in a job of many threads."""

import logging
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

import pertinax
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
    (begun,) = said(caplog, "[step=7] save begins")
    (done,) = said(caplog, "[step=7] save is done")
    assert begun.endswith(f"path={path}")
    assert done.endswith(f"path={path}")
    (begun,) = said(caplog, "[step=7] restore begins")
    (done,) = said(caplog, "[step=7] restore is done")
    assert begun.endswith(path)
    assert done.endswith(path)


@pytest.mark.row("R006")
def test_saves_and_restores_of_a_checkpointer_are_told_with_their_path(tmp_path, caplog):
    path = str(tmp_path / "it")
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        checkpointer.save(path, args=ocp.args.StandardSave(TREE))
        checkpointer.restore(path)
    words = ("] save begins", "] published", "] save is done", "restore begins", "restore is done")
    lines = [said(caplog, word) for word in words]
    assert [len(found) for found in lines] == [1] * 5
    assert all(found[0].endswith(f"path={path}") for found in lines)


@pytest.mark.row("R249", "R255")
def test_the_stages_of_a_save_in_the_background_are_told_in_their_order(tmp_path, caplog):
    options = ocp.AsyncOptions(post_finalization_callback=lambda: None)
    path = str(tmp_path / "it")
    with ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler(), async_options=options) as saver:
        saver.save(path, args=ocp.args.StandardSave(TREE))
        saver.wait_until_finished()
    lines = [line for line in said(caplog, path) if "thread=async_save_" in line]
    stages = [
        *("background save begins", "all is written writes=1", "handler finalizes"),
        *("post_finalization_callback", "published", "background save is done"),
    ]
    assert len(lines) == len(stages)
    for line, stage in zip(lines, stages, strict=True):
        assert re.match(PREFIX.format(r"async_save_\d+") + f" {stage}.* path={path}$", line), line
    every = [record.getMessage() for record in caplog.records]
    order = ["] save begins", "has waited"]
    order[1:1] = ["[wait_until_finished] waits", "background save is done"]
    at = [next(i for i, line in enumerate(every) if word in line) for word in order]
    assert at[0] < at[1] < at[3]
    assert at[2] < at[3]


def test_what_a_manager_was_made_of_and_who_waits_for_what_is_told(tmp_path, caplog, monkeypatch):
    options = ocp.CheckpointManagerOptions(
        max_to_keep=5, async_options=ocp.AsyncOptions(timeout_secs=17)
    )
    with ocp.CheckpointManager(tmp_path, options=options) as manager:
        (made,) = said(caplog, "manager directory=")
        assert str(tmp_path) in made
        assert "steps=0" in made
        assert "max_to_keep=5" in made
        (below,) = said(caplog, "asynchronous checkpointer")
        assert "timeout_s=17 barrier=None primary_host=0" in below
        manager.wait_until_finished()
        assert len(said(caplog, "[wait_until_finished] there is nothing to wait for")) == 1
        monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", lambda step: True)
        manager.save(3, args=ocp.args.JsonSave(3))
        (warned,) = said(caplog, "the job will be stopped soon")
        assert "[step=3]" in warned
        manager.wait_until_finished()
        about = re.compile(PREFIX.format("MainThread") + r"\[step=3\]\[wait_until_finished\] (.*)$")
        lines = [about.match(record.getMessage()) for record in caplog.records]
        assert [line[1] for line in lines if line] == [
            *("waits for the save in the background", "has waited", "settles it"),
        ]


def test_what_force_replaces_is_told(tmp_path, caplog):
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
        checkpointer.save(tmp_path / "it", 1, force=True)
        assert not said(caplog, "will be replaced")
        checkpointer.save(tmp_path / "it", 2, force=True)
    (line,) = said(caplog, "will be replaced")
    assert line.endswith(f"path={tmp_path / 'it'}")


@pytest.mark.row("R256")
def test_one_module_can_be_made_to_say_more(tmp_path, caplog):
    with caplog.at_level(logging.DEBUG, "pertinax.checkpoint.checkpointer"):
        ocp.PyTreeCheckpointer().save(tmp_path / "one", TREE)
        ocp.multihost.sync_global_processes("nobody")
    names = {record.name for record in caplog.records if record.levelname == "DEBUG"}
    assert names == {"pertinax.checkpoint.checkpointer"}
    caplog.clear()
    with caplog.at_level(logging.DEBUG, "pertinax.checkpoint.multihost"):
        ocp.PyTreeCheckpointer().save(tmp_path / "two", TREE)
        ocp.multihost.sync_global_processes("nobody")
    names = {record.name for record in caplog.records if record.levelname == "DEBUG"}
    assert names == {"pertinax.checkpoint.multihost"}


@pytest.mark.row("R282")
def test_the_first_checkpointer_of_a_program_tells_the_version():
    code = (
        "import logging\n"
        "logging.basicConfig(level=logging.INFO)\n"
        "from pertinax import checkpoint as ocp\n"
        "for _ in range(2): ocp.StandardCheckpointer().close(); ocp.PyTreeCheckpointer().close()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.count(f"pertinax version={pertinax.__version__} ") == 1


@pytest.mark.row("R249")
def test_lines_of_a_save_in_the_background_name_process_thread_and_step(tmp_path, caplog):
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(3, args=ocp.args.StandardSave(TREE))
        manager.wait_until_finished()
    lines = said(caplog, "[step=3] ")
    assert re.match(PREFIX.format("MainThread") + r"\[step=3\] save begins", lines[0])
    for line in lines[1:]:
        assert re.match(PREFIX.format("save_finalize") + r"\[step=3\]", line)
    waits = said(caplog, "[wait_until_finished] waits for")
    assert [re.match(PREFIX.format("MainThread"), line) is not None for line in waits] == [True]


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
    errors = [one for one in caplog.records if "background save failed" in one.getMessage()]
    for record, thread in zip(errors, (r"async_save_\d+", "save_finalize"), strict=True):
        assert record.levelname == "ERROR"
        assert record.exc_info is not None
        assert re.match(PREFIX.format(thread), record.getMessage())


def test_a_save_before_preemption_says_how_much_work_it_has_saved(tmp_path, monkeypatch, request):
    heard: dict[str, float] = {}

    def listen(name: str, seconds: float, **_: object) -> None:
        heard[name] = seconds

    jax.monitoring.register_event_duration_secs_listener(listen)
    request.addfinalizer(lambda: jax.monitoring.unregister_event_duration_listener(listen))
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
