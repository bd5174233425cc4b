# SPDX-License-Identifier: Apache-2.0
"""Exchange: who sends which pieces to whom, in which order, so that all have what they lack.

Knows numbered pieces and the processes that hold or lack each. Knows nothing of arrays, bytes or
networks. In one round a process sends to one other at most and gets from one at most; who has got
a piece may send it on in the next, so that a piece reaches any number of processes in a logarithmic
number of rounds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.bool_]
"""A truth for each piece."""


class Transfer(NamedTuple):
    """Process `source` sends all pieces of a bundle to process `target`."""

    source: int
    target: int
    bundle: int


@dataclass(frozen=True, slots=True)
class ExchangePlan:
    """Bundles of pieces, the rounds in which they travel, and the pieces that nobody has."""

    bundles: tuple[tuple[int, ...], ...]
    rounds: tuple[tuple[Transfer, ...], ...]
    unfound: tuple[int, ...]


@dataclass(slots=True)
class _Demand:
    """One bundle on its way: who has it by now, and who waits for it."""

    bundle: int
    weight: int
    have: list[int]
    waiting: list[int]


def plan_exchange(
    holds: Mapping[int, Bits], lacks: Mapping[int, Bits], sizes: Sequence[int]
) -> ExchangePlan:
    """The plan for pieces of these `sizes`; both mappings are by process, with the same keys."""
    processes = sorted(holds)
    wanted = np.flatnonzero(np.logical_or.reduce([lacks[p] for p in processes]))
    if not len(wanted):
        return ExchangePlan((), (), ())
    held = np.array([holds[p][wanted] for p in processes])
    lacked = np.array([lacks[p][wanted] for p in processes])
    found = held.any(axis=0)
    unfound = tuple(wanted[~found].tolist())
    demands: list[_Demand] = []
    bundles: list[tuple[int, ...]] = []
    for columns in _alike(np.concatenate([held, lacked])[:, found]):
        column = np.flatnonzero(found)[columns[0]]
        pieces = tuple(wanted[found][columns].tolist())
        have = [p for i, p in enumerate(processes) if held[i, column]]
        waiting = [p for i, p in enumerate(processes) if lacked[i, column]]
        demands.append(_Demand(len(bundles), sum(sizes[i] for i in pieces), have, waiting))
        bundles.append(pieces)
    return ExchangePlan(tuple(bundles), tuple(_rounds(demands)), unfound)


def _alike(table: Bits) -> list[NDArray[np.int64]]:
    """The columns of a table, those that are equal together, in the order of their first."""
    if not table.shape[1]:
        return []
    packed = np.ascontiguousarray(np.packbits(table, axis=0).T)
    rows = packed.view(np.dtype((np.void, packed.shape[1]))).ravel()
    _, first, inverse = np.unique(rows, return_index=True, return_inverse=True)
    order = np.argsort(inverse.ravel(), kind="stable")
    groups = np.split(order, np.cumsum(np.bincount(inverse.ravel()))[:-1])
    return [groups[i] for i in np.argsort(first, kind="stable")]


def _rounds(demands: list[_Demand]) -> list[tuple[Transfer, ...]]:
    sent: dict[int, int] = {}
    out: list[tuple[Transfer, ...]] = []
    left = [demand for demand in demands if demand.waiting]
    while left:
        # The largest first: a round takes as long as the most that is sent in it.
        left.sort(key=lambda demand: (-demand.weight * len(demand.waiting), demand.bundle))
        senders: set[int] = set()
        receivers: set[int] = set()
        transfers: list[Transfer] = []
        for demand in left:
            transfers += _serve(demand, senders, receivers, sent)
        for demand in left:
            got = {one.target for one in transfers if one.bundle == demand.bundle}
            demand.have += sorted(got)
            demand.waiting = [p for p in demand.waiting if p not in got]
        out.append(tuple(sorted(transfers)))
        left = [demand for demand in left if demand.waiting]
    return out


def _serve(
    demand: _Demand, senders: set[int], receivers: set[int], sent: dict[int, int]
) -> list[Transfer]:
    """As many transfers of one bundle as fit into this round; who has sent least sends first."""
    sources = sorted(
        (p for p in demand.have if p not in senders), key=lambda p: (sent.get(p, 0), p)
    )
    targets = [p for p in demand.waiting if p not in receivers]
    out: list[Transfer] = []
    for source, target in zip(sources, targets, strict=False):
        senders.add(source)
        receivers.add(target)
        sent[source] = sent.get(source, 0) + demand.weight
        out.append(Transfer(source, target, demand.bundle))
    return out
