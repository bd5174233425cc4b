"""A job of one process: everybody is here and agrees.

Knows that there is nobody else. Knows nothing of networks.
"""

from dataclasses import dataclass, field
from typing import Any, final

from pertinax._hosts.contract import Topology


@final
@dataclass(frozen=True, slots=True)
class Alone:
    """`Hosts` for a single process."""

    topology: Topology = field(default_factory=lambda: Topology(0, 1))

    def barrier(self, name: str, *, timeout_s: float) -> None:
        """Nobody to wait for."""

    def agree(self, name: str, value: Any, *, timeout_s: float) -> Any:
        """The primary is this process."""
        return value

    def gather(self, name: str, value: Any, *, timeout_s: float) -> list[Any] | None:
        """All of us."""
        return [value]

    def fail(self, name: str, error: BaseException) -> None:
        """Nobody to tell; the caller raises `error`."""
