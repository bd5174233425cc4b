"""Handlers without args of their own, made to look like those that have them.

Knows how to carry positional and keyword arguments through a checkpointer. Knows nothing of what
they mean.
"""

import dataclasses
from typing import Any

from etils import epath

from pertinax.checkpoint.checkpoint_args import (
    CheckpointArgs,
    has_registered_args,
    register_with_handler,
)
from pertinax.checkpoint.future import Future
from pertinax.checkpoint.handlers.async_checkpoint_handler import AsyncCheckpointHandler
from pertinax.checkpoint.handlers.checkpoint_handler import CheckpointHandler


class LegacyHandler(CheckpointHandler):
    """Calls a handler with the arguments that a program passed to its checkpointer."""

    def __init__(self, handler: CheckpointHandler) -> None:
        self._handler = handler

    @property
    def inner(self) -> CheckpointHandler:
        """The handler that a program gave."""
        return self._handler

    def save(self, directory: epath.Path, args: "LegacyArgs") -> None:
        """Save as the handler does."""
        self._handler.save(directory, *args.args, **args.kwargs)

    def restore(self, directory: epath.Path, args: "LegacyArgs | None" = None) -> Any:
        """Restore as the handler does."""
        given = args if args is not None else LegacyArgs()
        return self._handler.restore(directory, *given.args, **given.kwargs)

    def metadata(self, directory: epath.Path) -> Any | None:
        """What the handler knows."""
        return self._handler.metadata(directory)

    def structure(self, directory: epath.Path) -> Any:
        """What the handler says, if it has such a method."""
        return getattr(self._handler, "structure")(directory)  # noqa: B009 - no handler need have it

    def finalize(self, directory: epath.Path) -> None:
        """Finish as the handler does."""
        self._handler.finalize(directory)

    def close(self) -> None:
        """Close the handler."""
        self._handler.close()


class AsyncLegacyHandler(LegacyHandler, AsyncCheckpointHandler):
    """The same for handlers that go on in the background."""

    _handler: AsyncCheckpointHandler

    async def async_save(self, directory: epath.Path, args: "LegacyArgs") -> list[Future] | None:
        """Begin as the handler does."""
        return await self._handler.async_save(directory, *args.args, **args.kwargs)


@register_with_handler(LegacyHandler, for_save=True, for_restore=True)
@dataclasses.dataclass(init=False)
class LegacyArgs(CheckpointArgs):
    """Arguments as they came."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args
        self.kwargs = kwargs


@register_with_handler(AsyncLegacyHandler, for_save=True, for_restore=True)
class AsyncLegacyArgs(LegacyArgs):
    """Arguments as they came, for handlers that go on in the background."""


def get_legacy_handler_wrapper(handler: CheckpointHandler) -> LegacyHandler:
    """A handler with registered args around one without."""
    return (
        AsyncLegacyHandler(handler)
        if isinstance(handler, AsyncCheckpointHandler)
        else LegacyHandler(handler)
    )


def with_args(handler: Any) -> Any:
    """The handler itself if it has registered args, or the wrapper around it."""
    return handler if has_registered_args(handler) else get_legacy_handler_wrapper(handler)


def unwrapped(handler: Any) -> Any:
    """The handler that a program gave."""
    return handler.inner if isinstance(handler, LegacyHandler) else handler
