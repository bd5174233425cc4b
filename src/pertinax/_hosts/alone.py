# SPDX-License-Identifier: Apache-2.0
"""A job of one process: everybody is here and agrees.

Knows that there is nobody else. Knows nothing of networks.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, final

from pertinax._hosts.contract import Round
from pertinax._plan.topology import ALONE, Topology


@final
@dataclass(frozen=True, slots=True)
class Alone:
    """`Hosts` for a single process."""

    topology: Topology = ALONE

    def begin(
        self, kind: str, subject: str, *, timeout_s: float = 600.0, within: Round | None = None
    ) -> "Monologue":
        """A round of one."""
        return Monologue(self.topology)


@final
@dataclass(frozen=True, slots=True)
class Monologue:
    """`Round` for a single process."""

    topology: Topology = ALONE

    def agree(self, phase: str, decide: Callable[[], Any]) -> Any:
        """This process decides."""
        return decide()

    def collect(
        self,
        phase: str,
        value: Any,
        decide: Callable[[Mapping[int, Any]], Any],
    ) -> Any:
        """All of us are one."""
        return decide({self.topology.process: value})

    def begin(self, kind: str, subject: str, *, timeout_s: float = 600.0) -> "Monologue":
        """A part of it."""
        return self

    def fail(self, error: BaseException) -> None:
        """Nobody to tell."""

    def check(self) -> None:
        """Nobody can have failed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass
