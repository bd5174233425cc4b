# SPDX-License-Identifier: Apache-2.0
"""Watching: steps that another process makes, as they become visible.

Knows listings and clocks. Knows nothing of saving: nothing is cleaned, made or changed in the root,
except where a step is to be held. The disk says which steps there are; nobody is asked.
"""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Unpack, final

from pertinax._core.load import load
from pertinax._core.places import locate
from pertinax._steps.history import list_steps, read_metrics
from pertinax._steps.naming import PlainNaming, step_number
from pertinax._steps.reading import LoadChoices
from pertinax._steps.snapshots import held_step
from pertinax._store.contract import Store
from pertinax.errors import CheckpointNotFound, InvalidOption
from pertinax.typing import PathLike, PyTree

_UNLIMITED: Final = math.inf


@final
class WatchedStep(int):
    """A step of a run that is being watched: its number, which can also be read.

    Attributes:
        path, store: where to read it from.
    """

    path: str
    store: Store

    def load(self, target: PyTree = None, **options: Unpack[LoadChoices]) -> PyTree:
        """Read the step; as `pertinax.load`.

        Raises `CheckpointNotFound` if the trainer has deleted it; never reads a part.
        """
        return load(self.path, target, store=self.store, **options)

    @property
    def metrics(self) -> Any:
        """What the step was saved with, or None. Raises as `load` does."""
        return read_metrics(self.store, self.path)


def watch(
    root: PathLike,
    *,
    timeout: float | None = None,
    since: int | None = None,
    until: int | None = None,
    latest_only: bool = True,
    protect: bool = False,
    poll_s: float = 1.0,
    prefix: str | None = None,
    width: int | None = None,
    store: Store | None = None,
) -> Iterator[WatchedStep]:
    """The steps of a run that another process is training, as they become visible, ascending.

        for step in Manager.watch("runs/a", timeout=3600):
            report(step, evaluate(step.load(target)))

    What is there already comes first. The root need not exist yet, and is not written to.

    Args:
        root: where a `Manager` saves.
        timeout: the loop ends when nothing new has come for so many seconds; None: never.
        since: only steps after this one.
        until: the loop ends after this step, or a later one.
        latest_only: skip to the newest step each time; else every step comes that was not deleted
            before its turn.
        protect: hold each step as long as the body of the loop has it, so that the trainer may
            delete it and it can be read all the same. This makes hard links in the root (copies
            where there are none; in an object store a pin instead, for a day at most), and so needs
            the right to write there. Without, loading a step that was deleted raises
            `CheckpointNotFound`.
        poll_s: how many seconds to sleep between two looks.
        prefix, width, store: as for `Manager`.

    Raises `InvalidOption` and `StorageError`.
    """
    where, path = locate(root, store)
    naming = PlainNaming(prefix, width)
    first = -1 if since is None else step_number(since)
    last = _UNLIMITED if until is None else step_number(until)
    patience_s = _UNLIMITED if timeout is None else timeout
    if not patience_s >= 0 or not 0 < poll_s < math.inf:
        raise InvalidOption(
            f"timeout={timeout!r}, poll_s={poll_s!r}: not negative, and more than 0 seconds"
        )
    look = _Look(where, path, naming, latest_only, protect)
    return _steps(look, first, last, patience_s, poll_s)


@final
@dataclass(frozen=True, slots=True)
class _Look:
    """Where to look, and which of the new steps comes next."""

    store: Store
    root: str
    naming: PlainNaming
    latest_only: bool
    protect: bool

    def next_after(self, step: int) -> tuple[int, str] | None:
        try:
            found = list_steps(self.store, self.root, self.naming)
        except CheckpointNotFound:
            return None
        new = [one for one in found if one > step]
        if not new:
            return None
        chosen = max(new) if self.latest_only else min(new)
        return chosen, found[chosen]


def _steps(
    look: _Look, seen: int, last: float, patience_s: float, poll_s: float
) -> Iterator[WatchedStep]:
    while seen < last:
        found = _wait(look, seen, patience_s, poll_s)
        if found is None:
            return
        seen, directory = found
        with contextlib.ExitStack() as holding:
            if look.protect:
                try:
                    hold = held_step(look.store, look.root, directory, seen)
                    directory = holding.enter_context(hold)
                except CheckpointNotFound:  # too late: the next one, then
                    continue
            step = WatchedStep(seen)
            step.path, step.store = directory, look.store
            yield step


def _wait(look: _Look, seen: int, patience_s: float, poll_s: float) -> tuple[int, str] | None:
    """The next step; None if there is none in time."""
    end_s = time.monotonic() + patience_s
    while (found := look.next_after(seen)) is None:
        left_s = end_s - time.monotonic()
        if left_s <= 0:
            return None
        time.sleep(min(poll_s, left_s))
    return found
