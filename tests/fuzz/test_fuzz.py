# SPDX-License-Identifier: Apache-2.0
"""Hostile files: whatever the bytes are, each parser gives a value or a typed error, within bounds
of memory and time.
"""

import os
import random
import time
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, Guarded, words_of

pytestmark = pytest.mark.crash

MOST_BYTES = 64 << 20
MOST_SECONDS = 5.0
NAMES = sorted(TARGETS)


def forged(name: str, rng: random.Random) -> bytes:
    """Good input with some pieces replaced by noise, by pieces from elsewhere, or by nothing."""
    seeds, words = TARGETS[name].seeds, words_of(name)
    data = rng.choice(seeds)
    for _ in range(rng.randint(1, 4)):
        begin = rng.randint(0, len(data))
        end = begin + rng.choice([0, 1, 1, 2, 4, 8, 40])
        other = rng.choice(seeds)
        cut = rng.randint(0, len(other))
        strange = [b"\xff" * 9, b"\x80" * 10 + b"\1", bytes(8), b"[" * 5000]
        pieces = [rng.randbytes(rng.randint(0, 4)), rng.choice(words), other[cut : cut + 30]]
        data = data[:begin] + rng.choice([*pieces, *pieces, rng.choice(strange)]) + data[end:]
    return data


@pytest.mark.parametrize("name", NAMES)
def test_good_input_is_understood(name: str) -> None:
    assert TARGETS[name].seeds
    for good in TARGETS[name].seeds:
        assert TARGETS[name](good)


@pytest.mark.parametrize("name", NAMES)
def test_forged_input_is_read_or_refused(name: str) -> None:
    _try(name, 6 if name == "item" else 25)


@pytest.mark.campaign
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_campaign_forged_input(name: str, campaign_size: Callable[..., None]) -> None:
    count = 500 if name == "item" else 3000
    _try(name, count)
    campaign_size("fuzzing: hypothesis", count)


def _try(name: str, examples: int) -> None:
    slowest = 0.0

    @settings(deadline=None, max_examples=examples, suppress_health_check=list(HealthCheck))
    @seed(int(os.environ.get("PERTINAX_SEED", "0")))
    @given(st.integers(0, 2**64))
    def attempt(number: int) -> None:
        nonlocal slowest
        data = forged(name, random.Random(number))
        begun_s = time.process_time()
        TARGETS[name](data)
        slowest = max(slowest, time.process_time() - begun_s)

    tracemalloc.start()
    try:
        attempt()
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()
    assert slowest < MOST_SECONDS


def test_the_guard_can_fail() -> None:
    store = Guarded(None, "/c")  # type: ignore[arg-type]
    for path in ("/d/x", "/c/../x", "/cc"):
        with pytest.raises(AssertionError):
            store.open(path)
