# SPDX-License-Identifier: Apache-2.0
"""Stock: which saves there are across the job, which of them are whole, and which one is newest.

Knows what processes say they have, as plain data. Knows nothing of files or of how they say it. The
primary judges; the others are told.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from pertinax._plan.exchange import Bits
from pertinax._tiers.local import Part
from pertinax._tiers.pieces import Pieces, decode_bits, encode_bits


@final
@dataclass(frozen=True, slots=True)
class Candidate:
    """A save that a restore may use.

    Attributes:
        step: which step.
        save_id: which save; empty if only the durable tier has it.
        durable: whether the durable tier has the same save, or, without an id, has this step.
        holders: the processes that have a part of it in their own storage.
        whole: whether these parts are all there is.
    """

    step: int
    save_id: str
    durable: bool
    holders: tuple[int, ...]
    whole: bool

    def told(self) -> list[Any]:
        """Itself as plain data."""
        return [self.step, self.save_id, self.durable, list(self.holders), self.whole]


def candidate_of(told: Sequence[Any]) -> Candidate:
    """The inverse of `Candidate.told`."""
    step, save_id, durable, holders, whole = told
    return Candidate(step, save_id, durable, tuple(holders), whole)


def tell_parts(parts: Sequence[Part]) -> list[Any]:
    """What this process has, as plain data."""
    out: list[Any] = []
    for part in parts:
        manifest = part.opened.manifest
        pieces = Pieces(manifest.leaves)
        bits = encode_bits(pieces.held(manifest.chunks))
        out.append([part.step, part.save_id, part.saved_at_ns, pieces.total, bits])
    return out


def find_candidates(
    told: Mapping[int, Sequence[Any]], durable: Mapping[int, str | None]
) -> list[Candidate]:
    """All saves, the newest first; of one step those first that are whole, and then the later ones.

    `durable` has the steps of the durable tier, each with the id of its save, if it is known.
    """
    held: dict[tuple[int, str, int], Bits] = {}
    times: dict[tuple[int, str, int], int] = {}
    holders: dict[tuple[int, str, int], list[int]] = {}
    for process, rows in told.items():
        for step, save_id, saved_at_ns, total, text in rows:
            key = (step, save_id, total)
            bits = decode_bits(text, total)
            held[key] = held[key] | bits if key in held else bits
            times[key] = max(times.get(key, 0), saved_at_ns)
            holders.setdefault(key, []).append(process)
    found: list[tuple[tuple[int, bool, int], Candidate]] = []
    matched: set[int] = set()
    for key, bits in held.items():
        step, save_id, _ = key
        same = durable.get(step) == save_id
        matched |= {step} if same else set()
        whole = bool(np.all(bits))
        one = Candidate(step, save_id, same, tuple(sorted(holders[key])), whole)
        found.append(((step, whole or same, times[key]), one))
    found += [
        ((step, True, 0), Candidate(step, "", durable=True, holders=(), whole=False))
        for step in durable.keys() - matched
    ]
    return [one for _, one in sorted(found, key=lambda pair: pair[0], reverse=True)]
