# SPDX-License-Identifier: Apache-2.0
"""Arrays leave a device in one of two ways, and the caller says which."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pertinax import checkpoint as door
from pertinax._device import transfer


@pytest.mark.row("R304")
@pytest.mark.parametrize(("pinned", "kind"), [(True, "pinned_host"), (False, "device")])
def test_page_locked_memory_is_used_if_it_is_wanted(pinned, kind):
    array = jax.device_put(jnp.arange(100_000), jax.devices()[3])
    found = transfer.start_transfer(array, pinned=pinned)
    assert found.sharding.memory_kind == kind
    assert found.devices() == array.devices()
    assert np.array_equal(found, array)


def test_arrays_of_a_cpu_and_of_numpy_stay_where_they_are():
    assert transfer.lies_on_host("cpu")
    assert transfer.lies_on_host(None)
    assert not transfer.lies_on_host("gpu")


@pytest.mark.row("R304", "R305")
@pytest.mark.parametrize("pinned", [True, False])
def test_the_option_of_a_save_reaches_the_transfer_of_its_large_arrays(
    tmp_path, monkeypatch, pinned
):
    # The CPU has page-locked memory too; only its arrays need not be moved there.
    monkeypatch.setattr(transfer, "lies_on_host", lambda platform: platform is None)
    kinds = {}
    start = transfer.start_transfer

    def noted(array, *, pinned):
        found = start(array, pinned=pinned)
        kinds[array.nbytes] = found.sharding.memory_kind
        return found

    monkeypatch.setattr(transfer, "start_transfer", noted)
    tree = {"large": jnp.arange(50_000.0), "small": jnp.arange(3.0), "numpy": np.arange(4)}
    with door.Checkpointer(door.PyTreeCheckpointHandler()) as checkpointer:
        args = door.args.PyTreeSave(tree, enable_pinned_host_transfer=pinned)
        checkpointer.save(tmp_path / "c", args=args)
        restored = checkpointer.restore(tmp_path / "c")
    assert kinds == {200_000: "pinned_host" if pinned else "device", 12: "device"}
    assert jax.tree.all(jax.tree.map(np.array_equal, restored, tree))
    assert not hasattr(door.SaveArgs(), "enable_pinned_host_transfer")
