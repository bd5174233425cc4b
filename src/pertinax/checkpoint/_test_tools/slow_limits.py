# SPDX-License-Identifier: Apache-2.0
"""Byte limits that can be seen by the clock.

Knows one limiter that makes each user take its time. Knows nothing of files.
"""

import asyncio
import itertools
import time
import unittest
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pertinax.checkpoint._test_tools.handlers import PyTreeCheckpointHandler
from pertinax.checkpoint.serialization import LimitInFlightBytes
from pertinax.checkpoint.type_handlers import ArrayRestoreArgs


class TestLimitInFlightBytes(LimitInFlightBytes):
    """Everybody keeps their bytes for `sleep_time` seconds; `completion_times` says until when."""

    __test__ = False  # no test, whatever its name

    def __init__(self, limit_bytes: int, sleep_time: float) -> None:
        super().__init__(limit_bytes)
        self.sleep_time = sleep_time
        self.completion_times: list[float] = []

    async def wait_for_bytes(self, requested_bytes: int) -> None:
        """Wait for the bytes, and half of the time."""
        await super().wait_for_bytes(requested_bytes)
        await asyncio.sleep(self.sleep_time / 2)

    async def release_bytes(self, requested_bytes: int) -> None:
        """Wait for the other half, and give them back."""
        await asyncio.sleep(self.sleep_time / 2)
        self.completion_times.append(time.time())
        await super().release_bytes(requested_bytes)


def get_byte_limiter(concurrent_bytes: int, sleep_time: float) -> TestLimitInFlightBytes:
    """A limiter to put in the place of `serialization.get_byte_limiter`'s."""
    return TestLimitInFlightBytes(concurrent_bytes, sleep_time)


def concurrent_gb_test_setup() -> tuple[PyTreeCheckpointHandler, Any, Any]:
    """A handler, four arrays of 4 bytes on all devices, and the args to restore them so."""
    mesh = Mesh(np.asarray(jax.devices()), ("x",))
    everywhere = NamedSharding(mesh, PartitionSpec(None))
    zero = np.zeros(1, np.int32)
    tree = {
        name: jax.make_array_from_callback((1,), everywhere, zero.__getitem__) for name in "abcd"
    }
    restore_args = {name: ArrayRestoreArgs(sharding=everywhere) for name in tree}
    return PyTreeCheckpointHandler(use_ocdbt=False), tree, restore_args


def assert_every_n_is_x_apart(
    testclass: unittest.TestCase, values: Sequence[float], n: int, x: float
) -> None:
    """Assert that `values` are groups of `n`, each beginning at least `x` after the one before."""
    testclass.assertEqual(len(values) % n, 0)
    firsts = values[::n]
    for before, after in itertools.pairwise(firsts):
        testclass.assertGreaterEqual(after, before + x)
