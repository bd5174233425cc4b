# SPDX-License-Identifier: Apache-2.0
"""States of Optax: named tuples within named tuples, masked and empty states."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from optax import contrib

from tests.interop.frameworks.doors import WAYS, Way, assert_training_goes_on

pytestmark = pytest.mark.interop

MASK = {"dense": {"kernel": True, "bias": False}, "scale": False}
LABELS = {"dense": {"kernel": "a", "bias": "b"}, "scale": "b"}
OPTIMIZERS = {
    "adam": optax.adam(1e-3),
    "chain": optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_decay_schedule(1e-3, 9))
    ),
    "masked": optax.masked(optax.adam(1e-3), MASK),
    "hyperparams": optax.inject_hyperparams(optax.adamw)(learning_rate=1e-3, b1=0.8),
    "multi": optax.MultiSteps(optax.sgd(0.1, momentum=0.9), 3),
    "partition": optax.multi_transform({"a": optax.adam(0.1), "b": optax.set_to_zero()}, LABELS),
    "ema": optax.chain(optax.ema(0.9), optax.adafactor(0.1)),
    "lookahead": contrib.schedule_free_adamw(0.1),
    "finite": optax.apply_if_finite(optax.adam(0.1), 3),
    "empty": optax.chain(optax.identity(), optax.clip(1.0), optax.sgd(0.1)),
}
# The containers of a state are what is hard; one optimizer of each kind of container goes all ways.
EVERY_WAY = [(name, way) for name in ("masked", "hyperparams", "empty") for way in WAYS]
BOTH_DOORS = [(name, way) for name in OPTIMIZERS for way in (WAYS[0], WAYS[1], WAYS[4])]


def params(seed: int) -> Any:
    kernel = jax.random.normal(jax.random.key(seed), (8, 4))
    return {"dense": {"kernel": kernel, "bias": jnp.full(4, seed + 1.0)}, "scale": jnp.ones(4)}


@pytest.mark.parametrize(
    ("name", "way"),
    list(dict.fromkeys(EVERY_WAY + BOTH_DOORS)),
    ids=lambda part: getattr(part, "__name__", part),
)
def test_an_optimizer_goes_on(name: str, way: Way, tmp_path: Path):
    assert_training_goes_on(way, tmp_path / "it", *compiled(name))


@functools.cache
def compiled(name: str) -> tuple[Any, Any]:
    """How training with this optimizer begins, and its step."""
    optimizer = OPTIMIZERS[name]

    def make(seed: int) -> Any:
        return {"params": params(seed), "opt": optimizer.init(params(seed))}

    def step(state: Any) -> Any:
        grads = jax.tree.map(jnp.cos, state["params"])
        updates, opt = optimizer.update(grads, state["opt"], state["params"])
        return {"params": optax.apply_updates(state["params"], updates), "opt": opt}

    return jax.jit(make), jax.jit(step)
