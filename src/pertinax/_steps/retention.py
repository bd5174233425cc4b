# SPDX-License-Identifier: Apache-2.0
"""Retention: who must go, and why the others stay.

Knows a history and a policy. Knows nothing of disks; pure. Whatever a policy says, the newest step
stays, and so do pinned ones. A step that cannot be read, or is known to be damaged, is not judged:
it neither goes (nobody can know what it is worth) nor counts as one of those that are kept.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import final

from pertinax._steps.history import StepRecord
from pertinax._steps.policies import AllOf, AnyOf, KeepPolicy


@final
@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a step lives, and why: nobody wants what has no reasons."""

    step: int
    reasons: tuple[str, ...]

    @property
    def kept(self) -> bool:
        """Whether the step lives."""
        return bool(self.reasons)

    def __str__(self) -> str:
        return f"{self.step}: " + (f"kept: {', '.join(self.reasons)}" if self.kept else "deleted")


def victims(
    history: Sequence[StepRecord], policy: KeepPolicy, *, protect: Collection[int] = ()
) -> list[int]:
    """The steps that `policy` does not keep, oldest first.

    Never the newest step, never the newest that can be read, no pinned one and none of `protect`.
    """
    ordered, judged = _sorted(history)
    if not judged:
        return []
    safe = {*policy.keep(judged), *protect, ordered[-1].step, judged[-1].step}
    return [record.step for record in judged if record.step not in safe and not record.pins]


def explain(
    policy: KeepPolicy, history: Sequence[StepRecord], *, protect: Collection[int] = ()
) -> list[Verdict]:
    """What `policy` would keep and delete of `history`, and why, ascending. Nothing is touched.

    Steps of `protect` are kept as "just saved".
    """
    ordered, judged = _sorted(history)
    wanted = _reasons(policy, judged)
    newest = {one[-1].step for one in (ordered, judged) if one}
    return [
        Verdict(
            record.step,
            (
                *wanted.get(record.step, ()),
                *(("newest",) if record.step in newest else ()),
                *(("just saved",) if record.step in protect else ()),
                *(f"pinned as {label!r}" for label in record.pins),
                *(() if record.readable else ("damaged or unreadable, so not judged",)),
            ),
        )
        for record in ordered
    ]


def _sorted(history: Sequence[StepRecord]) -> tuple[list[StepRecord], list[StepRecord]]:
    """All steps, and those that a policy may judge."""
    ordered = sorted(history, key=lambda record: record.step)
    return ordered, [record for record in ordered if record.readable]


def _reasons(policy: KeepPolicy, history: Sequence[StepRecord]) -> dict[int, list[str]]:
    """The simple policies that keep each step."""
    if not isinstance(policy, AnyOf | AllOf):
        text = repr(policy)
        return {step: [text] for step in policy.keep(history)}
    parts = [_reasons(part, history) for part in policy.parts if isinstance(part, KeepPolicy)]
    found: dict[int, list[str]] = {}
    for step in policy.keep(history):
        listed = [text for part in parts for text in part.get(step, ())]
        found[step] = list(dict.fromkeys(listed))
    return found
