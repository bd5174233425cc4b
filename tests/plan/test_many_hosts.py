# SPDX-License-Identifier: Apache-2.0
"""Plans and metadata of jobs of thousands of processes: what each does grows with its own part.

Operations are counted, not timed: calls of functions, Python's and C's. The figures are printed by
`bench/simulate_hosts.py`, which this plays with.
"""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_FILE = Path(__file__).parents[2] / "bench" / "simulate_hosts.py"


@pytest.fixture(scope="module")
def bench() -> Any:
    spec = importlib.util.spec_from_file_location("simulate_hosts", _FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["simulate_hosts"] = module
    spec.loader.exec_module(module)
    return module


def calls_of(work: Callable[[], Any]) -> int:
    count = 0

    def note(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def test_a_process_plans_its_own_part_whatever_the_number_of_processes(bench: Any) -> None:
    """64 and 4,096 processes: the same boxes, sixty-four times as many devices.

    Some more is done where more replicas share one box: its parts are given out one by one.
    """
    few, many = bench.Job(8, 8, 4), bench.Job(8, 8, 256)
    assert (few.count, many.count) == (64, 4096)
    few_calls = calls_of(lambda: few.plan(5))
    plan, _ = many.plan(5)
    assert 0 < len(plan.pieces) < 2000
    assert calls_of(lambda: many.plan(5)) < 3 * few_calls


def test_more_boxes_cost_a_process_nothing_if_it_holds_as_many_as_before(bench: Any) -> None:
    few, many = bench.Job(4, 8, 2), bench.Job(128, 8, 2)
    assert calls_of(lambda: many.plan(5)) < 1.2 * calls_of(lambda: few.plan(5))


def test_joining_and_writing_down_cost_the_same_for_each_chunk(bench: Any) -> None:
    def each(job: Any) -> tuple[int, float, float]:
        parts = []
        for process in range(job.count):
            plan, shapes = job.plan(process, afresh=False)
            parts.append(bench.table_of(plan, process))
        leaves = job.leaves(shapes)
        made: list[Any] = []
        calls = calls_of(lambda: made.append(bench.join(job, leaves, parts, bench.Clock())))
        joined, ledger, _ = made[0]
        checksums = int(bench.block_counts(joined.length).sum()) * 16 / 3
        return len(joined), calls / len(joined), (len(ledger) - checksums) / len(joined)

    few_chunks, few_calls, few_bytes = each(bench.Job(2, 2, 4))
    many_chunks, many_calls, many_bytes = each(bench.Job(4, 4, 4))
    assert many_chunks > 3 * few_chunks > 3_000
    assert many_calls < 1.1 * few_calls < 30
    assert many_bytes < few_bytes < 60
