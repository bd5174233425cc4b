# SPDX-License-Identifier: Apache-2.0
"""What a manager knows of its steps: the disk when it was last looked at, and what it did since.

Knows names, times and metrics of steps, the one being written among them. Knows nothing of how they
are written or removed. A step in flight is known at once; if its save fails, everything is again as
the disk says.
"""

import datetime as dt
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import jax
from etils import epath

from pertinax._steps.history import StepRecord
from pertinax.checkpoint._adapt.listing import Listing
from pertinax.checkpoint._adapt.manager_options import (
    CheckpointManagerOptions,
    nanoseconds,
    quality_of,
    retention_of,
)
from pertinax.checkpoint._adapt.meeting import Meeting
from pertinax.checkpoint._adapt.retention import best_record
from pertinax.checkpoint._adapt.telemetry import record_listed

_EPOCH: Final = dt.datetime.fromtimestamp(0, tz=dt.UTC)
_LOADED: Final = dt.datetime.now(tz=dt.UTC)


@dataclass(eq=False)
class CheckpointInfo:
    """One step as the manager knows it. Two are equal if step and time are.

    Attributes:
        step: its number.
        time: when `save` was called, or, if it was found on disk, when it was finished. It is read
            from there only if `keep_time_interval` needs it, and is the epoch else.
        metrics: what was measured.
        is_locked: nothing locks steps any more.
    """

    step: int
    time: dt.datetime
    metrics: Any = None
    is_locked: bool | None = None
    readable: bool = field(default=True, repr=False, kw_only=True)
    stored: StepRecord | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.step, jax.Array):
            self.step = int(self.step)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CheckpointInfo):
            return NotImplemented
        return (self.step, self.time) == (other.step, other.time)

    def __hash__(self) -> int:
        return hash((self.step, self.time))

    def __str__(self) -> str:
        return f"Checkpoint[step={self.step} | time={self.time} | is_locked={self.is_locked}]"


class KnownSteps:
    """The steps of one root, in ascending order. Safe to use from several threads."""

    def __init__(self, directory: epath.Path, options: CheckpointManagerOptions) -> None:
        self._directory = directory
        self._options = options
        self._listing = Listing(directory, options)
        self._retention = retention_of(options)
        self._quality = quality_of(options)
        self._lock = threading.RLock()
        self._infos: list[CheckpointInfo] = []
        self.infos = self._infos  # the list itself: programs' tests look into it
        self._in_flight: CheckpointInfo | None = None
        self._leaving: list[CheckpointInfo] = []

    def load(self) -> None:
        """Look at the disk again. Raises `ValueError` if there is no root."""
        begun_s = time.monotonic()
        if self._options.single_host_load_and_broadcast:
            meeting = Meeting(self._options.multiprocessing_options)
            with meeting.begin("list the steps", str(self._directory)) as talk:
                rows = talk.agree("steps", lambda: list(map(_row, self._listing.records())))
            found = [_info(_record_of(row)) for row in rows]
        else:
            found = list(map(_info, self._listing.records()))
        record_listed(time.monotonic() - begun_s)
        with self._lock:
            leaving = {info.step for info in self._leaving}
            self._infos[:] = [info for info in found if info.step not in leaving]
            if self._in_flight is not None:
                _merge(self._infos, [self._in_flight])

    def steps(self) -> list[int]:
        """Their numbers."""
        with self._lock:
            return [int(info.step) for info in self._infos]

    def latest(self) -> int | None:
        """The largest, or None."""
        with self._lock:
            return int(self._infos[-1].step) if self._infos else None

    def best(self) -> int | None:
        """The best that has metrics, or None; without `best_fn` the latest."""
        if self._quality is None:
            return self.latest()
        with self._lock:
            found = best_record(list(map(_record, self._infos)), self._quality)
        return None if found is None else found.step

    def find(self, step: int) -> CheckpointInfo | None:
        """What is known of `step`."""
        with self._lock:
            return next((info for info in self._infos if info.step == step), None)

    def is_in_flight(self, step: int) -> bool:
        """Whether `step` is being written."""
        with self._lock:
            return self._in_flight is not None and self._in_flight.step == step

    def begin(self, step: int, metrics: Any) -> list[int]:
        """A save of `step` has begun: from now on it counts, and what it supersedes does not.

        Returns what may be removed once the step is visible.
        """
        info = CheckpointInfo(step, dt.datetime.now(tz=dt.UTC), metrics)
        with self._lock:
            _merge(self._infos, [info])
            self._in_flight = info
            doomed = self._victims(step)
            while not self._confirm(doomed):
                doomed = self._victims(step)
            self._leaving = [one for one in self._infos if one.step in doomed]
            self._infos[:] = [one for one in self._infos if one.step not in doomed]
            return [one.step for one in self._leaving]

    def succeed(self) -> None:
        """The save is done: the step is visible."""
        with self._lock:
            done, self._in_flight = self._in_flight, None
        if done is not None:
            self._listing.add(int(done.step))

    def settle(self, gone: Sequence[int]) -> None:
        """The save and its removals are over: what had to go and is not `gone` is still there."""
        self._listing.forget(gone)
        with self._lock:
            _merge(self._infos, [info for info in self._leaving if info.step not in gone])
            self._leaving = []

    def fail(self) -> None:
        """The save has failed: its step is not there, and what it would have replaced is."""
        with self._lock:
            failed, self._in_flight = self._in_flight, None
            self._infos[:] = [info for info in self._infos if info is not failed]
            _merge(self._infos, [info for info in self._leaving if info is not failed])
            self._leaving = []

    def discard(self, step: int) -> None:
        """Forget `step`."""
        self._listing.forget([step])
        with self._lock:
            self._infos[:] = [info for info in self._infos if info.step != step]

    def close(self) -> None:
        """Leave what was read to the next process."""
        self._listing.close()

    def _confirm(self, doomed: set[int]) -> bool:
        """Whether the steps that must go say themselves what was noted of them elsewhere.

        Else they are read again. What another process left must not decide what is deleted.
        """
        infos = [one for one in self._infos if one.step in doomed and one.stored is not None]
        again = self._listing.corrected([one.stored for one in infos if one.stored is not None])
        if again is None:
            return True
        fresh = list(map(_info, again))
        for info in fresh:
            info.stored = None  # what it says now needs no second look
        _merge(self._infos, fresh)
        return False

    def _victims(self, saved: int) -> set[int]:
        """Who must go. Not the engine's `victims`: by these options even the newest step may."""
        room = self._options.max_to_keep
        if room is None or len(self._infos) <= room:
            return set()  # at once, however long the history
        history = list(map(_record, self._infos))
        doomed = {record.step for record in history if record.readable}
        doomed -= self._retention.keep(history)
        if self._quality is None and self._options.max_to_keep:
            # An older step that was saved by force is what the program wants to go on from.
            doomed.discard(saved)
        return doomed


class SavedWork:
    """The work since the latest step, or else since we were loaded.

    A save before preemption saves it; others do not count.
    """

    def __init__(self, infos: Sequence[CheckpointInfo], *, counts: bool | None) -> None:
        told = [info.time for info in infos[-1:] if info.time != _EPOCH]
        now = dt.datetime.now(tz=dt.UTC)
        self._seconds = (now - max(told, default=_LOADED)).total_seconds()
        self._counts = counts

    def record(self) -> None:
        """Tell JAX of it, now that the step is visible."""
        if self._counts:
            name = "/jax/checkpoint/write/preempt/duration_saved_secs"
            jax.monitoring.record_event_duration_secs(name, self._seconds)


def _row(record: StepRecord) -> list[Any]:
    """One step as plain data, for processes that do not look themselves."""
    return [record.step, record.time_ns, record.metrics, record.directory, record.readable]


def _record_of(row: list[Any]) -> StepRecord:
    step, time_ns, metrics, directory, readable = row
    return StepRecord(step, time_ns, metrics, directory, readable)


def _info(record: StepRecord) -> CheckpointInfo:
    time = _EPOCH + dt.timedelta(microseconds=record.time_ns // 1000)
    info = CheckpointInfo(record.step, time, record.metrics, readable=record.readable)
    info.stored = record
    return info


def _merge(infos: list[CheckpointInfo], others: Iterable[CheckpointInfo]) -> None:
    """Put `others` into the list, each in its place and instead of any of the same step."""
    new = {info.step: info for info in others}
    kept = [info for info in infos if info.step not in new]
    infos[:] = sorted([*kept, *new.values()], key=lambda info: info.step)


def _record(info: CheckpointInfo) -> StepRecord:
    return StepRecord(int(info.step), _time_ns(info.time), info.metrics, "", info.readable)


def _time_ns(time: dt.datetime) -> int:
    aware = time if time.tzinfo is not None else time.replace(tzinfo=dt.UTC)
    return nanoseconds(aware - _EPOCH)
