# SPDX-License-Identifier: Apache-2.0
"""What every manager can do, as a protocol: for programs that bring their own, or a fake for tests.

Knows names and promises. Knows nothing of how they are kept.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from etils import epath

from pertinax.checkpoint.checkpoint_args import CheckpointArgs


class AbstractCheckpointManager(Protocol):
    """Steps under one root: saved, restored, listed and removed."""

    @property
    def directory(self) -> epath.Path:
        """The root."""
        ...

    def all_steps(self, read: bool = False) -> list[int]:
        """The known steps; with `read` after another look at the disk."""
        ...

    def latest_step(self) -> int | None:
        """The newest known step, or None."""
        ...

    def best_step(self) -> int | None:
        """The best known step, or None."""
        ...

    def reload(self) -> None:
        """Look at the disk again."""
        ...

    def reached_preemption(self, step: int) -> bool:
        """Whether the job is about to be stopped, and `step` is where all processes know."""
        ...

    def should_save(self, step: int) -> bool:
        """Whether `save` would save."""
        ...

    def delete(self, step: int) -> None:
        """Remove a step."""
        ...

    def save(
        self,
        step: int,
        items: Any = None,
        save_kwargs: Any = None,
        metrics: Any = None,
        force: bool = False,
        args: CheckpointArgs | None = None,
    ) -> bool:
        """Save, if it is time to; whether it was."""
        ...

    def restore(
        self,
        step: int | None,
        items: Any = None,
        restore_kwargs: Any = None,
        directory: epath.PathLike | None = None,
        args: CheckpointArgs | None = None,
    ) -> Any:
        """What was saved at `step`, or at the newest."""
        ...

    def item_metadata(self, step: int) -> Any:
        """What is known about the items of `step` without reading them."""
        ...

    def metadata(self) -> Mapping[str, Any]:
        """What was noted about the whole root."""
        ...

    def metrics(self, step: int) -> Any:
        """What was measured at `step`, or None."""
        ...

    def wait_until_finished(self) -> None:
        """Wait for the save in the background. Raises what went wrong."""
        ...

    def check_for_errors(self) -> None:
        """Raise what went wrong in the background, without waiting."""
        ...

    def close(self) -> None:
        """Wait, and give everything back."""
        ...
