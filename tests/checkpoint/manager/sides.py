# SPDX-License-Identifier: Apache-2.0
"""One program, two libraries: tests that take `ocp` run against ours and against the real one.

Knows how the two are imported, and a clock that both read. Knows nothing of what is tested.
"""

import contextlib
import datetime as dt
import importlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax.numpy as jnp
import numpy as np
import pytest

OURS = "pertinax.checkpoint"
THEIRS = "orbax.checkpoint"
BOTH = [OURS, pytest.param(THEIRS, marks=pytest.mark.interop)]


def library(name: str) -> Any:
    return importlib.import_module(name)


def tree(seed: int = 0) -> dict[str, Any]:
    return {"w": jnp.arange(6.0).reshape(2, 3) + seed, "n": {"b": jnp.full((3,), seed, jnp.int32)}}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return np.array_equal(np.asarray(one), np.asarray(other))


def names(root: Any) -> list[str]:
    return sorted(path.name for path in root.iterdir())


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)

    def advance(self, **interval: float) -> None:
        self.now += dt.timedelta(**interval)

    @contextlib.contextmanager
    def running(self) -> Iterator["Clock"]:
        clock = self

        class FakeDatetime(dt.datetime):
            @classmethod
            def now(cls, tz: Any = None) -> dt.datetime:
                return clock.now if tz is not None else clock.now.replace(tzinfo=None)

        with mock.patch.object(dt, "datetime", FakeDatetime):
            yield self
