"""States of the frameworks that people train with come back exactly, and as their own types."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pertinax

pytestmark = pytest.mark.interop


def check(state, fresh, path):
    """`state` is saved, and loaded into `fresh`, into its shapes, and without a target."""
    pertinax.save(path, state, exists="replace")
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype) if hasattr(x, "shape") else x, fresh
    )
    for target in (fresh, shapes):
        loaded = pertinax.load(path, target)
        assert jax.tree.structure(loaded) == jax.tree.structure(state)
        for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(loaded), strict=True):
            assert type(a) is type(b)
            if isinstance(a, jax.Array) and jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
                assert np.array_equal(jax.random.key_data(a), jax.random.key_data(b))
            else:
                assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    plain = pertinax.load(path)
    assert [
        np.asarray(x).shape
        for x in jax.tree.leaves(plain)
        if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    ]
    assert pertinax.verify(path).ok
    pertinax.describe(path)


def params(seed):
    k = jax.random.key(seed)
    return {
        "dense": {"kernel": jax.random.normal(k, (8, 4)), "bias": jnp.full(4, seed + 1.0)},
        "scale": jnp.ones(4),
    }


def optimizers(optax):
    mask = {"dense": {"kernel": True, "bias": False}, "scale": False}
    labels = {"dense": {"kernel": "a", "bias": "b"}, "scale": "b"}
    return {
        "adam": optax.adam(1e-3),
        "chain": optax.chain(
            optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_decay_schedule(1e-3, 9))
        ),
        "masked": optax.masked(optax.adam(1e-3), mask),
        "hyperparams": optax.inject_hyperparams(optax.adamw)(learning_rate=1e-3, b1=0.8),
        "multi": optax.MultiSteps(optax.sgd(0.1, momentum=0.9), 3),
        "partition": optax.multi_transform(
            {"a": optax.adam(0.1), "b": optax.set_to_zero()}, labels
        ),
        "ema": optax.chain(optax.ema(0.9), optax.adafactor(0.1)),
        "lookahead": optax.contrib.schedule_free_adamw(0.1),
    }


NAMES = "adam chain masked hyperparams multi partition ema lookahead".split()


@pytest.mark.parametrize("name", NAMES)
def test_optax(tmp_path, name):
    optax = pytest.importorskip("optax")
    pytest.importorskip("optax.contrib")
    optimizer = optimizers(optax)[name]
    state, p = optimizer.init(params(1)), params(1)
    for _ in range(3):
        updates, state = optimizer.update(jax.tree.map(jnp.ones_like, p), state, p)
        p = optax.apply_updates(p, updates)
    check(
        {"params": p, "opt": state},
        {"params": params(2), "opt": optimizer.init(params(2))},
        tmp_path / "c",
    )


def test_a_train_state_of_flax(tmp_path):
    linen = pytest.importorskip("flax.linen")
    optax = pytest.importorskip("optax")
    from flax.training import train_state

    model = linen.Dense(5)

    def make(seed):
        variables = model.init(jax.random.key(seed), jnp.ones((2, 3)))
        return train_state.TrainState.create(
            apply_fn=model.apply, params=variables["params"], tx=TX
        )

    TX = optax.adam(1e-3)
    state = make(0)
    state = state.apply_gradients(grads=jax.tree.map(jnp.ones_like, state.params))
    fresh = make(1).replace(apply_fn=state.apply_fn)
    path = tmp_path / "c"
    pertinax.save(path, state)
    loaded = pertinax.load(path, fresh)
    assert type(loaded) is train_state.TrainState
    assert loaded.step == 1
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded, state))
    assert loaded.apply_gradients(grads=jax.tree.map(jnp.ones_like, state.params)).step == 2


@pytest.mark.parametrize("what", ["state", "split", "pure"])
def test_nnx(tmp_path, what):
    nnx = pytest.importorskip("flax.nnx")

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(3, 8, rngs=rngs)
            self.norm = nnx.BatchNorm(8, rngs=rngs)
            self.drop = nnx.Dropout(0.5, rngs=rngs)
            self.layers = nnx.List([nnx.Linear(8, 8, rngs=rngs) for _ in range(2)])

        def __call__(self, x):
            x = self.drop(self.norm(self.first(x)))
            for layer in self.layers:
                x = layer(x)
            return x

    def state_of(seed):
        net = Net(nnx.Rngs(seed))
        net(jnp.ones((4, 3)))
        if what == "split":
            return nnx.split(net, nnx.Param, nnx.BatchStat, ...)[1:]
        state = nnx.state(net)
        return nnx.to_pure_dict(state) if what == "pure" else state

    check(state_of(0), state_of(1), tmp_path / "c")


def test_an_nnx_model_goes_on_where_it_was(tmp_path):
    nnx = pytest.importorskip("flax.nnx")
    optax = pytest.importorskip("optax")

    def make(seed):
        model = nnx.Linear(3, 2, rngs=nnx.Rngs(seed))
        return model, nnx.Optimizer(model, optax.adam(0.1), wrt=nnx.Param)

    def train(model, optimizer):
        grads = nnx.grad(lambda m: (m(jnp.ones((4, 3))) ** 2).sum())(model)
        optimizer.update(model, grads)

    one = make(0)
    train(*one)
    pertinax.save(tmp_path / "c", nnx.state(one))
    other = make(1)
    nnx.update(other, pertinax.load(tmp_path / "c", nnx.state(other)))
    train(*one)
    train(*other)
    assert np.array_equal(one[0].kernel[...], other[0].kernel[...])


def test_equinox(tmp_path):
    eqx = pytest.importorskip("equinox")

    def make(seed):
        return eqx.nn.MLP(3, 2, 8, 2, key=jax.random.key(seed))

    model, fresh = make(0), make(1)
    arrays, _ = eqx.partition(model, eqx.is_array)
    pertinax.save(tmp_path / "c", arrays)
    loaded = pertinax.load(tmp_path / "c", eqx.filter(fresh, eqx.is_array))
    combined = eqx.combine(loaded, eqx.partition(fresh, eqx.is_array)[1])
    x = jnp.arange(3.0)
    assert np.array_equal(combined(x), model(x))
    with pytest.raises(pertinax.errors.UnsupportedLeaf, match="activation"):
        pertinax.save(tmp_path / "d", model)


def test_equinox_modules_without_functions_need_no_target(tmp_path):
    eqx = pytest.importorskip("equinox")
    linear = eqx.nn.Linear(3, 2, key=jax.random.key(0))
    pertinax.save(tmp_path / "c", {"l": linear})
    loaded = pertinax.load(tmp_path / "c")["l"]
    if isinstance(loaded, dict):
        assert pertinax.describe(tmp_path / "c").as_dicts
        assert np.array_equal(loaded["weight"], linear.weight)
    else:
        assert np.array_equal(loaded(jnp.ones(3)), linear(jnp.ones(3)))
