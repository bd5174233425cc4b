# SPDX-License-Identifier: Apache-2.0
"""Args and handlers that other libraries register with the real Orbax, as Grain does.

A data loader that ships `CheckpointSave(iterator)` derives it from Orbax's class where Orbax is
installed. Such args work through this door as they are.

Knows Orbax's public registration, if the program has imported it. Imports nothing of it, and knows
nothing of what the handlers do.
"""

import sys
from typing import Any, Final

_HOME: Final = "orbax.checkpoint.checkpoint_args"


def is_guest(args_cls: type) -> bool:
    """Whether a class of args derives from Orbax's own base class."""
    return any(
        base.__name__ == "CheckpointArgs" and base.__module__ == _HOME for base in args_cls.__mro__
    )


def handler_of(args_cls: type) -> type | None:
    """The handler class that `args_cls` is registered with there, or None.

    Raises `ValueError` for args that belong to Orbax itself: their handlers would write past us.
    """
    found = _ask("get_registered_handler_cls", args_cls)
    if found is not None and found.__module__.startswith("orbax."):
        raise ValueError(
            f"{args_cls.__name__} is of orbax.checkpoint itself: "
            "use the args of the same name in pertinax.checkpoint.args"
        )
    return found


def args_of(handler_cls: type) -> tuple[type | None, type | None]:
    """The args classes for saving and restoring that `handler_cls` has there, or (None, None)."""
    if handler_cls.__module__.startswith(("orbax.", "pertinax.")):
        return None, None
    return _ask("get_registered_args_cls", handler_cls) or (None, None)


def _ask(question: str, about: type) -> Any:
    there = sys.modules.get(_HOME)
    if there is None:
        return None
    try:
        return getattr(there, question)(about)
    except (ValueError, TypeError):
        return None
