# SPDX-License-Identifier: Apache-2.0
"""Statistics: what saving cost, for people and for loggers.

Knows durations and bytes of saves. Knows nothing of how they came about. Durations are seconds of a
clock that never jumps.
"""

import threading
from dataclasses import dataclass, replace
from typing import final


@final
@dataclass(frozen=True, slots=True)
class SaveStatistics:
    """One save.

    Attributes:
        step: its number.
        total_bytes: bytes of its arrays, before any compression.
        waited_s: how long `save` waited for the save before.
        blocked_s: how long `save` kept its caller in all, `waited_s` included.
        wrote_s: from the start of the writing until the step was visible, or had failed.
        retained_s: from there until old steps were out of sight.
        deleted: the steps that went because of this one.
        done: whether it has ended.
        error: why it failed, or None.
    """

    step: int
    total_bytes: int = 0
    waited_s: float = 0.0
    blocked_s: float = 0.0
    wrote_s: float = 0.0
    retained_s: float = 0.0
    deleted: tuple[int, ...] = ()
    done: bool = False
    error: str | None = None

    @property
    def bytes_per_s(self) -> float:
        """The rate of the writing; 0 as long as it is not done."""
        return self.total_bytes / self.wrote_s if self.wrote_s else 0.0


@final
@dataclass(frozen=True, slots=True)
class RunStatistics:
    """All saves of one manager so far.

    Attributes:
        saves, failures: how many became visible, and how many did not.
        total_bytes, waited_s, blocked_s, wrote_s: sums over the saves that have ended, failures
            included; `total_bytes` over those that became visible.
        elapsed_s: since the manager was made.
        last: the newest save, done or not, or None.
    """

    saves: int
    failures: int
    total_bytes: int
    waited_s: float
    blocked_s: float
    wrote_s: float
    elapsed_s: float
    last: SaveStatistics | None

    @property
    def overhead(self) -> float:
        """The share of the time that `save` has kept its caller."""
        return self.blocked_s / self.elapsed_s if self.elapsed_s else 0.0


@final
class Tally:
    """Adds up. One save at a time; its caller's thread and its own may report in any order."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._last: SaveStatistics | None = None
        self._sums = RunStatistics(0, 0, 0, 0.0, 0.0, 0.0, 0.0, None)

    def begin(self, step: int, total_bytes: int) -> None:
        """A save begins; the one before is over."""
        with self._turn:
            self._last = SaveStatistics(step, total_bytes)

    def returned(self, waited_s: float, blocked_s: float) -> None:
        """`save` goes back to its caller."""
        with self._turn:
            if self._last is not None:
                self._last = replace(self._last, waited_s=waited_s, blocked_s=blocked_s)
            sums = self._sums
            self._sums = replace(
                sums, waited_s=sums.waited_s + waited_s, blocked_s=sums.blocked_s + blocked_s
            )

    def ended(
        self,
        wrote_s: float,
        *,
        retained_s: float = 0.0,
        deleted: tuple[int, ...] = (),
        error: BaseException | None = None,
    ) -> None:
        """The writing has ended, one way or the other."""
        with self._turn:
            last, sums = self._last, self._sums
            assert last is not None  # noqa: S101 - what ends has begun
            self._last = replace(
                last,
                wrote_s=wrote_s,
                retained_s=retained_s,
                deleted=deleted,
                done=True,
                error=None if error is None else f"{type(error).__name__}: {error}",
            )
            self._sums = replace(
                sums,
                saves=sums.saves + (error is None),
                failures=sums.failures + (error is not None),
                total_bytes=sums.total_bytes + (last.total_bytes if error is None else 0),
                wrote_s=sums.wrote_s + wrote_s,
            )

    def look(self, elapsed_s: float) -> RunStatistics:
        """What there is so far."""
        with self._turn:
            return replace(self._sums, elapsed_s=elapsed_s, last=self._last)
