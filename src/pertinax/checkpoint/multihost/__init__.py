# SPDX-License-Identifier: Apache-2.0
"""The processes of the job, as programs ask about them: who leads, who waits for whom, who tells
whom.

Knows JAX's processes, its coordination service, and the one setting that changes how they are
numbered. Knows nothing of checkpoints. A program may replace any function here: the others find it
by name when they are called.
"""

import logging
import operator
import os
import sys
import time
from typing import Any, Final, Protocol

import jax
import numpy as np
from jax._src import distributed  # the only way to the client of the coordination service

from pertinax.checkpoint import _registry
from pertinax.checkpoint.multihost.some import broadcast_among
from pertinax.errors import PeerAbsent

__all__ = [
    "BarrierSyncFn",
    "broadcast_one_to_all",
    "broadcast_one_to_some",
    "get_barrier_sync_fn",
    "initialize_runtime_to_distributed_ids",
    "is_primary_host",
    "is_runtime_to_distributed_ids_initialized",
    "process_index",
    "reached_preemption",
    "runtime_to_distributed_ids",
    "runtime_to_distributed_process_id",
    "should_skip_process_sync",
    "sync_global_processes",
    "unique_barrier_key",
    "unique_processes_from_devices",
]

DIRECTORY_CREATION_TIMEOUT: Final = 360
"""Seconds that processes wait for one another while directories are made."""
DIRECTORY_DELETION_TIMEOUT: Final = 360
"""The same while they are deleted."""
_DEFAULT_BARRIER_TIMEOUT: Final = 1200
_DISCOVERY_TIMEOUT_MS: Final = 5000
_PREEMPTION_COUNT: Final = 1 << 31

_LOG: Final = logging.getLogger(__name__)
_DISTRIBUTED_IDS: Final = "PERTINAX_USE_DISTRIBUTED_PROCESS_ID"
_FLAGS: Final = (
    "experimental_pertinax_use_distributed_process_id",
    "experimental_orbax_use_distributed_process_id",
)
_ID_FOLDER: Final = "jax/process_id"
_OWN_FOLDER: Final = "pertinax/process_index"


# ------------------------------------------------------------------------------------- who we are


def process_index() -> int:
    """The number of this process, everywhere in the library.

    It is JAX's; or the one that `jax.distributed.initialize` was given, if the environment variable
    `PERTINAX_USE_DISTRIBUTED_PROCESS_ID` or the absl flag
    `experimental_orbax_use_distributed_process_id` of the program says so. A flag that is not
    defined or not parsed counts as unset.
    """
    if not _uses_distributed_ids():
        return jax.process_index()
    _say_once("processes are numbered as jax.distributed.initialize was told")
    return distributed.global_state.process_id


def _uses_distributed_ids() -> bool:
    text = os.environ.get(_DISTRIBUTED_IDS)
    if text is not None:
        return text.lower() in ("1", "true", "yes")
    absl_flags = sys.modules.get("absl.flags")
    if absl_flags is None:
        return False
    try:
        if not absl_flags.FLAGS.is_parsed():
            _say_once("flags were not parsed, their defaults apply")
            return False
        values = absl_flags.FLAGS.flag_values_dict()
        return any(bool(values.get(name)) for name in _FLAGS)
    except Exception as error:  # noqa: BLE001 - whatever a library of flags says, no call may fail
        _say_once(f"flags cannot be read, defaults apply: {error}")
        return False


def is_primary_host(primary_host: int | None) -> bool:
    """Whether this process leads. Without a `primary_host` every process does, on its own disk."""
    return primary_host is None or primary_host == process_index()


def leads(primary_host: int | None) -> bool:
    """As `is_primary_host`; but a process that is alone leads whomever the options name."""
    return is_primary_host(primary_host) or (should_skip_process_sync() and process_index() == 0)


def jax_process_ids(processes: set[int]) -> set[int]:
    """The numbers that JAX has for processes that `process_index` may number otherwise.

    Raises `PeerAbsent` if some process does not say its number, `ValueError` if nobody has one.
    """
    own = process_index()
    if own == jax.process_index() and not _uses_distributed_ids():
        return processes
    client = _client()
    client.key_value_set(f"{_OWN_FOLDER}/{jax.process_index()}", str(own), allow_overwrite=True)
    known = {_told_id(client, pid): pid for pid in range(jax.process_count())}
    unknown = sorted(processes - known.keys())
    if unknown:
        raise ValueError(f"no such processes: {unknown}; there are {sorted(known)}")
    return {known[number] for number in processes}


def _told_id(client: Any, pid: int) -> int:
    try:
        return int(client.blocking_key_value_get(f"{_OWN_FOLDER}/{pid}", _DISCOVERY_TIMEOUT_MS))
    except jax.errors.JaxRuntimeError as error:
        raise PeerAbsent(f"JAX's process {pid} does not say what its number is: {error}") from error


def is_runtime_to_distributed_ids_initialized() -> bool:
    """Whether it is known how both numberings of the processes belong together."""
    return bool(_registry.RUNTIME_TO_DISTRIBUTED_IDS)


def initialize_runtime_to_distributed_ids() -> None:
    """Find out how both numberings of the processes belong together. All processes call it, once.

    Raises `ValueError` without `jax.distributed`, `PeerAbsent` if some process does not come.
    """
    client = _client()
    own = distributed.global_state.process_id
    client.key_value_set(f"{_ID_FOLDER}/{jax.process_index()}", str(own), allow_overwrite=True)
    _wait(client, "orbax_global_discovery", _DISCOVERY_TIMEOUT_MS, None)
    told = {
        int(key.rpartition("/")[2]): int(text)
        for key, text in client.key_value_dir_get(f"{_ID_FOLDER}/")
    }
    _registry.RUNTIME_TO_DISTRIBUTED_IDS[:] = [told[i] for i in range(jax.process_count())]


def runtime_to_distributed_ids() -> list[int]:
    """The number that `jax.distributed` has for each of JAX's processes.

    Raises `ValueError` before `initialize_runtime_to_distributed_ids` was called.
    """
    if not is_runtime_to_distributed_ids_initialized():
        raise ValueError("Please call initialize_runtime_to_distributed_ids() first.")
    return list(_registry.RUNTIME_TO_DISTRIBUTED_IDS)


def runtime_to_distributed_process_id(pid: int) -> int:
    """The same for one process."""
    return runtime_to_distributed_ids()[pid]


def unique_processes_from_devices(device_array: Any) -> set[int]:
    """The processes that have these devices, numbered as `process_index` does.

    Raises `ValueError` if that takes `initialize_runtime_to_distributed_ids` and it was not called.
    """
    found = {int(device.process_index) for device in np.asarray(device_array).flat}
    if not is_runtime_to_distributed_ids_initialized() and not _uses_distributed_ids():
        return found
    return {runtime_to_distributed_process_id(pid) for pid in found}


# --------------------------------------------------------------------------------------- barriers


class BarrierSyncFn(Protocol):
    """Waits until all processes that take part have come to the same barrier."""

    def __call__(self, *, key: str, timeout_ms: int) -> None:
        """Wait at the barrier `key`, at most so many milliseconds. Raises if somebody is late."""
        ...


def should_skip_process_sync() -> bool:
    """Whether there is nobody to wait for."""
    return jax.process_count() == 1


def get_barrier_sync_fn(*, processes: set[int] | None = None) -> BarrierSyncFn:
    """A function that waits for all processes, or for `processes` alone, from any thread.

    With a single process it does nothing. Raises `ValueError` without `jax.distributed`, or if this
    process is none of `processes`.
    """
    if should_skip_process_sync():
        return _no_wait
    client = _client()
    if processes is not None and process_index() not in processes:
        raise ValueError(
            f"process {process_index()} cannot wait for {sorted(processes)}: it is none of them"
        )
    members = None if processes is None else sorted(_service_ids(processes))

    def wait(*, key: str, timeout_ms: int) -> None:
        _wait(client, _unique_barrier_key(key), timeout_ms, members)

    return wait


def _no_wait(**_: Any) -> None:
    """A single process waits for nobody."""


def _service_ids(processes: set[int]) -> set[int]:
    """The coordination service has the numbers that `jax.distributed` was given."""
    if _uses_distributed_ids() or not is_runtime_to_distributed_ids_initialized():
        return processes
    return {runtime_to_distributed_process_id(pid) for pid in processes}


def _client() -> Any:
    client = distributed.global_state.client
    if client is None:
        raise ValueError(
            "the processes of this job cannot talk: call `jax.distributed.initialize()` at the "
            "start of the program"
        )
    return client


def _wait(client: Any, key: str, timeout_ms: int, members: list[int] | None) -> None:
    try:
        client.wait_at_barrier(key, timeout_ms, process_ids=members)
    except jax.errors.JaxRuntimeError as error:
        if not str(error).startswith("DEADLINE_EXCEEDED"):
            raise
        whom = "all processes" if members is None else f"processes {members}"
        raise PeerAbsent(
            f"process {process_index()} waited {timeout_ms / 1000:g} s at {key!r} for {whom}: "
            f"{error}"
        ) from error


def sync_global_processes(
    name: str,
    *,
    timeout: int | None = None,
    processes: set[int] | None = None,
    barrier_sync_fn: BarrierSyncFn | None = None,
) -> None:
    """Wait until all processes, or all of `processes`, have come to `name`.

    Uses the coordination service, never a computation on devices, so any thread may wait here.
    `timeout` is in seconds; `barrier_sync_fn` waits instead, if given. Raises `PeerAbsent`, which
    is a `TimeoutError`, if somebody does not come. No two waits of a program may have one name.
    """
    if should_skip_process_sync():
        _LOG.debug("one process: nobody to wait for name=%s", name)
        return
    begun_s = time.monotonic()
    seconds = _DEFAULT_BARRIER_TIMEOUT if timeout is None else timeout
    wait = barrier_sync_fn or get_barrier_sync_fn(processes=processes)
    wait(key=name, timeout_ms=int(seconds * 1000))
    jax.monitoring.record_event_duration_secs(
        "/jax/checkpoint/sync_global_devices_duration_sec", time.monotonic() - begun_s
    )


def unique_barrier_key(key: str, *, prefix: str | None = None, suffix: str | None = None) -> str:
    """The name of a barrier: `<prefix>_<key>.<suffix>`, of which the outer parts may be absent."""
    before = "" if prefix is None else f"{prefix}_"
    behind = "" if suffix is None else f".{suffix}"
    return f"{before}{key}{behind}"


def _unique_barrier_key(key: str) -> str:
    """Every name of a barrier passes through here just before it is used, so that tests can
    replace it.
    """
    return key


# ------------------------------------------------------------------------------ telling and asking


def broadcast_one_to_all(in_tree: Any, is_source: bool | None = None) -> Any:
    """Arrays of the source, process 0 unless `is_source` says otherwise, on all processes.

    All call it with trees of equal shapes; the result has numpy arrays.
    """
    from jax.experimental import multihost_utils

    if is_source is None:
        is_source = process_index() == 0
    return multihost_utils.broadcast_one_to_all(in_tree, is_source=is_source)


def broadcast_one_to_some(
    in_tree: Any, *, is_source: bool | None = None, processes: set[int] | None = None
) -> Any:
    """Arrays of one process on all of `processes`, and on no other; None means all of the job.

    Only these call it, with trees of equal shapes and dtypes; the result has numpy arrays. The
    source is the lowest of them unless `is_source` is said. Raises `ValueError` for an outsider.
    """
    own = process_index()
    members = set(range(jax.process_count())) if processes is None else set(processes)
    if own not in members:
        raise ValueError(f"process {own} is none of {sorted(members)}, who broadcast")
    if is_source is None:
        is_source = own == min(members)
    devices: dict[int, Any] = {}
    for device in jax.devices():
        (owner,) = unique_processes_from_devices([device])
        if owner in members:
            devices.setdefault(owner, device)
    if len(devices) < len(members):
        raise ValueError(f"no such processes: {sorted(members - devices.keys())}")
    return broadcast_among([devices[i] for i in sorted(devices)], in_tree, is_source=is_source)


def reached_preemption(step: int) -> bool:
    """Whether the job will be stopped soon and `step` is where all processes know it.

    Ask once for each step, in the thread that trains. False if JAX does not run as several
    processes, or was told not to listen for preemption. Steps may be as large as they like.
    """
    from jax.experimental import multihost_utils

    try:
        # JAX's service counts in 32 bits. What is left of a larger step still grows by as much.
        counted = operator.index(step) % _PREEMPTION_COUNT
        reached = bool(multihost_utils.reached_preemption_sync_point(counted))
    except RuntimeError as error:
        _say_once(f"preemption cannot be noticed: {error}")
        return False
    if reached:
        _LOG.warning("preemption process=%d step=%d", process_index(), step)
        jax.monitoring.record_event("/jax/orbax/write/preemption")
    return reached


def _say_once(text: str) -> None:
    if text not in _registry.LAST_SAID:
        _registry.LAST_SAID[text] = time.monotonic()
        _LOG.info("%s", text)
