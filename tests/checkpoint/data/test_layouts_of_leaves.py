# SPDX-License-Identifier: Apache-2.0
"""Where arrays lie after a restore: where one asks, or where they were."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from pertinax import checkpoint as ocp
from tests.checkpoint.data.twins import mesh, same, sharded


def permuted() -> NamedSharding:
    devices = np.array(jax.devices())[[3, 1, 0, 2, 7, 6, 5, 4]].reshape(4, 2)
    return NamedSharding(Mesh(devices, ("a", "b")), PartitionSpec("a"))


LAYOUTS = {
    "other axes": lambda: NamedSharding(mesh(), PartitionSpec("b", "a")),
    "another mesh": lambda: NamedSharding(
        Mesh(np.array(jax.devices()[:4]).reshape(4), ("z",)), PartitionSpec(None, "z")
    ),
    "permuted": permuted,
    "one device": lambda: SingleDeviceSharding(jax.devices()[5]),
}


@pytest.mark.row("R035")
@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("stored", ["sharded", "numpy"])
def test_an_array_has_exactly_the_layout_that_was_asked_for(name: str, stored: str, tmp_path: Path):
    layout, array = LAYOUTS[name](), sharded(PartitionSpec("a"))
    value = array if stored == "sharded" else np.asarray(array)
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "it", {"x": value})
        args = {"x": ocp.ArrayRestoreArgs(restore_type=jax.Array, sharding=layout)}
        found = checkpointer.restore(tmp_path / "it", item={"x": 0}, restore_args=args)["x"]
    assert found.sharding == layout
    assert np.array_equal(found, array)


@pytest.mark.row("R095")
@pytest.mark.parametrize("spec", [("a",), ("b", "a"), (), (None, "b")], ids=str)
def test_an_array_that_nobody_places_goes_where_it_was_with_a_warning(
    spec: tuple[Any, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    array = sharded(PartitionSpec(*spec))
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "it", {"x": array, "y": array + 1})
        found = checkpointer.restore(tmp_path / "it")
        warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
        args = ocp.checkpoint_utils.construct_restore_args(found)
        caplog.clear()
        same(checkpointer.restore(tmp_path / "it", item=found, restore_args=args), found)
    assert found["x"].sharding == array.sharding
    assert len([text for text in warnings if "depends on the same devices" in text]) == 1
    assert "same devices" not in caplog.text  # who gives layouts is not warned


@pytest.mark.row("R284")
def test_the_order_of_the_devices_of_a_mesh_is_kept(tmp_path: Path):
    array = jax.device_put(jnp.arange(8.0), permuted())
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "it", {"x": array})
        layout = checkpointer.restore(tmp_path / "it")["x"].sharding
    assert layout == permuted()
    assert [device.id for device in layout.mesh.devices.flat] == [3, 1, 0, 2, 7, 6, 5, 4]
