# SPDX-License-Identifier: Apache-2.0
"""The contract of a checkpointer: it makes and reads one checkpoint at a time.

Knows the methods that programs call, and who says once which version they run on. Knows nothing of
how they are done.
"""

import abc
import functools
import logging
from typing import Any, Final, Self

import jax

from pertinax._version import VERSION
from pertinax.typing import PathLike

_LOG: Final = logging.getLogger(__name__)


class AbstractCheckpointer(abc.ABC):
    """Saves to a directory and restores from it, all or nothing."""

    def __init__(self) -> None:
        _log_version()

    @abc.abstractmethod
    def save(self, directory: PathLike, *args: Any, **kwargs: Any) -> None:
        """Save to `directory`, which must not be there yet."""

    @abc.abstractmethod
    def restore(self, directory: PathLike, *args: Any, **kwargs: Any) -> Any:
        """Restore from `directory`."""

    def metadata(self, directory: PathLike) -> Any | None:
        """What is known of the checkpoint without reading its values."""
        return None

    def structure(self, directory: PathLike) -> Any | None:
        """Nothing any more: `metadata` tells."""
        return None

    def close(self) -> None:  # noqa: B027 - nothing to do unless a subclass has something
        """Let go of everything."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@functools.cache
def _log_version() -> None:
    """Once for each program."""
    _LOG.info("pertinax version=%s jax=%s", VERSION, jax.__version__)
