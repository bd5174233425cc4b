"""Meetings: the points of a save where the processes of a job wait for each other, as the options
of the mirrored API arrange them.

Knows who takes part, who leads, and how the names of meetings are made. The waiting is done by
`multihost`. Knows nothing of saves.
"""

import time
from collections.abc import Mapping
from typing import Any, Final, final

import jax

from pertinax._hosts import Alone, Hosts, Round, Topology, this_job
from pertinax.checkpoint import multihost
from pertinax.checkpoint.options import MultiprocessingOptions

_WAITED: Final = "/jax/checkpoint/sync_global_devices_duration_sec"


@final
class Meeting:
    """Who meets, and how. A process alone meets nobody, and `barrier` is then not called.

    `prefix` is put before the names, after that of the options.
    """

    def __init__(
        self,
        options: MultiprocessingOptions | None = None,
        *,
        barrier: multihost.BarrierSyncFn | None = None,
        prefix: str | None = None,
    ) -> None:
        self._options = options or MultiprocessingOptions()
        self._barrier = barrier
        parts = [self._options.barrier_sync_key_prefix, prefix]
        self._prefix = ".".join(part for part in parts if part is not None) or None

    @property
    def job(self) -> Hosts:
        """The processes that save one checkpoint together.

        Where every process is its own leader, each saves what it holds, by itself. Raises
        `InvalidOption` if the leader, or this process, does not take part.
        """
        if multihost.should_skip_process_sync() or jax.process_count() == 1:
            return Alone()
        me = jax.process_index()
        if self._options.primary_host is None:
            return Alone(Topology(me, (me,), me, apart=True))
        members = self._options.active_processes
        return this_job(members=members, primary=self._options.primary_host)

    @property
    def is_primary(self) -> bool:
        """Whether this process makes directories and publishes."""
        alone = multihost.should_skip_process_sync()
        return alone or multihost.is_primary_host(self._options.primary_host)

    def gather(
        self, key: str, suffix: str, *, timeout_s: int | None = None, talk: Round | None = None
    ) -> None:
        """Wait until all have come here. Every process comes to the same meetings in the same
        order.

        In a round, `talk`, the failure of another process ends the waiting, as `PeerFailed`. Raises
        `TimeoutError` if somebody does not come.
        """
        if talk is not None and not talk.topology.alone:
            began_s = time.monotonic()
            talk.collect(key, None, _nothing)
            jax.monitoring.record_event_duration_secs(_WAITED, time.monotonic() - began_s)
            if self._barrier is None:
                return
        multihost.sync_global_processes(
            multihost.unique_barrier_key(key, prefix=self._prefix, suffix=suffix),
            timeout=timeout_s,
            processes=self._options.active_processes,
            barrier_sync_fn=self._barrier,
        )


def _nothing(_: Mapping[int, Any]) -> None:
    """Coming is all."""
