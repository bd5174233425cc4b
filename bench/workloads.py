# SPDX-License-Identifier: Apache-2.0
"""Workloads: the states that are saved and restored.

Knows shapes, dtypes and layouts. Knows nothing of who saves them. Values are normally distributed,
as weights and moments are, so that contestants that compress get what they would get in real life.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

MIB = 1 << 20


@dataclass(frozen=True)
class Workload:
    """What is measured: `build(quick)` makes the state, `targets(state)` what to restore into.

    Attributes:
        kind: `large`, `small` or `sharded`; targets of the design are set for each.
        devices: how many CPU devices JAX shall show.
        orbax_rounds: at most so many rounds with Orbax, which takes half a minute for some.
    """

    name: str
    title: str
    kind: str
    build: Callable[[bool], Any]
    devices: int = 1
    orbax_rounds: int = 100


@dataclass(frozen=True)
class Target:
    """One way to restore: its name, and the tree of `jax.ShapeDtypeStruct`."""

    name: str
    tree: Any


def targets_of(workload: Workload, state: Any) -> list[Target]:
    """How the state is restored: as it was, and, if it is sharded, also to another sharding."""
    same = Target("restore", jax.tree.map(lambda x: _spec(x, x.sharding), state))
    if workload.kind != "sharded":
        return [same]
    other = NamedSharding(_mesh(), PartitionSpec(None, "x"))
    return [same, Target("reshard", jax.tree.map(lambda x: _spec(x, other), state))]


def _spec(array: jax.Array, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)


def _mesh() -> Mesh:
    return Mesh(np.array(jax.devices()), ("x",))


def _normal(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def _large(quick: bool, dtype: Any) -> Any:
    edge = 1024 if quick else 4096
    width = edge * 2 * 4 // np.dtype(dtype).itemsize
    return {
        f"w{i}": jnp.array(_normal(i, (edge, edge * 2)).view(dtype).reshape(edge, width))
        for i in range(8)
    }


def _gpt(quick: bool) -> Any:
    width, layers, words = (128, 12, 2000) if quick else (640, 12, 50257)

    def block(seed: int) -> dict[str, Any]:
        shapes = {
            "ln_1": {"scale": (width,), "bias": (width,)},
            "attn_qkv": {"kernel": (width, 3 * width), "bias": (3 * width,)},
            "attn_out": {"kernel": (width, width), "bias": (width,)},
            "ln_2": {"scale": (width,), "bias": (width,)},
            "mlp_up": {"kernel": (width, 4 * width), "bias": (4 * width,)},
            "mlp_down": {"kernel": (4 * width, width), "bias": (width,)},
        }
        return {
            name: {k: jnp.array(_normal(seed + i, shape)) for i, (k, shape) in enumerate(p.items())}
            for name, p in shapes.items()
        }

    def weights(seed: int) -> dict[str, Any]:
        return {
            "wte": jnp.array(_normal(seed, (words, width))),
            "wpe": jnp.array(_normal(seed + 1, (1024, width))),
            "blocks": [block(seed + 10 * i) for i in range(layers)],
            "ln_f": {"scale": jnp.ones(width), "bias": jnp.zeros(width)},
        }

    counters = {"step": 1200, "adam_count": 1200, "schedule_count": 1200, "epoch": 3, "batch": 17}
    return {
        "params": weights(1),
        "mu": weights(2),
        "nu": weights(3),
        "counters": {name: jnp.int32(n) for name, n in counters.items()},
        "rng": jnp.array([0, 42], jnp.uint32),
    }


def _small(leaves: int) -> Callable[[bool], Any]:
    def build(quick: bool) -> Any:
        count = leaves // 10 if quick else leaves
        values = _normal(0, (count, 256))
        tree: dict[str, dict[str, Any]] = {}
        for i in range(count):
            tree.setdefault(f"layer_{i // 100:03d}", {})[f"w_{i % 100:02d}"] = jnp.array(values[i])
        return tree

    return build


def _sharded(quick: bool) -> Any:
    edge = 1024 if quick else 8192
    rows = NamedSharding(_mesh(), PartitionSpec("x", None))
    return {f"w{i}": jax.device_put(jnp.array(_normal(i, (edge, edge))), rows) for i in range(4)}


_LIST = [
    Workload("f32", "8 x 128 MiB, float32", "large", lambda quick: _large(quick, np.float32)),
    Workload("bf16", "the same bytes, bfloat16", "large", lambda q: _large(q, ml_dtypes.bfloat16)),
    Workload("gpt", "GPT-like training state, 450 leaves, 1 GiB", "large", _gpt),
    Workload("small5k", "5,000 leaves of 1 KiB", "small", _small(5_000), orbax_rounds=3),
    Workload("small10k", "10,000 leaves of 1 KiB", "small", _small(10_000), orbax_rounds=3),
    Workload("sharded", "4 x 256 MiB over 8 devices", "sharded", _sharded, devices=8),
]
WORKLOADS: Mapping[str, Workload] = {workload.name: workload for workload in _LIST}
