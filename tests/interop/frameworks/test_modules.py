# SPDX-License-Identifier: Apache-2.0
"""Models that are trees themselves: Equinox modules, dicts of Haiku, dataclasses of chex."""

from pathlib import Path
from typing import Any

import chex
import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pertinax
from pertinax import checkpoint as ocp
from tests.interop.frameworks.doors import WAYS, Way, assert_same, assert_training_goes_on

pytestmark = pytest.mark.interop

BATCH = np.arange(12.0, dtype=np.float32).reshape(4, 3)
TX = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2))


# ------------------------------------------------------------------------------------------ Equinox


class Scaled(eqx.Module):
    linear: eqx.nn.Linear
    scale: jax.Array
    name: str = eqx.field(static=True)

    def __call__(self, x: Any) -> Any:
        return self.linear(x) * self.scale


@eqx.filter_jit
def module(seed: int) -> Any:
    linear = eqx.nn.Linear(3, 2, key=jax.random.key(seed))
    model = Scaled(linear, jnp.ones(2), "static")
    return model, TX.init(eqx.filter(model, eqx.is_array))


@eqx.filter_jit
def train_module(state: Any) -> Any:
    model, opt = state
    grads = eqx.filter_grad(lambda one: (one(jnp.ones(3)) ** 2).sum())(model)
    updates, opt = TX.update(grads, opt, model)
    return eqx.apply_updates(model, updates), opt


@pytest.mark.parametrize("way", WAYS)
def test_a_module_with_static_fields_goes_on(way: Way, tmp_path: Path):
    back, _ = assert_training_goes_on(way, tmp_path / "it", module, train_module)
    assert type(back) is Scaled
    assert back.name == "static"


@pytest.mark.parametrize("way", WAYS)
def test_the_arrays_of_a_module_with_functions_come_back(way: Way, tmp_path: Path):
    def make(seed: int) -> Any:
        return eqx.nn.MLP(3, 2, 8, 2, key=jax.random.key(seed))

    arrays, _ = eqx.partition(make(0), eqx.is_array)
    fresh, static = eqx.partition(make(1), eqx.is_array)
    back = way(tmp_path / "it", arrays, fresh)
    x = jnp.arange(3.0)
    assert np.array_equal(eqx.combine(back, static)(x), make(0)(x))


def test_a_function_in_a_module_is_refused_by_name(tmp_path: Path):
    model = eqx.nn.MLP(3, 2, 8, 2, key=jax.random.key(0))
    with pytest.raises(pertinax.errors.UnsupportedLeaf, match="activation"):
        pertinax.save(tmp_path / "it", model)
    with pytest.raises(ValueError, match="activation"):
        ocp.PyTreeCheckpointer().save(tmp_path / "it", model)
    assert list(tmp_path.iterdir()) == []


def test_a_module_without_functions_needs_no_target(tmp_path: Path):
    linear = eqx.nn.Linear(3, 2, key=jax.random.key(0))
    pertinax.save(tmp_path / "it", {"l": linear})
    found = pertinax.load(tmp_path / "it")["l"]
    if isinstance(found, dict):
        assert pertinax.describe(tmp_path / "it").as_dicts
        assert np.array_equal(found["weight"], linear.weight)
    else:
        assert np.array_equal(found(jnp.ones(3)), linear(jnp.ones(3)))


# -------------------------------------------------------------------------------------------- Haiku


def forward(x: Any) -> Any:
    x = hk.BatchNorm(create_scale=True, create_offset=True, decay_rate=0.9)(hk.Linear(4)(x), True)
    return hk.dropout(hk.next_rng_key(), 0.5, x)


FORWARD = hk.transform_with_state(forward)


@jax.jit
def variables(seed: int) -> Any:
    params, state = FORWARD.init(jax.random.key(seed), BATCH)
    return {"params": params, "state": state, "opt": TX.init(params), "key": jax.random.key(seed)}


@jax.jit
def train_variables(now: Any) -> Any:
    key, dropout = jax.random.split(now["key"])

    def loss(params: Any) -> Any:
        out, new = FORWARD.apply(params, now["state"], dropout, BATCH)
        return (out**2).sum(), new

    grads, new = jax.grad(loss, has_aux=True)(now["params"])
    updates, opt = TX.update(grads, now["opt"], now["params"])
    params = optax.apply_updates(now["params"], updates)
    return {"params": params, "state": new, "opt": opt, "key": key}


@pytest.mark.parametrize("way", WAYS)
def test_parameters_and_state_of_haiku_go_on(way: Way, tmp_path: Path):
    # Names of Haiku's modules hold slashes.
    assert "batch_norm/~/mean_ema" in variables(0)["state"]
    assert_training_goes_on(way, tmp_path / "it", variables, train_variables)


# --------------------------------------------------------------------------------------------- chex


@chex.dataclass
class Mappable:
    rows: Any
    more: Any
    count: int


@chex.dataclass(mappable_dataclass=False, frozen=True)
class Frozen:
    inner: Mappable
    key: jax.Array


@pytest.mark.parametrize("way", WAYS)
def test_dataclasses_of_chex_come_back(way: Way, tmp_path: Path):
    def make(seed: int) -> Any:
        more = {"n": np.arange(3, dtype=np.int32) + seed, "empty": {}, "none": None}
        inner = Mappable(rows=jnp.ones(3) * seed, more=more, count=seed)
        return Frozen(inner=inner, key=jax.random.key(seed))

    back = way(tmp_path / "it", make(3), make(4))
    assert_same(back, make(3))
    assert type(back) is Frozen
    assert type(back.inner) is Mappable
