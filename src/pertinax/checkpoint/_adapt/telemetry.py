# SPDX-License-Identifier: Apache-2.0
"""Telemetry: what a save or a restore tells `jax.monitoring` of its bytes and times.

Knows the names that the mirrored API promises, and how bytes are counted: those that this process
writes, and those that it holds after a restore. Knows nothing of how they were moved.
"""

import math
import sys
import time
from collections.abc import Iterable
from typing import Any, cast

import jax
import numpy as np

_WRITE = "/jax/checkpoint/write/"
_READ = "/jax/checkpoint/read/"


def record_held(total_bytes: int, began_ns: int) -> None:
    """The program may go on; what is left is done in the background."""
    _rate(_WRITE + "blocking_bytes_per_sec", total_bytes, (time.time_ns() - began_ns) / 1e9)


def record_written(total_bytes: int, began_ns: int, described_s: float) -> None:
    """All files of an item are written; `described_s` of it went into those about the tree."""
    duration = jax.monitoring.record_event_duration_secs
    duration(_WRITE + "async/metadata_write_duration_secs", described_s)
    _rate(_WRITE + "bytes_per_sec", total_bytes, (time.time_ns() - began_ns) / 1e9)
    jax.monitoring.record_event(_WRITE + "bytes", bytes=total_bytes)


def record_read(values: Iterable[Any], began_s: float) -> None:
    """An item was read, and this is what came of it."""
    total_bytes = sum(map(_held_bytes, values))
    _rate(_READ + "bytes_per_sec", total_bytes, time.monotonic() - began_s)
    jax.monitoring.record_event(_READ + "bytes", bytes=total_bytes)


def record_merged(duration_s: float) -> None:
    """What several processes have written was put together."""
    name = _WRITE + "async/ocdbt_merge_duration_secs"
    jax.monitoring.record_event_duration_secs(name, duration_s)


def record_stage(name: str, value: float) -> None:
    """How long a manager's save was busy with one thing, in seconds; or a count."""
    jax.monitoring.record_event_duration_secs(_WRITE + name, value)


def record_listed(duration_s: float) -> None:
    """A manager has looked at all of its steps."""
    name = _READ + "load_all_step_metadata_duration_secs"
    jax.monitoring.record_event_duration_secs(name, duration_s)


def record_deprecated(what: str) -> None:
    """A program, or a checkpoint, uses a way that newer ones do not."""
    jax.monitoring.record_event(f"/jax/orbax/deprecation/{what}")


def _rate(name: str, total_bytes: int, seconds: float) -> None:
    value = total_bytes / seconds if seconds > 0 else math.nan
    jax.monitoring.record_event_duration_secs(name, value)


def _held_bytes(value: Any) -> int:
    if isinstance(value, jax.Array):
        sharding = value.sharding
        devices = len(sharding.addressable_devices)
        if devices == 1 and value.is_fully_addressable:
            return value.nbytes
        shard = math.prod(sharding.shard_shape(value.shape))
        return shard * value.dtype.itemsize * devices
    if isinstance(value, np.ndarray | np.generic):
        return cast("Any", value).nbytes
    return sys.getsizeof(value)
