# SPDX-License-Identifier: Apache-2.0
"""The job that this process belongs to.

Knows how to ask JAX for it. Knows nothing of saves.
"""

from collections.abc import Collection
from typing import Any

import jax
from jax._src import distributed  # the only way to the client of the coordination service

from pertinax._hosts.alone import Alone
from pertinax._hosts.cluster import Cluster
from pertinax._hosts.contract import Hosts
from pertinax._plan.topology import Topology
from pertinax.errors import InvalidOption, UnsupportedTopology


def service_client() -> Any:
    """The client of the coordination service; None if `jax.distributed` does not run."""
    return distributed.global_state.client


def job_share() -> tuple[int, int]:
    """Number of this process, and how many there are. Wakes no accelerator where it is alone."""
    return (0, 1) if service_client() is None else (jax.process_index(), jax.process_count())


def this_job(*, members: Collection[int] | None = None, primary: int | None = None) -> Hosts:
    """The processes of this job, or those `members` of it that take part.

    The lowest member is `primary` unless one is named. Raises `InvalidOption` if this process is no
    member, or the primary is none; `UnsupportedTopology` if JAX's processes cannot talk.
    """
    process, count = jax.process_index(), jax.process_count()
    chosen = tuple(range(count)) if members is None else tuple(sorted(set(members)))
    leader = (chosen[0] if chosen else -1) if primary is None else primary
    if process not in chosen or leader not in chosen or not set(chosen) <= set(range(count)):
        raise InvalidOption(
            f"this is process {process} of {count}: it, and the primary process {leader}, must be "
            f"among the members {list(chosen)}"
        )
    topology = Topology(process, chosen, leader)
    if topology.alone:
        return Alone(topology)
    client = service_client()
    if client is None:
        raise UnsupportedTopology(
            f"{count} processes without a coordination service: call "
            "jax.distributed.initialize() first"
        )
    return Cluster(client, topology)
