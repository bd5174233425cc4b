# SPDX-License-Identifier: Apache-2.0
"""The store of step notes: what Orbax 0.8.0 wrote and raised when the same calls were made."""

import pickle
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from etils import epath

import pertinax
from pertinax import checkpoint as ocp
from pertinax.checkpoint._adapt.step_notes import background_notes, blocking_notes
from pertinax.checkpoint.metadata import StepMetadata, checkpoint_metadata_store
from pertinax.checkpoint.metadata import checkpoint as module

BOTH = pytest.mark.parametrize("blocking", [True, False])


def writer(blocking: bool) -> Any:
    return checkpoint_metadata_store(enable_write=True, blocking_write=blocking)


def note_of(directory: Path) -> Path:
    return directory / "_CHECKPOINT_METADATA"


@BOTH
def test_the_note_is_that_of_orbax_to_the_byte(tmp_path, blocking):
    store = writer(blocking)
    store.write(checkpoint_path=tmp_path, checkpoint_metadata=StepMetadata(1))
    store.wait_until_finished()
    assert note_of(tmp_path).read_text() == (
        '{"init_timestamp_nsecs": 1, "commit_timestamp_nsecs": null}'
    )
    store.update(checkpoint_path=tmp_path, commit_timestamp_nsecs=5)
    store.wait_until_finished()
    assert note_of(tmp_path).read_text() == (
        '{"init_timestamp_nsecs": 1, "commit_timestamp_nsecs": 5}'
    )
    assert store.read(checkpoint_path=tmp_path) == StepMetadata(1, 5)
    assert module.metadata_file_path(tmp_path) == epath.Path(note_of(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["_CHECKPOINT_METADATA"]
    store.close()


@BOTH
def test_an_update_makes_the_note_if_there_is_none(tmp_path, blocking):
    store = writer(blocking)
    store.update(tmp_path, commit_timestamp_nsecs=3)
    store.wait_until_finished()
    assert store.read(tmp_path) == StepMetadata(None, 3)
    store.close()


def test_an_update_keeps_what_newer_programs_wrote(tmp_path):
    note_of(tmp_path).write_text('{"item_handlers": "a.B", "init_timestamp_nsecs": 1}')
    store = writer(blocking=True)
    store.update(tmp_path, commit_timestamp_nsecs=2)
    assert store.read(tmp_path) == StepMetadata(1, 2)
    assert '"item_handlers": "a.B"' in note_of(tmp_path).read_text()


@BOTH
@pytest.mark.row("R217")
@pytest.mark.parametrize("text", [None, "", "{", "3", "null", "[]", "\x00\xff", '"a"'])
def test_what_cannot_be_read_counts_as_absent(tmp_path, blocking, text, caplog):
    if text is not None:
        note_of(tmp_path).write_text(text)
    store = checkpoint_metadata_store(enable_write=False, blocking_write=blocking)
    assert store.read(tmp_path) is None
    assert store.read(tmp_path / "missing") is None
    assert "step metadata" in caplog.text


@pytest.mark.row("R217")
def test_a_manager_opens_over_an_empty_note(tmp_path):
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(0, args=ocp.args.StandardSave({"a": np.arange(3)}))
    note_of(tmp_path / "0").write_bytes(b"")
    with ocp.CheckpointManager(tmp_path) as manager:
        assert manager.all_steps() == [0]


@pytest.mark.row("R201", "R202")
@pytest.mark.parametrize("background", [True, False])
def test_each_step_has_a_note_with_the_time_of_its_commit(tmp_path, background):
    options = ocp.CheckpointManagerOptions(enable_async_checkpointing=background)
    begun_ns = time.time_ns()
    with ocp.CheckpointManager(tmp_path, options=options) as manager:
        manager.save(0, args=ocp.args.StandardSave({"a": np.arange(3)}))
    assert note_of(tmp_path / "0").is_file()
    found = checkpoint_metadata_store(enable_write=False).read(tmp_path / "0")
    assert begun_ns <= found.init_timestamp_nsecs <= found.commit_timestamp_nsecs <= time.time_ns()


@pytest.mark.row("R300")
def test_the_note_is_called_step_metadata():
    fields = {"init_timestamp_nsecs": 3, "other": 1}
    assert ocp.metadata.StepMetadata.from_dict(fields) == StepMetadata(3, None)
    assert not hasattr(ocp.metadata, "CheckpointMetadata")


@pytest.mark.row("R221")
def test_a_blocking_store_raises_at_once_and_another_when_waited_for(tmp_path):
    missing = tmp_path / "missing"
    with pytest.raises(ValueError, match="Checkpoint path does not exist"):
        writer(blocking=True).write(missing, StepMetadata())
    later = writer(blocking=False)
    later.write(missing, StepMetadata())
    later.update(tmp_path / "missing too", commit_timestamp_nsecs=1)
    with pytest.raises(ValueError, match=r"Checkpoint path does not exist.*missing$"):
        later.wait_until_finished()
    with pytest.raises(ValueError, match="missing too"):
        later.wait_until_finished()
    later.wait_until_finished()
    later.close()


@pytest.mark.row("R221")
def test_a_non_blocking_write_returns_before_the_file_is_there(tmp_path):
    store = writer(blocking=False)
    gate = threading.Event()
    store._thread.submit(gate.wait)
    store.write(tmp_path, StepMetadata(1))
    store.update(tmp_path, commit_timestamp_nsecs=2)
    assert store.read(tmp_path) is None
    gate.set()
    store.wait_until_finished()
    assert store.read(tmp_path) == StepMetadata(1, 2)
    store.close()


def test_closing_writes_what_was_queued(tmp_path):
    store = writer(blocking=False)
    store.write(tmp_path, StepMetadata(7))
    store.close()
    store.close()
    assert store.read(tmp_path) == StepMetadata(7)
    with pytest.raises(RuntimeError):
        store.write(tmp_path, StepMetadata(8))


@BOTH
def test_an_unknown_field_is_refused_at_the_call(tmp_path, blocking):
    store = writer(blocking)
    with pytest.raises(TypeError, match="got an unexpected keyword argument 'blah'"):
        store.update(tmp_path, blah=2)
    store.close()


@BOTH
def test_stores_that_only_read_write_nothing(tmp_path, blocking):
    store = checkpoint_metadata_store(enable_write=False, blocking_write=blocking)
    store.write(tmp_path / "missing", StepMetadata())
    store.update(tmp_path, blah=2)
    store.wait_until_finished()
    store.close()
    assert list(tmp_path.iterdir()) == []


@BOTH
def test_stores_that_only_read_can_be_pickled_and_writers_cannot(blocking):
    store = writer(blocking)
    with pytest.raises(TypeError, match="cannot pickle"):
        pickle.dumps(store)
    store.close()
    reader = checkpoint_metadata_store(enable_write=False, blocking_write=blocking)
    copy = pickle.loads(pickle.dumps(reader))
    assert copy.is_blocking_writer() is blocking
    assert "enable_write=False" in repr(copy)


def test_only_non_blocking_writers_are_made_anew():
    make = checkpoint_metadata_store
    shared = make(enable_write=True, blocking_write=True)
    assert shared is module._CHECKPOINT_METADATA_STORE_FOR_WRITES
    assert shared.is_blocking_writer()
    reader = make(enable_write=False, blocking_write=True)
    assert reader is module._CHECKPOINT_METADATA_STORE_FOR_READS
    assert make(enable_write=False) is module._CHECKPOINT_METADATA_STORE_NON_BLOCKING_FOR_READS
    one, other = make(enable_write=True), make(enable_write=True)
    assert one is not other
    assert not one.is_blocking_writer()
    one.close()
    other.close()


def test_the_shared_stores_are_looked_up_at_the_call(monkeypatch):
    mine = module._BlockingCheckpointMetadataStore(enable_write=True)
    monkeypatch.setattr(module, "_CHECKPOINT_METADATA_STORE_FOR_WRITES", mine)
    assert checkpoint_metadata_store(enable_write=True, blocking_write=True) is mine


def test_the_note_of_a_finished_checkpoint_never_changes(tmp_path):
    pertinax.save(tmp_path / "one", {"a": np.arange(3)})
    before = note_of(tmp_path / "one").read_bytes()
    with pytest.raises(ValueError, match="finished checkpoint"):
        writer(blocking=True).update(tmp_path / "one", commit_timestamp_nsecs=1)
    assert note_of(tmp_path / "one").read_bytes() == before


def test_a_checkpointer_that_waits_needs_a_store_that_blocks():
    store = writer(blocking=False)
    with pytest.raises(ValueError, match="must be blocking writer"):
        blocking_notes(store)
    notes = background_notes(None)
    assert not notes.store.is_blocking_writer()
    notes.close()
    store.close()


class Recording(module._BlockingCheckpointMetadataStore):
    """A store of the program's own."""

    def __init__(self) -> None:
        super().__init__(enable_write=True)
        self.calls: list[str] = []

    def write(self, checkpoint_path: Any, checkpoint_metadata: Any) -> None:
        self.calls.append("write")
        super().write(checkpoint_path, checkpoint_metadata)

    def update(self, checkpoint_path: Any, **kwargs: Any) -> None:
        self.calls.append("update")
        super().update(checkpoint_path, **kwargs)

    def wait_until_finished(self) -> None:
        self.calls.append("wait")


def test_the_published_note_has_the_times_that_the_store_wrote(tmp_path):
    store = Recording()
    written: list[Any] = []
    options = ocp.options.AsyncOptions(
        post_finalization_callback=lambda: written.append(store.read(next(tmp_path.iterdir())))
    )
    handler = ocp.PyTreeCheckpointHandler()
    with ocp.AsyncCheckpointer(
        handler, async_options=options, checkpoint_metadata_store=store
    ) as checkpointer:
        checkpointer.save(tmp_path / "one", args=ocp.args.PyTreeSave({"a": np.arange(3)}))
        checkpointer.wait_until_finished()
    found = store.read(tmp_path / "one")
    assert written == [StepMetadata(found.init_timestamp_nsecs, None)]
    assert found.init_timestamp_nsecs < found.commit_timestamp_nsecs
    assert store.calls[1:5] == ["write", "wait", "update", "wait"]  # the first wait: for nothing
    assert pertinax.verify(tmp_path / "one").ok
