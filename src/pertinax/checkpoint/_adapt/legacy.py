# SPDX-License-Identifier: Apache-2.0
"""Handlers without args of their own, made to look like those that have them.

Knows how to carry positional and keyword arguments through a checkpointer. Knows nothing of what
they mean.
"""

import dataclasses
import logging
from typing import Any, Final

from etils import epath

from pertinax.checkpoint.checkpoint_args import (
    CheckpointArgs,
    has_registered_args,
    register_with_handler,
)
from pertinax.checkpoint.future import Future
from pertinax.checkpoint.handlers.async_checkpoint_handler import AsyncCheckpointHandler
from pertinax.checkpoint.handlers.checkpoint_handler import CheckpointHandler

_LOG: Final = logging.getLogger(__name__)


class UnusableArgs(TypeError, AttributeError):
    """Args of one handler were passed to another that has none."""


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
        given = self._given(args)
        self._handler.save(directory, *given.args, **given.kwargs)

    def restore(self, directory: epath.Path, args: "LegacyArgs | None" = None) -> Any:
        """Restore as the handler does."""
        given = self._given(args)
        return self._handler.restore(directory, *given.args, **given.kwargs)

    def _given(self, args: Any) -> "LegacyArgs":
        if args is None:
            return LegacyArgs()
        if isinstance(args, LegacyArgs):
            return args
        raise UnusableArgs(
            f"{type(self._handler).__name__} has no registered args, so it cannot take "
            f"{type(args).__name__}: pass what its save and restore take, or register args for it"
        )

    def metadata(self, directory: epath.Path) -> Any | None:
        """What the handler knows."""
        return self._handler.metadata(directory)

    def structure(self, directory: epath.Path) -> Any:
        """What the handler says. Raises `AttributeError` if it has no such method."""
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
        given = self._given(args)
        return await self._handler.async_save(directory, *given.args, **given.kwargs)


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
    if has_registered_args(handler):
        return handler
    _LOG.warning(
        "handler without registered args handler=%s: it is called as before args existed",
        type(handler).__qualname__,
    )
    return get_legacy_handler_wrapper(handler)


def unwrapped(handler: Any) -> Any:
    """The handler that a program gave."""
    return handler.inner if isinstance(handler, LegacyHandler) else handler
