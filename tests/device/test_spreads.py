# SPDX-License-Identifier: Apache-2.0
"""Who holds which box: worked out by columns and device by device alike."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from pertinax._device.shardings import box_of
from pertinax._device.spreads import Lay, Spreads
from pertinax._plan.boxes import Box
from pertinax._plan.topology import ALONE
from pertinax.testing import trees as forest


class OneByOne(Sharding):
    """A sharding of which nobody can know more than where each device's part is."""

    def __init__(self, inner: Sharding) -> None:
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def devices_indices_map(self, shape):
        return self.inner.devices_indices_map(shape)


class Disguised:
    """An array as it is, but for its sharding."""

    def __init__(self, array: jax.Array) -> None:
        self.sharding = OneByOne(array.sharding)
        self.shape = array.shape
        self.addressable_shards = array.addressable_shards


def facts(lay: Lay) -> object:
    spread = lay.spread
    return spread.seating, spread.boxes, spread.first, spread.even, lay.positions


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_by_columns_and_one_by_one_are_the_same(data):
    shape = data.draw(st.sampled_from([(8,), (16, 24), (8, 3, 4), (24, 1), (8, 8, 8)]))
    sharding = data.draw(forest.shardings(shape).filter(lambda s: len(s.device_set) > 1))
    array = jax.device_put(np.arange(int(np.prod(shape))).reshape(shape), sharding)
    lay = Spreads(ALONE).of(array)
    assert facts(lay) == facts(Spreads(ALONE).of(Disguised(array)))
    held = [array.addressable_shards[i] for i in lay.positions]
    assert [box_of(shard.index, shape) for shard in held] == list(lay.spread.boxes)
    assert {shard.replica_id for shard in held} == {0}


@pytest.mark.parametrize("spec", [(("y", "x"),), (None, "y"), ("y",), ("x", "y"), ()])
def test_a_mesh_in_another_order(spec):
    devices = np.array(jax.devices())[[3, 1, 0, 2, 7, 5, 6, 4]].reshape(2, 4)
    sharding = NamedSharding(Mesh(devices, ("x", "y")), PartitionSpec(*spec))
    array = jax.device_put(np.arange(64).reshape(8, 8), sharding)
    lay = Spreads(ALONE).of(array)
    assert facts(lay) == facts(Spreads(ALONE).of(Disguised(array)))
    for box, position in zip(lay.spread.boxes, lay.positions, strict=True):
        wanted = np.arange(64).reshape(8, 8)[box.slices]
        assert np.array_equal(np.asarray(array.addressable_data(position)), wanted)


def test_arrays_that_lie_alike_are_worked_out_once():
    mesh = Mesh(np.array(jax.devices()), ("x",))
    spreads = Spreads(ALONE)
    one, other = (
        jax.device_put(np.zeros((8, 2)), NamedSharding(mesh, PartitionSpec("x"))) for _ in range(2)
    )
    assert spreads.of(one) is spreads.of(other)
    assert spreads.of(one).spread.boxes[3] == Box((3, 0), (4, 2))
