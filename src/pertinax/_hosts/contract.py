"""The contract between a save and the other processes of its job.

Knows processes, agreement and waiting. Knows nothing of arrays, files or checkpoints.
Implementations may be called from the writer thread, so none of these may use device collectives;
every wait has a deadline and names who is absent.
"""

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Topology:
    """Who we all are: process number `process` of `process_count`; `primary` decides for all."""

    process: int
    process_count: int
    primary: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.process < self.process_count or not 0 <= self.primary < self.process_count:
            raise ValueError(f"no such process: {self}")

    @property
    def is_primary(self) -> bool:
        """Whether this process decides, creates and publishes."""
        return self.process == self.primary


class Hosts(Protocol):
    """How the processes of a job agree."""

    @property
    def topology(self) -> Topology:
        """Who we all are."""
        ...

    def barrier(self, name: str, *, timeout_s: float) -> None:
        """Return when every process has come to the barrier `name`; raise, naming the absent, at
        the deadline.
        """
        ...

    def agree(self, name: str, value: Any, *, timeout_s: float) -> Any:
        """The primary's `value` (plain data), on every process."""
        ...

    def gather(self, name: str, value: Any, *, timeout_s: float) -> list[Any] | None:
        """All processes' values in process order on the primary, None elsewhere. Carries failures:
        see `fail`.
        """
        ...

    def fail(self, name: str, error: BaseException) -> None:
        """Tell all who wait at `name` that this process cannot come, and why."""
        ...
