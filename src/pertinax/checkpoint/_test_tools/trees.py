# SPDX-License-Identifier: Apache-2.0
"""Trees and arrays for tests, and how to compare them.

Knows NumPy, JAX and `unittest`. Knows nothing of checkpoints.
"""

import unittest
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


class MuNu(NamedTuple):
    """As optimizers keep them."""

    mu: Any
    nu: Any


class EmptyNamedTuple(NamedTuple):
    """As optimizers that keep nothing have it."""


class NamedTupleWithNestedAttributes(NamedTuple):
    """Containers in a container, any of them absent."""

    nested_mu_nu: MuNu | None = None
    nested_dict: Mapping[str, Any] | None = None
    nested_tuple: tuple[Any, ...] | None = None
    nested_empty_named_tuple: EmptyNamedTuple | None = None
    my_empty_chex: Any = None


def setup_pytree(add: int = 0) -> dict[str, Any]:
    """A nested dict of integer arrays, each element larger by `add`."""
    return {
        "a": np.arange(8) * 1 + add,
        "b": np.arange(16) * 2 + add,
        "c": {
            "a": np.arange(8).reshape((2, 4)) * 3 + add,
            "e": np.arange(16).reshape((4, 4)) * 4 + add,
        },
    }


def setup_sharded_pytree(pytree: Any = None, reverse_devices: bool = False) -> tuple[Any, Any, Any]:
    """The tree of `setup_pytree`, or one like it, on all devices; with the mesh and the axes of
    each leaf, as trees.

    `a` is replicated, `b` is divided along its dimension, the others along both.
    """
    devices = np.asarray(jax.devices(), dtype=object)
    if reverse_devices:
        devices = devices[::-1]
    rows = 2 if devices.size % 2 == 0 else 1
    line, plane = Mesh(devices, ("x",)), Mesh(devices.reshape(rows, -1), ("x", "y"))
    both = PartitionSpec("x", "y")
    meshes = {"a": line, "b": line, "c": {"a": plane, "e": plane}}
    axes = {"a": PartitionSpec(None), "b": PartitionSpec("x"), "c": {"a": both, "e": both}}
    tree = setup_pytree() if pytree is None else pytree
    sharded = jax.tree.map(create_sharded_array, tree, meshes, axes, is_leaf=is_leaf)
    return sharded, meshes, axes


def is_leaf(x: Any) -> bool:
    """Whether `x` is a leaf of one of the trees of this module."""
    return isinstance(x, np.ndarray | Mesh | PartitionSpec)


def create_sharded_array(arr: Any, mesh: Mesh, mesh_axes: PartitionSpec) -> jax.Array:
    """The array, or number, laid out over the mesh; each process gives what its devices hold."""
    host = np.asarray(arr)
    sharding = NamedSharding(mesh, mesh_axes)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def replicate_sharded_array(arr: jax.Array) -> jax.Array:
    """The same array, all of it on each device."""
    sharding: Any = arr.sharding
    if not isinstance(sharding, NamedSharding):
        everywhere = NamedSharding(Mesh(np.asarray(jax.devices()), ("x",)), PartitionSpec())
        return jax.device_put(arr, everywhere)
    # In the order in which it has them: JAX computes nothing across two orders.
    devices: Any = sharding.mesh.devices
    line = Mesh(devices.reshape(-1), ("x",))
    return jax.jit(_same, out_shardings=NamedSharding(line, PartitionSpec()))(arr)


def _same(value: Any) -> Any:
    return value


def apply_function(tree: Any, function: Callable[[Any], Any]) -> Any:
    """`function` of each leaf; an array keeps its layout."""

    def of(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array):
            return jax.jit(function, out_shardings=leaf.sharding)(leaf)
        return jax.jit(function)(leaf)

    return jax.tree.map(of, tree)


def assert_array_equal(testclass: unittest.TestCase, v_expected: Any, v_actual: Any) -> None:
    """Assert that a value is of the expected one's type, and equal; of arrays, shard by shard."""
    kind = jax.Array if isinstance(v_expected, jax.Array) else type(v_expected)
    testclass.assertIsInstance(v_actual, kind)
    if isinstance(v_expected, jax.Array):
        expected, actual = v_expected.addressable_shards, v_actual.addressable_shards
        testclass.assertEqual(v_expected.shape, v_actual.shape)
        testclass.assertEqual(len(expected), len(actual))
        for one, other in zip(expected, actual, strict=True):
            np.testing.assert_array_equal(np.asarray(one.data), np.asarray(other.data))
    elif isinstance(v_expected, np.ndarray | np.generic):
        np.testing.assert_array_equal(v_expected, v_actual)
    else:
        testclass.assertEqual(v_expected, v_actual)


def assert_tree_equal(testclass: unittest.TestCase, expected: Any, actual: Any) -> None:
    """Assert that two trees have the same containers and keys, and equal leaves."""
    paths, leaves, shape = _flat(expected)
    found_paths, found_leaves, found_shape = _flat(actual)
    testclass.assertEqual(paths, found_paths)
    testclass.assertEqual(shape, found_shape)
    for one, other in zip(leaves, found_leaves, strict=True):
        assert_array_equal(testclass, one, other)


def _flat(tree: Any) -> tuple[list[str], list[Any], Any]:
    pairs, shape = jax.tree_util.tree_flatten_with_path(tree)
    return [jax.tree_util.keystr(path) for path, _ in pairs], [leaf for _, leaf in pairs], shape
