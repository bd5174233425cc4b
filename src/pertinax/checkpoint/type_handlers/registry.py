# SPDX-License-Identifier: Apache-2.0
"""The registry of type handlers: the program's own, and private ones.

Knows how handlers are registered and found. Knows nothing of what they do; which handlers the
global registry starts with is said in `stock`.
"""

from collections.abc import Callable
from typing import Any

from pertinax.checkpoint._adapt.type_table import TypeTable
from pertinax.checkpoint._registry import GLOBAL_TYPE_HANDLER_REGISTRY
from pertinax.checkpoint.type_handlers.contract import TypeHandler, TypeHandlerRegistry


def create_type_handler_registry(*handlers: tuple[Any, TypeHandler]) -> TypeHandlerRegistry:
    """A registry of one's own, from pairs of type and handler."""
    return TypeTable(*handlers)


def register_type_handler(
    ty: Any,
    handler: TypeHandler,
    func: Callable[[Any], bool] | None = None,
    override: bool = False,
) -> None:
    """Use `handler` for `ty` wherever no registry is given.

    Args:
        ty: the type of the leaves.
        handler: what stores and reads them.
        func: which types belong to it; None: `ty` and its subclasses.
        override: take the place of the handler that `ty` has.

    Raises:
        ValueError: `ty`, or the name under which the handler records types, is taken.
    """
    GLOBAL_TYPE_HANDLER_REGISTRY.add(ty, handler, func, override)


def get_type_handler(ty: Any) -> TypeHandler:
    """The handler for a type or recorded name. Raises `ValueError` if there is none."""
    return GLOBAL_TYPE_HANDLER_REGISTRY.get(ty)


def has_type_handler(ty: Any) -> bool:
    """Whether there is a handler for a type or recorded name."""
    return GLOBAL_TYPE_HANDLER_REGISTRY.has(ty)
