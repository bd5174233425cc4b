# SPDX-License-Identifier: Apache-2.0
"""What a manager tells its logger about each save and restore.

Knows names of measurements; times are seconds. Knows nothing of how they are taken.
"""

from dataclasses import dataclass


@dataclass
class SaveStepStatistics:
    """One save that was performed: what came before it and how long the caller was held up."""

    step: int | None = None
    event_type: str | None = "save"
    directory: str | None = None
    reached_preemption: bool | None = False
    preemption_received_at: float | None = None
    synchronous: bool | None = False
    wait_for_prev_start_time: float | None = None
    wait_for_prev_duration_secs: float | None = None
    checkpointer_blocking_start_time: float | None = None
    checkpointer_blocking_duration_secs: float | None = None
    get_old_steps_start_time: float | None = None
    get_old_steps_duration_secs: float | None = None
    checkpoint_manager_blocking_start_time: float | None = None
    checkpoint_manager_blocking_duration_secs: float | None = None


@dataclass
class RestoreStepStatistics:
    """One restore, and how long it took."""

    step: int | None = None
    event_type: str = "restore"
    directory: str | None = None
    checkpointer_start_time: float | None = None
    checkpointer_duration_secs: float | None = None
    checkpoint_manager_start_time: float | None = None
    checkpoint_manager_duration_secs: float | None = None


@dataclass
class EmergencyRestoreStepStatistics:
    """One restore of the emergency manager, where slices help each other."""

    step: int | None = None
    event_type: str = "emergency_restore"
    checkpoint_manager_start_time: float | None = None
    directory: str | None = None
    is_restoring_slice: bool | None = False
    in_primary_slice: bool | None = False
    checkpointer_start_time: float | None = None
    checkpointer_duration_secs: float | None = None
    broadcast_start_time: float | None = None
    broadcast_duration_secs: float | None = None
    checkpoint_manager_duration_secs: float | None = None
