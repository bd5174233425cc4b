# SPDX-License-Identifier: Apache-2.0
"""Which steps live, by the options of the manager: the mirrored rules as one policy value.

Knows histories, metrics and intervals. Knows nothing of disks, and removes nothing.

The rules, for `max_to_keep=k`:

1. With `best_fn` the order is by quality, the best last; among equals the newer counts as better.
   Without it the order is by step. Steps without metrics form a group of their own.
2. The last k are safe. Steps without metrics are safe beside them, or, with
   `keep_without_metrics=False`, come first in line and take up places.
3. Any other step lives if its time or its number says so: it begins a new `interval_ns`, or
   `period` divides it.
"""

import contextlib
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, cast, final

from pertinax._steps.history import StepRecord

_LOG: Final = logging.getLogger(__name__)


@final
@dataclass(frozen=True, slots=True)
class Score:
    """How good a step is; the greater is better. Measures that cannot be compared are equal."""

    value: Any
    mode: Literal["max", "min"]

    def __lt__(self, other: "Score") -> bool:
        one, two = (self, other) if self.mode == "max" else (other, self)
        if self.is_nothing or other.is_nothing:
            return self.is_nothing and not other.is_nothing
        try:
            return bool(one.value < two.value)
        except TypeError:
            return False

    @property
    def is_nothing(self) -> bool:
        """Whether the measure is no number (NaN): the worst there is, whichever end is good."""
        return isinstance(self.value, float) and math.isnan(self.value)


@final
@dataclass(frozen=True, slots=True)
class Quality:
    """How good a step is: `measure` of its metrics, where `mode` says which end is good."""

    measure: Callable[[Any], Any]
    mode: Literal["max", "min"] = "max"

    def of(self, metrics: Any) -> Score:
        """The measure: a number of any kind, or whatever else has an order, such as a tuple.

        What `measure` raises comes out: a caller who has just got the metrics should know. Raises
        `TypeError` for a measure without an order.
        """
        value = _plain(self.measure(metrics))
        try:
            bool(value < value)  # noqa: PLR0124 - has it an order?
        except TypeError as error:
            raise TypeError(f"best_fn gave {value!r}, which has no order: give a number") from error
        return Score(value, self.mode)

    def of_stored(self, record: StepRecord) -> Score | None:
        """The measure of an old step, or None if it has no metrics that `measure` understands."""
        if record.metrics is None:
            return None
        try:
            return self.of(record.metrics)
        except Exception as error:  # noqa: BLE001 - an old step's metrics must not fail a new save
            _LOG.warning("metrics without meaning step=%d error=%r", record.step, error)
            return None


def _plain(measure: Any) -> Any:
    if not isinstance(measure, int | float | str | tuple | list):
        with contextlib.suppress(TypeError, ValueError):
            return float(measure)  # of numpy, of JAX
    return cast("Any", measure)


def best_record(history: Sequence[StepRecord], quality: Quality) -> StepRecord | None:
    """The best step that has metrics, the newest among equals."""
    ranked, _ = _rank(history, quality)
    return ranked[-1] if ranked else None


@final
@dataclass(frozen=True, slots=True)
class ManagerRetention:
    """The manager's options about keeping, as a policy: which of a history's steps live."""

    max_to_keep: int | None
    interval_ns: int | None = None
    period: int | None = None
    quality: Quality | None = None
    keep_without_metrics: bool = True

    def keep(self, history: Sequence[StepRecord]) -> set[int]:
        """The steps that live; every other one may be removed."""
        steps = {record.step for record in history}
        if self.max_to_keep is None or len(steps) <= self.max_to_keep:
            return steps
        ranked, plain = _rank(history, self.quality)
        line = ranked if self.keep_without_metrics else [*plain, *ranked]
        spare = line[: max(0, len(line) - self.max_to_keep)]
        members = self._interval_members(history)
        leaving = [one for one in spare if not self._is_held(one, members)]
        for record in leaving:
            reason = "it is old" if self.quality is None else "others have better metrics"
            _LOG.info("retention removes step=%d: %s", record.step, reason)
        return steps - {one.step for one in leaving}

    def _is_held(self, record: StepRecord, members: set[int]) -> bool:
        if record.step in members:
            reason = "begins an interval of keep_time_interval"
        elif self.period and record.step % self.period == 0:
            reason = f"keep_period={self.period} divides it"
        else:
            return False
        _LOG.info("retention keeps step=%d: %s", record.step, reason)
        return True

    def _interval_members(self, history: Sequence[StepRecord]) -> set[int]:
        """The first step, and each that comes at least the interval after the previous member."""
        members: set[int] = set()
        previous_ns: int | None = None
        for record in _by_step(history) if self.interval_ns is not None else ():
            if previous_ns is None or record.time_ns - previous_ns >= (self.interval_ns or 0):
                members.add(record.step)
                previous_ns = record.time_ns
        return members


def _rank(
    history: Sequence[StepRecord], quality: Quality | None
) -> tuple[list[StepRecord], list[StepRecord]]:
    """Steps from worst to best, and those of which nobody knows how good they are."""
    ordered = _by_step(history)
    if quality is None:
        return ordered, []
    scored = [(quality.of_stored(record), record) for record in ordered]
    plain = [record for score, record in scored if score is None]
    known = [(score, record) for score, record in scored if score is not None]
    return [record for _, record in sorted(known, key=lambda pair: pair[0])], plain


def _by_step(history: Sequence[StepRecord]) -> list[StepRecord]:
    return sorted(history, key=lambda record: record.step)
