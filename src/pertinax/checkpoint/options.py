# SPDX-License-Identifier: Apache-2.0
"""Options that checkpointers, handlers and the manager share.

Knows the names and defaults that the mirrored API promises. Knows nothing of who reads them.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class MultiprocessingOptions:
    """Who takes part in a save, and who leads.

    Attributes:
        primary_host: the process that makes directories, publishes and deletes. None: each process
            does so in storage of its own.
        active_processes: indices of the processes that take part; None means all. The primary
            host must be one of them.
        barrier_sync_key_prefix: put before the name of each barrier, as `<prefix>_<name>`, so that
            several managers of one job do not meet at each other's barriers.
    """

    primary_host: int | None = 0
    active_processes: set[int] | None = None
    barrier_sync_key_prefix: str | None = None


@dataclass
class AsyncOptions:
    """How a save in the background waits, and what it calls.

    Attributes:
        timeout_secs: how long a background thread waits for other processes.
        barrier_sync_fn: stands in for the barrier of background threads; called with the keywords
            `key` and `timeout_ms`.
        post_finalization_callback: called without arguments on the primary process, on the saving
            thread, when all items are written and before the step becomes visible. If it raises,
            the step does not become visible.
    """

    timeout_secs: int = 600
    barrier_sync_fn: Callable[..., None] | None = None
    post_finalization_callback: Callable[[], None] | None = None


@dataclass(frozen=True)
class FileOptions:
    """How directories are made.

    Attributes:
        path_permission_mode: permission bits of new checkpoint and item directories, such as
            `0o750`, before the umask; None means `0o777`.
    """

    path_permission_mode: int | None = None
