# SPDX-License-Identifier: Apache-2.0
"""Train a small network on scikit-learn's handwritten digits, with checkpoints in the background.

    python examples/train_digits.py runs/digits --steps 200

Run it twice and the second run has nothing left to do. Kill it at any time, start it again, and it
goes on from the newest checkpoint and ends with the same weights, bit for bit. For that, everything
that decides the future is in the state: parameters, optimizer, random key, and the order of the
data with the position in it.

Knows JAX, Optax and `pertinax.Manager`. Knows nothing of the demo that runs and kills it.
"""

import argparse
import os
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import pertinax
from pertinax.policies import Best, Latest

BATCH = 64
HELD_OUT = 297
OPTIMIZER = optax.adam(optax.cosine_decay_schedule(1e-3, 400))


class TrainState(NamedTuple):
    """All that the next step depends on. It is what a checkpoint holds."""

    params: dict[str, dict[str, jax.Array]]
    optimizer: optax.OptState
    key: jax.Array
    order: np.ndarray
    position: int


def read_digits() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """1,797 real images of 8 x 8 pixels that come with scikit-learn: for training, and held out."""
    images, labels = load_digits(return_X_y=True)
    images, labels = (images / 16).astype(np.float32), labels.astype(np.int32)
    return (images[:-HELD_OUT], labels[:-HELD_OUT]), (images[-HELD_OUT:], labels[-HELD_OUT:])


def fresh_state(width: int, rows: int, seed: int) -> TrainState:
    """The state before the first step."""
    key, init_key = jax.random.split(jax.random.key(seed))
    params, optimizer = fresh_weights(width, init_key)
    # All is used up: the first step draws an order. Types are those of the state after a step.
    return TrainState(params, optimizer, key, np.arange(rows, dtype=np.int32), rows)


@partial(jax.jit, static_argnums=0)
def fresh_weights(width, key):
    sizes = [(64, width), (width, width), (width, 10)]
    params = {
        f"layer_{i}": {
            "kernel": jax.random.normal(layer_key, size) * np.sqrt(2 / size[0]),
            "bias": jnp.zeros(size[1]),
        }
        for i, (layer_key, size) in enumerate(zip(jax.random.split(key, 3), sizes, strict=True))
    }
    return params, OPTIMIZER.init(params)


def logits_of(params: dict[str, dict[str, jax.Array]], images: jax.Array) -> jax.Array:
    """The network: two hidden layers."""
    *hidden, last = params.values()
    for layer in hidden:
        images = jax.nn.relu(images @ layer["kernel"] + layer["bias"])
    return images @ last["kernel"] + last["bias"]


@partial(jax.jit, donate_argnums=(0, 1))
def update(params, optimizer, key, images, labels):
    key, noise_key = jax.random.split(key)
    noisy = images + 0.2 * jax.random.normal(noise_key, images.shape)

    def loss_of(params):
        losses = optax.softmax_cross_entropy_with_integer_labels(logits_of(params, noisy), labels)
        return losses.mean()

    loss, gradients = jax.value_and_grad(loss_of)(params)
    updates, optimizer = OPTIMIZER.update(gradients, optimizer, params)
    return optax.apply_updates(params, updates), optimizer, key, loss


def train_step(state: TrainState, data: tuple[np.ndarray, np.ndarray]) -> tuple[TrainState, float]:
    """One batch, in the order that the state carries; a new order when this one is used up."""
    key, order, position = state.key, state.order, state.position
    if position + BATCH > len(order):
        key, order_key = jax.random.split(key)
        order, position = np.asarray(jax.random.permutation(order_key, len(order))), 0
    rows = order[position : position + BATCH]
    images, labels = data
    params, optimizer, key, loss = update(
        state.params, state.optimizer, key, images[rows], labels[rows]
    )
    return TrainState(params, optimizer, key, order, position + BATCH), float(loss)


def accuracy(params: dict[str, dict[str, jax.Array]], data: tuple[np.ndarray, np.ndarray]) -> float:
    """The share of images that the network reads rightly."""
    images, labels = data
    return float(jnp.mean(jnp.argmax(logits_of(params, images), axis=1) == labels))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, help="directory of the checkpoints")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--save-every", type=int, default=20)
    parser.add_argument("--width", type=int, default=1024, help="of the hidden layers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", default=os.devnull, help="file to append 'step loss' lines to")
    options = parser.parse_args()

    training, held_out = read_digits()
    state = fresh_state(options.width, len(training[0]), options.seed)
    keep = Latest(3) | Best(1, "loss")
    with (
        open(options.log, "a", buffering=1) as log,
        pertinax.Manager(options.root, save=options.save_every, keep=keep) as manager,
    ):
        begun_at, state = manager.resume(state)
        print(f"begins after step {begun_at}", flush=True)
        for step in range(begun_at + 1, options.steps + 1):
            state, loss = train_step(state, training)
            print(step, loss, file=log)
            manager.save(step, state, metrics={"loss": loss})
    share = accuracy(state.params, held_out)
    print(f"Step {options.steps}: {share:.1%} of unseen digits are read rightly.")


if __name__ == "__main__":
    main()
