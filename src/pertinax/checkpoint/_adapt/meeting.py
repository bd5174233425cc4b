"""Meetings: the points of a save where the processes of a job wait for each other, as the options
of the mirrored API arrange them.

Knows who takes part, who leads, and how the names of meetings are made. The waiting is done by
`multihost`. Knows nothing of saves.
"""

from typing import final

from pertinax.checkpoint import multihost
from pertinax.checkpoint.options import MultiprocessingOptions


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
    def is_primary(self) -> bool:
        """Whether this process makes directories and publishes."""
        alone = multihost.should_skip_process_sync()
        return alone or multihost.is_primary_host(self._options.primary_host)

    def gather(self, key: str, suffix: str, *, timeout_s: int | None = None) -> None:
        """Wait until all have come here. Every process comes to the same meetings in the same
        order.

        Raises `TimeoutError` if somebody does not come.
        """
        multihost.sync_global_processes(
            multihost.unique_barrier_key(key, prefix=self._prefix, suffix=suffix),
            timeout=timeout_s,
            processes=self._options.active_processes,
            barrier_sync_fn=self._barrier,
        )
