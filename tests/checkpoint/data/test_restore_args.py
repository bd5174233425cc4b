# SPDX-License-Identifier: Apache-2.0
"""Which restore args a target's leaf becomes, kind by kind."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from pertinax import checkpoint as door
from pertinax.checkpoint.checkpoint_utils import STANDARD_ARRAY_TYPES, construct_restore_args
from tests.checkpoint.data.twins import mesh


class Empty(NamedTuple):
    pass


def rows() -> NamedSharding:
    return NamedSharding(mesh(), PartitionSpec("a"))


def layout() -> Any:
    return door.metadata.sharding.from_jax_sharding(rows())


def array_metadata(sharding: Any) -> Any:
    return door.metadata.ArrayMetadata("a", None, (8,), sharding, np.dtype("f4"))


Leaf = Callable[[], Any]
A, R = door.ArrayRestoreArgs, door.RestoreArgs

TABLE: dict[str, tuple[Leaf, Callable[[], Any]]] = {
    "array": (lambda: np.arange(3), lambda: R(np.ndarray, np.dtype("i8"))),
    "jax.Array": (
        lambda: jax.device_put(jnp.ones(8), rows()),
        lambda: A(sharding=rows(), dtype=np.dtype("f4"), global_shape=(8,)),
    ),
    "int": (lambda: 1, lambda: R(int)),
    "float": (lambda: 2.0, lambda: R(float)),
    "bool": (lambda: True, lambda: R(bool)),
    "np.float64": (lambda: np.float64(1), lambda: R(np.float64, np.dtype("f8"))),
    "text": (lambda: "a", lambda: R(str)),
    "abstract": (
        lambda: jax.ShapeDtypeStruct((2,), jnp.int32),
        lambda: R(None, np.dtype("i4")),
    ),
    "abstract, sharded": (
        lambda: jax.ShapeDtypeStruct((8,), jnp.int32, sharding=rows()),
        lambda: A(sharding=rows(), dtype=np.dtype("i4"), global_shape=(8,)),
    ),
    "array metadata": (
        lambda: array_metadata(None),
        lambda: R(np.ndarray, np.dtype("f4")),
    ),
    "sharded metadata": (
        lambda: array_metadata(layout()),
        lambda: A(sharding=layout(), dtype=np.dtype("f4"), global_shape=(8,)),
    ),
    "scalar metadata": (
        lambda: door.metadata.ScalarMetadata("a", None, dtype=np.dtype("i4")),
        lambda: R(int, np.dtype("i4")),
    ),
    "text metadata": (lambda: door.metadata.StringMetadata("a", None), lambda: R(str)),
}


@pytest.mark.row("R018", "R083")
@pytest.mark.parametrize("set_global_shape", [True, False])
@pytest.mark.parametrize("kind", TABLE)
def test_each_kind_of_leaf(kind: str, set_global_shape: bool):
    make, expect = TABLE[kind]
    found = construct_restore_args({"a": make()}, set_global_shape=set_global_shape)["a"]
    wanted = expect()
    if isinstance(wanted, A) and not set_global_shape:
        wanted.global_shape = None
    assert type(found) is type(wanted)
    assert found == wanted


OTHERS: dict[str, Leaf] = {
    "np.float32": lambda: np.float32(1),
    "np.bool": lambda: np.bool_(True),
    "bytes": lambda: b"x",
    "complex": lambda: 1j,
    "object": object,
    "metadata of nothing": lambda: door.metadata.value.Metadata("a", None),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_leaves_are_refused_by_name(kind: str):
    with pytest.raises(ValueError, match=r"Unsupported(.|\n)*deep/a"):
        construct_restore_args({"deep": {"a": OTHERS[kind]()}})


def test_a_tree_of_shardings_comes_first():
    other = SingleDeviceSharding(jax.devices()[1])
    target = {
        "a": jnp.ones(8),
        "b": jnp.ones(8),
        "c": np.ones(8),
        "d": jax.ShapeDtypeStruct((8,), jnp.int32, sharding=rows()),
    }
    found = construct_restore_args(target, {"a": rows(), "b": None, "c": other, "d": None})
    f4, i4 = np.dtype("f4"), np.dtype("i4")
    assert found == {
        "a": A(sharding=rows(), dtype=f4, global_shape=(8,)),
        "b": A(sharding=None, dtype=f4, global_shape=(8,)),
        "c": R(np.ndarray, np.dtype("f8")),
        "d": R(None, i4),
    }


def test_layouts_may_be_metadata():
    found = construct_restore_args({"a": jnp.ones(8)}, {"a": layout()})["a"]
    assert found.sharding == layout()
    assert isinstance(found, door.ArrayRestoreArgs)


def test_another_structure_of_shardings_is_refused():
    with pytest.raises(ValueError, match="sharding_tree"):
        construct_restore_args({"a": jnp.ones(3)}, {"b": None})


def test_empty_containers_stay():
    target = {"a": {}, "b": None, "c": [], "d": Empty(), "e": ()}
    assert construct_restore_args(target) == target


def test_the_types_of_standard_leaves_are_those_of_orbax():
    assert set(STANDARD_ARRAY_TYPES) == {int, float, np.ndarray, jax.Array}
