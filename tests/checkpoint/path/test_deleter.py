# SPDX-License-Identifier: Apache-2.0
"""Deleters: steps go by their numbers, now or in the background, for good or elsewhere."""

import inspect
import os
from collections.abc import Iterator
from typing import Any

import jax
import pytest
from etils import epath

from pertinax.checkpoint.path import deleter, step

NAMES = step.standard_name_format("run", 3)
BASE = "/jax/orbax/checkpoint_manager/"


@pytest.fixture
def root(tmp_path: Any) -> epath.Path:
    for name in ("run_001", "run_002", "run_003", "2"):
        (tmp_path / name / "default").mkdir(parents=True)
    return epath.Path(tmp_path)


@pytest.fixture
def heard() -> Iterator[list[str]]:
    names: list[str] = []

    def listen(name: str, *_: Any, **__: Any) -> None:
        names.append(name)

    jax.monitoring.register_event_listener(listen)
    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_listener(listen)
    jax.monitoring.unregister_event_duration_listener(listen)


def below(root: epath.Path) -> list[str]:
    return sorted(os.listdir(root))


@pytest.mark.row("R176")
@pytest.mark.parametrize("background", [False, True])
def test_steps_go_and_it_is_measured(root, heard, background):
    made = deleter.create_checkpoint_deleter(0, root, None, NAMES, background)
    kind = deleter.ThreadedCheckpointDeleter if background else deleter.StandardCheckpointDeleter
    assert isinstance(made, kind)
    made.delete(1)
    made.delete_steps([2])
    made.close()
    made.close()
    assert below(root) == ["2", "run_003"]
    word = "threaded" if background else "standard"
    assert heard.count(f"{BASE}{word}_checkpoint_deleter/duration") == 2
    assert heard.count(f"{BASE}threaded_checkpoint_deleter/init") == int(background)


@pytest.mark.row("R115")
@pytest.mark.parametrize("background", [False, True])
def test_steps_are_set_aside_under_their_names(root, background):
    made = deleter.create_checkpoint_deleter(0, root, "gone", NAMES, background)
    made.delete_steps([1, 2])
    made.close()
    assert below(root) == ["2", "gone", "run_003"]
    assert below(root / "gone") == ["run_001", "run_002"]
    assert (root / "gone" / "run_001" / "default").is_dir()


def test_object_stores_cannot_set_aside(root, monkeypatch):
    monkeypatch.setattr(step, "is_gcs_path", lambda path: True)
    for path in root.iterdir():
        (path / "commit_success.txt").write_text("")
    deleter.StandardCheckpointDeleter(0, root, "gone", NAMES).delete(1)
    assert below(root) == ["2", "run_002", "run_003"]


def test_what_is_not_there_is_told(root, caplog):
    deleter.StandardCheckpointDeleter(0, root, None, NAMES).delete_steps([7, 3])
    assert "no step=7" in caplog.text
    assert below(root) == ["2", "run_001", "run_002"]


def test_the_step_goes_before_what_an_unfinished_save_of_it_left(root):
    leftover = "run_001.orbax-checkpoint-tmp-4"
    (root / leftover).mkdir()
    made = deleter.StandardCheckpointDeleter(0, root, None, NAMES)
    made.delete(1)
    assert below(root) == ["2", leftover, "run_002", "run_003"]
    made.delete(1)
    assert below(root) == ["2", "run_002", "run_003"]


def test_only_the_primary_host_removes(root, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    deleter.StandardCheckpointDeleter(1, root, None, NAMES).delete(1)
    assert "run_001" in below(root)
    deleter.StandardCheckpointDeleter(None, root, None, NAMES).delete(1)
    assert "run_001" not in below(root)


def test_another_name_can_be_measured(root, heard):
    deleter.StandardCheckpointDeleter(0, root, None, NAMES, "/mine").delete(1)
    assert heard == ["/mine"]


def test_arguments_are_those_of_the_mirrored_classes():
    taken = inspect.signature(deleter.create_checkpoint_deleter).parameters
    four = ["primary_host", "directory", "todelete_subdir", "name_format"]
    assert list(taken) == [*four, "enable_background_delete"]
    standard = inspect.signature(deleter.StandardCheckpointDeleter).parameters
    assert list(standard) == [*four, "duration_metric"]
    assert standard["duration_metric"].default == f"{BASE}standard_checkpoint_deleter/duration"
    assert list(inspect.signature(deleter.ThreadedCheckpointDeleter).parameters) == four
