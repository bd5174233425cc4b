"""Arguments of single leaves, and what the API calls the types of leaves.

Knows how a program says in which dtype, chunks, type, shape and layout a leaf is to be saved or
restored. Knows nothing of files.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

import jax
import numpy as np

from pertinax._tree.flatten import is_namedtuple

RESTORE_TYPE_NONE = "None"
RESTORE_TYPE_DICT = "Dict"
RESTORE_TYPE_LIST = "List"
RESTORE_TYPE_TUPLE = "Tuple"
JAX_ARRAY_TYPE_STR = "jax.Array"


@dataclasses.dataclass
class SaveArgs:
    """How to save one leaf.

    Attributes:
        aggregate: means nothing any more.
        dtype: store it in this dtype instead of its own.
        chunk_byte_size: upper bound for the bytes of one stored chunk.
    """

    aggregate: bool = False
    dtype: Any = None
    chunk_byte_size: int | None = None


@dataclasses.dataclass
class RestoreArgs:
    """How to restore one leaf.

    Attributes:
        restore_type: what it shall become, as a type or by the API's name of it; None: what it was.
        dtype: convert it to this dtype.
    """

    restore_type: Any = None
    dtype: Any = None


@dataclasses.dataclass
class ArrayRestoreArgs(RestoreArgs):
    """How to restore a leaf as a `jax.Array`.

    Attributes:
        mesh, mesh_axes: where both are given, the array is laid out over them.
        sharding: where it shall live otherwise (a sharding of JAX, or its metadata); None: as it
            was saved.
        global_shape: the shape it shall have; None: the stored one.
        strict: whether another `global_shape` than the stored one is an error; if not, the array is
            cut at the end, or filled up with zeros.
    """

    restore_type: Any = jax.Array
    mesh: jax.sharding.Mesh | None = None
    mesh_axes: jax.sharding.PartitionSpec | None = None
    sharding: Any = None
    global_shape: tuple[int, ...] | None = None
    strict: bool = True


def default_restore_type(args: RestoreArgs) -> Any:
    """What a leaf becomes when neither the checkpoint nor the args name a type."""
    if isinstance(args, ArrayRestoreArgs):
        return jax.Array
    if isinstance(args, RestoreArgs):
        return np.ndarray
    raise ValueError(f"no type to restore for args of type {type(args).__name__}")


def isinstance_of_namedtuple(value: Any) -> bool:
    """Whether `value` is a tuple with named fields."""
    return is_namedtuple(value)


def is_supported_empty_value(value: Any) -> bool:
    """Whether `value` is an empty container that is stored by its name alone."""
    if value is None:
        return True
    if is_namedtuple(value):
        return False
    return isinstance(value, dict | list | tuple | Mapping) and not cast("Any", value)


def is_supported_type(value: Any) -> bool:
    """Whether a leaf can be saved."""
    kinds = (str, int, float, np.number, np.ndarray, bytes, jax.Array)
    return isinstance(value, kinds) or is_supported_empty_value(value)


def get_empty_value_typestr(value: Any) -> str:
    """The name of an empty container. Raises `ValueError` for anything else."""
    if not is_supported_empty_value(value):
        raise ValueError(f"{value!r:.80} is not one of the empty values None, {{}}, [] and ()")
    if value is None:
        return RESTORE_TYPE_NONE
    if isinstance(value, list | tuple):
        return RESTORE_TYPE_LIST if isinstance(value, list) else RESTORE_TYPE_TUPLE
    return RESTORE_TYPE_DICT


def is_empty_typestr(typestr: str) -> bool:
    """Whether this is the name of an empty container."""
    return typestr in (RESTORE_TYPE_NONE, RESTORE_TYPE_DICT, RESTORE_TYPE_LIST, RESTORE_TYPE_TUPLE)


def get_empty_value_from_typestr(typestr: str) -> Any:
    """The empty container of that name. Raises `ValueError` for an unknown one."""
    if not is_empty_typestr(typestr):
        raise ValueError(f"{typestr!r} is not the name of an empty value")
    return {RESTORE_TYPE_DICT: {}, RESTORE_TYPE_LIST: [], RESTORE_TYPE_TUPLE: ()}.get(typestr)
