# SPDX-License-Identifier: Apache-2.0
"""A container of your own: it needs no handler, only JAX must know it.

    python examples/extending/node_of_the_tree.py [DIRECTORY]

A class that is registered as a node with `jax.tree_util` is taken apart when it is saved, so its
arrays are stored like all others. Restored into a target it is the class again. Without a target,
and where nobody knows the class any more, its children come back as a dict: files run no code.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import pertinax
from pertinax import checkpoint as ocp


class Average:
    """A running mean of some weights: `value` is an array, `decay` is fixed."""

    def __init__(self, value: Any, decay: float) -> None:
        self.value = value
        self.decay = decay

    def update(self, new: Any) -> "Average":
        return Average(self.decay * self.value + (1 - self.decay) * new, self.decay)


def _take_apart(average: Average) -> tuple[Any, Any]:
    """Children with their keys, which name them in the checkpoint; then what is no child."""
    return [(jax.tree_util.GetAttrKey("value"), average.value)], average.decay


def _put_together(decay: float, children: Any) -> Average:
    return Average(*children, decay)


jax.tree_util.register_pytree_with_keys(Average, _take_apart, _put_together)


def main(directory: Path) -> None:
    average = Average(jnp.zeros(3), 0.9).update(jnp.ones(3))
    pertinax.save(directory / "run", {"average": average})

    fresh = Average(jnp.zeros(3), 0.5)  # what is no array is the target's own
    found = pertinax.load(directory / "run", {"average": fresh})["average"]
    assert isinstance(found, Average)
    assert found.decay == 0.5
    assert jnp.allclose(found.value, 0.1)

    bare = pertinax.load(directory / "run")
    assert bare["average"].keys() == {"value"}
    print(pertinax.describe(directory / "run"))

    through_the_door = ocp.PyTreeCheckpointer().restore(directory / "run", {"average": fresh})
    assert jnp.allclose(through_the_door["average"].value, 0.1)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
