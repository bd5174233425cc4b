# SPDX-License-Identifier: Apache-2.0
"""A bucket keeps the contract of a store, as far as there are no directories in it."""

import pytest

from pertinax._store.contract import Store
from pertinax._store.objects.store import ObjectStore
from pertinax.testing import ObjectStoreTests
from tests.objects.buckets import FRONT, Memory, Shelf, bucket
from tests.objects.servers import ObjectServer


class TestBucketInMemory(ObjectStoreTests):
    @pytest.fixture
    def store_and_root(self, request: pytest.FixtureRequest) -> tuple[Store, str]:
        root = f"memory://contract/{request.node.name}"
        return ObjectStore(root), root


class TestOurOwnBucketForTests(ObjectStoreTests):
    @pytest.fixture
    def store_and_root(self) -> tuple[Store, str]:
        return bucket(Memory(Shelf())), f"{FRONT}/root"


@pytest.mark.interop
class TestServers(ObjectStoreTests):
    @pytest.fixture
    def store_and_root(
        self, cloud: ObjectServer, request: pytest.FixtureRequest
    ) -> tuple[Store, str]:
        root = f"{cloud.new_root()}/root"
        return ObjectStore(root), root
