# SPDX-License-Identifier: Apache-2.0
"""Tools to prove that a program, or a store, keeps its word.

Knows contracts and how to break what is below them. Knows nothing of one implementation.
"""

import pytest

pytest.register_assert_rewrite("pertinax.testing.store_tests")

from pertinax.testing.crashing import (  # noqa: E402  rewriting must be asked for before the import
    CrashingStore,
    FaultyStore,
    SimulatedDeath,
    read_tree,
)
from pertinax.testing.store_tests import ObjectStoreTests, StoreTests  # noqa: E402

__all__ = [
    "CrashingStore",
    "FaultyStore",
    "ObjectStoreTests",
    "SimulatedDeath",
    "StoreTests",
    "read_tree",
]
