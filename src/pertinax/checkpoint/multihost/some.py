# SPDX-License-Identifier: Apache-2.0
"""One process tells others arrays, by one computation on one device of each.

Knows bytes and devices. Knows nothing of who the processes are.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def broadcast_among(devices: Sequence[Any], in_tree: Any, *, is_source: bool) -> Any:
    """The source's arrays, as numpy, on the process of each device.

    All these processes call it with the same devices, shapes and dtypes. Bytes are sent, not
    numbers: dtypes, -0.0 and each NaN stay what they are.
    """
    leaves, treedef = jax.tree.flatten(in_tree)
    arrays = [np.asarray(leaf) for leaf in leaves]
    own = np.concatenate(
        [np.zeros(0, np.uint8), *(np.frombuffer(array.tobytes(), np.uint8) for array in arrays)]
    )
    got = own if len(devices) == 1 else _send(devices, own if is_source else np.zeros_like(own))
    out: list[Any] = []
    start = 0
    for array in arrays:
        stop = start + array.nbytes
        out.append(np.frombuffer(got[start:stop].tobytes(), array.dtype).reshape(array.shape))
        start = stop
    return jax.tree.unflatten(treedef, out)


def _send(devices: Sequence[Any], own: Any) -> Any:
    """The sum of all processes' bytes, all but one of which are zero."""
    mesh = Mesh(np.array(devices, dtype=object), ("process",))
    rows = NamedSharding(mesh, PartitionSpec("process"))
    local = [device for device in devices if device.process_index == jax.process_index()]
    parts = [jax.device_put(own[None], device) for device in local]
    shape = (len(devices), own.size)
    stacked = jax.make_array_from_single_device_arrays(shape, rows, parts)
    everywhere = NamedSharding(mesh, PartitionSpec())
    total = jax.jit(_add, out_shardings=everywhere)(stacked)
    return np.asarray(total.addressable_data(0))


def _add(stacked: jax.Array) -> jax.Array:
    return jnp.sum(stacked, axis=0, dtype=jnp.uint8)
