# SPDX-License-Identifier: Apache-2.0
"""What a lost host costs, with and without the near tier, for jobs of 8 to 4,096 hosts.

    python bench/recovery.py

Two things in one: the words and plans of a restore are those of the library, made in this process
for all processes of a job and timed; seconds of storage and network come from a model, whose
figures stand below. Prints the tables of `docs/emergency.md`.
"""

import time
from collections.abc import Iterable

import numpy as np

from pertinax._plan.exchange import ExchangePlan, plan_exchange
from pertinax._tiers.pieces import encode_bits
from pertinax._tiers.stock import find_candidates

LEAVES = 450
HOST_BYTES = 16 << 30  # the shards of one host
NEAR_BYTES_S = 3e9  # read and verified, from a local NVMe disk or RAM disk
NETWORK_BYTES_S = 10e9  # a host's link to others
DURABLE_HOST_BYTES_S = 2e9  # what one host gets from shared storage ...
DURABLE_BYTES_S = 100e9  # ... and all together
STEP_S, NEAR_STEPS, DURABLE_STEPS = 5.0, 10, 500
HOST_MTBF_S = 260 * 86400.0  # one failure in 260 days of a host: 8 a day in a job of 2,048
JOBS = ((8, 2), (32, 4), (128, 8), (512, 16), (2048, 32), (4096, 64))  # hosts, replicas


def holdings(hosts: int, per_replica: int, lost: set[int]) -> dict[int, np.ndarray]:
    """Which pieces each host has: of each leaf the one of its place in the replica."""
    places = np.arange(LEAVES * per_replica) % per_replica
    empty = np.zeros(len(places), np.bool_)
    own = [places == place for place in range(per_replica)]
    return {p: empty if p in lost else own[p % per_replica] for p in range(hosts)}


def plan(hosts: int, replicas: int, lost: set[int]) -> tuple[int, float, ExchangePlan]:
    """Bytes of words of one process, CPU seconds of the primary, and the plan."""
    per_replica = hosts // replicas
    held = holdings(hosts, per_replica, lost)
    whole = holdings(hosts, per_replica, set())
    total = LEAVES * per_replica
    told = {p: [[10, "run/10/1", 1, total, encode_bits(held[p])]] for p in held}
    begun_s = time.process_time()
    find_candidates(told, {})
    lacks = {p: whole[p] & ~held[p] for p in held}
    sizes = [HOST_BYTES // LEAVES] * total
    found = plan_exchange(held, lacks, sizes)
    return max(len(str(one)) for one in told.values()), time.process_time() - begun_s, found


def exchange_s(found: ExchangePlan) -> float:
    """Each round takes as long as the most that one of its hosts sends."""
    piece = HOST_BYTES // LEAVES
    return sum(
        max(len(found.bundles[one.bundle]) for one in transfers) * piece / NETWORK_BYTES_S
        for transfers in found.rounds
    )


def durable_s(hosts: int) -> float:
    """Seconds until every host has its shards from shared storage."""
    return HOST_BYTES / min(DURABLE_HOST_BYTES_S, DURABLE_BYTES_S / hosts)


def row(cells: Iterable[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    print(
        row(
            [
                "hosts",
                "replicas",
                "words of one",
                "one host lost",
                "",
                "a replica lost",
                "",
                "all but one replica lost",
                "",
            ]
        )
    )
    print(row(["", "", "bytes", "rounds", "plan s", "rounds", "plan s", "rounds", "plan s"]))
    print(row(["---:"] * 9))
    one_lost: dict[int, float] = {}
    for hosts, replicas in JOBS:
        per_replica = hosts // replicas
        cells: list[object] = []
        words = 0
        for lost in ({1}, set(range(per_replica)), set(range(hosts - per_replica))):
            words, took_s, found = plan(hosts, replicas, lost)
            cells += [len(found.rounds), f"{took_s:.2f}"]
            one_lost.setdefault(hosts, exchange_s(found))
        print(row([hosts, replicas, words, *cells]))
    print()
    print(
        row(
            [
                "hosts",
                "a failure every",
                "lost work",
                "read",
                "of all time",
                "lost work",
                "read",
                "from the peer",
                "of all time",
            ]
        )
    )
    print(row(["---:"] * 9))
    for hosts, _ in JOBS:
        every_s = HOST_MTBF_S / hosts
        seldom_s, read_s = DURABLE_STEPS * STEP_S / 2, durable_s(hosts)
        often_s, near_s, peer_s = (
            NEAR_STEPS * STEP_S / 2,
            HOST_BYTES / NEAR_BYTES_S,
            one_lost[hosts],
        )
        print(
            row(
                [
                    hosts,
                    f"{every_s / 3600:.1f} h",
                    f"{seldom_s:.0f} s",
                    f"{read_s:.0f} s",
                    f"{(seldom_s + read_s) / every_s:.2%}",
                    f"{often_s:.0f} s",
                    f"{near_s:.0f} s",
                    f"{peer_s:.1f} s",
                    f"{(often_s + near_s + peer_s) / every_s:.2%}",
                ]
            )
        )


if __name__ == "__main__":
    main()
