# SPDX-License-Identifier: Apache-2.0
"""Plan: what a manager would do, and why; a dry run.

Knows verdicts. Knows nothing of disks: the manager fills it in.
"""

from dataclasses import dataclass
from typing import final

from pertinax._steps.retention import Verdict


@final
@dataclass(frozen=True, slots=True)
class Plan:
    """What would happen now, or if a step were saved. Nothing has been touched.

    Attributes:
        step: the step that is supposed to be saved, or None.
        due: whether the save policy wants it; None without a step.
        verdicts: every step in the history, that one included, with the reasons to keep it.
    """

    step: int | None
    due: bool | None
    verdicts: tuple[Verdict, ...]

    @property
    def kept(self) -> list[int]:
        """The steps that would live."""
        return [one.step for one in self.verdicts if one.kept]

    @property
    def deleted(self) -> list[int]:
        """The steps that would go."""
        return [one.step for one in self.verdicts if not one.kept]

    def __str__(self) -> str:
        head = ""
        if self.step is not None:
            wanted = "saves" if self.due else "does not save"
            head = f"the policy {wanted} step {self.step}\n"
        return head + "\n".join(map(str, self.verdicts))
