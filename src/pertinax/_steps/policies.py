"""Policies: which steps are made, and which live.

Knows steps, times and metrics as plain values. Knows nothing of stores, clocks or trees: a policy
is a pure function in the shape of a value. Policies of one kind combine with `|` (either says yes)
and `&` (both do).

    save=EverySteps(1000) | EverySeconds(600)
    keep=Latest(3) | Best(2, "loss") | EverySteps(10_000)
"""

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
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
    """

    last_step: int | None
    last_time_s: float | None
    now_s: float


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
        seconds: Any = self.seconds
        number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if not number or not 0 < seconds < math.inf:
            raise InvalidOption(f"EverySeconds({seconds!r}) means nothing: more than 0 seconds")

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
            if last_ns is None or record.time_ns - last_ns >= self.seconds * 1e9:
                kept.add(record.step)
                last_ns = record.time_ns
        return kept


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
        if not isinstance(record.metrics, Mapping):
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


def _check_count(name: str, n: object) -> None:
    if type(n) is not int or n < 1:
        raise InvalidOption(f"{name}({n!r}) means nothing: a whole number, at least 1")
