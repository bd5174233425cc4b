# SPDX-License-Identifier: Apache-2.0
"""Policies: which steps a `Manager` makes, and which it lets live.

    Manager(root, save=EverySteps(500) | EverySeconds(600), keep=Latest(3) | Best(1, "loss"))

Policies are plain values and combine with `|` (one of them says yes) and `&` (all do). Anything
with a method `due` is a save policy, and anything with a method `keep` is a keep policy. Knows
steps, times and metrics. Knows nothing of files: a policy can be tried without any.
"""

from pertinax._steps.history import StepRecord
from pertinax._steps.policies import (
    AllOf,
    AnyOf,
    AtSteps,
    Best,
    EverySeconds,
    EverySteps,
    Everything,
    KeepPolicy,
    Latest,
    Overhead,
    SaveContext,
    SavePolicy,
    When,
)
from pertinax._steps.retention import Verdict, explain

__all__ = [
    "AllOf",
    "AnyOf",
    "AtSteps",
    "Best",
    "EverySeconds",
    "EverySteps",
    "Everything",
    "KeepPolicy",
    "Latest",
    "Overhead",
    "SaveContext",
    "SavePolicy",
    "StepRecord",
    "Verdict",
    "When",
    "explain",
]
