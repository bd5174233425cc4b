# SPDX-License-Identifier: Apache-2.0
"""States spread over the devices of a job, whose every element can be worked out anywhere.

Knows layouts and values. Functions here run inside the processes of a job.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

LAYOUTS: Mapping[str, tuple[tuple[int, ...], str, tuple[Any, ...]]] = {
    "replicated": ((6, 4), "float32", ()),
    "rows": ((16, 3), "float32", ("x",)),
    "columns": ((3, 16), "bfloat16", (None, "x")),
    "both": ((8, 8), "float32", ("x", "y")),
    "together": ((16, 2), "int32", (("x", "y"),)),
    "partly": ((8, 5), "float16", ("y",)),
    "vector": ((8,), "int8", ("x",)),
    "number": ((), "float32", ()),
    "empty": ((0, 4), "float32", ()),
    "eighths": ((16,), "float8_e4m3fn", ("x",)),
    "nibbles": ((16, 2), "int4", ("y",)),
    "truth": ((16,), "bool", ("x",)),
}


def mesh_of(*, turned: bool = False) -> Mesh:
    """The devices of the job, as many as a power of two, as a mesh `x`, `y`; `turned`: in another
    order.
    """
    count = 1 << (jax.device_count().bit_length() - 1)
    every = jax.device_count() / count
    devices = np.array([jax.devices()[int(i * every)] for i in range(count)])
    if turned:
        devices = devices[::-1]
    return Mesh(devices.reshape(min(2, count), -1), ("x", "y"))


def values_of(name: str, step: int = 0) -> np.ndarray[Any, Any]:
    """What an array of the state holds, with NaNs of two kinds and negative zeros where they go."""
    shape, dtype, _ = LAYOUTS[name]
    count = math.prod(shape)
    raw = (np.arange(count, dtype=np.int64) * 7 + len(name) + step) % 13 - 4
    if dtype == "bool":
        return (raw % 2 == 0).reshape(shape)
    host = raw.astype(jnp.dtype(dtype)).reshape(shape)
    if dtype == "float32" and count > 3:
        flat = host.reshape(-1).view(np.uint32)
        flat[0], flat[1], flat[2] = 0x80000000, 0x7FC00001, 0xFFC12345
    return host


def sharding_of(name: str, mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(*LAYOUTS[name][2]))


def state_on(mesh: Mesh, step: int = 0) -> dict[str, Any]:
    """The state of a training run after `step` steps."""
    arrays = {
        name: jax.make_array_from_callback(
            LAYOUTS[name][0],
            sharding_of(name, mesh),
            lambda index, name=name: values_of(name, step)[index],
        )
        for name in LAYOUTS
    }
    return {
        "arrays": arrays,
        "host": {"table": np.arange(12.0).reshape(3, 4) + step, "step": step, "name": "run"},
        "layers": [{"w": arrays["rows"]}, None, ()],
    }


def target_on(mesh: Mesh) -> dict[str, Any]:
    """What to restore such a state into, without a byte of it."""
    arrays = {
        name: jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=sharding_of(name, mesh))
        for name, (shape, dtype, _) in LAYOUTS.items()
    }
    return {
        "arrays": arrays,
        "host": {"table": np.zeros((3, 4)), "step": 0, "name": ""},
        "layers": [{"w": arrays["rows"]}, None, ()],
    }


def differences(state: dict[str, Any], step: int = 0) -> list[str]:
    """The leaves of `state` whose bits, on this process's devices, are not those of that step."""
    wrong = [name for name, array in state["arrays"].items() if not same(name, array, step)]
    if not same("rows", state["layers"][0]["w"], step):
        wrong.append("layers/0/w")
    host = state["host"]
    if not (
        np.array_equal(host["table"], np.arange(12.0).reshape(3, 4) + step)
        and host["step"] == step
        and host["name"] == "run"
    ):
        wrong.append("host")
    return wrong


def same(name: str, array: Any, step: int) -> bool:
    whole = values_of(name, step)
    if array.shape != whole.shape or array.dtype != whole.dtype:
        return False
    return all(
        np.asarray(shard.data).tobytes() == np.ascontiguousarray(whole[shard.index]).tobytes()
        for shard in array.addressable_shards
    )
