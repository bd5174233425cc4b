# SPDX-License-Identifier: Apache-2.0
"""Arguments of handlers, and which handler each class of them belongs to.

Knows the base class and the registration. Knows nothing of particular handlers.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

from pertinax.checkpoint import _registry
from pertinax.checkpoint._adapt import guests

T = TypeVar("T", bound=type)


@dataclasses.dataclass
class CheckpointArgs(metaclass=abc.ABCMeta):  # noqa: B024 - for `__subclasshook__` alone
    """What a handler is told about one save or restore.

    Subclass it as a dataclass and register the subclass. Args that another library derived from
    Orbax's own base class count as subclasses.
    """

    @classmethod
    def __subclasshook__(cls, subclass: type) -> bool:
        found = cls is CheckpointArgs and guests.is_guest(subclass)
        return True if found else NotImplemented


def register_with_handler(
    handler_cls: type, for_save: bool = False, for_restore: bool = False
) -> Callable[[T], T]:
    """Class decorator: from now on these args mean `handler_cls`, for saving, restoring or both.

    >>> @register_with_handler(MyHandler, for_save=True)
    ... @dataclasses.dataclass
    ... class MySave(CheckpointArgs):
    ...     item: str

    Raises `ValueError` if neither flag is set, `TypeError` for a class that is not one of
    `CheckpointArgs`.
    """
    if not (for_save or for_restore):
        raise ValueError("say what the args are for: for_save=True, for_restore=True, or both")

    def register(args_cls: T) -> T:
        if not issubclass(args_cls, CheckpointArgs):
            raise TypeError(f"{args_cls.__qualname__} must subclass CheckpointArgs")
        if for_save:
            _registry.SAVE_HANDLERS[args_cls] = handler_cls
        if for_restore:
            _registry.RESTORE_HANDLERS[args_cls] = handler_cls
        return args_cls

    return register


def get_registered_handler_cls(arg: Any) -> type:
    """The handler class of an args class or instance, by its exact type; saving is looked up first.

    Raises `TypeError` for what is no `CheckpointArgs`, `ValueError` if nothing is registered.
    """
    args_cls = arg if isinstance(arg, type) else type(arg)
    if not issubclass(args_cls, CheckpointArgs):
        raise TypeError(f"{args_cls.__qualname__} must subclass CheckpointArgs")
    found = _registry.SAVE_HANDLERS.get(args_cls) or _registry.RESTORE_HANDLERS.get(args_cls)
    if found is None and guests.is_guest(args_cls):
        found = guests.handler_of(args_cls)
    if found is None:
        raise ValueError(
            f"no handler is registered for {args_cls.__qualname__}: "
            "decorate it with register_with_handler"
        )
    return found


def get_registered_args_cls(handler: Any) -> tuple[type[CheckpointArgs], type[CheckpointArgs]]:
    """The args classes for saving and restoring of a handler class or instance.

    The first registered of each. Raises `ValueError` if either is missing.
    """
    handler_cls = handler if isinstance(handler, type) else type(handler)
    save, restore = _registered(handler_cls)
    if save is None or restore is None:
        lacking = "saving" if save is None else "restoring"
        raise ValueError(
            f"{handler_cls.__qualname__} has no args registered for {lacking}: "
            "decorate one with register_with_handler"
        )
    return save, restore


def has_registered_args(handler: Any) -> bool:
    """Whether a handler class or instance has args for saving and for restoring."""
    handler_cls = handler if isinstance(handler, type) else type(handler)
    return None not in _registered(handler_cls)


def _registered(handler_cls: type) -> tuple[type | None, type | None]:
    save = _first(_registry.SAVE_HANDLERS, handler_cls)
    restore = _first(_registry.RESTORE_HANDLERS, handler_cls)
    return (save, restore) if save or restore else guests.args_of(handler_cls)


def _first(known: dict[type, type], handler_cls: type) -> type | None:
    return next((args for args, handler in known.items() if handler is handler_cls), None)
