# SPDX-License-Identifier: Apache-2.0
"""Topology: who takes part.

Knows processes by number. Knows nothing of how they talk (`_hosts`) nor of devices.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Topology:
    """Who we all are: this `process`, one of `members`; the `primary` decides for all.

    `apart`: the job has more processes than that, but each saves by itself what it holds, in
    storage of its own.
    """

    process: int
    members: tuple[int, ...]
    primary: int
    apart: bool = False

    def __post_init__(self) -> None:
        if self.process not in self.members or self.primary not in self.members:
            raise ValueError(f"no such process: {self}")
        if tuple(sorted(set(self.members))) != self.members or self.members[0] < 0:
            raise ValueError(f"members must be in order, each once: {self.members}")
        if self.apart and len(self.members) > 1:
            raise ValueError(f"who saves apart is its only member: {self.members}")

    @property
    def is_primary(self) -> bool:
        """Whether this process decides, creates and publishes."""
        return self.process == self.primary

    @property
    def alone(self) -> bool:
        """Whether there is nobody to talk to."""
        return len(self.members) == 1


ALONE = Topology(0, (0,), 0)
"""A job of one process."""
