# SPDX-License-Identifier: Apache-2.0
"""What can go wrong, and the one tree that all of it hangs on.

Every error of this library descends from `PertinaxError` and from the builtin that people already
catch:

    PertinaxError
    ├── CheckpointExists(FileExistsError)        the target is taken and `exists="error"`
    ├── WriterConflict(FileExistsError)          somebody else writes there, in an object store
    ├── CheckpointNotFound(FileNotFoundError)    nothing lies at the path
    ├── NotACheckpoint(ValueError)               something lies there, but no checkpoint
    │   ├── UnfinishedCheckpoint                 a save that was never published
    │   └── NewerFormat                          written by a later version than this one reads
    ├── CorruptCheckpoint(ValueError)            bytes are not those that were written
    ├── PartAbsent(LookupError)                  this part of an array is kept elsewhere
    ├── NoUsableStep(ValueError)                 every step of a run was passed over
    ├── RestoreMismatch(ValueError)              the checkpoint does not fit the target
    ├── UnsupportedLeaf(TypeError)               a leaf that no checkpoint can hold
    ├── InvalidOption(ValueError)                an option value that means nothing
    ├── UnsupportedTopology(NotImplementedError) processes that cannot act as one
    ├── PeerFailed(RuntimeError)                 another process of the job failed
    ├── PeerAbsent(TimeoutError)                 another process of the job did not come
    ├── SnapshotChanged(RuntimeError)            an array was altered while it was being saved
    └── StorageError(OSError)                    the store refused
        ├── StorageFull                          not enough room; nothing was left behind
        └── StorageStalled(TimeoutError)         nothing has moved for a long time

Knows messages and facts. Knows nothing of how they come about.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final


class PertinaxError(Exception):
    """The root: catch this to catch everything that the library raises on purpose."""


@final
class CheckpointExists(PertinaxError, FileExistsError):
    """The path is taken, and the caller did not say `exists="replace"` or `exists="skip"`."""


@final
class WriterConflict(PertinaxError, FileExistsError):
    """Somebody else is writing or deleting the same checkpoint in an object store, or has taken it
    over from this process. Nothing that others wrote was harmed; nothing of ours is visible.
    """


@final
class CheckpointNotFound(PertinaxError, FileNotFoundError):
    """There is nothing at the path."""


class NotACheckpoint(PertinaxError, ValueError):
    """The path exists but holds no checkpoint that can be read."""


@final
class UnfinishedCheckpoint(NotACheckpoint):
    """The directory belongs to a save that was never published; its content proves nothing."""


@final
class NewerFormat(NotACheckpoint):
    """The checkpoint was written by a newer format version than this library reads."""


@final
class CorruptCheckpoint(PertinaxError, ValueError):
    """Stored bytes are not the bytes that were written (or a file breaks its own format).

    Attributes:
        file: the damaged file, relative to the checkpoint.
        leaf: path of the leaf whose bytes they are, or None when the file holds no leaf bytes.
        start, stop: byte range in `file` that failed, or None when the whole file is meant.
        reason: what was expected and what was found.
    """

    def __init__(
        self,
        reason: str,
        *,
        file: str,
        leaf: str | None = None,
        start: int | None = None,
        stop: int | None = None,
    ) -> None:
        self.reason = reason
        self.file = file
        self.leaf = leaf
        self.start = start
        self.stop = stop
        where = f"file {file!r}"
        if start is not None:
            where += f", bytes {start}..{stop}"
        if leaf is not None:
            where += f", leaf {leaf!r}"
        super().__init__(f"{where}: {reason}")

    def __reduce__(self) -> tuple[object, ...]:
        # BaseException pickles positional arguments only, and ours are keywords.
        return (_rebuild_corrupt, (self.reason, self.file, self.leaf, self.start, self.stop))


def _rebuild_corrupt(
    reason: str, file: str, leaf: str | None, start: int | None, stop: int | None
) -> CorruptCheckpoint:
    return CorruptCheckpoint(reason, file=file, leaf=leaf, start=start, stop=stop)


@final
class PartAbsent(PertinaxError, LookupError):
    """A part of an array is wanted that this item does not hold: it is what one process had.

    Attributes:
        checkpoint: the item.
        leaf: path of the leaf.
        start, stop: the first part that is missing: `start[i] <= index[i] < stop[i]`.
        held: the parts that are there, each as such a pair.
    """

    def __init__(
        self,
        checkpoint: str,
        leaf: str,
        *,
        start: tuple[int, ...],
        stop: tuple[int, ...],
        held: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
    ) -> None:
        self.checkpoint = checkpoint
        self.leaf = leaf
        self.start = start
        self.stop = stop
        self.held = tuple(held)
        listed = ", ".join(_box_text(*box) for box in self.held[:_SHOWN_BOXES])
        more = len(self.held) - _SHOWN_BOXES
        listed += f" and {more} more" if more > 0 else ""
        super().__init__(
            f"{checkpoint} holds the part of one process: of leaf {leaf!r} it has "
            f"{listed or 'nothing'}, not {_box_text(start, stop)}. Load it where those shards are "
            "wanted that it was saved from, or load a checkpoint of all processes"
        )

    def __reduce__(self) -> tuple[object, ...]:
        return (
            _rebuild_absent,
            (self.checkpoint, self.leaf, self.start, self.stop, self.held),
        )


_SHOWN_BOXES = 8


def _box_text(start: tuple[int, ...], stop: tuple[int, ...]) -> str:
    return "[" + ", ".join(f"{a}:{b}" for a, b in zip(start, stop, strict=True)) + "]"


def _rebuild_absent(
    checkpoint: str,
    leaf: str,
    start: tuple[int, ...],
    stop: tuple[int, ...],
    held: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
) -> PartAbsent:
    return PartAbsent(checkpoint, leaf, start=start, stop=stop, held=held)


@final
@dataclass(frozen=True, slots=True)
class Misfit:
    """One leaf that does not fit: where, both sides, and the way out."""

    path: str
    stored: str
    target: str
    hint: str


@final
class RestoreMismatch(PertinaxError, ValueError):
    """The checkpoint and the target differ; `misfits` lists every leaf that does."""

    def __init__(self, checkpoint: str, misfits: Sequence[Misfit], leaf_count: int) -> None:
        self.checkpoint = checkpoint
        self.misfits = tuple(misfits)
        self.leaf_count = leaf_count
        width = min(60, max((len(m.path) for m in self.misfits), default=0))
        stored = min(40, max((len(m.stored) for m in self.misfits), default=0))
        target = min(40, max((len(m.target) for m in self.misfits), default=0))
        lines = [
            f"{len(self.misfits)} of {leaf_count} leaves do not fit the checkpoint at {checkpoint}"
        ]
        lines += [
            f"  {m.path:<{width}}  stored {m.stored:<{stored}}  target {m.target:<{target}}  -> "
            f"{m.hint}"
            for m in self.misfits
        ]
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[object, ...]:
        return (RestoreMismatch, (self.checkpoint, self.misfits, self.leaf_count))


@final
@dataclass(frozen=True, slots=True)
class PassedOver:
    """A step that could not be restored, where it lies, and why."""

    step: int
    path: str
    error: PertinaxError = field(compare=False)

    def __str__(self) -> str:
        return f"step {self.step} at {self.path}: {type(self.error).__name__}: {self.error}"


@final
class NoUsableStep(PertinaxError, ValueError):
    """There are steps, and none could be restored; `passed_over` says why, newest first."""

    def __init__(self, root: str, passed_over: Sequence[PassedOver]) -> None:
        self.root = root
        self.passed_over = tuple(passed_over)
        listed = "".join(f"\n  {one}" for one in self.passed_over)
        super().__init__(
            f"none of the {len(self.passed_over)} steps in {root} can be restored{listed}"
        )

    def __reduce__(self) -> tuple[object, ...]:
        return (NoUsableStep, (self.root, self.passed_over))


@final
class UnsupportedLeaf(PertinaxError, TypeError):
    """A leaf of a type or dtype that cannot be stored; the text names its path and its type."""


@final
class InvalidOption(PertinaxError, ValueError):
    """An option has a value without meaning; the text lists those that have one."""


@final
class UnsupportedTopology(PertinaxError, NotImplementedError):
    """The processes of the job cannot be talked to, or an array is not where it must be."""


@final
class PeerFailed(PertinaxError, RuntimeError):
    """Another process of the job failed, so the whole operation did; nothing was published.

    Attributes:
        process: the one that failed first.
        phase: what it was doing.
        operation: what all were doing.
        type_name: the type of its exception; empty if it fell silent.
        text: that exception's message.
    """

    def __init__(
        self, text: str, *, process: int, phase: str, operation: str, type_name: str = ""
    ) -> None:
        self.process = process
        self.phase = phase
        self.operation = operation
        self.type_name = type_name
        self.text = text
        cause = f"{type_name}: {text}" if type_name else text
        super().__init__(f"{operation}: process {process} failed in phase {phase!r}: {cause}")

    def __reduce__(self) -> tuple[object, ...]:
        return (
            _rebuild_peer_failed,
            (self.text, self.process, self.phase, self.operation, self.type_name),
        )


def _rebuild_peer_failed(
    text: str, process: int, phase: str, operation: str, type_name: str
) -> PeerFailed:
    return PeerFailed(text, process=process, phase=phase, operation=operation, type_name=type_name)


@final
class PeerAbsent(PertinaxError, TimeoutError):
    """Another process of the job did not come in time; the text says who, where and how long."""


@final
class SnapshotChanged(PertinaxError, RuntimeError):
    """An array's memory was altered between the call and the write; nothing was published."""


class StorageError(PertinaxError, OSError):
    """The store refused an operation; errno and file name are those of the cause."""


@final
class StorageFull(StorageError):
    """There is not enough room for the checkpoint. Nothing visible was left behind."""


@final
class StorageStalled(StorageError, TimeoutError):
    """The store does not answer: a request to a bucket has used up its time, or a wait was given up
    after half an hour in which nothing was finished. What was asked for may still happen.
    """
