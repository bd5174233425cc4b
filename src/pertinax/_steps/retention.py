"""Retention: who must go.

Knows a history and a policy. Knows nothing of disks; pure. Whatever a policy says, the newest step
stays, and so does a step whose notes cannot be read: nobody can know what it is worth.
"""

from collections.abc import Collection, Sequence

from pertinax._steps.history import StepRecord
from pertinax._steps.policies import KeepPolicy


def victims(
    history: Sequence[StepRecord], policy: KeepPolicy, *, protect: Collection[int] = ()
) -> list[int]:
    """The steps that `policy` does not keep, oldest first.

    Never the newest step, hence never the only one, and none of `protect`.
    """
    ordered = sorted(history, key=lambda record: record.step)
    if not ordered:
        return []
    safe = {*policy.keep(ordered), *protect, ordered[-1].step}
    return [record.step for record in ordered if record.step not in safe and record.readable]
