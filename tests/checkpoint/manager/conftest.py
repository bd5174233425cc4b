# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the manager's tests: the library under test, and a root that does not exist yet."""

import pathlib
from typing import Any

import pytest

from tests.checkpoint.manager import sides


@pytest.fixture(params=sides.BOTH)
def ocp(request: pytest.FixtureRequest) -> Any:
    return sides.library(request.param)


@pytest.fixture
def ours() -> Any:
    return sides.library(sides.OURS)


@pytest.fixture
def theirs() -> Any:
    return sides.library(sides.THEIRS)


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "root"
