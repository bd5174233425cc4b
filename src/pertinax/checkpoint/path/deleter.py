# SPDX-License-Identifier: Apache-2.0
"""Deleters: take steps out of a root by their numbers.

Knows how steps are called and that some deleters work in the background. Knows nothing of which
steps have to go. A step that cannot be removed is logged; nothing is raised.
"""

import logging
from collections.abc import Sequence
from typing import Any, Final, Protocol

from etils import epath

from pertinax.checkpoint._adapt.removal import STANDARD_DURATION, THREADED_DURATION, Removal
from pertinax.checkpoint.path import step as step_lib

_LOG: Final = logging.getLogger(__name__)


class CheckpointDeleter(Protocol):
    """Removes steps of one root."""

    def delete(self, step: int) -> None:
        """Remove `step`; one that is not there is only logged."""
        ...

    def delete_steps(self, steps: Sequence[int]) -> None:
        """Remove all of `steps`."""
        ...

    def close(self) -> None:
        """Wait for what goes on in the background. May be called twice."""
        ...


class _Deleter(CheckpointDeleter):
    def __init__(
        self, removal: Removal, directory: epath.Path, names: step_lib.NameFormat[Any]
    ) -> None:
        self._removal = removal
        self._directory = directory
        self._names = names

    def delete(self, step: int) -> None:
        """Remove `step`, or, if it was never finished, what there is of it."""
        path = self._find(step)
        if path is None:
            _LOG.warning("there is no step=%d to delete root=%s", step, self._directory)
        else:
            self._removal.remove(path)

    def _find(self, step: int) -> epath.Path | None:
        for unfinished in (False, True):  # what is finished first: a leftover is not the step
            try:
                return step_lib.find_step_path(
                    self._directory, self._names, step=step, include_uncommitted=unfinished
                )
            except (ValueError, FileNotFoundError):
                continue
        return None

    def delete_steps(self, steps: Sequence[int]) -> None:
        """Remove all of `steps`."""
        for step in steps:
            self.delete(step)

    def close(self) -> None:
        """Wait until nothing is left to remove. May be called twice."""
        self._removal.close()


class StandardCheckpointDeleter(_Deleter):
    """Removes a step before `delete` returns, on the primary host.

    Args:
        primary_host: the process that removes; None means each, in a root of its own.
        directory: the root.
        todelete_subdir: move steps into this directory of the root instead.
        name_format: how steps are called.
        duration_metric: the name under which JAX is told how long each removal took.
    """

    def __init__(
        self,
        primary_host: int | None,
        directory: epath.PathLike,
        todelete_subdir: str | None,
        name_format: step_lib.NameFormat[Any],
        duration_metric: str | None = STANDARD_DURATION,
    ) -> None:
        removal = Removal(
            directory,
            subdir=todelete_subdir,
            primary_host=primary_host,
            duration=duration_metric,
        )
        super().__init__(removal, epath.Path(directory), name_format)


class ThreadedCheckpointDeleter(_Deleter):
    """As `StandardCheckpointDeleter`, but only makes a step invisible before `delete` returns: its
    bytes go in a thread, first come, first gone. `close` waits for it.
    """

    def __init__(
        self,
        primary_host: int | None,
        directory: epath.PathLike,
        todelete_subdir: str | None,
        name_format: step_lib.NameFormat[Any],
    ) -> None:
        removal = Removal(
            directory,
            subdir=todelete_subdir,
            background=True,
            primary_host=primary_host,
            duration=THREADED_DURATION,
        )
        super().__init__(removal, epath.Path(directory), name_format)


def create_checkpoint_deleter(
    primary_host: int | None,
    directory: epath.PathLike,
    todelete_subdir: str | None,
    name_format: step_lib.NameFormat[Any],
    enable_background_delete: bool,
) -> CheckpointDeleter:
    """The deleter for these options; the arguments are those of the classes."""
    chosen = ThreadedCheckpointDeleter if enable_background_delete else StandardCheckpointDeleter
    return chosen(primary_host, directory, todelete_subdir, name_format)
