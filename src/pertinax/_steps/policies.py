# SPDX-License-Identifier: Apache-2.0
"""Policies: which steps are made, and which live.

Knows steps, times and metrics as plain values. Knows nothing of stores, clocks or trees: a policy
is a pure function in the shape of a value. Policies of one kind combine with `|` (either says yes)
and `&` (both do).

    save=EverySteps(1000) | EverySeconds(600)
    keep=Latest(3) | Best(2, "loss") | EverySteps(10_000)
"""

import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast, final, get_args, runtime_checkable

from pertinax._steps.history import StepRecord
from pertinax.errors import InvalidOption

Mode = Literal["min", "max"]


@final
@dataclass(frozen=True, slots=True)
class SaveContext:
    """What a save policy may know beside the step.

    Attributes:
        last_step: the step that was saved last, or None.
        last_time_s: when that was, in seconds since the epoch, or None.
        now_s: the time now.
        cost_s: for how many seconds the last save of this run kept the training loop waiting, or
            None as long as there was none.
        busy: whether a save is being written, for which the next one would have to wait.
    """

    last_step: int | None
    last_time_s: float | None
    now_s: float
    cost_s: float | None = None
    busy: bool = False


@runtime_checkable
class SavePolicy(Protocol):
    """Which steps are made."""

    def due(self, step: int, context: SaveContext) -> bool:
        """Whether to save at `step`. Asked at every step; must be quick."""
        ...


@runtime_checkable
class KeepPolicy(Protocol):
    """Which steps live."""

    def keep(self, history: Sequence[StepRecord]) -> set[int]:
        """Steps that must live, out of all that are visible, in ascending order.

        What no policy keeps is deleted; the newest step never is.
        """
        ...


Policy = SavePolicy | KeepPolicy


class Combinable:
    """Gives a policy the operators `|` and `&`."""

    __slots__ = ()

    def __or__(self, other: Policy) -> "AnyOf":
        return AnyOf((cast("Policy", self), other))

    def __ror__(self, other: Policy) -> "AnyOf":
        return AnyOf((other, cast("Policy", self)))

    def __and__(self, other: Policy) -> "AllOf":
        return AllOf((cast("Policy", self), other))

    def __rand__(self, other: Policy) -> "AllOf":
        return AllOf((other, cast("Policy", self)))


@final
@dataclass(frozen=True, slots=True)
class Everything(Combinable):
    """Save at every call; keep every step."""

    def due(self, step: int, context: SaveContext) -> bool:  # noqa: ARG002
        """Always."""
        return True

    def keep(self, history: Sequence[StepRecord]) -> set[int]:
        """All of them."""
        return {record.step for record in history}


@final
@dataclass(frozen=True, slots=True)
class EverySteps(Combinable):
    """Save at, or keep, the multiples of `n`, 0 among them."""

    n: int

    def __post_init__(self) -> None:
        _check_count("EverySteps", self.n)

    def due(self, step: int, context: SaveContext) -> bool:  # noqa: ARG002
        """At multiples of `n`, whatever was saved in between."""
        return step % self.n == 0

    def keep(self, history: Sequence[StepRecord]) -> set[int]:
        """The multiples of `n`."""
        return {record.step for record in history if record.step % self.n == 0}


@final
@dataclass(frozen=True, slots=True)
class AtSteps(Combinable):
    """Save at, or keep, these steps."""

    steps: frozenset[int]

    def __init__(self, steps: Iterable[int]) -> None:
        try:
            listed = frozenset(operator.index(step) for step in steps)
        except TypeError as error:
            raise InvalidOption(f"AtSteps({steps!r}) means nothing: give some steps") from error
        if any(step < 0 for step in listed):
            raise InvalidOption(f"AtSteps({sorted(listed)}) means nothing: no step is negative")
        object.__setattr__(self, "steps", listed)

    def due(self, step: int, context: SaveContext) -> bool:  # noqa: ARG002
        """At those steps."""
        return step in self.steps

    def keep(self, history: Sequence[StepRecord]) -> set[int]:
        """Those of them that exist."""
        return {record.step for record in history if record.step in self.steps}


@final
@dataclass(frozen=True, slots=True)
class EverySeconds(Combinable):
    """Save when so many seconds have passed; keep steps that are at least so far apart in time."""

    seconds: float

    def __post_init__(self) -> None:
        if not _is_number(self.seconds) or not 0 < self.seconds < math.inf:
            raise InvalidOption(
                f"EverySeconds({self.seconds!r}) means nothing: more than 0 seconds"
            )

    def due(self, step: int, context: SaveContext) -> bool:  # noqa: ARG002
        """If nothing was saved yet, or the last save began long enough ago."""
        if context.last_time_s is None:
            return True
        passed_s = context.now_s - context.last_time_s
        # A clock that was set back is no reason to stop saving.
        return passed_s >= self.seconds or passed_s < 0

    def keep(self, history: Sequence[StepRecord]) -> set[int]:
        """The first step, then each that was finished long enough after the one kept before it."""
        kept: set[int] = set()
        last_ns: int | None = None
        for record in sorted(history, key=lambda one: one.step):
            passed_ns = 0 if last_ns is None else record.time_ns - last_ns
            # Time that runs backwards tells nothing; the grid begins anew rather than never.
            if last_ns is None or passed_ns >= self.seconds * 1e9 or passed_ns < 0:
                kept.add(record.step)
                last_ns = record.time_ns
        return kept


@final
@dataclass(frozen=True, slots=True)
class When(Combinable):
    """Save when a function of the step and the context says so."""

    function: Callable[[int, SaveContext], bool]

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise InvalidOption(f"When({self.function!r}) means nothing: give a function")

    def due(self, step: int, context: SaveContext) -> bool:
        """What the function says."""
        return bool(self.function(step, context))


@final
@dataclass(frozen=True, slots=True)
class Overhead(Combinable):
    """Save as often as it pays, and never spend more than a share of the time on saving.

        save=Overhead(0.02)                          # at most 2 % of the time
        save=Overhead(0.02, mean_failure_s=86_400)   # ... and not oftener than it is worth

    What the last save cost (how long it kept the loop waiting) is measured, and the next is due
    when that was at most the share `at_most` of the time since. Who knows how often the job fails
    on average gets the interval that loses least in all, sqrt(2 x cost x mean time between
    failures) after Young and Daly, where that is longer. No save is due while another is being
    written. The first save of a run is always due: it shows the cost.
    """

    at_most: float
    mean_failure_s: float | None = None

    def __post_init__(self) -> None:
        if not _is_number(self.at_most) or not 0 < self.at_most < 1:
            raise InvalidOption(f"Overhead({self.at_most!r}) means nothing: a share, 0.02 for 2 %")
        mean: Any = self.mean_failure_s
        if mean is not None and not (_is_number(mean) and 0 < mean < math.inf):
            raise InvalidOption(f"mean_failure_s={mean!r} means nothing: more than 0 seconds")

    def interval_s(self, cost_s: float) -> float:
        """How far apart saves should be that cost so many seconds each."""
        best_s = math.sqrt(2 * cost_s * self.mean_failure_s) if self.mean_failure_s else 0.0
        return max(cost_s / self.at_most, best_s)

    def due(self, step: int, context: SaveContext) -> bool:  # noqa: ARG002
        """If the last save has paid, and none is being written."""
        if context.busy:
            return False
        if context.cost_s is None or context.last_time_s is None:
            return True
        passed_s = context.now_s - context.last_time_s
        return passed_s >= self.interval_s(context.cost_s) or passed_s < 0


@final
@dataclass(frozen=True, slots=True)
class Latest(Combinable):
    """Keep the `n` newest steps: those with the largest numbers."""

    n: int

    def __post_init__(self) -> None:
        _check_count("Latest", self.n)

    def keep(self, history: Sequence[StepRecord]) -> set[int]:
        """The newest `n`."""
        return set(sorted(record.step for record in history)[-self.n :])


@final
@dataclass(frozen=True, slots=True)
class Best(Combinable):
    """Keep the `n` steps with the smallest (`mode="max"`: largest) value of a metric.

    A step without that metric, or where it is not a number, is never among the best. Of equal
    values the newest is the best.
    """

    n: int
    metric: str
    mode: Mode = "min"

    def __post_init__(self) -> None:
        _check_count("Best", self.n)
        if not isinstance(self.metric, str) or not self.metric:
            raise InvalidOption(f"Best: metric={self.metric!r} is no name of a metric")
        if self.mode not in get_args(Mode):
            raise InvalidOption(f"Best: mode={self.mode!r} means nothing: 'min' or 'max'")

    def keep(self, history: Sequence[StepRecord]) -> set[int]:
        """The best `n`, or fewer where fewer were measured."""
        sign = 1 if self.mode == "max" else -1
        measured = [(self._value(record), record.step) for record in history]
        ranked = sorted((sign * value, step) for value, step in measured if value is not None)
        return {step for _, step in ranked[-self.n :]}

    def _value(self, record: StepRecord) -> float | None:
        # Ten thousand steps may be asked, and an abstract class takes its time to answer.
        if type(record.metrics) is not dict and not isinstance(record.metrics, Mapping):
            return None
        value = cast("Mapping[str, Any]", record.metrics).get(self.metric)
        # NaN is the one number that differs from itself.
        return value if isinstance(value, int | float) and value == value else None  # noqa: PLR0124


@final
@dataclass(frozen=True, slots=True)
class AnyOf(Combinable):
    """What `a | b` makes: save if one of the parts says so; keep what one of them keeps."""

    parts: tuple[Policy, ...]

    def __post_init__(self) -> None:
        _check_parts(self.parts)

    def due(self, step: int, context: SaveContext) -> bool:
        """If one part says so."""
        return any(part.due(step, context) for part in self.parts if isinstance(part, SavePolicy))

    def keep(self, history: Sequence[StepRecord]) -> set[int]:
        """What one part keeps."""
        parts = [part.keep(history) for part in self.parts if isinstance(part, KeepPolicy)]
        return set[int]().union(*parts)


@final
@dataclass(frozen=True, slots=True)
class AllOf(Combinable):
    """What `a & b` makes: save if all parts say so; keep what all of them keep."""

    parts: tuple[Policy, ...]

    def __post_init__(self) -> None:
        _check_parts(self.parts)

    def due(self, step: int, context: SaveContext) -> bool:
        """If all parts say so."""
        return all(part.due(step, context) for part in self.parts if isinstance(part, SavePolicy))

    def keep(self, history: Sequence[StepRecord]) -> set[int]:
        """What all parts keep."""
        parts = [part.keep(history) for part in self.parts if isinstance(part, KeepPolicy)]
        return set[int].intersection(*parts)


def save_policy(value: SavePolicy | int | None) -> SavePolicy:
    """What a caller means: a policy, `n` for `EverySteps(n)`, None for every call.

    Raises `InvalidOption` for anything else, also for a policy that says only what to keep.
    """
    if value is None:
        return Everything()
    if isinstance(value, int):
        return EverySteps(value)
    if not _decides(value, SavePolicy):
        raise InvalidOption(f"save={value!r} does not say when to save: give a save policy or n")
    return value


def keep_policy(value: KeepPolicy | int | None) -> KeepPolicy:
    """What a caller means: a policy, `n` for `Latest(n)`, None for everything.

    Raises `InvalidOption` for anything else, also for a policy that says only when to save.
    """
    if value is None:
        return Everything()
    if isinstance(value, int):
        return Latest(value)
    if not _decides(value, KeepPolicy):
        raise InvalidOption(f"keep={value!r} does not say what to keep: give a keep policy or n")
    return value


def parts_of(policy: object) -> Iterator[object]:
    """The simple policies that a policy is made of."""
    if isinstance(policy, AnyOf | AllOf):
        for part in policy.parts:
            yield from parts_of(part)
    else:
        yield policy


def goes_by_steps(policy: SavePolicy) -> bool:
    """Whether the answer follows from the step alone: all processes find it by themselves."""
    return all(isinstance(part, _BY_STEPS) for part in parts_of(policy))


def needs_notes(policy: KeepPolicy) -> bool:
    """Whether times or metrics may matter, for which files must be opened."""
    return not all(isinstance(part, _BY_NUMBER) for part in parts_of(policy))


def may_raise(policy: KeepPolicy) -> bool:
    """Whether a part of it was written by the user. Ours take any history."""
    return not all(isinstance(part, (*_BY_NUMBER, *_BY_NOTES)) for part in parts_of(policy))


_BY_STEPS = (Everything, EverySteps, AtSteps)
_BY_NUMBER = (Everything, EverySteps, AtSteps, Latest)
_BY_NOTES = (EverySeconds, Best)


def _decides(policy: object, kind: Any) -> bool:
    """Whether `policy` is of the kind, and so are all of its parts."""
    if isinstance(policy, AnyOf | AllOf):
        return all(_decides(part, kind) for part in policy.parts)
    return isinstance(policy, kind) and not isinstance(policy, type)


def _check_parts(parts: Sequence[object]) -> None:
    for kind in (SavePolicy, KeepPolicy):
        if parts and all(_decides(part, kind) for part in parts):
            return
    raise InvalidOption(f"these do not decide the same thing and cannot be combined: {parts!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_count(name: str, n: object) -> None:
    if type(n) is not int or n < 1:
        raise InvalidOption(f"{name}({n!r}) means nothing: a whole number, at least 1")
