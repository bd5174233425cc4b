"""Writing one step: written, visible, and then what has become too old goes.

Knows the order of a step's life on the writer thread. Knows nothing of when to save, nor of the
handle that people wait for: failures carry these frames along, and must not keep it alive.
All decisions rest on what the disk shows, not on what we hoped for.
"""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, final

from pertinax._core.options import SaveOptions
from pertinax._core.write import Contents, write_checkpoint
from pertinax._steps.deletion import Deleter
from pertinax._steps.history import StepRecord, list_steps, read_record
from pertinax._steps.naming import Naming
from pertinax._steps.policies import Everything, KeepPolicy
from pertinax._steps.retention import victims
from pertinax._store.contract import Store
from pertinax._store.leftovers import find_visible, join_path
from pertinax.errors import CheckpointExists

_LOG: Final = logging.getLogger(__name__)


@final
@dataclass(frozen=True, slots=True)
class StepRoot:
    """Where the steps of a run lie, and what they are called."""

    store: Store
    path: str
    naming: Naming

    def directory(self, step: int) -> str:
        """Where a step is written."""
        return join_path(self.path, self.naming.name(step))

    def steps(self) -> dict[int, str]:
        """The visible steps and their directories, ascending. See `list_steps`."""
        return list_steps(self.store, self.path, self.naming)


@final
class StepWriter:
    """Writes steps into one root, one at a time; the caller sees to that.

    Attributes:
        last: the step whose save began last and did not fail, and when; or None.
        doubtful: steps that became visible although their save failed in its very last sync. A
            power cut may yet take them, so nobody was told that they are there.
    """

    def __init__(
        self, root: StepRoot, keep: KeepPolicy, deleter: Deleter, *, last: tuple[int, float] | None
    ) -> None:
        self.root: Final = root
        self.last = last
        self.doubtful: set[int] = set()
        self._keep = keep
        self._deleter = deleter
        # Only the one save at hand touches these: on the caller's thread first, then on its own.
        self._records: dict[int, StepRecord] = {}

    def refuse_if_taken(self, step: int) -> None:
        """Raise `CheckpointExists` if there is such a step."""
        taken = self.root.steps().get(step)
        if taken is None:
            return
        why = "it became visible although its save failed; " if step in self.doubtful else ""
        raise CheckpointExists(f"step {step} is at {taken}: {why}delete({step}) makes room for it")

    def rehearse(self, step: int, metrics: bytes | None) -> None:
        """Let the policy decide once in advance: what it raises comes before a byte is written."""
        if isinstance(self._keep, Everything):
            return
        measured = None if metrics is None else json.loads(metrics)
        record = StepRecord(step, time.time_ns(), measured, self.root.directory(step))
        victims([*self._refresh(), record], self._keep, protect={step})

    def write(
        self,
        step: int,
        contents: Contents,
        options: SaveOptions,
        progress: Callable[[int, int], None],
    ) -> None:
        """Make the step visible, durably, and let go what the policy does not keep.

        Raises as `write_checkpoint` does, the step named in a note.
        """
        final = self.root.directory(step)
        try:
            write_checkpoint(self.root.store, final, contents, options, progress)
        except BaseException as error:
            error.add_note(f"while saving step {step} to {final}")
            self._note_doubt(step, final, error)
            raise
        self.doubtful.discard(step)
        self._retain(step)

    def _note_doubt(self, step: int, final: str, error: BaseException) -> None:
        """A failing last sync comes after the step has become visible (see `Draft.commit`)."""
        if isinstance(error, CheckpointExists):
            return
        try:
            visible = find_visible(self.root.store, final) is not None
        except Exception:  # noqa: BLE001 - a store that is gone shows nothing to anybody
            return
        if visible:
            self.doubtful.add(step)
            error.add_note("the step is visible and whole, but a power cut may take it away")

    def _retain(self, step: int) -> None:
        """Let go what the policy does not keep. The step is saved: nothing here may deny that."""
        if isinstance(self._keep, Everything):
            return
        try:
            history = self._refresh()
            places = {record.step: record.directory for record in history}
            for victim in victims(history, self._keep, protect={step}):
                if self._deleter.delete(places[victim]):
                    _LOG.info("deleted step=%d path=%s", victim, places[victim])
        except Exception:  # noqa: BLE001 - a policy of the user's may raise anything
            _LOG.exception("nothing was deleted after step=%d", step)

    def _refresh(self) -> list[StepRecord]:
        """What the disk shows now; a step's notes are read once."""
        found = self.root.steps()
        for step in self._records.keys() - found.keys():
            del self._records[step]
        for step, directory in found.items():
            known = self._records.get(step)
            if known is None or not known.readable:
                record = read_record(self.root.store, step, directory, metrics=True, times=True)
                if record is not None:
                    self._records[step] = record
        return [self._records[s] for s in found if s in self._records and s not in self.doubtful]
