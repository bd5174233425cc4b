# SPDX-License-Identifier: Apache-2.0
"""The contract of a handler: it knows how to write one item into a directory, and how to read it
back.

Knows the methods that a program may implement. Knows nothing of how they are called together.
"""

import abc
from typing import Any

from etils import epath


class CheckpointHandler(abc.ABC):
    """Saves and restores one kind of item. Handlers are not atomic; checkpointers make them so.

    A handler with args of its own registers their classes with `register_with_handler`;
    checkpointers then call it as `save(directory, args=...)`. What a handler writes need not be
    synced: that is done for it before publication.
    """

    @abc.abstractmethod
    def save(self, directory: epath.Path, *args: Any, **kwargs: Any) -> None:
        """Write an item into `directory`, which exists; on return its files are complete."""

    @abc.abstractmethod
    def restore(self, directory: epath.Path, *args: Any, **kwargs: Any) -> Any:
        """Read the item in `directory`."""

    def metadata(self, directory: epath.Path) -> Any | None:
        """What is known of the item without reading its values."""
        return None

    def finalize(self, directory: epath.Path) -> None:  # noqa: B027 - optional
        """Called on one process once all have written; it may be on a background thread."""

    def close(self) -> None:  # noqa: B027 - optional
        """Let go of threads and files."""

    @classmethod
    def typestr(cls) -> str:
        """The name of the class as the notes of a checkpoint have it."""
        module = cls.__module__
        if module.startswith(
            "pertinax.checkpoint.handlers."
        ):  # readers elsewhere know ours under Orbax's names
            module = module.replace("pertinax.checkpoint.", "orbax.checkpoint._src.", 1)
        return f"{module}.{cls.__qualname__}"
