# SPDX-License-Identifier: Apache-2.0
"""The contract of a handler that goes on writing while the program goes on computing.

Knows one more method than `checkpoint_handler`. Knows nothing of who waits for the futures.
"""

import abc
from typing import Any

from etils import epath

from pertinax.checkpoint.future import Future
from pertinax.checkpoint.handlers.checkpoint_handler import CheckpointHandler


class AsyncCheckpointHandler(CheckpointHandler):
    """A handler whose saves come in two parts: the program waits for the first one only."""

    @abc.abstractmethod
    async def async_save(
        self, directory: epath.Path, *args: Any, **kwargs: Any
    ) -> list[Future] | None:
        """Take hold of all values, and return the futures of what is still being written.

        When this returns, the program may change what it passed in. The coroutine runs on a loop of
        the library's own.
        """
