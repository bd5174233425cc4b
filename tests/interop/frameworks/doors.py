# SPDX-License-Identifier: Apache-2.0
"""Every way in and out: the same state through the front door, the Orbax door and both managers.

Knows how each way saves a state and restores it into another, and what *the same state* means.
Knows nothing of the frameworks whose states they are.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import pertinax
from pertinax import checkpoint as ocp

Way = Callable[[Path, Any, Any], Any]


def front(path: Path, state: Any, target: Any) -> Any:
    pertinax.save(path, state)
    assert pertinax.verify(path).ok
    return pertinax.load(path, target)


def front_shapes(path: Path, state: Any, target: Any) -> Any:
    """The target gives shapes and types only."""
    return front(path, state, jax.tree.map(_shape, target))


def front_manager(path: Path, state: Any, target: Any) -> Any:
    with pertinax.Manager(path) as manager:
        manager.save(3, state)
    with pertinax.Manager(path) as manager:
        step, found = manager.resume(target)
    assert step == 3
    return found


def standard(path: Path, state: Any, target: Any) -> Any:
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, state)
        checkpointer.wait_until_finished()
        return checkpointer.restore(path, target)


def standard_shapes(path: Path, state: Any, target: Any) -> Any:
    return standard(path, state, jax.tree.map(_abstract, target))


def pytree(path: Path, state: Any, target: Any) -> Any:
    checkpointer = ocp.PyTreeCheckpointer()
    checkpointer.save(path, state)
    args = ocp.checkpoint_utils.construct_restore_args(target)
    return checkpointer.restore(path, item=target, restore_args=args)


def manager(path: Path, state: Any, target: Any) -> Any:
    with ocp.CheckpointManager(path) as one:
        one.save(3, args=ocp.args.StandardSave(state))
    with ocp.CheckpointManager(path) as one:
        return one.restore(3, args=ocp.args.StandardRestore(target))


def manager_items(path: Path, state: Any, target: Any) -> Any:
    args = ocp.args.Composite(
        state=ocp.args.PyTreeSave(state), config=ocp.args.JsonSave({"lr": 0.1})
    )
    with ocp.CheckpointManager(path) as one:
        one.save(3, args=args)
    wanted = ocp.args.PyTreeRestore(
        target, restore_args=ocp.checkpoint_utils.construct_restore_args(target)
    )
    with ocp.CheckpointManager(path) as one:
        found = one.restore(3, args=ocp.args.Composite(state=wanted))
    return found.state


WAYS: tuple[Way, ...] = (
    *(front, front_shapes, front_manager),
    *(standard, standard_shapes, pytree, manager, manager_items),
)


def _shape(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    return leaf


def _abstract(leaf: Any) -> Any:
    return ocp.utils.to_shape_dtype_struct(leaf) if hasattr(leaf, "shape") else leaf


def bits(leaf: Any) -> Any:
    """What a leaf is, as something that compares."""
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return (str(jax.random.key_impl(leaf)), bits(jax.random.key_data(leaf)))
    if hasattr(leaf, "dtype"):
        kind = "jax" if isinstance(leaf, jax.Array) else type(leaf).__name__
        return (kind, str(leaf.dtype), np.shape(leaf), np.asarray(leaf).tobytes())
    return (type(leaf).__name__, leaf)


def assert_same(one: Any, other: Any) -> None:
    """The same containers with the same types, dtypes, shapes and bits."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    paths, left = zip(*jax.tree_util.tree_flatten_with_path(one)[0], strict=True)
    for path, a, b in zip(paths, left, jax.tree.leaves(other), strict=True):
        assert bits(a) == bits(b), jax.tree_util.keystr(path)


def assert_training_goes_on(
    way: Way, path: Path, make: Callable[[int], Any], step: Callable[[Any], Any]
) -> Any:
    """A run that was saved and restored into a fresh state ends with the bits of one that was not.

    `make(seed)` is a state to begin with, `step(state)` the next. Returns what came back.
    """
    state = step(step(make(0)))
    back = way(path, state, make(1))
    assert_same(back, state)
    assert_same(step(back), step(state))
    return back
