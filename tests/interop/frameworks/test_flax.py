# SPDX-License-Identifier: Apache-2.0
"""States of Flax: `TrainState` of Linen, and the graphs of NNX."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from flax.training import train_state
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import pertinax
from pertinax import checkpoint as ocp
from tests.interop.frameworks.doors import WAYS, Way, assert_same, assert_training_goes_on

pytestmark = pytest.mark.interop

BATCH = np.arange(12.0, dtype=np.float32).reshape(4, 3)
TX = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2))


# -------------------------------------------------------------------------------------------- Linen


class Net(linen.Module):
    @linen.compact
    def __call__(self, x: Any) -> Any:
        x = linen.BatchNorm(use_running_average=False)(linen.Dense(4)(x))
        return linen.Dense(2)(linen.Dropout(0.5, deterministic=False)(x))


class NoisyState(train_state.TrainState):
    batch_stats: Any
    key: jax.Array


APPLY = Net().apply


@jax.jit
def noisy(seed: int) -> NoisyState:
    keys = {"params": jax.random.key(seed), "dropout": jax.random.key(9)}
    variables = Net().init(keys, BATCH)
    state = NoisyState.create(
        apply_fn=APPLY,
        params=variables["params"],
        tx=TX,
        batch_stats=variables["batch_stats"],
        key=jax.random.key(seed),
    )
    return state.replace(step=jnp.array(0))


@jax.jit
def train(state: NoisyState) -> NoisyState:
    key, dropout = jax.random.split(state.key)

    def loss(params: Any) -> Any:
        variables = {"params": params, "batch_stats": state.batch_stats}
        rngs = {"dropout": dropout}
        out, new = state.apply_fn(variables, BATCH, mutable=["batch_stats"], rngs=rngs)
        return (out**2).sum(), new

    grads, new = jax.grad(loss, has_aux=True)(state.params)
    return state.apply_gradients(grads=grads, batch_stats=new["batch_stats"], key=key)


@pytest.mark.parametrize("way", WAYS)
def test_a_train_state_goes_on(way: Way, tmp_path: Path):
    back = assert_training_goes_on(way, tmp_path / "it", noisy, train)
    assert type(back) is NoisyState
    assert back.apply_fn is APPLY


def test_the_step_of_a_fresh_state_is_a_number_and_stays_one(tmp_path: Path):
    state = noisy(0).replace(step=7)
    for way in WAYS:
        assert way(tmp_path / way.__name__, state, noisy(1).replace(step=0)).step == 7


def test_only_the_parameters_of_a_train_state_are_read_for_serving(tmp_path: Path):
    state = train(noisy(0))
    pertinax.save(tmp_path / "it", state)
    assert_same(pertinax.load(tmp_path / "it", select="params"), {"params": state.params})
    abstract = {"params": state.params}
    found = pertinax.load(tmp_path / "it", abstract, extra="ignore")
    assert_same(found["params"], state.params)


# ---------------------------------------------------------------------------------------------- NNX


class Graph(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(3, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(8, 8, rngs=rngs) for _ in range(2)])

    def __call__(self, x: Any) -> Any:
        x = self.drop(self.norm(self.first(x)))
        for layer in self.layers:
            x = layer(x)
        return x


def graph(seed: int) -> Any:
    model = Graph(nnx.Rngs(seed))
    return model, nnx.Optimizer(model, optax.adam(0.1), wrt=nnx.Param)


@functools.partial(jax.jit, static_argnums=0)
def graph_state(seed: int) -> Any:
    return nnx.state(graph(seed))


@jax.jit
def train_graph(state: Any) -> Any:
    """The next state; the graph itself is built anew, as after a restart."""
    model, optimizer = both = graph(5)
    nnx.update(both, state)
    grads = nnx.grad(lambda one: (one(BATCH) ** 2).sum())(model)
    optimizer.update(model, grads)
    return nnx.state(both)


@pytest.mark.parametrize("way", WAYS)
def test_a_graph_goes_on_with_its_optimizer_and_its_rngs(way: Way, tmp_path: Path):
    back = assert_training_goes_on(way, tmp_path / "it", graph_state, train_graph)
    assert isinstance(back, nnx.State)


@pytest.mark.parametrize("what", ["split", "pure"])
def test_parts_of_a_graph_come_back(what: str, tmp_path: Path):
    @functools.partial(jax.jit, static_argnums=0)
    def make(seed: int) -> Any:
        model, _ = graph(seed)
        if what == "split":
            return nnx.split(model, nnx.Param, nnx.BatchStat, ...)[1:]
        return nnx.to_pure_dict(nnx.state(model))

    for way in WAYS:
        assert_same(way(tmp_path / way.__name__, make(0), make(1)), make(0))


def test_an_abstract_graph_says_where_its_arrays_go(tmp_path: Path):
    # As users do it: the model is never made, only its shapes with the layout they should have.
    mesh = Mesh(np.array(jax.devices()).reshape(8), ("x",))
    model, _ = graph(0)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "it", nnx.state(model))
        checkpointer.wait_until_finished()
        abstract = nnx.state(nnx.eval_shape(lambda: Graph(nnx.Rngs(0))))

        def place(leaf: Any) -> Any:
            spec = PartitionSpec("x") if leaf.shape[:1] == (8,) else PartitionSpec()
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

        wanted = jax.tree.map(place, abstract)
        for found in (
            checkpointer.restore(tmp_path / "it", wanted),
            pertinax.load(tmp_path / "it", wanted),
        ):
            assert_same(found, nnx.state(model))
            placed = jax.tree.map(lambda one, want: one.sharding == want.sharding, found, wanted)
            assert jax.tree.all(placed)
