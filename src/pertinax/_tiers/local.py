# SPDX-License-Identifier: Apache-2.0
"""The near tier: each process keeps what it holds of the newest steps, in a root of its own.

Knows one process's root: what is in it, how a step gets there, and when an older one may go. Knows
nothing of the durable tier, nor of what other processes have, but for the round in which all of
them save. A step goes only when a newer one is whole on every process: so there is always one that
is whole across the job.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, final

from pertinax._core.open import DEFAULT_ITEM, Opened, open_checkpoint
from pertinax._core.options import SaveOptions
from pertinax._core.write import Contents, write_checkpoint
from pertinax._hosts import Monologue, Round, Topology
from pertinax._steps.deletion import Deleter
from pertinax._steps.history import read_record
from pertinax._steps.statistics import Tally
from pertinax._steps.writing import StepRoot
from pertinax._tiers.sameness import refuse_differences
from pertinax.errors import PertinaxError

_LOG: Final = logging.getLogger(__name__)


@final
@dataclass(frozen=True, slots=True)
class Part:
    """What this process has of one save.

    Attributes:
        step: which step it was.
        save_id: which save; parts belong together if, and only if, these are equal.
        saved_at_ns: when it was made.
        opened: the item.
    """

    step: int
    save_id: str
    saved_at_ns: int
    opened: Opened


@final
class LocalTier:
    """The root of this process; a `Writer` of the line of saves.

    `keep` is how many steps stay when a save is over; while one is written there is one more. None:
    nothing is removed.
    """

    def __init__(self, root: StepRoot, keep: int | None, apart: Topology) -> None:
        self.root: Final = root
        self.tally: Final = Tally()
        self.last: tuple[int, float] | None = None
        self._keep = keep
        self._alone = Monologue(apart)
        self._deleter = Deleter(root.store)

    def refuse_if_taken(self, step: int) -> None:
        """Never: what lies there was given up by a run that went on from an earlier step."""

    def rehearse(self, step: int, metrics: bytes | None) -> None:
        """There is nothing that could be raised too late."""

    def write(
        self,
        step: int,
        contents: Contents,
        options: SaveOptions,
        progress: Callable[[int, int], None],
        *,
        talk: Round,
    ) -> None:
        """Make this process's part of a step visible, and let older ones go once all have theirs.

        Raises as `write_checkpoint` does, `UnsupportedLeaf` if processes mean different values, and
        `PeerFailed`; older steps stay then. It fails on all processes or on none.
        """
        refuse_differences(talk, contents)
        final = self.root.directory(step)
        here = replace(options, exists="replace")
        write_checkpoint(self.root.store, final, contents, here, progress, talk=self._alone)
        talk.collect("all have their parts", None, _nothing)
        self.let_go(step)

    def delete(self, place: str) -> None:
        """Make a step of this process invisible, durably. Raises `StorageError`."""
        self._deleter.delete_or_raise(place)

    def let_go(self, newest: int) -> None:
        """Remove what is too much, now that all processes have `newest`: of the others those that
        were saved first. Waits until their room is free: near storage is small.

        What cannot go stays, and the log says so: the save has been made, everywhere.
        """
        if self._keep is None:
            return
        try:
            found = self.root.steps()
            times = {step: self._saved_at_ns(step, place) for step, place in found.items()}
        except (PertinaxError, OSError) as error:
            _LOG.warning("no local step was removed root=%s: %s", self.root.path, error)
            return
        others = sorted(found.keys() - {newest}, key=lambda step: (times[step], step))
        self._remove(found[step] for step in others[: max(0, len(others) - self._keep + 1)])

    def let_go_older(self, whole: Sequence[int]) -> None:
        """Remove what is older than the newest of the steps that are `whole` across the job."""
        if self._keep is None:
            return
        kept = sorted(whole)[-self._keep :]
        found = self.root.steps()
        self._remove(found[step] for step in found if kept and step < kept[0])

    def _remove(self, places: Iterable[str]) -> None:
        for place in places:
            self._deleter.delete(place)
        self._deleter.close()

    def parts(self) -> list[Part]:
        """What is here. A step whose notes are damaged is as good as lost, and is not listed; so
        are all, where the disk does not answer.
        """
        out: list[Part] = []
        try:
            steps = self.root.steps()
        except (PertinaxError, OSError) as error:
            _LOG.warning("local storage cannot be listed root=%s: %s", self.root.path, error)
            return out
        for step, place in steps.items():
            try:
                opened = open_checkpoint(place, DEFAULT_ITEM, self.root.store)
                facts = opened.manifest.facts
                if opened.manifest.source != "pertinax":
                    _LOG.info("a step of another library is no part step=%d path=%s", step, place)
                    continue
                part = Part(step, str(facts["save_id"]), int(facts["saved_at_ns"]), opened)
            except (PertinaxError, OSError, KeyError, TypeError, ValueError) as error:
                _LOG.warning("a local step cannot be used step=%d path=%s: %s", step, place, error)
            else:
                out.append(part)
        return out

    def _saved_at_ns(self, step: int, place: str) -> int:
        record = read_record(self.root.store, step, place, metrics=False, times=True)
        return 0 if record is None else record.time_ns

    def close(self) -> None:
        """Wait for what goes."""
        self._deleter.close()


def _nothing(_: Mapping[int, Any]) -> None:
    """It is enough that all have come so far."""
