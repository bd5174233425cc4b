# SPDX-License-Identifier: Apache-2.0
"""Calls: what a program passes to a checkpointer becomes the args of its handler.

Knows the two ways to call: with an instance of args, or with the fields of the registered args
class. Knows nothing of handlers beyond their registration.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pertinax.checkpoint._adapt.legacy import LegacyHandler
from pertinax.checkpoint._adapt.telemetry import record_deprecated
from pertinax.checkpoint.checkpoint_args import CheckpointArgs, get_registered_args_cls


def save_args_of(handler: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> CheckpointArgs:
    """The args of a save.

    Raises `TypeError` if something stands beside an instance of args, which would be lost.
    """
    return construct_args(handler, args, kwargs, for_save=True)


def restore_args_of(handler: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> CheckpointArgs:
    """The args of a restore, likewise."""
    return construct_args(handler, args, kwargs, for_save=False)


def construct_args(
    handler: Any, args: Sequence[Any], kwargs: Mapping[str, Any], *, for_save: bool
) -> CheckpointArgs:
    """The args of either. Raises `TypeError` as `save_args_of` does."""
    given = _given(args, kwargs)
    if given is not None:
        return given
    record_deprecated("checkpointer_legacy_args")
    if not isinstance(handler, LegacyHandler):  # whose own `save` may have such a parameter
        kwargs = {k: value for k, value in kwargs.items() if k != "args" or value is not None}
    return get_registered_args_cls(handler)[0 if for_save else 1](*args, **kwargs)


def _given(args: Sequence[Any], kwargs: Mapping[str, Any]) -> CheckpointArgs | None:
    values = [*args, *kwargs.values()]
    found = next((value for value in values if isinstance(value, CheckpointArgs)), None)
    if found is None:
        return None
    others = [type(arg).__name__ for arg in args if arg is not found and arg is not None]
    others += [name for name, value in kwargs.items() if value is not found and value is not None]
    if others:
        raise TypeError(
            f"{type(found).__name__} says all there is to say: "
            f"put what else was passed ({', '.join(others)}) into it"
        )
    return found
