# SPDX-License-Identifier: Apache-2.0
"""What a save plans before anything is written."""

import numpy as np
import pytest

import pertinax
from pertinax._core import prepare as module
from pertinax._plan.topology import ALONE
from pertinax._store.memory import MemoryStore


def test_a_long_array_of_a_prime_length_is_not_cut_into_its_elements(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_TENSORSTORE_FILE_BYTES", 1 << 20)
    array = np.arange(1048583) % 251
    content = module.prepare(array, module.SaveOptions(), "borrow", ALONE)
    assert len(content.plan.pieces) == 1
    store = MemoryStore()
    pertinax.save("/c", array, store=store)
    assert np.array_equal(pertinax.load("/c", store=store), array)
