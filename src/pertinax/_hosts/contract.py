# SPDX-License-Identifier: Apache-2.0
"""The contract between an operation (a save, a load) and the other processes of its job.

Knows processes, agreement and waiting. Knows nothing of arrays, files or checkpoints. A round may
be used from the writer thread, so nothing here may use device collectives; every wait has a
deadline, names who is absent, and ends early with the cause when another process has failed.
"""

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Protocol, Self

from pertinax._plan.topology import Topology


class Round(Protocol):
    """One operation of all members, from `begin` to the end of the `with` block.

    All members go through the same phases in the same order. An exception that leaves the block on
    one process is raised, as `PeerFailed`, from the next call of every other one.
    """

    @property
    def topology(self) -> Topology:
        """Who we all are."""
        ...

    def agree(self, phase: str, decide: Callable[[], Any]) -> Any:
        """What the primary's `decide` returns (plain data), on every process."""
        ...

    def collect(self, phase: str, value: Any, decide: Callable[[Mapping[int, Any]], Any]) -> Any:
        """Give `value` (plain data) to the primary, whose `decide` is called with those of all
        members; what it returns comes back on every process.
        """
        ...

    def fail(self, error: BaseException) -> None:
        """Tell the others now that this process fails, before the block is left. The primary gives
        them a few seconds to stop what they do, so that it can clean up behind them.
        """
        ...

    def begin(self, kind: str, subject: str, *, timeout_s: float = 600.0) -> "Round":
        """Begin an operation that is a part of this one, and ends before it does."""
        ...

    def check(self) -> None:
        """Raise `PeerFailed` if another member has failed. Cheap: it asks once a second at most."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Hosts(Protocol):
    """The processes of a job."""

    @property
    def topology(self) -> Topology:
        """Who we all are."""
        ...

    def begin(
        self, kind: str, subject: str, *, timeout_s: float = 600.0, within: Round | None = None
    ) -> Round:
        """Begin an operation of all members: the n-th of this `kind` on this `subject` here meets
        the n-th of every other process. Waits for nobody. `timeout_s` bounds each later wait;
        `within` is the operation that this one is a part of: who fails there does not come here.
        """
        ...
