# SPDX-License-Identifier: Apache-2.0
"""Writing one step: written, visible, and then what has become too old goes.

Knows the order of a step's life on the writer thread. Knows nothing of when to save, nor of the
handle that people wait for: failures carry these frames along, and must not keep it alive.
All decisions rest on what the disk shows, not on what we hoped for.
"""

import contextlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, final

from pertinax._core.options import SaveOptions
from pertinax._core.write import Contents, write_checkpoint
from pertinax._hosts import Round
from pertinax._steps.deletion import Deleter
from pertinax._steps.history import StepRecord, list_steps
from pertinax._steps.naming import Naming
from pertinax._steps.notes import Notes
from pertinax._steps.pins import read_pins
from pertinax._steps.policies import Everything, KeepPolicy, may_raise, needs_notes
from pertinax._steps.retention import victims
from pertinax._steps.statistics import Tally
from pertinax._store.contract import Store
from pertinax._store.failures import storage_errors
from pertinax._store.leftovers import join_path
from pertinax._store.publishing import Hidden, publishing
from pertinax.errors import (
    CheckpointExists,
    CheckpointNotFound,
    InvalidOption,
    StorageFull,
    WriterConflict,
)

_LOG: Final = logging.getLogger(__name__)
_TRIES: Final = 3


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
        root: where.
        keep: which steps live.
        notes: what the steps say of themselves, as far as anybody asked.
        last: the step whose save began last and did not fail, and when; or None.
        doubtful: steps that became visible although their save failed in its very last sync, and
            when their directories had last changed. A power cut may yet take them, so nobody was
            told that they are there.
        damaged: steps that proved damaged when they were read, and when their directories had last
            changed. They may be saved again.
        tally: what the saves cost.
    """

    def __init__(
        self,
        root: StepRoot,
        keep: KeepPolicy,
        deleter: Deleter,
        *,
        last: tuple[int, float] | None,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.root: Final = root
        self.keep: Final = keep
        self.notes: Final = Notes(root.store, root.path)
        self.last = last
        self.doubtful: dict[int, int | None] = {}
        self.damaged: dict[int, int] = {}
        self.tally: Final = Tally()
        self._deleter = deleter
        self._now_ns = now_ns
        # What the last look showed. Only the one save at hand touches it: on the caller's thread
        # first, then on its own.
        self._seen: list[StepRecord] | None = None

    def refuse_if_taken(self, step: int) -> None:
        """Raise `CheckpointExists` if there is such a step. One look, however many steps there are:
        the commit looks again, and closer.
        """
        place = self.root.directory(step)
        with storage_errors("look at the target", place, names_too=True):
            look = publishing(self.root.store).look(place)
            if look in ("missing", "unfinished") or self._is_damaged(step):
                return
        doubtful = step in self.doubtful and step not in self.steps()
        why = "it became visible although its save failed; " if doubtful else ""
        raise CheckpointExists(f"step {step} is at {place}: {why}delete({step}) makes room for it")

    def rehearse(self, step: int, metrics: bytes | None) -> None:
        """Let a policy of the user's decide once in advance: what it raises comes before a byte is
        written.
        """
        if not may_raise(self.keep):
            return
        measured = None if metrics is None else json.loads(metrics)
        record = StepRecord(step, self._now_ns(), measured, self.root.directory(step))
        seen = self.look() if self._seen is None else self._seen
        victims([*(one for one in seen if one.step != step), record], self.keep, protect={step})

    def write(
        self,
        step: int,
        contents: Contents,
        options: SaveOptions,
        progress: Callable[[int, int], None],
        *,
        talk: Round,
    ) -> None:
        """Make the step visible, durably, and let go what the policy does not keep.

        With several processes each writes its part, and the primary sees to the rest. Raises as
        `write_checkpoint` does, the step named in a note.
        """
        begun_s = time.monotonic()
        final = self.root.directory(step)
        try:
            if self._is_damaged(step):
                options = _replacing(self._deleter, final, options, talk)
            self._make_visible(final, contents, options, progress, talk)
        except BaseException as error:
            self.tally.ended(time.monotonic() - begun_s, error=error)
            error.add_note(f"while saving step {step} to {final}")
            self._note_doubt(step, final, error)
            raise
        written_s = time.monotonic()
        self.doubtful.pop(step, None)
        self.damaged.pop(step, None)
        deleted = self._retain(step) if talk.topology.is_primary else []
        retained_s = time.monotonic() - written_s
        self.tally.ended(written_s - begun_s, retained_s=retained_s, deleted=tuple(deleted))

    def look(self, *, with_notes: bool | None = None) -> list[StepRecord]:
        """What the disk shows now, ascending, without doubtful steps: the history to be judged.

        Without `with_notes`, notes are read if the policy wants them.
        """
        found = self.steps()
        if needs_notes(self.keep) if with_notes is None else with_notes:
            records = self.notes.records(found)
        else:
            records = [StepRecord(step, 0, None, place) for step, place in found.items()]
        pins = read_pins(self.root.store, self.root.path)
        if not pins and not self.damaged:
            return records
        return [self._marked(record, pins) for record in records]

    def steps(self) -> dict[int, str]:
        """The visible steps and their directories, ascending, without doubtful ones."""
        found = self.root.steps()
        for step in self.doubtful.keys() & found.keys():
            # Somebody else may have saved it anew.
            if self._changed_ns(step) in (None, self.doubtful[step]):
                del found[step]
        return found

    def note_damage(self, step: int) -> None:
        """Somebody found that step damaged."""
        changed_ns = self._changed_ns(step)
        if changed_ns is not None:
            self.damaged[step] = changed_ns

    def _is_damaged(self, step: int) -> bool:
        """Whether it is known for sure that this is still the step that was found damaged."""
        return step in self.damaged and self._changed_ns(step) == self.damaged[step]

    def _changed_ns(self, step: int) -> int | None:
        try:
            stat = self.root.store.stat(self.root.directory(step))
        except OSError:
            return None
        return None if stat is None else stat.mtime_ns

    def _marked(self, record: StepRecord, pins: dict[int, tuple[str, ...]]) -> StepRecord:
        readable = record.readable and not self._is_damaged(record.step)
        labels = pins.get(record.step, ())
        if readable == record.readable and not labels:
            return record
        return replace(record, readable=readable, pins=labels)

    def _make_visible(
        self,
        final: str,
        contents: Contents,
        options: SaveOptions,
        progress: Callable[[int, int], None],
        talk: Round,
    ) -> None:
        store, removing = self.root.store, self._deleter.busy
        try:
            write_checkpoint(
                store, final, contents, options, progress, now_ns=self._now_ns, talk=talk
            )
        except StorageFull:
            # Old steps that were out of sight already may have taken the room. Several processes
            # cannot go back: the others know already that this save has failed.
            if not talk.topology.alone or not (removing or self._deleter.busy):
                raise
            self._deleter.close()
            write_checkpoint(store, final, contents, options, progress, now_ns=self._now_ns)

    def _note_doubt(self, step: int, final: str, error: BaseException) -> None:
        """A failing last sync comes after the step has become visible (see `Draft.commit`)."""
        if isinstance(error, CheckpointExists | WriterConflict) or step in self.damaged:
            return
        try:
            visible = publishing(self.root.store).find_visible(final) is not None
        except Exception:  # noqa: BLE001 - a store that is gone shows nothing to anybody
            return
        if visible:
            self.doubtful[step] = self._changed_ns(step)
            error.add_note("the step is visible and whole, but a power cut may take it away")

    def _retain(self, step: int) -> list[int]:
        """Let go what the policy does not keep; returns those steps. The step is saved: nothing
        here may deny that.
        """
        try:
            self.notes.add(step, self.root.directory(step))
            if isinstance(self.keep, Everything):
                return []
            doomed = self._doomed(step)
            if not doomed:
                return []
            hidden = self._deleter.hide(list(doomed.values()))
            self._spare_pinned(doomed, hidden)
            self._deleter.remove(list(hidden.values()))
        except Exception:  # noqa: BLE001 - a policy of the user's may raise anything
            _LOG.exception("nothing was deleted after step=%d", step)
            return []
        gone = [one for one, place in doomed.items() if place in hidden]
        self.notes.forget([doomed[one] for one in gone])
        for one in gone:
            _LOG.info("deleted step=%d path=%s", one, doomed[one])
        return gone

    def _doomed(self, step: int) -> dict[int, str]:
        """The steps that must go, and where they lie."""
        for _ in range(_TRIES):
            self._seen = history = self.look()
            chosen = set(victims(history, self.keep, protect={step}))
            records = [record for record in history if record.step in chosen]
            # What decided may have come from an index, and that is a hint: the steps themselves
            # have the last word.
            if not needs_notes(self.keep) or self.notes.confirm(records):
                return {record.step: record.directory for record in records}
        return {}

    def _spare_pinned(self, doomed: dict[int, str], hidden: dict[str, Hidden]) -> None:
        """Give those their names back that somebody has pinned since we looked.

        Who pins looks for the step afterwards, and we look for the pin after hiding the step: one
        of us sees the other.
        """
        pins = read_pins(self.root.store, self.root.path)
        for step in doomed.keys() & pins.keys():
            place = doomed[step]
            spared = hidden.pop(place, None)
            if spared is None or not spared.names:
                continue
            try:
                self._deleter.restore(spared)
            except OSError as error:  # it stays whole, if out of sight
                _LOG.warning("a pinned step is at %s, not at %s: %s", spared.names, place, error)


def _replacing(deleter: Deleter, final: str, options: SaveOptions, talk: Round) -> SaveOptions:
    """How to save where a damaged step lies. What cannot be replaced in one step goes before:
    nothing of worth is lost.
    """
    if deleter.can_replace:
        return replace(options, exists="replace")
    if talk.topology.is_primary:
        with contextlib.suppress(CheckpointNotFound):
            deleter.delete_or_raise(final)
        deleter.close()
    return options


def delete_step(root: StepRoot, deleter: Deleter, step: int, place: str) -> None:
    """Make a step invisible, durably. The primary does it; afterwards all `forget_step`.

    Raises `InvalidOption` if it is pinned, `CheckpointNotFound`, `StorageError`.
    """
    labels = read_pins(root.store, root.path).get(step)
    if labels:
        raise InvalidOption(f"step {step} is pinned as {', '.join(labels)}: unpin it first")
    deleter.delete_or_raise(place)


def forget_step(writer: StepWriter, step: int) -> None:
    """Nothing of what was known of a step holds any more."""
    writer.notes.forget([writer.root.directory(step)])
    writer.doubtful.pop(step, None)
    writer.damaged.pop(step, None)
