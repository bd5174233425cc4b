"""Meetings: the points of a save where the processes of a job wait for each other, as the options
of the mirrored API arrange them.

Knows who takes part, who leads, and how a program may put a barrier of its own in. The waiting is
done below. Knows nothing of saves.
"""

from collections.abc import Callable
from typing import Final, final

import jax

from pertinax._hosts import this_job
from pertinax.checkpoint.options import MultiprocessingOptions

_TIMEOUT_S: Final = 1200.0
Barrier = Callable[..., None]


@final
class Meeting:
    """Who meets, and how. A process alone meets nobody, and `barrier` is then not called.

    `barrier` is called with the keywords `key` and `timeout_ms`; `prefix` is put before the keys,
    after that of the options. `process_count`: for tests; None asks JAX.
    """

    def __init__(
        self,
        options: MultiprocessingOptions | None = None,
        *,
        barrier: Barrier | None = None,
        prefix: str | None = None,
        process_count: int | None = None,
    ) -> None:
        self._options = options or MultiprocessingOptions()
        self._barrier = barrier
        self._prefix = ".".join(
            part for part in (self._options.barrier_sync_key_prefix, prefix) if part is not None
        )
        self._process_count = process_count

    @property
    def several(self) -> bool:
        """Whether there is anybody to wait for."""
        return (self._process_count or jax.process_count()) > 1

    @property
    def is_primary(self) -> bool:
        """Whether this process makes directories and publishes."""
        primary = self._options.primary_host
        return not self.several or primary is None or primary == jax.process_index()

    def gather(self, key: str, *, timeout_s: float = _TIMEOUT_S) -> None:
        """Wait until all have come here. Every process must use the same keys in the same order.

        Raises what the barrier raises at the deadline.
        """
        if not self.several:
            return
        key = f"{self._prefix}_{key}" if self._prefix else key
        if self._barrier is not None:
            self._barrier(key=key, timeout_ms=int(timeout_s * 1000))
            return
        members = self._options.active_processes
        with this_job(members=members).begin("meeting", key, timeout_s=timeout_s) as meeting:
            meeting.collect("here", None, lambda _: None)
