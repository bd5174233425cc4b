# SPDX-License-Identifier: Apache-2.0
"""The targets of the design (section 9), and how far the results are from them.

Knows the targets. Knows nothing of how numbers were taken or of how they are printed.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

OURS = "pertinax"
OURS_ASYNC = "pertinax (async)"
ORBAX = "Orbax Standard"
MIB = 1 << 20
_PLAIN = ("numpy files", "safetensors")
_BLOCKING_MS = {"f32": 15, "bf16": 15, "sharded": 15, "gpt": 30, "small5k": 150, "small10k": 300}
_MEMORY_MIB = 1025  # the budget of a load, and one block


@dataclass(frozen=True)
class Verdict:
    """One target: its limit and what was measured. `least`: the limit is a lower one."""

    workload: str
    what: str
    limit: float
    found: float
    unit: str = "x"
    least: bool = False

    @property
    def met(self) -> bool:
        return self.found >= self.limit if self.least else self.found <= self.limit

    @property
    def distance(self) -> str:
        """By how much it is met or missed, in words."""
        if self.found <= 0 or self.limit <= 0:
            return ""
        factor = self.found / self.limit if self.least else self.limit / self.found
        if factor >= 1:
            return f"{factor:.2f} x to spare" if factor < 100 else "far"
        return f"misses by {1 / factor:.2f} x"


def median_of(workload: Mapping[str, Any], who: str, what: str) -> float | None:
    """Median seconds, or None if it was not measured."""
    samples = workload["seconds"].get(who, {}).get(what)
    return statistics.median(samples.values()) if samples else None


def ratio_of(workload: Mapping[str, Any], who: str, other: str, what: str) -> float | None:
    """Median over the rounds in which both took part of `who`'s time through `other`'s."""
    one = workload["seconds"].get(who, {}).get(what, {})
    two = workload["seconds"].get(other, {}).get(what, {})
    ratios = [one[turn] / two[turn] for turn in one if turn in two]
    return statistics.median(ratios) if ratios else None


def better_floor(workload: Mapping[str, Any], what: str) -> str:
    """The floor with the smaller median."""
    floors = [name for name in ("floor", "floor (map)") if median_of(workload, name, what)]
    return min(floors, key=lambda name: median_of(workload, name, what) or 0.0, default="floor")


def verdicts(results: Mapping[str, Any]) -> list[Verdict]:
    """Every target for which there are results."""
    found: list[Verdict] = []
    for name, workload in results["workloads"].items():
        small = name.startswith("small")
        found += _against_floor(name, workload, small=small)
        found += _against_orbax(name, workload, small=small)
        found += _against_plain(name, workload) if not small else _per_leaf(name, workload)
        found += _blocking(name, workload)
        found += _memory(name, workload)
    found += _manager(results.get("manager"))
    limits = {"import": ("`import pertinax` beyond `import jax`", 50)}
    limits["describe"] = ("`describe` of 10,000 leaves", 100)
    for name, seconds in results["scripts"].items():
        what, limit = limits[name]
        found.append(Verdict(name, what, limit, statistics.median(seconds) * 1e3, "ms"))
    return found


def _manager(found: Mapping[str, Any] | None) -> Iterator[Verdict]:
    """A root of ten thousand steps."""
    if found is None:
        return
    ours, bare = found["seconds"][OURS], found["seconds"]["save_async"]["save"]
    titles = {"changed best": "best of a root that has just changed"}
    for what in ("open", "list", "latest", "best", "changed best"):
        if what in ours:
            title = f"{titles.get(what, what)}, {found['steps']:,} steps"
            yield Verdict("manager", title, 100, _ms(ours[what]), "ms")
    beyond = [one - other for one, other in zip(ours["save"], bare, strict=True)]
    yield Verdict("manager", "`save` returns, beyond `save_async`", 5, _ms(beyond), "ms")


def _ms(seconds: Sequence[float]) -> float:
    return statistics.median(seconds) * 1e3


def _restores(workload: Mapping[str, Any]) -> list[str]:
    return [what for what in ("restore", "reshard") if median_of(workload, OURS, what) is not None]


def _against_floor(name: str, workload: Mapping[str, Any], *, small: bool) -> Iterator[Verdict]:
    save = ratio_of(workload, OURS, "floor", "save")
    if save is not None and not small:
        yield Verdict(name, "durable save / floor", 1.15, save)
    for what in _restores(workload):
        ratio = ratio_of(workload, OURS, better_floor(workload, what), what)
        if ratio is not None:
            yield Verdict(name, f"{what} / better floor", 1.3 if small else 1.25, ratio)


def _against_orbax(name: str, workload: Mapping[str, Any], *, small: bool) -> Iterator[Verdict]:
    for what in ("save", *_restores(workload)):
        limit = (50 if what == "save" else 10) if small else (3 if what == "save" else 8)
        ratio = ratio_of(workload, ORBAX, OURS, what)
        if ratio is not None:
            yield Verdict(name, f"{what}, faster than Orbax", limit, ratio, least=True)


def _against_plain(name: str, workload: Mapping[str, Any]) -> Iterator[Verdict]:
    for other in _PLAIN:
        for what in ("save", *_restores(workload)):
            ratio = ratio_of(workload, OURS, other, what)
            if ratio is not None:
                yield Verdict(name, f"{what} / {other}", 1.0, ratio)


def _per_leaf(name: str, workload: Mapping[str, Any]) -> Iterator[Verdict]:
    for what in ("save", "restore"):
        ours = median_of(workload, OURS, what)
        floor = median_of(workload, better_floor(workload, what), what)
        if ours is not None and floor is not None:
            extra = (ours - floor) / workload["leaves"] * 1e6
            yield Verdict(name, f"{what}, beyond the floor, per leaf", 40, extra, "us")


def _blocking(name: str, workload: Mapping[str, Any]) -> Iterator[Verdict]:
    blocked = median_of(workload, OURS_ASYNC, "blocking")
    if blocked is not None and name in _BLOCKING_MS:
        yield Verdict(name, "save_async blocks", _BLOCKING_MS[name], blocked * 1e3, "ms")


def _memory(name: str, workload: Mapping[str, Any]) -> Iterator[Verdict]:
    for what, extra in workload["memory"].get(OURS, {}).items():
        yield Verdict(name, f"peak extra memory, {what}", _MEMORY_MIB, extra / MIB, "MiB")
