# SPDX-License-Identifier: Apache-2.0
"""Fallback: the newest step that can be restored, and what was passed over on the way.

Knows the order of steps and which failures another step may not have. Knows nothing of how a step
is read.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, final

from pertinax.errors import (
    CheckpointNotFound,
    CorruptCheckpoint,
    NewerFormat,
    NotACheckpoint,
    NoUsableStep,
    PassedOver,
    PertinaxError,
    StorageError,
)
from pertinax.typing import PyTree

_LOG: Final = logging.getLogger(__name__)
# A target that does not fit, an option without meaning, a format that an update would read: these
# would fail alike, or go back for no good reason.
_OF_THE_STEP: Final = (CheckpointNotFound, CorruptCheckpoint, NotACheckpoint, StorageError)


@final
@dataclass(frozen=True, slots=True)
class Restored:
    """What `Manager.restore` found.

    Attributes:
        step: the step that was restored.
        tree: its state.
        passed_over: newer steps that could not be, newest first, each with its error.
    """

    step: int
    tree: PyTree
    passed_over: tuple[PassedOver, ...] = ()

    @property
    def damaged(self) -> list[int]:
        """Those of `passed_over` whose bytes are not those that were written."""
        wrong = (CorruptCheckpoint,)
        return [one.step for one in self.passed_over if isinstance(one.error, wrong)]


def restore_newest(
    root: str,
    look: Callable[[], dict[int, str]],
    read: Callable[[int, str], PyTree],
    *,
    fallback: bool,
) -> Restored | None:
    """Read the newest step that `look` shows, or with `fallback` the newest that can be read.

    None if there is no step. A step that is deleted while it is read is no failure: we look again.
    Raises what `read` does, and `NoUsableStep` if every step was passed over.
    """
    passed: list[PassedOver] = []
    tried: set[int] = set()
    while True:
        left = {step: path for step, path in look().items() if step not in tried}
        if not left:
            break
        step = max(left)
        tried.add(step)
        try:
            return Restored(step, read(step, left[step]), tuple(passed))
        except _OF_THE_STEP as error:
            gone = isinstance(error, CheckpointNotFound)
            if isinstance(error, NewerFormat) or not (gone or fallback):
                raise
            passed.append(PassedOver(step, left[step], error))
            _LOG.warning("passed over %s", passed[-1])
        except PertinaxError as error:
            for one in passed:
                error.add_note(f"before that was passed over {one}")
            raise
    if not passed:
        return None
    if not fallback and len(passed) == 1:
        raise passed[0].error
    raise NoUsableStep(root, passed)
