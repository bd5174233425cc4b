# SPDX-License-Identifier: Apache-2.0
"""A model of Keras 3 on the JAX backend: its state tree is a dict of dicts of arrays."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.interop.frameworks.doors import WAYS, assert_same

pytestmark = [pytest.mark.interop, pytest.mark.slow]

X = np.arange(12.0, dtype=np.float32).reshape(4, 3)


@pytest.fixture
def keras(monkeypatch: pytest.MonkeyPatch) -> Any:
    # Read once, when Keras is imported, which no other test does.
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    import keras

    assert keras.backend.backend() == "jax"
    return keras


def test_a_model_of_keras_goes_on(keras: Any, tmp_path: Path):
    def make(seed: int) -> Any:
        keras.backend.clear_session()  # names of layers begin to count anew, as after a restart
        keras.utils.set_random_seed(seed)
        layers = keras.layers
        model = keras.Sequential(
            [
                layers.Input((3,)),
                layers.Dense(4),
                layers.BatchNormalization(),
                layers.Dropout(0.5, seed=seed),
                layers.Dense(1),
            ]
        )
        model.compile(optimizer=keras.optimizers.Adam(0.1), loss="mse")
        model.optimizer.build(model.trainable_variables)
        return model

    def state_of(model: Any) -> Any:
        return model.get_state_tree(value_format="backend_tensor")

    def train(model: Any) -> None:
        model.fit(X, X[:, :1], epochs=2, shuffle=False, verbose=0)

    model = make(0)
    train(model)
    state, fresh = state_of(model), make(1)
    for way in WAYS:
        back = way(tmp_path / way.__name__, state, state_of(fresh))
        assert_same(back, state)
    fresh.set_state_tree(back)
    train(model)
    train(fresh)
    for one, other in zip(model.get_weights(), fresh.get_weights(), strict=True):
        assert np.array_equal(one, other)
