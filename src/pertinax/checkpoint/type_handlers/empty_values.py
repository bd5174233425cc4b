# SPDX-License-Identifier: Apache-2.0
"""Which values can be leaves, and the empty containers that are stored by their names alone.

Knows types and names. Knows nothing of files.
"""

from collections.abc import Mapping
from typing import Any, cast

import jax
import numpy as np

from pertinax._tree.flatten import is_namedtuple
from pertinax.checkpoint.type_handlers.contract import TypeHandlerRegistry

RESTORE_TYPE_NONE = "None"
RESTORE_TYPE_DICT = "Dict"
RESTORE_TYPE_LIST = "List"
RESTORE_TYPE_TUPLE = "Tuple"
RESTORE_TYPE_UNKNOWN = "Unknown"


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


def get_param_typestr(value: Any, registry: TypeHandlerRegistry) -> str:
    """The name under which the type of a leaf is recorded; `None` for one without a handler."""
    if is_supported_empty_value(value):
        return get_empty_value_typestr(value)
    try:
        handler = registry.get(type(value))
    except ValueError:
        return RESTORE_TYPE_NONE
    return handler.typestr()
