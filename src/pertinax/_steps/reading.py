# SPDX-License-Identifier: Apache-2.0
"""Reading: the half of a manager that looks and never writes.

Knows which steps there are, what they hold, and how to choose among them. Knows nothing of how they
are made. The disk is asked each time: what other processes do shows at once.
"""

from collections.abc import Sequence
from typing import Any, Final, Literal, TypedDict, Unpack

from jax.sharding import Sharding

from pertinax._core.load import load
from pertinax._core.options import Arrays, Cast, Check, Extra, Missing, Shapes
from pertinax._hosts import Hosts, Preemption
from pertinax._steps.fallback import Restored, restore_newest
from pertinax._steps.history import StepRecord, read_metrics, read_record
from pertinax._steps.line import SaveLine
from pertinax._steps.naming import step_number
from pertinax._steps.policies import Best, Mode
from pertinax._steps.together import Together
from pertinax._steps.writing import StepRoot, StepWriter
from pertinax._tree.quiet import MANY, collector_paused
from pertinax.errors import CheckpointNotFound, CorruptCheckpoint
from pertinax.typing import PyTree

_SHOWN_STEPS: Final = 8


class LoadChoices(TypedDict, total=False):
    """The options of `pertinax.load`."""

    select: str | Sequence[str] | None
    missing: Missing
    extra: Extra
    cast: Cast
    shapes: Shapes
    sharding: Sharding | Literal["stored"] | None
    arrays: Arrays
    check: Check
    mmap: bool
    budget_bytes: int
    item: str | None


class Reading:
    """What can be asked of the steps in a root."""

    def __init__(self, writer: StepWriter, line: SaveLine, hosts: Hosts) -> None:
        self._hosts = hosts
        self._writer = writer
        self._line = line
        self._root: Final = writer.root
        self._preemption: Final = Preemption()

    @property
    def preempted(self) -> bool:
        """Whether the job will be stopped soon, and `save` has come to the last step before.

        True on all processes from the same step on: leave the loop. False without
        `jax.distributed`, where nobody listens for SIGTERM.
        """
        return self._preemption.noticed

    def load(
        self, step: int | None = None, target: PyTree = None, **options: Unpack[LoadChoices]
    ) -> PyTree:
        """Read one step, the newest if none is named; options and errors are those of `load`.

        Waits for a save in flight if the step is, or may be, the one being written. A step that
        proves damaged counts for no policy any more, and may be saved again in its own place.
        """
        if step is None:
            return self.restore(target, **options).tree
        number = step_number(step)
        self._line.settle_if(number)
        try:
            return load(place_of(self._root, number), target, store=self._root.store, **options)
        except CorruptCheckpoint:
            self._writer.note_damage(number)
            raise

    def restore(
        self, target: PyTree = None, *, fallback: bool = False, **options: Unpack[LoadChoices]
    ) -> Restored:
        """Read the newest step; with `fallback`, the newest that can be read and is whole.

        What was passed over is in the result, each step with its error, and in the log. Without
        `fallback` damage is raised as it is. A step that proves damaged counts for no policy any
        more, and may be saved again in its own place. Waits for a save in flight; options are those
        of `load`.

        Raises `CheckpointNotFound` if there is no step, `NoUsableStep` if every step was passed
        over, and `RestoreMismatch` for the first step that is whole and does not fit.
        """
        found = self._restore(target, fallback, options)
        if found is None:
            raise CheckpointNotFound(f"there is no step in {self._root.path} yet")
        return found

    def steps(self) -> list[int]:
        """The steps that are visible now, ascending; none that is in flight or has failed."""
        return list(self._writer.steps())

    def latest(self) -> int | None:
        """The largest of `steps()`, or None."""
        return max(self.steps(), default=None)

    def best(self, metric: str, mode: Mode = "min") -> int | None:
        """The step with the smallest (or largest: `"max"`) value of a metric; of equals the newest.

        None if no step has it.
        """
        with collector_paused(MANY):
            return next(iter(Best(1, metric, mode).keep(self.history())), None)

    def metrics(self, step: int) -> Any:
        """The metrics that a step was saved with, or None.

        Raises `CheckpointNotFound`, `CorruptCheckpoint`.
        """
        return read_metrics(self._root.store, place_of(self._root, step_number(step)))

    def history(self) -> list[StepRecord]:
        """The visible steps with times, metrics and pins, ascending. The notes of each step are
        read once.
        """
        return self._writer.look(with_notes=True)

    def _restore(self, target: PyTree, fallback: bool, options: LoadChoices) -> Restored | None:  # noqa: FBT001 - passed on
        writer, root = self._writer, self._root

        def read(place: str) -> PyTree:
            return load(place, target, store=root.store, **options)

        def read_together(step: int, place: str) -> PyTree:
            try:
                return together.read(place)
            except CorruptCheckpoint:  # here or in another process
                writer.note_damage(step)
                raise

        try:
            with self._hosts.begin("restore", root.path) as talk:
                self._line.settle()
                together = Together(talk, writer.steps, read)
                found = restore_newest(root.path, together.look, read_together, fallback=fallback)
        except CorruptCheckpoint as error:
            *others, newest = self.steps() or [None]
            error.add_note(
                f"step {newest} is damaged. {listed(others)}; see fallback= of Manager.restore"
            )
            raise
        if found is not None and found.passed_over:
            # Training goes on from here: what the lost steps would have counted for is undone.
            writer.last = last_save(root, found.step)
        return found


def last_save(root: StepRoot, step: int | None = None) -> tuple[int, float] | None:
    """A step, or else the newest, and when it was made."""
    steps = root.steps()
    number = max(steps, default=None) if step is None else step
    if number is None or number not in steps:
        return None
    record = read_record(root.store, number, steps[number], metrics=False, times=True)
    return None if record is None else (number, record.time_ns / 1e9)


def place_of(root: StepRoot, step: int) -> str:
    """Where a visible step lies. Raises `CheckpointNotFound`."""
    steps = root.steps()
    if step not in steps:
        raise CheckpointNotFound(f"there is no step {step} in {root.path}. {listed(list(steps))}")
    return steps[step]


def listed(steps: Sequence[int | None]) -> str:
    """Some steps, as a sentence."""
    if not steps:
        return "There is no other step"
    shown = [str(step) for step in steps[-_SHOWN_STEPS:]]
    return f"There are {'..., ' if len(steps) > len(shown) else ''}{', '.join(shown)}"
