# SPDX-License-Identifier: Apache-2.0
"""Measuring: one workload, all contestants, round by round, in this process.

Knows clocks, rounds and their order. Knows nothing of tables. Run by `run.py` in a fresh process:

    python bench/measure.py --workload f32 --rounds 5 --dir bench/.scratch --out result.json
"""

import argparse
import gc
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from typing import Any

from memory import PeakMemory


@dataclass
class Samples:
    """Seconds by contestant, measure and round; bytes by contestant."""

    seconds: dict[str, dict[str, dict[int, float]]] = field(default_factory=dict)
    memory: dict[str, dict[str, int]] = field(default_factory=dict)
    disk: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, what: str, turn: int, seconds: float) -> None:
        self.seconds.setdefault(name, {}).setdefault(what, {})[turn] = seconds


def bytes_below(path: str) -> int:
    """Bytes that the files below `path` occupy."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            total += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return total


def check(found: Any, state: Any, target: Any) -> None:
    """Every element bit for bit, and every array where it was asked to be."""
    import jax
    import numpy as np

    pairs = zip(*(jax.tree.leaves(tree) for tree in (found, state, target)), strict=True)
    for got, wanted, spec in pairs:
        assert isinstance(got, jax.Array)
        assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape), (got, wanted)
        assert got.sharding.is_equivalent_to(spec.sharding, got.ndim), (got.sharding, spec.sharding)
        one, other = (np.asarray(a).reshape(-1).view(np.uint8) for a in (got, wanted))
        assert np.array_equal(one, other), "wrong values"


def _say(workload: str, turn: str, name: str, what: str, value: str) -> None:
    print(f"{workload:9} {turn:>8}  {name:22} {what:12} {value}", file=sys.stderr, flush=True)


class Race:
    """All contestants over one state."""

    def __init__(self, workload: Any, state: Any, directory: str, contestants: list[Any]) -> None:
        from workloads import targets_of

        self.workload = workload
        self.samples = Samples()
        self._contestants = contestants
        self._state = state
        self._targets = targets_of(workload, state)
        self._dir = os.path.abspath(directory)  # Orbax takes no other

    def round(self, turn: int, *, label: str, record: bool, watch: bool = False) -> None:
        """Everybody once, in an order that differs from round to round."""
        field = [c for c in self._contestants if c.name not in self.samples.failed]
        if turn >= self.workload.orbax_rounds and not watch:
            field = [c for c in field if not c.name.startswith("Orbax")]
        shift = turn % len(field)
        for contestant in field[shift:] + field[:shift]:
            path = os.path.join(self._dir, f"{self.workload.name}-{turn}")
            try:
                self._one(contestant, path, turn, label, record=record, watch=watch)
            except Exception as error:
                self.samples.failed[contestant.name] = f"{type(error).__name__}: {error}"
                _say(self.workload.name, label, contestant.name, "FAILED", repr(error)[:300])
                self.samples.seconds.pop(contestant.name, None)
            finally:
                shutil.rmtree(path, ignore_errors=True)
                gc.collect()

    def _one(
        self, contestant: Any, path: str, turn: int, label: str, *, record: bool, watch: bool
    ) -> None:
        os.sync()  # nobody pays for what another one left behind
        gc.collect()
        if watch:
            with PeakMemory() as peak:
                contestant.begin(path, self._state)()
            self._note_memory(contestant.name, "save", peak.extra, label)
            self.samples.disk[contestant.name] = bytes_below(path)
        else:
            began = time.perf_counter()
            wait = contestant.begin(path, self._state)
            returned = time.perf_counter()
            wait()
            ended = time.perf_counter()
            if record and contestant.saves:
                self._note(contestant.name, "save", turn, ended - began, label)
                if contestant.asynchronous:
                    self._note(contestant.name, "blocking", turn, returned - began, label)
        for target in self._targets:
            self._restore(contestant, path, target, turn, label, record=record, watch=watch)

    def _restore(
        self, contestant: Any, path: str, target: Any, turn: int, label: str, **how: bool
    ) -> None:
        import jax

        gc.collect()
        if how["watch"]:
            with PeakMemory() as peak:
                found = jax.block_until_ready(contestant.restore(path, target.tree))
            self._note_memory(contestant.name, target.name, peak.extra, label)
        else:
            began = time.perf_counter()
            found = jax.block_until_ready(contestant.restore(path, target.tree))
            seconds = time.perf_counter() - began
            if how["record"]:
                self._note(contestant.name, target.name, turn, seconds, label)
        check(found, self._state, target.tree)

    def _note(self, name: str, what: str, turn: int, seconds: float, label: str) -> None:
        self.samples.add(name, what, turn, seconds)
        _say(self.workload.name, label, name, what, f"{seconds * 1e3:10.1f} ms")

    def _note_memory(self, name: str, what: str, extra: int, label: str) -> None:
        self.samples.memory.setdefault(name, {})[what] = extra
        _say(self.workload.name, label, name, what, f"{extra / 2**20:10.1f} MiB")


def main() -> None:
    """Build the state, warm up once, measure, look at memory once, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--dir", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="*", help="contestants by the beginning of their names")
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    import contestants
    import jax
    from workloads import WORKLOADS

    workload = WORKLOADS[args.workload]
    state = jax.block_until_ready(workload.build(args.quick))
    field, absent = contestants.all_contestants()
    if args.only:
        field = [c for c in field if c.name.startswith(tuple(args.only))]
    for name, reason in absent.items():
        _say(workload.name, "-", name, "absent", reason)
    os.makedirs(args.dir, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.dir, prefix="run-") as scratch:
        race = Race(workload, state, scratch, field)
        race.round(0, label="warm-up", record=False)
        for turn in range(args.rounds):
            race.round(turn, label=f"{turn + 1}/{args.rounds}", record=True)
        race.round(args.rounds, label="memory", record=False, watch=True)
    for contestant in field:
        contestant.close()
    leaves = jax.tree.leaves(state)
    size = {"leaves": len(leaves), "bytes": sum(leaf.nbytes for leaf in leaves)}
    with open(args.out, "w") as file:
        json.dump({**size, "absent": absent, **vars(race.samples)}, file)


if __name__ == "__main__":
    main()
