# SPDX-License-Identifier: Apache-2.0
"""Preemption: somebody will stop the job soon, and all processes find the same step to save before.

Knows the sync point of JAX's preemption service, which listens for SIGTERM. Knows nothing of saves.
"""

import logging
from typing import Final, final

from pertinax._hosts.job import service_client

_LOG: Final = logging.getLogger(__name__)
_COUNT: Final = 1 << 31


@final
class Preemption:
    """Asks once for each step, on the thread that trains, about the step at hand.

    The service takes the step it was asked for last as where the process is: asked for an older
    one, it would agree on a step that training has passed, and nobody would ever find it.
    """

    def __init__(self) -> None:
        self._last: tuple[int, bool] | None = None
        self._off = False
        self.noticed = False
        """Whether the step has come."""

    def reached(self, step: int) -> bool:
        """Whether `step` is the one: for exactly one step, the same on all processes.

        False without `jax.distributed`, or if JAX was told not to listen.
        """
        if self._last is None or self._last[0] != step:
            self._last = (step, self._ask(step))
            if self._last[1]:
                self.noticed = True
                _LOG.warning("this job will be stopped: step=%d is saved before", step)
        return self._last[1]

    def _ask(self, step: int) -> bool:
        if self._off or service_client() is None:
            return False
        from jax.experimental import multihost_utils

        try:
            # The service counts in 32 bits. What is left of a larger step still grows by as much.
            return bool(multihost_utils.reached_preemption_sync_point(step % _COUNT))
        except RuntimeError as error:
            self._off = True
            _LOG.info("preemption cannot be noticed: %s", error)
            return False
