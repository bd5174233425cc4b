# SPDX-License-Identifier: Apache-2.0
"""Damage anywhere in the newest step: with `fallback=True` the step before comes back, and that is
said.
"""

import os

import pytest

from pertinax import Manager
from pertinax._store.memory import MemoryStore
from pertinax.errors import PertinaxError
from pertinax.testing.trees import differences
from tests.corruption.scenes import damages, plain, rich

pytestmark = [pytest.mark.crash, pytest.mark.slow]

ROOT = "/run"


def run_of(newest):
    """Steps 1 and 2; only 2 is damaged, so 1 may be as small as can be."""
    store = MemoryStore()
    with Manager(ROOT, store=store) as manager:
        manager.save(1, plain(1), metrics={"loss": 1.0})
        manager.save(2, newest, metrics={"loss": 2.0})
    return store


def in_newest(words):
    return words.count(f"{ROOT}/2/") == words.count(ROOT)


@pytest.mark.parametrize("tree", [plain, rich])
@pytest.mark.parametrize("limit", [6, pytest.param(120, marks=pytest.mark.campaign)])
def test_the_step_before_comes_back_and_is_named(tree, limit, campaign_size):
    seed = int(os.environ.get("PERTINAX_SEED", "0"))
    back = 0
    for words, damaged in damages(run_of(tree(2)), run_of(tree(3)), limit, seed):
        if not in_newest(words):
            continue
        found = Manager(ROOT, store=damaged).restore(fallback=True)
        back += 1
        assert found.step == 1, words
        assert differences(plain(1), found.tree) == [], words
        (over,) = found.passed_over
        assert over.step == 2, words
        assert isinstance(over.error, PertinaxError), words
        assert "step 2" in str(over), words
    campaign_size("corruption: fallback to the step before", back)
    assert back > 70
