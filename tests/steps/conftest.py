# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests about many steps."""

import pytest


@pytest.fixture
def dead_owners(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the reboot nobody who wrote tokens lives."""
    monkeypatch.setattr("pertinax._store.leftovers.owner_alive", lambda token: False)
