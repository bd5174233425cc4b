# SPDX-License-Identifier: Apache-2.0
"""Loggers of statistics, and what a manager tells them."""

import dataclasses
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pertinax import checkpoint as ocp
from pertinax.checkpoint.logging import step_statistics
from pertinax.checkpoint.logging.abstract_logger import AbstractLogger
from pertinax.checkpoint.logging.cloud_logger import CloudLogger, CloudLoggerOptions
from pertinax.checkpoint.logging.composite_logger import CompositeLogger
from pertinax.checkpoint.logging.standard_logger import StandardLogger


class Kept(AbstractLogger):
    def __init__(self) -> None:
        self.entries: list[Any] = []

    def log_entry(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        self.entries.append(msg)


class Broken(AbstractLogger):
    def log_entry(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        raise OSError("no network")


@pytest.mark.row("R312")
def test_the_modules_of_the_package():
    for name in ("abstract_logger", "standard_logger", "composite_logger", "step_statistics"):
        assert getattr(ocp.logging, name).__name__ == f"pertinax.checkpoint.logging.{name}"
    with pytest.raises(AttributeError):
        _ = ocp.logging.nonsense


def test_the_cloud_logger_is_there_where_its_client_is():
    code = (
        "from pertinax import checkpoint as ocp\n"
        "import importlib.util as u\n"
        "try: there = u.find_spec('google.cloud.logging') is not None\n"
        "except ModuleNotFoundError: there = False\n"
        "assert hasattr(ocp.logging, 'cloud_logger') == there\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.row("R152")
def test_importing_leaves_the_logging_of_the_program_alone():
    modules = [
        f"pertinax.checkpoint.{path.stem}"
        for path in sorted(Path(ocp.__file__).parent.iterdir())
        if not path.stem.startswith("_")
    ]
    code = (
        "import importlib, logging\n"
        "root = logging.getLogger()\n"
        "before = list(root.handlers), root.level\n"
        f"for name in {modules}: importlib.import_module(name)\n"
        "assert (list(root.handlers), root.level) == before\n"
        "logging.basicConfig(level=logging.INFO)\n"
        "assert len(root.handlers) == 1 and root.level == logging.INFO\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_standard_logger_writes_a_line(caplog):
    caplog.set_level(logging.INFO)
    StandardLogger().log_entry({"step": 3})
    assert [record.getMessage() for record in caplog.records] == ["{'step': 3}"]


def test_several_loggers_get_each_entry_and_strangers_none(caplog):
    one, other = Kept(), Kept()
    both = CompositeLogger(one, "no logger", CompositeLogger(Kept()), other)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    both.log_entry({"step": 1})
    assert one.entries == other.entries == [{"step": 1}]


def test_a_logger_that_fails_keeps_the_entry_from_no_other():
    last = Kept()
    with pytest.raises(OSError, match="no network"):
        CompositeLogger(Broken(), last).log_entry(1)
    assert last.entries == [1]


class Service:
    """Stands for Google's service, which no test may call."""

    def __init__(self) -> None:
        self.written: list[tuple[str, Any, str]] = []

    def logger(self, name: str) -> Any:
        service = self

        class Logger:
            def log_struct(self, info: Any, *, severity: str) -> None:
                service.written.append((name, info, severity))

        return Logger()


def test_the_cloud_logger_adds_the_job_and_knows_five_severities():
    service = Service()
    logger = CloudLogger(CloudLoggerOptions(client=service))
    entry = {"step": 1}
    logger.log_entry(entry)
    logger.log_entry(entry, severity="ERROR")
    logger.log_entry(entry, severity="DREADFUL")
    written = {"step": 1, "job_name": "checkpoint_job"}
    assert service.written == [
        ("checkpoint_logger", written, "INFO"),
        ("checkpoint_logger", written, "ERROR"),
        ("checkpoint_logger", written, "INFO"),
    ]
    assert entry == {"step": 1}
    mine = CloudLoggerOptions("job", "log", service, checkpoint_metadata={"model": "x"})
    CloudLogger(mine).log_entry({})
    both = {"job_name": "job", "checkpoint_metadata": {"model": "x"}}
    assert service.written[-1] == ("log", both, "INFO")


FIELDS = {
    "SaveStepStatistics": {
        **dict.fromkeys(["step", "directory", "preemption_received_at"]),
        **dict.fromkeys(["wait_for_prev_start_time", "wait_for_prev_duration_secs"]),
        "checkpointer_blocking_start_time": None,
        "checkpointer_blocking_duration_secs": None,
        **dict.fromkeys(["get_old_steps_start_time", "get_old_steps_duration_secs"]),
        "checkpoint_manager_blocking_start_time": None,
        "checkpoint_manager_blocking_duration_secs": None,
        "event_type": "save",
        "reached_preemption": False,
        "synchronous": False,
    },
    "RestoreStepStatistics": {
        **dict.fromkeys(["step", "directory"]),
        **dict.fromkeys(["checkpointer_start_time", "checkpointer_duration_secs"]),
        **dict.fromkeys(["checkpoint_manager_start_time", "checkpoint_manager_duration_secs"]),
        "event_type": "restore",
    },
    "EmergencyRestoreStepStatistics": {
        **dict.fromkeys(["step", "directory", "checkpoint_manager_start_time"]),
        **dict.fromkeys(["checkpointer_start_time", "checkpointer_duration_secs"]),
        **dict.fromkeys(["broadcast_start_time", "broadcast_duration_secs"]),
        "checkpoint_manager_duration_secs": None,
        "event_type": "emergency_restore",
        "is_restoring_slice": False,
        "in_primary_slice": False,
    },
}


@pytest.mark.parametrize("name", FIELDS)
def test_statistics_have_these_fields(name):
    assert dataclasses.asdict(getattr(step_statistics, name)()) == FIELDS[name]


@pytest.mark.parametrize("background", [True, False])
def test_a_manager_tells_of_each_save_and_restore_and_of_no_other(tmp_path, background):
    kept = Kept()
    options = ocp.CheckpointManagerOptions(
        save_interval_steps=2, enable_async_checkpointing=background
    )
    with ocp.CheckpointManager(tmp_path, options=options, logger=kept) as manager:
        for step in range(3):
            manager.save(step, args=ocp.args.StandardSave({"a": np.arange(3)}))
        manager.restore(2, args=ocp.args.StandardRestore())
    assert [(one["event_type"], one["step"]) for one in kept.entries] == [
        *(("save", 0), ("save", 2), ("restore", 2)),
    ]
    save, _, restore = kept.entries
    assert save["directory"] == restore["directory"] == str(tmp_path)
    assert save["synchronous"] is not background
    assert [name for name, value in save.items() if value is None] == ["preemption_received_at"]
    assert None not in restore.values()
    assert (
        save["checkpoint_manager_blocking_duration_secs"]
        >= (save["checkpointer_blocking_duration_secs"])
    )
    assert ocp.logging.SaveStepStatistics(**save).event_type == "save"


@pytest.mark.row("R026")
@pytest.mark.parametrize("by_metrics", [False, True])
def test_the_log_says_of_each_old_step_what_becomes_of_it_and_why(tmp_path, caplog, by_metrics):
    caplog.set_level(logging.INFO)
    best = (lambda metrics: metrics["m"]) if by_metrics else None
    options = ocp.CheckpointManagerOptions(max_to_keep=1, keep_period=2, best_fn=best)
    with ocp.CheckpointManager(tmp_path, options=options) as manager:
        for step in range(4):
            metrics = {"m": step} if by_metrics else None
            manager.save(step, args=ocp.args.StandardSave({"a": np.arange(3)}), metrics=metrics)
        manager.wait_until_finished()
        assert manager.all_steps() == [0, 2, 3]
    lines = [record.getMessage() for record in caplog.records if "retention" in record.getMessage()]
    assert "retention keeps step=0: keep_period=2 divides it" in lines
    why = "others have better metrics" if by_metrics else "it is old"
    assert f"retention removes step=1: {why}" in lines
    assert not any("step=3" in line for line in lines)
