# SPDX-License-Identifier: Apache-2.0
"""Saving and loading through a network that fails: never a wrong byte, never published twice, an
end in bounded time, and an error that says what went wrong.

`PERTINAX_SEED` begins the campaign elsewhere.
"""

import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import pertinax
from pertinax.errors import (
    CheckpointExists,
    CheckpointNotFound,
    PertinaxError,
    UnfinishedCheckpoint,
)
from tests.objects.faults import Fault, FaultProxy, Rule
from tests.objects.servers import ObjectServer

pytestmark = [pytest.mark.crash, pytest.mark.slow]

PASSING = sorted(set(Fault) - {Fault.SILENCE}, key=lambda fault: fault.name)
MARKER = "commit_success.txt"
LONGEST_S = 150.0  # retries of data end after two minutes
SEED = int(os.environ.get("PERTINAX_SEED", "0"))


def state(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    leaves = {f"leaf{i}": rng.standard_normal(100 + i) for i in range(12)}
    return {**leaves, "large": rng.integers(0, 255, 3 << 20, np.uint8), "n": seed}


def is_same(found: Any, seed: int) -> bool:
    wanted = state(seed)
    return sorted(found) == sorted(wanted) and all(
        np.array_equal(np.asarray(found[name]), np.asarray(wanted[name])) for name in wanted
    )


@pytest.fixture
def proxy(server: ObjectServer) -> Iterator[FaultProxy]:
    with FaultProxy(server.port, pause_s=0.02) as proxy, server.behind(proxy.port).in_environment():
        yield proxy


def attempt(act: Any) -> BaseException | None:
    """The error of `act`, if it fails as we promise to."""
    begin_s = time.monotonic()
    error = None
    try:
        act()
    except (PertinaxError, OSError) as raised:
        error = raised
    assert time.monotonic() - begin_s < LONGEST_S
    assert error is None or str(error).strip()
    return error


def save_load_and_look(url: str, proxy: FaultProxy, rules: list[Rule], seed: int) -> None:
    """One case of the campaign."""
    with proxy.suffering(*rules):
        error = attempt(lambda: pertinax.save(url, state(seed)))
    try:
        kept = pertinax.load(url)
    except (CheckpointNotFound, UnfinishedCheckpoint):
        assert error is not None, "the save has said that it is there"
        # What was decided before the connection broke is completed, not written again.
        again = attempt(lambda: pertinax.save(url, state(seed)))
        assert again is None or isinstance(again, CheckpointExists), "what failed is in the way"
        kept = pertinax.load(url)
    assert is_same(kept, seed)
    with pytest.raises(CheckpointExists):
        pertinax.save(url, state(seed + 1))
    found: list[Any] = []
    with proxy.suffering(*rules):
        error = attempt(lambda: found.append(pertinax.load(url)))
    if error is None:
        assert is_same(found[0], seed), "wrong bytes came back, and nobody said so"
    with proxy.suffering(*rules):
        attempt(lambda: pertinax.verify(url))
    assert is_same(pertinax.load(url), seed)


def rules_of(fault: Fault, seed: int) -> list[Rule]:
    """A fault at one request in four, at some requests of a kind, or at the marker."""
    return {
        0: [Rule(fault, chance=0.25, seed=seed)],
        1: [Rule(fault, "PUT|POST", times=2, skip=seed % 7)],
        2: [Rule(fault, "PUT", MARKER, times=1), Rule(fault, "GET|HEAD", times=2, skip=seed % 5)],
        3: [Rule(fault, "PUT", r"\.end$|attempt", times=1), Rule(fault, chance=0.05, seed=seed)],
    }[seed % 4]


@pytest.mark.parametrize("fault", PASSING, ids=lambda fault: fault.name)
def test_a_fault_costs_time_and_nothing_else(server, proxy, fault):
    """One case a fault, another one each time the seed goes up; `campaign` has many."""
    seed = SEED + PASSING.index(fault)
    save_load_and_look(f"{server.new_root()}/run", proxy, rules_of(fault, seed), seed)


@pytest.mark.campaign
@pytest.mark.timeout(0)
@pytest.mark.parametrize("seed", range(SEED, SEED + 12))
@pytest.mark.parametrize("fault", PASSING, ids=lambda fault: fault.name)
def test_faults_of_all_kinds_at_many_places(server, proxy, fault, seed):
    save_load_and_look(f"{server.new_root()}/run", proxy, rules_of(fault, seed), seed)


@pytest.mark.parametrize("fault", [Fault.RESET_AFTER, Fault.LOST_REPLY], ids=lambda one: one.name)
def test_a_lost_reply_to_the_marker_is_found_out(server, proxy, fault):
    url = f"{server.new_root()}/run"
    with proxy.suffering(Rule(fault, "PUT", MARKER, times=1)):
        pertinax.save(url, state(1))
    assert is_same(pertinax.load(url), 1)


@pytest.mark.parametrize("seed", range(SEED, SEED + 2))
def test_of_two_writers_one_publishes(server, proxy, seed):
    url = f"{server.new_root()}/run"
    errors: dict[int, BaseException | None] = {}
    start = threading.Barrier(2)

    def write(number: int) -> None:
        start.wait()
        errors[number] = attempt(lambda: pertinax.save(url, state(number)))

    threads = [threading.Thread(target=write, args=(number,)) for number in (1, 2)]
    with proxy.suffering(Rule(Fault.RESET_AFTER, chance=0.1, seed=seed)):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    won = [number for number, error in errors.items() if error is None]
    assert len(won) <= 1, "both were told that theirs is there"
    try:
        kept = pertinax.load(url)
    except (CheckpointNotFound, UnfinishedCheckpoint):
        assert not won
    else:
        assert is_same(kept, won[0] if won else int(kept["n"]))
    markers = [one for one in proxy.seen if one.writes and one.path.endswith(MARKER)]
    assert all(one.creates_only for one in markers)


def test_a_manager_lives_on_after_bad_days(server, proxy):
    root = f"{server.new_root()}/run"
    with pertinax.Manager(root, keep=2, background=False) as manager:
        saved: list[int] = []
        for step in range(4):
            with proxy.suffering(Rule(Fault.BUSY, chance=0.15, seed=SEED + step)):
                if attempt(lambda step=step: manager.save(step, {"n": step})) is None:
                    saved.append(step)
        assert saved
    with pertinax.Manager(root) as again:
        assert again.latest() == saved[-1]
        assert again.load() == {"n": saved[-1]}


def test_silence_ends_in_a_clear_error(gcs_server):
    with FaultProxy(gcs_server.port) as proxy, gcs_server.behind(proxy.port).in_environment():
        check_silence(f"{gcs_server.new_root()}/run", proxy)


def check_silence(url: str, proxy: FaultProxy) -> None:
    pertinax.save(url, {"n": 1})
    with proxy.suffering(Rule(Fault.SILENCE)):
        begin_s = time.monotonic()
        error = attempt(lambda: pertinax.load(url))
        assert time.monotonic() - begin_s < 60
    assert error is not None
    assert url in str(error)
