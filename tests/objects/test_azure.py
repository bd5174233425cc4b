# SPDX-License-Identifier: Apache-2.0
"""A sample, for every run of the tests, of what `make azure` does with all tests of buckets: in
containers of Azure a checkpoint is what it is elsewhere.
"""

import contextlib

import jax.numpy as jnp
import numpy as np
import pytest

import pertinax
from pertinax import checkpoint as ocp
from pertinax._store.objects.store import MARKER
from pertinax.errors import CheckpointExists
from pertinax.testing import ObjectStoreTests
from tests.objects.faults import Fault, FaultProxy, Rule

TREE = {"w": np.arange(700_000, dtype=np.float32), "small": [np.arange(9), 3, "text"]}


class TestContainer(ObjectStoreTests):
    @pytest.fixture
    def store_and_root(self, az) -> tuple[pertinax.ObjectStore, str]:
        root = f"{az.new_root()}/root"
        return pertinax.ObjectStore(root), root


def is_whole(url: str) -> bool:
    back = pertinax.load(url)
    return np.array_equal(back["w"], TREE["w"]) and back["small"][1:] == [3, "text"]


@pytest.mark.parametrize("scheme", ["az", "abfs"])
def test_a_checkpoint_lives_in_a_container(az, scheme):
    """Files above 64 KiB are known by a listing, whose ETags have no quotes; those of ranges do."""
    url = f"{scheme}://{az.new_bucket()}/run/a"
    assert pertinax.save(url, TREE) == url
    assert is_whole(url)
    assert pertinax.verify(url).ok
    with pytest.raises(CheckpointExists):
        pertinax.save(url, TREE)


def test_a_large_file_goes_up_in_blocks(az):
    url = f"{az.new_root()}/large"
    tree = {"w": np.random.default_rng(0).integers(0, 255, 40 << 20, np.uint8)}
    with FaultProxy(az.port) as proxy, az.behind(proxy.port).in_environment():
        pertinax.save(url, tree)
    assert sum("blockid" in one.query for one in proxy.seen) == 3
    np.testing.assert_array_equal(pertinax.load(url)["w"], tree["w"])


def test_both_managers_keep_steps_in_a_container(az):
    root = f"{az.new_root()}/run"
    with pertinax.Manager(f"{root}/front", keep=2) as manager:
        for step in range(3):
            manager.save(step, {"n": step})
        manager.wait()
        assert manager.steps() == [1, 2]
    options = ocp.CheckpointManagerOptions(max_to_keep=1)
    with ocp.CheckpointManager(f"{root}/door", options=options) as kept:
        for step in range(2):
            kept.save(step, args=ocp.args.StandardSave({"w": jnp.arange(3.0) + step}))
        kept.wait_until_finished()
        assert list(kept.all_steps()) == [1]
        np.testing.assert_array_equal(kept.restore(1)["w"], [1.0, 2.0, 3.0])
    assert not [key for key in az.keys(f"{root}/front") if key.startswith("0/")]


def test_objects_go_in_batches_of_what_the_service_takes(az):
    store = pertinax.ObjectStore(az.new_root())
    names = [f"run/leaf.{i:03d}" for i in range(300)]
    for name in names:
        store.requests.create(name, b"x")
    with FaultProxy(az.port) as proxy, az.behind(proxy.port).in_environment():
        pertinax.ObjectStore(store.absolute("")).requests.delete([*names, "run/nothing"])
    assert [one.method for one in proxy.seen[:2]] == ["POST", "POST"]
    assert list(store.requests.list("run")) == []


@pytest.mark.parametrize("fault", [Fault.BUSY, Fault.RESET_AFTER, Fault.LOST_REPLY])
def test_trouble_at_the_marker_is_overcome(az, fault):
    with FaultProxy(az.port, pause_s=0.02) as proxy, az.behind(proxy.port).in_environment():
        url = f"{az.new_root()}/run"
        with proxy.suffering(Rule(fault, "PUT", f"/{MARKER}", times=1)):
            pertinax.save(url, TREE)
        assert any(one.fault is fault for one in proxy.seen)
        assert all(
            one.creates_only
            for one in proxy.seen
            if one.path.endswith(f"run/{MARKER}") and one.writes
        )
    assert is_whole(url)


def test_no_wrong_byte_comes_out_of_a_container(az):
    with FaultProxy(az.port, pause_s=0.02) as proxy, az.behind(proxy.port).in_environment():
        url = f"{az.new_root()}/run"
        pertinax.save(url, TREE)
        for fault in (Fault.TRUNCATED, Fault.SHORT, Fault.FLIPPED, Fault.WRONG_ETAG):
            rule = Rule(fault, "GET", key="/d/", times=1)
            with proxy.suffering(rule), contextlib.suppress(pertinax.errors.PertinaxError):
                assert is_whole(url)
            assert any(one.fault is fault for one in proxy.seen)
    assert is_whole(url)
