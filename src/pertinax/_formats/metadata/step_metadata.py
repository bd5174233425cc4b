# SPDX-License-Identifier: Apache-2.0
"""`_CHECKPOINT_METADATA`: when a step was begun and finished, and what is in it.

Knows the fields of Orbax 0.8 to 0.12. Its reader forgives everything: the file is a note, no proof.
Knows nothing of directories.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

STEP_FILE = "_CHECKPOINT_METADATA"
ItemHandlers = str | Mapping[str, str] | None


@dataclass(frozen=True, slots=True)
class StepMetadata:
    """A note about a step; times are nanoseconds since the epoch.

    `item_handlers` maps items to Orbax's class names, or is one such name where the step is its own
    item.
    """

    item_handlers: ItemHandlers = None
    metrics: Mapping[str, Any] = field(default_factory=dict[str, Any])
    init_timestamp_nsecs: int | None = None
    commit_timestamp_nsecs: int | None = None
    custom: Mapping[str, Any] = field(default_factory=dict[str, Any])


def encode_step(step: StepMetadata) -> bytes:
    """`_CHECKPOINT_METADATA` as Orbax 0.12 writes it, which older readers accept. `TypeError` if it
    is no JSON.
    """
    handlers = step.item_handlers
    fields = {
        "item_handlers": dict(handlers) if isinstance(handlers, Mapping) else handlers,
        "metrics": dict(step.metrics),
        "performance_metrics": {},
        "init_timestamp_nsecs": step.init_timestamp_nsecs,
        "commit_timestamp_nsecs": step.commit_timestamp_nsecs,
        "custom_metadata": dict(step.custom),
    }
    return json.dumps(fields).encode()


def decode_step(data: bytes) -> StepMetadata:
    """What the note says, as far as it makes sense; an unreadable note says nothing."""
    fields = step_fields(data) or {}
    return StepMetadata(
        item_handlers=_handlers(fields.get("item_handlers")),
        metrics=_mapping(fields.get("metrics")),
        init_timestamp_nsecs=_time(fields.get("init_timestamp_nsecs")),
        commit_timestamp_nsecs=_time(fields.get("commit_timestamp_nsecs")),
        custom=_mapping(fields.get("custom_metadata")),
    )


def step_fields(data: bytes) -> dict[str, Any] | None:
    """The fields of the note, those of other programs included; None if it is unreadable."""
    try:
        value: Any = json.loads(data.decode())
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def _mapping(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _handlers(value: Any) -> ItemHandlers:
    if isinstance(value, dict):
        pairs = cast("dict[str, Any]", value).items()
        return {name: text for name, text in pairs if isinstance(text, str)}
    return value if isinstance(value, str) else None


def _time(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
