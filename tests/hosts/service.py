# SPDX-License-Identifier: Apache-2.0
"""Several "processes" in one: the real coordination service of JAX, with a client for each.

No backend is started, so a job of four takes milliseconds. Knows clients and threads only.
"""

import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jax._src.lib import _jax

from pertinax._hosts import Topology
from pertinax._hosts.cluster import Cluster


@contextlib.contextmanager
def clients(count: int) -> Iterator[list[Any]]:
    """Connected clients, one for each of `count` processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    service = _jax.get_distributed_runtime_service(
        address, count, heartbeat_timeout=60, shutdown_timeout=10
    )
    made = [
        _jax.get_distributed_runtime_client(
            address, i, init_timeout=30, heartbeat_timeout=60, shutdown_on_destruction=False
        )
        for i in range(count)
    ]
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(lambda client: client.connect(), made))
    try:
        yield made
    finally:
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(lambda client: client.shutdown(), made))
        service.shutdown()


def clusters(
    made: Sequence[Any], *, members: Sequence[int] | None = None, primary: int = 0, **kwargs: Any
) -> list[Cluster]:
    """The job as each of its members sees it."""
    chosen = tuple(range(len(made))) if members is None else tuple(members)
    return [Cluster(made[i], Topology(i, chosen, primary), **kwargs) for i in chosen]


def together(jobs: Sequence[Cluster], work: Callable[[Cluster], Any]) -> list[Any]:
    """What `work` returned or raised in each process; all run at once."""

    def one(job: Cluster) -> Any:
        try:
            return work(job)
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(jobs)) as pool:
        return list(pool.map(one, jobs))
