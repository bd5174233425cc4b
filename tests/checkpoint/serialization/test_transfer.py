# SPDX-License-Identifier: Apache-2.0
"""From devices to the host: whose shards, in which order, through which memory."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pertinax.checkpoint import serialization
from pertinax.checkpoint.arrays.fragments import Fragments
from pertinax.checkpoint.serialization import transfer


def sharded(spec: PartitionSpec, dtype: Any = jnp.float32) -> jax.Array:
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b"))
    value = jnp.arange(32).astype(dtype).reshape(8, 4)
    return jax.device_put(value, NamedSharding(mesh, spec))


SPECS = [PartitionSpec(), PartitionSpec("a"), PartitionSpec("b", "a"), PartitionSpec(("a", "b"))]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("replica_id", [0, None])
def test_one_replica_holds_each_element_once(spec: PartitionSpec, replica_id: int | None):
    array = sharded(spec)
    shards = serialization.get_unique_shards(array, replica_id)
    counts = np.zeros(array.shape, int)
    for shard in shards:
        counts[shard.index] += 1
    assert (counts == 1).all()
    (fragments,) = serialization.transfer_arrays_to_host([array], replica_id)
    assert np.array_equal(np.asarray(fragments), np.asarray(array))
    assert fragments.dtype == np.dtype("f4")


def test_other_replicas_can_be_asked_for():
    array = sharded(PartitionSpec("a"))
    assert len(serialization.get_unique_shards(array, 1)) == 4
    assert serialization.get_unique_shards(array, 2) == []
    (nothing,) = serialization.transfer_arrays_to_host([array], 2)
    assert nothing.fragments == []


def test_on_the_cpu_fragments_are_views_that_outlive_the_array():
    array = jax.device_put(jnp.arange(1000.0), jax.devices()[0])
    (fragments,) = serialization.transfer_arrays_to_host([array], 0)
    value = fragments.fragments[0].value
    assert value is not None
    assert value.ctypes.data == np.asarray(array).ctypes.data
    array.delete()
    assert np.array_equal(value, np.arange(1000.0))


def test_shards_become_fragments():
    array = sharded(PartitionSpec("b", "a"), jnp.bfloat16)
    found = serialization.shards_to_fragments(
        array.addressable_shards, array.shape, np.dtype(array.dtype)
    )
    assert isinstance(found, Fragments)
    assert np.array_equal(np.asarray(found), np.asarray(array))


@pytest.mark.row("R304")
@pytest.mark.parametrize(("pinned", "kind"), [(True, "pinned_host"), (False, "device")])
def test_pinned_memory_is_used_if_it_is_wanted(
    pinned: bool, kind: str, monkeypatch: pytest.MonkeyPatch
):
    # The CPU has pinned memory as well; only its arrays need not be moved there.
    monkeypatch.setattr(transfer, "_lies_on_the_host", lambda _: False)
    started: list[Any] = []
    start = transfer._start_transfer
    monkeypatch.setattr(
        transfer, "_start_transfer", lambda *given: started.append(start(*given)) or started[-1]
    )
    array = sharded(PartitionSpec("a"))
    (fragments,) = serialization.transfer_arrays_to_host(
        [array], 0, enable_pinned_host_transfer=pinned
    )
    assert {shard.data.sharding.memory_kind for shard in started} == {kind}
    assert np.array_equal(np.asarray(fragments), np.asarray(array))


@pytest.mark.row("R242")
def test_all_copies_are_started_before_one_is_awaited(monkeypatch: pytest.MonkeyPatch):
    events: list[str] = []
    start, finish = transfer._start_transfer, transfer.shards_to_fragments

    def noted(name: str, act: Any) -> Any:
        def call(*arguments: Any) -> Any:
            events.append(name)
            return act(*arguments)

        return call

    monkeypatch.setattr(transfer, "_start_transfer", noted("start", start))
    monkeypatch.setattr(transfer, "shards_to_fragments", noted("wait", finish))
    arrays = [sharded(PartitionSpec("a")), sharded(PartitionSpec()), jnp.ones(3)]
    serialization.transfer_arrays_to_host(arrays, 0)
    assert events == ["start"] * 6 + ["wait"] * 3
