# SPDX-License-Identifier: Apache-2.0
"""The program's registry is put back after each test."""

from collections.abc import Iterator

import pytest

from pertinax.checkpoint.type_handlers import GLOBAL_TYPE_HANDLER_REGISTRY as REGISTRY


@pytest.fixture(autouse=True)
def registry_as_it_was() -> Iterator[None]:
    entries, names = list(REGISTRY._type_registry), dict(REGISTRY._by_typestr)
    yield
    REGISTRY._type_registry, REGISTRY._by_typestr = entries, names
