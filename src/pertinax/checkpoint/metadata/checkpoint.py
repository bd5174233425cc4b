# SPDX-License-Identifier: Apache-2.0
"""The note about a step, `_CHECKPOINT_METADATA`, and stores that read and write it.

Knows when a store may write, who waits for it, and that a note forgives everything: whatever cannot
be read counts as absent. Knows nothing of how a save is published.
"""

import concurrent.futures
import contextlib
import dataclasses
import errno
import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from etils import epath

from pertinax._core import pending
from pertinax._core.places import locate
from pertinax._formats.ledger import LEDGER_FILE, vouched_files
from pertinax._formats.metadata.step_metadata import STEP_FILE, decode_step, step_fields
from pertinax._store.publishing import publishing
from pertinax.checkpoint._adapt import files
from pertinax.errors import CorruptCheckpoint, StorageStalled
from pertinax.typing import PathLike

_LOG: Final = logging.getLogger(__name__)


def metadata_file_path(path: PathLike) -> epath.Path:
    """Where the note of the checkpoint `path` lies."""
    return epath.Path(path) / STEP_FILE


@dataclasses.dataclass
class StepMetadata:
    """When a step was begun and when it was finished, in nanoseconds since the epoch."""

    init_timestamp_nsecs: int | None = None
    commit_timestamp_nsecs: int | None = None

    @classmethod
    def from_dict(cls, dict_data: Mapping[str, Any]) -> "StepMetadata":
        """From the fields of a note; what it says besides is left out."""
        known = (field.name for field in dataclasses.fields(cls))
        return cls(**{name: dict_data[name] for name in known if name in dict_data})


class CheckpointMetadataStore(Protocol):
    """How a checkpointer writes the note of a step: at the start of a save, and before it appears.

    One of your own goes to a checkpointer as `checkpoint_metadata_store=`.
    """

    def is_blocking_writer(self) -> bool:
        """Whether the note is written when `write` and `update` return."""
        ...

    def write(self, checkpoint_path: PathLike, checkpoint_metadata: StepMetadata) -> None:
        """Write the note of the checkpoint at `checkpoint_path`, in place of an older one."""
        ...

    def read(self, checkpoint_path: PathLike) -> StepMetadata | None:
        """The note of a checkpoint, None if it has none that can be read."""
        ...

    def update(self, checkpoint_path: PathLike, **kwargs: Any) -> None:
        """Change some fields of a note and keep the others."""
        ...

    def wait_until_finished(self) -> None:
        """Wait for what was to be written. Raises what went wrong with it."""

    def close(self) -> None:
        """Wait, and let go of threads."""


def checkpoint_metadata_store(
    *, enable_write: bool, blocking_write: bool = False
) -> CheckpointMetadataStore:
    """A store of notes.

    Blocking stores and those that only read are shared by the whole program. A non-blocking writer
    is new each time, has a thread of its own, and must be closed.
    """
    if blocking_write:
        if enable_write:
            return _CHECKPOINT_METADATA_STORE_FOR_WRITES
        return _CHECKPOINT_METADATA_STORE_FOR_READS
    if enable_write:
        return _NonBlockingCheckpointMetadataStore(enable_write=True)
    return _CHECKPOINT_METADATA_STORE_NON_BLOCKING_FOR_READS


def _read(checkpoint_path: PathLike) -> dict[str, Any] | None:
    file = metadata_file_path(checkpoint_path)
    try:
        data = files.read_bytes(file)
    except FileNotFoundError:
        _LOG.warning("no step metadata path=%s", file)
        return None
    except OSError as error:
        _LOG.warning("unreadable step metadata path=%s error=%s", file, error)
        return None
    fields = step_fields(data)
    if fields is None:
        _LOG.error("damaged step metadata, taken for absent path=%s content=%.80r", file, data)
    return fields


def _known(fields: Mapping[str, Any]) -> StepMetadata:
    note = decode_step(json.dumps(fields).encode())
    return StepMetadata(note.init_timestamp_nsecs, note.commit_timestamp_nsecs)


def _write(checkpoint_path: PathLike, fields: Mapping[str, Any]) -> None:
    directory = epath.Path(checkpoint_path)
    if not files.exists(directory):
        raise ValueError(f"Checkpoint path does not exist: {checkpoint_path}")
    _refuse_if_finished(directory)
    file = metadata_file_path(directory)
    text = json.dumps(dict(fields))
    store, place = locate(file)
    publishing(store).replace_file(place, text.encode())


def _refuse_if_finished(directory: epath.Path) -> None:
    """A ledger that has the checksum of the note would call the whole checkpoint damaged."""
    try:
        ledger = files.read_bytes(directory / LEDGER_FILE)
        # Ledgers are long, and that of an unfinished step does not mention its note.
        finished = STEP_FILE.encode() in ledger and STEP_FILE in vouched_files(ledger)
    except (OSError, CorruptCheckpoint):
        return
    if finished:
        raise ValueError(
            f"{directory} is a finished checkpoint: its ledger has the checksum of {STEP_FILE}, "
            "and neither changes any more"
        )


def _update(checkpoint_path: PathLike, changes: Mapping[str, Any]) -> None:
    before = _read(checkpoint_path) or {}
    names = {field.name: None for field in dataclasses.fields(StepMetadata)}
    _write(checkpoint_path, {**names, **before, **changes})


class _BlockingCheckpointMetadataStore(CheckpointMetadataStore):
    """Writes before it returns. One thread at a time."""

    def __init__(self, enable_write: bool) -> None:
        self.enable_write = enable_write
        self._lock = threading.RLock()

    def is_blocking_writer(self) -> bool:
        return True

    def write(self, checkpoint_path: PathLike, checkpoint_metadata: StepMetadata) -> None:
        if not self.enable_write:
            _LOG.warning("read only, not written path=%s", checkpoint_path)
            return
        with self._lock:
            _write(checkpoint_path, dataclasses.asdict(checkpoint_metadata))

    def read(self, checkpoint_path: PathLike) -> StepMetadata | None:
        fields = _read(checkpoint_path)
        return None if fields is None else _known(fields)

    def update(self, checkpoint_path: PathLike, **kwargs: Any) -> None:
        if not self.enable_write:
            _LOG.warning("read only, not updated path=%s fields=%s", checkpoint_path, kwargs)
            return
        StepMetadata(**kwargs)  # which knows its fields
        with self._lock:
            _update(checkpoint_path, kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reduce(self, self.enable_write)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(enable_write={self.enable_write})"


class _NonBlockingCheckpointMetadataStore(CheckpointMetadataStore):
    """Writes in a thread, in the order of the calls. Reads do not see what is still queued."""

    def __init__(self, enable_write: bool) -> None:
        self.enable_write = enable_write
        self._lock = threading.RLock()
        self._writes: list[concurrent.futures.Future[None]] = []
        self._closed = False
        self._thread: concurrent.futures.ThreadPoolExecutor | None = None
        if enable_write:
            self._thread = concurrent.futures.ThreadPoolExecutor(
                max_workers=1, thread_name_prefix="metadata_store"
            )

    def is_blocking_writer(self) -> bool:
        return False

    def write(self, checkpoint_path: PathLike, checkpoint_metadata: StepMetadata) -> None:
        if self._thread is None:
            _LOG.warning("read only, not written path=%s", checkpoint_path)
            return
        # The caller may change its object after we return.
        fields = dataclasses.asdict(checkpoint_metadata)
        self._queue(self._thread, lambda: _write(checkpoint_path, fields), checkpoint_path)

    def read(self, checkpoint_path: PathLike) -> StepMetadata | None:
        fields = _read(checkpoint_path)
        return None if fields is None else _known(fields)

    def update(self, checkpoint_path: PathLike, **kwargs: Any) -> None:
        if self._thread is None:
            _LOG.warning("read only, not updated path=%s fields=%s", checkpoint_path, kwargs)
            return
        StepMetadata(**kwargs)  # which knows its fields
        self._queue(self._thread, lambda: _update(checkpoint_path, kwargs), checkpoint_path)

    def _queue(
        self,
        thread: concurrent.futures.ThreadPoolExecutor,
        work: Callable[[], None],
        path: PathLike,
    ) -> None:
        def run() -> None:
            try:
                work()
            except Exception:
                _LOG.exception("step metadata not written path=%s", path)
                raise

        with self._lock:
            good = [write for write in self._writes if write.done() and not write.exception()]
            self._writes = [write for write in self._writes if write not in good]
            try:
                self._writes.append(thread.submit(run))
                return
            except RuntimeError:
                if self._closed:
                    raise
        # The interpreter is ending, and a save in flight is being finished: executors take no more
        # by then, whoever still has use for one.
        self.wait_until_finished()
        run()

    def wait_until_finished(self) -> None:
        """Wait for the writes so far, in order; the first failure is raised, the next one by the
        next call. Raises `StorageStalled` if one of them takes half an hour.
        """
        while True:
            with self._lock:
                if not self._writes:
                    return
                first = self._writes[0]
            _wait([first])
            with self._lock, contextlib.suppress(ValueError):
                self._writes.remove(first)
            first.result(0)

    def close(self) -> None:
        if self._thread is not None:
            _wait(self._writes)
            self._closed = True
            self._thread.shutdown(wait=True)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reduce(self, self.enable_write)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(enable_write={self.enable_write})"


def _wait(writes: Sequence[concurrent.futures.Future[None]]) -> None:
    """Wait for the end of each, half an hour at most. Raises `StorageStalled`."""
    if concurrent.futures.wait(writes, pending.STILL_S).not_done:
        text = f"a note was not written in {pending.STILL_S:.0f} s: the disk does not answer"
        raise StorageStalled(errno.ETIMEDOUT, text)


def _reduce(store: CheckpointMetadataStore, enable_write: bool) -> tuple[Any, ...]:
    if enable_write:
        raise TypeError(
            f"cannot pickle a {type(store).__name__} that writes: who writes a note is decided in "
            "the process that saves"
        )
    return type(store), (False,)


# Shared by the program. What they have of their own is a lock.
_CHECKPOINT_METADATA_STORE_FOR_WRITES = _BlockingCheckpointMetadataStore(enable_write=True)
_CHECKPOINT_METADATA_STORE_FOR_READS = _BlockingCheckpointMetadataStore(enable_write=False)
_CHECKPOINT_METADATA_STORE_NON_BLOCKING_FOR_READS = _NonBlockingCheckpointMetadataStore(
    enable_write=False
)
