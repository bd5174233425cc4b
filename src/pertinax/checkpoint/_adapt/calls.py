"""Calls: what a program passes to a checkpointer becomes the args of its handler.

Knows the two ways to call: with an instance of args, or with the fields of the registered args
class. Knows nothing of handlers beyond their registration.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pertinax.checkpoint.checkpoint_args import CheckpointArgs, get_registered_args_cls


def save_args_of(handler: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> CheckpointArgs:
    """The args of a save.

    Raises `TypeError` if something stands beside an instance of args, which would be lost.
    """
    given = _given(args, kwargs)
    return (
        given
        if given is not None
        else get_registered_args_cls(handler)[0](*args, **_fields(kwargs))
    )


def restore_args_of(handler: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> CheckpointArgs:
    """The args of a restore, likewise."""
    given = _given(args, kwargs)
    return (
        given
        if given is not None
        else get_registered_args_cls(handler)[1](*args, **_fields(kwargs))
    )


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


def _fields(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords for the args class; `args=None` says nothing."""
    return {name: value for name, value in kwargs.items() if name != "args" or value is not None}
