# SPDX-License-Identifier: Apache-2.0
"""What saves and loads need beside the state: the budget and one chunk, and no copy of it.

`bench/peaks.py` measures the same for states of gigabytes; docs/reliability.md has its table.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest

import pertinax

MIB = 1 << 20
BUDGET = 16 * MIB
CHUNK = 8 * MIB
SLACK = 8 * MIB  # what allocators and the interpreter keep
LEAF = 3 << 10  # for what is noted of each leaf while it is saved

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="asks Linux"),
]
NEEDS_NOTHING = [
    *("save", "save_async", "save of numpy arrays", "save of small arrays"),
    *("save through the door", "load", "load, read", "load padded", "restore through the door"),
]
NEEDS_THE_BUDGET = [
    *("save zstd", "load cast", "load cast, read", "load padded, read"),
    *("load resharded", "load resharded, read", "load zstd", "load zstd resharded"),
]


@pytest.fixture(scope="module")
def extra(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, int]]:
    """Bytes beyond what there was before, and the number of leaves, of each case."""
    command = [sys.executable, "-m", "tests.core.memory_cases"]
    command.append(str(tmp_path_factory.mktemp("memory")))
    source = str(pathlib.Path(pertinax.__file__).parents[1])
    paths = os.pathsep.join([source, ".", os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths}
    )
    assert done.returncode == 0
    found = map(json.loads, done.stdout.splitlines())
    return {one["name"]: (one["extra"], one["leaves"]) for one in found}


@pytest.mark.parametrize("name", NEEDS_NOTHING)
def test_what_needs_no_copy_makes_none(extra: dict[str, tuple[int, int]], name: str) -> None:
    """Of a state of 128 MiB."""
    used, leaves = extra[name]
    assert used <= SLACK + CHUNK + leaves * LEAF


@pytest.mark.parametrize("name", NEEDS_THE_BUDGET)
def test_no_more_than_the_budget_and_a_chunk(extra: dict[str, tuple[int, int]], name: str) -> None:
    used, _ = extra[name]
    assert used <= BUDGET + CHUNK + SLACK


def test_every_case_is_looked_at_and_a_copy_would_be_seen(
    extra: dict[str, tuple[int, int]],
) -> None:
    assert extra.pop("a copy")[0] > 100 * MIB
    assert extra.keys() == {*NEEDS_NOTHING, *NEEDS_THE_BUDGET}
