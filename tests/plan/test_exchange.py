# SPDX-License-Identifier: Apache-2.0
"""Who lacks a piece gets it, whoever has it, in few rounds, and nobody does two things at once."""

import math
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pertinax._plan.exchange import Bits, ExchangePlan, plan_exchange


def carried_out(
    plan: ExchangePlan, holds: Mapping[int, Bits], sizes: list[int]
) -> dict[int, set[int]]:
    """What each process has in the end; a plan that asks the impossible fails here."""
    have = {process: set(np.flatnonzero(bits).tolist()) for process, bits in holds.items()}
    for transfers in plan.rounds:
        assert len({one.source for one in transfers}) == len(transfers)
        assert len({one.target for one in transfers}) == len(transfers)
        before = {process: set(pieces) for process, pieces in have.items()}
        for source, target, bundle in transfers:
            assert set(plan.bundles[bundle]) <= before[source], "it sends what it has not"
            assert not set(plan.bundles[bundle]) & before[target], "it gets what it has"
            have[target] |= set(plan.bundles[bundle])
    return have


@st.composite
def stocks(draw: st.DrawFn) -> tuple[dict[int, Bits], dict[int, Bits], list[int]]:
    processes = draw(st.lists(st.integers(0, 40), min_size=1, max_size=7, unique=True))
    total = draw(st.integers(1, 12))
    row = st.lists(st.booleans(), min_size=total, max_size=total).map(np.array)
    holds = {process: draw(row) for process in processes}
    lacks = {process: draw(row) & ~holds[process] for process in processes}
    sizes = draw(st.lists(st.integers(1, 99), min_size=total, max_size=total))
    return holds, lacks, sizes


@given(stocks())
def test_all_get_what_they_lack_and_what_nobody_has_is_told(
    stock: tuple[dict[int, Bits], dict[int, Bits], list[int]],
) -> None:
    holds, lacks, sizes = stock
    plan = plan_exchange(holds, lacks, sizes)
    have = carried_out(plan, holds, sizes)
    somewhere = np.logical_or.reduce(list(holds.values()))
    for process, bits in lacks.items():
        assert have[process] >= set(np.flatnonzero(bits & somewhere).tolist())
    wanted = np.logical_or.reduce(list(lacks.values()))
    assert set(plan.unfound) == set(np.flatnonzero(wanted & ~somewhere).tolist())
    assert plan == plan_exchange(holds, lacks, sizes)  # all processes come to the same


def replicas(count: int, hosts: int, lost: set[int]) -> tuple[dict[int, Bits], dict[int, Bits]]:
    """`count` replicas over `hosts` processes each; process p holds piece `p % hosts`."""
    holds: dict[int, Bits] = {}
    lacks: dict[int, Bits] = {}
    for process in range(count * hosts):
        own = np.arange(hosts) == process % hosts
        holds[process] = own & (process not in lost)
        lacks[process] = own & (process in lost)
    return holds, lacks


@pytest.mark.parametrize(
    ("count", "hosts", "lost", "rounds"),
    [
        (2, 4, {1}, 1),
        (2, 4, {0, 1, 2, 3}, 1),  # a whole replica: all its peers send at the same time
        (16, 2, set(range(30)), 4),  # one replica is left: it takes log2(16) rounds
        (8, 8, set(), 0),
    ],
)
def test_rounds_are_few(count: int, hosts: int, lost: set[int], rounds: int) -> None:
    holds, lacks = replicas(count, hosts, lost)
    plan = plan_exchange(holds, lacks, [1] * hosts)
    assert len(plan.rounds) == rounds
    assert plan.unfound == ()
    have = carried_out(plan, holds, [1] * hosts)
    assert all(have[process] >= {process % hosts} for process in have)


def test_a_job_of_two_thousand_processes_is_planned_at_once() -> None:
    hosts = 64
    holds, lacks = replicas(32, hosts, {p for p in range(2048) if p % 5 == 0})
    plan = plan_exchange(holds, lacks, [1] * hosts)
    sent = [one.source for transfers in plan.rounds for one in transfers]
    assert len(sent) == math.ceil(2048 / 5)
    assert max(np.bincount(sent)) <= 2  # nobody sends for all
