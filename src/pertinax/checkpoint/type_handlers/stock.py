# SPDX-License-Identifier: Apache-2.0
"""The handlers that the global registry starts with.

Knows which types have a handler when nobody has registered one, and which handlers the engine can
stand in for.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import jax
import numpy as np

from pertinax.checkpoint._registry import GLOBAL_TYPE_HANDLER_REGISTRY
from pertinax.checkpoint.type_handlers.array_handler import ArrayHandler
from pertinax.checkpoint.type_handlers.contract import TypeHandler
from pertinax.checkpoint.type_handlers.numpy_handlers import NumpyHandler, ScalarHandler
from pertinax.checkpoint.type_handlers.single_replica import SingleReplicaArrayHandler
from pertinax.checkpoint.type_handlers.string_handler import StringHandler

_NUMERIC: Final[tuple[tuple[Any, Callable[..., TypeHandler]], ...]] = (
    (int, ScalarHandler),
    (float, ScalarHandler),
    (bytes, ScalarHandler),
    (np.number, ScalarHandler),
    (np.ndarray, NumpyHandler),
    (jax.Array, ArrayHandler),
)
# The engine stores these as well; they come last, so that nothing else changes its place.
_ENGINES_OWN: Final[tuple[Any, ...]] = (complex, np.bool_, np.generic)


def fill_global_registry() -> None:
    """Register the stock handlers. Called once, when the package is imported."""
    for ty, make in _NUMERIC:
        GLOBAL_TYPE_HANDLER_REGISTRY.add(ty, make(), override=True)
    GLOBAL_TYPE_HANDLER_REGISTRY.add(str, StringHandler(), override=True)
    for ty in _ENGINES_OWN:
        GLOBAL_TYPE_HANDLER_REGISTRY.add(ty, ScalarHandler(), override=True)


def register_standard_handlers_with_options(**kwargs: Any) -> None:
    """Register the handlers of numbers and arrays anew, with options such as `metadata_key`.

    Raises `KeyError` without `use_ocdbt` and `ts_context`, which old programs pass and which mean
    nothing any more.
    """
    options = dict(kwargs)
    del options["use_ocdbt"], options["ts_context"]
    for ty, make in _NUMERIC:
        GLOBAL_TYPE_HANDLER_REGISTRY.add(ty, make(**options), override=True)


_NATURAL: Final[Mapping[type, tuple[Any, ...]]] = {
    ScalarHandler: (int, float, complex, bytes, np.generic),
    NumpyHandler: (np.ndarray,),
    ArrayHandler: (jax.Array,),
    SingleReplicaArrayHandler: (jax.Array,),
    StringHandler: (str,),
}


def is_engines(handler: Any, ty: type) -> bool:
    """Whether the engine may store leaves of type `ty` in place of `handler`: it is exactly a stock
    handler, without options, for a type that it is made for.
    """
    natural = _NATURAL.get(type(handler))
    return natural is not None and issubclass(ty, natural) and handler.is_plain()


def is_plain(handler: Any) -> bool:
    """Whether the engine may read in place of `handler` what it has stored itself."""
    readers = _NATURAL.keys() - {SingleReplicaArrayHandler}
    return type(handler) in readers and handler.is_plain()
