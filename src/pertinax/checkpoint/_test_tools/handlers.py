# SPDX-License-Identifier: Apache-2.0
"""Handlers for tests: one that needs no checkpointer, one that fails in the background.

Knows the handlers of trees. Knows nothing of files.
"""

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from etils import epath

from pertinax.checkpoint import multihost
from pertinax.checkpoint.checkpoint_args import register_with_handler
from pertinax.checkpoint.handlers import pytree_checkpoint_handler
from pertinax.checkpoint.handlers.async_checkpoint_handler import AsyncCheckpointHandler
from pertinax.checkpoint.handlers.pytree_checkpoint_handler import PyTreeSaveArgs

_FAILS_AFTER_S = 3.0


class PyTreeCheckpointHandler(pytree_checkpoint_handler.PyTreeCheckpointHandler):
    """The handler of trees, whose `save` finalizes as well: for tests without a checkpointer."""

    def save(self, directory: epath.Path, *args: Any, **kwargs: Any) -> None:
        """Save, wait for all processes, finalize on the first, and wait again."""
        super().save(directory, *args, **kwargs)
        multihost.sync_global_processes("PyTreeCheckpointHandler:save")
        if multihost.process_index() == 0:
            self.finalize(directory)
        multihost.sync_global_processes("PyTreeCheckpointHandler:finalize")


class ErrorCheckpointHandler(AsyncCheckpointHandler):
    """Saves as `handler` does, and then fails in the background, on the executor."""

    def __init__(
        self,
        handler: pytree_checkpoint_handler.PyTreeCheckpointHandler,
        executor: ThreadPoolExecutor,
        *,
        fails_after_s: float = _FAILS_AFTER_S,
    ) -> None:
        self._handler = handler
        self._executor = executor
        self._fails_after_s = fails_after_s

    def save(self, directory: epath.Path, args: "ErrorSaveArgs") -> None:
        """As `handler` does, without failure."""
        self._handler.save(directory, args=args)

    def restore(self, directory: epath.Path, args: "ErrorRestoreArgs | None" = None) -> Any:
        """As `handler` does."""
        return self._handler.restore(directory) if args is None else self._restore(directory, args)

    def _restore(self, directory: epath.Path, args: "ErrorRestoreArgs") -> Any:
        wanted = pytree_checkpoint_handler.PyTreeRestoreArgs(args.item)
        return self._handler.restore(directory, args=wanted)

    async def async_save(self, directory: epath.Path, args: "ErrorSaveArgs") -> Any:
        """Begin as `handler` does; the last of the futures raises `SystemError`."""
        futures = await self._handler.async_save(directory, args=args) or []
        return [*futures, self._executor.submit(self._fail)]

    def _fail(self) -> None:
        time.sleep(self._fails_after_s)
        raise SystemError("this handler fails in the background, as it was made to")

    def finalize(self, directory: epath.Path) -> None:
        """As `handler` does."""
        self._handler.finalize(directory)


@register_with_handler(ErrorCheckpointHandler, for_save=True)
@dataclasses.dataclass
class ErrorSaveArgs(PyTreeSaveArgs):
    """What `PyTreeSaveArgs` says, for a save that fails."""


@register_with_handler(ErrorCheckpointHandler, for_restore=True)
@dataclasses.dataclass
class ErrorRestoreArgs(PyTreeSaveArgs):
    """The tree that the result shall be like, None for that of the checkpoint."""

    item: Any = None
