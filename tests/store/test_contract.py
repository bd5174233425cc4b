# SPDX-License-Identifier: Apache-2.0
"""The three stores keep the contract."""

from pathlib import Path

import pytest

from pertinax._store.contract import Store
from pertinax._store.local import LocalStore
from pertinax._store.memory import MemoryStore
from pertinax.testing import CrashingStore, FaultyStore, StoreTests


class TestLocalStore(StoreTests):
    @pytest.fixture
    def store_and_root(self, tmp_path: Path) -> tuple[Store, str]:
        return LocalStore(), str(tmp_path)


class TestMemoryStore(StoreTests):
    @pytest.fixture
    def store_and_root(self) -> tuple[Store, str]:
        store = MemoryStore()
        store.make_dir("/root")
        return store, "/root"


class TestCrashingStore(StoreTests):
    @pytest.fixture
    def store_and_root(self) -> tuple[Store, str]:
        store = CrashingStore()
        store.make_dir("/root")
        return store, "/root"


class TestCrashingStoreWithoutExchange(StoreTests):
    @pytest.fixture
    def store_and_root(self) -> tuple[Store, str]:
        store = CrashingStore(exchange=False)
        store.make_dir("/root")
        return store, "/root"


class TestFaultyStoreWithoutFault(StoreTests):
    @pytest.fixture
    def store_and_root(self, tmp_path: Path) -> tuple[Store, str]:
        return FaultyStore(LocalStore(), fail_at=None, error=OSError(5, "never")), str(tmp_path)
