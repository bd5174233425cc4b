# SPDX-License-Identifier: Apache-2.0
"""The note about a step, as a checkpointer writes it through a store of notes.

Knows when a save writes its note, through the program's own store or a shared one. Knows nothing of
what else a save does; the note that becomes visible is the engine's, and keeps the times of ours.
"""

import time
from typing import final

from etils import epath

from pertinax.checkpoint.metadata.checkpoint import (
    CheckpointMetadataStore,
    StepMetadata,
    checkpoint_metadata_store,
)


@final
class StepNotes:
    """The notes of one checkpointer.

    >>> notes = blocking_notes(None)
    >>> notes.begin(draft, begun_ns)  # the directory is there, and nothing in it
    >>> notes.commit(draft)  # all is written and finalized; publish it next
    """

    def __init__(self, store: CheckpointMetadataStore) -> None:
        self.store = store

    def begin(self, directory: epath.Path, begun_ns: int) -> None:
        """Note when the save began."""
        note = StepMetadata(init_timestamp_nsecs=begun_ns)
        self.store.write(checkpoint_path=directory, checkpoint_metadata=note)

    def commit(self, directory: epath.Path) -> None:
        """Note that it is about to appear. On return all of the note is written.

        Raises what went wrong with it.
        """
        self.store.wait_until_finished()
        self.store.update(checkpoint_path=directory, commit_timestamp_nsecs=time.time_ns())
        self.store.wait_until_finished()

    def wait_until_finished(self) -> None:
        """Wait for what was to be written, and raise what went wrong with it."""
        self.store.wait_until_finished()

    def close(self) -> None:
        """Close the store."""
        self.store.close()


def blocking_notes(store: CheckpointMetadataStore | None) -> StepNotes:
    """For a checkpointer that waits. Raises `ValueError` for a store that writes later."""
    if store is None:
        store = checkpoint_metadata_store(enable_write=True, blocking_write=True)
    elif not store.is_blocking_writer():
        raise ValueError(
            "Checkpoint metadata store must be blocking writer: make it with blocking_write=True, "
            "or use AsyncCheckpointer"
        )
    return StepNotes(store)


def background_notes(store: CheckpointMetadataStore | None) -> StepNotes:
    """For a checkpointer that goes on in the background; without `store` it gets one of its own."""
    if store is None:
        store = checkpoint_metadata_store(enable_write=True, blocking_write=False)
    return StepNotes(store)
