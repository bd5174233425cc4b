"""Manager: the checkpoints of one training run.

Knows the verbs that a training loop needs. Decides nothing itself: policies say which steps are
made and live, the line of saves orders them, the disk tells which there are.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Literal, Self, TypedDict, Unpack, final

from jax.sharding import Sharding

from pertinax._core.load import load
from pertinax._core.options import (
    Arrays,
    Cast,
    Compression,
    Extra,
    Missing,
    SaveOptions,
    Shapes,
    Snapshotting,
)
from pertinax._core.pending import Pending
from pertinax._core.places import locate
from pertinax._formats.layout import LayoutName
from pertinax._steps.deletion import Deleter
from pertinax._steps.history import StepRecord, read_history, read_metrics, read_record
from pertinax._steps.line import SaveLine
from pertinax._steps.metrics import encode_metrics
from pertinax._steps.naming import PlainNaming, step_number
from pertinax._steps.policies import (
    Best,
    KeepPolicy,
    Mode,
    SaveContext,
    SavePolicy,
    keep_policy,
    save_policy,
)
from pertinax._steps.recovery import open_root
from pertinax._steps.writing import StepRoot, StepWriter
from pertinax._store.contract import Store
from pertinax.errors import CheckpointNotFound, CorruptCheckpoint
from pertinax.typing import PathLike, PyTree

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
    mmap: bool
    item: str | None


@final
class Manager:
    """The checkpoints of one training run, in one directory, a step each.

        with pertinax.Manager("runs/a", save=1000, keep=3) as manager:
            start, state = manager.resume(state)
            for step in range(start + 1, stop + 1):
                state, loss = train(state, step)
                manager.save(step, state, metrics={"loss": loss})

    A step is in the history if and only if it is on the disk, whole and durable. Old steps are
    deleted only when the new one is visible, and the newest never is. Any thread may call anything.

    Args:
        root: the directory; made if missing. What dead processes left unfinished in it is removed.
        save: which steps to save: a policy, `n` for `EverySteps(n)`, None for every call.
        keep: which steps live: a policy, `n` for `Latest(n)`, None for all. See `policies`.
        background: whether `save` returns at once and a thread writes.
        compression, snapshot, chunk_bytes, layout: as for `save_async`.
        store: where to write, if not this machine's files.
        prefix, width: step 7 is called `7`, or `<prefix>_7`, or with a width of 4 `0007`.
        clock: seconds since the epoch, for policies that go by time.

    Attributes:
        root: the directory, as an absolute path.

    Raises `InvalidOption` and `StorageError`.
    """

    __module__ = "pertinax"

    def __init__(
        self,
        root: PathLike,
        *,
        save: SavePolicy | int | None = None,
        keep: KeepPolicy | int | None = None,
        background: bool = True,
        compression: Compression = "none",
        snapshot: Snapshotting = "hold",
        chunk_bytes: int | None = None,
        layout: LayoutName = "ocdbt+zarr2",
        store: Store | None = None,
        prefix: str | None = None,
        width: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._policy = save_policy(save)
        keep = keep_policy(keep)
        self._options = SaveOptions(
            compression=compression, snapshot=snapshot, chunk_bytes=chunk_bytes, layout=layout
        )
        self._background = background
        self._clock = clock
        where, path = locate(root, store)
        self.root: Final = path
        self._root = StepRoot(where, path, PlainNaming(prefix, width))
        open_root(where, path)
        self._deleter = Deleter(where)
        last = _last_save(self._root)
        self._writer = StepWriter(self._root, keep, self._deleter, last=last)
        self._line = SaveLine(self._writer)
        self._turn = threading.RLock()  # a signal handler may save in the middle of a save
        self._closed = False

    def should_save(self, step: int) -> bool:
        """Whether the save policy wants this step. Looks at no file."""
        last_step, last_time_s = self._writer.last or (None, None)
        return self._policy.due(
            step_number(step), SaveContext(last_step, last_time_s, self._clock())
        )

    def save(
        self,
        step: int,
        tree: PyTree,
        *,
        metrics: Mapping[str, Any] | None = None,
        force: bool = False,
    ) -> Pending | None:
        """Save `tree` as `step` if the policy wants it (or `force`); None if it does not.

        Returns at once while a thread writes, with the rights that `save_async` gives you; or, with
        `background=False`, when the step is durable. There is one save at a time: this one waits
        for the one before. If that one failed and nobody has asked its handle, the failure is
        raised here, and nothing is saved.

        Args:
            step: a whole number, at least 0, of Python, numpy or JAX.
            tree: what `pertinax.save` takes.
            metrics: numbers by name, for `best` and for `Best`; of Python, numpy or JAX.
            force: save whatever the policy says.

        Raises:
            CheckpointExists: there is such a step.
            InvalidOption: the step or a metric is no number.
            UnsupportedLeaf, StorageFull, StorageError, SnapshotChanged: as `save_async`.
            RuntimeError: the manager is closed.
        """
        number = step_number(step)
        with self._turn:
            if self._closed:
                raise RuntimeError(f"the Manager of {self.root} is closed and saves no more")
            self._line.raise_failure()
            if not force and not self.should_save(number):
                return None
            measured = None if metrics is None else encode_metrics(metrics)
            self._line.settle()
            pending = self._line.begin(number, tree, measured, self._options, self._clock())
            if not self._background:
                pending.result()
            return pending

    def resume(self, tree: PyTree) -> tuple[int, PyTree]:
        """The newest step and its state in the form of `tree`; `(0, tree)` if there is no step yet.

        Waits for a save in flight. Strict: raises `RestoreMismatch` if the state does not fit, and
        `CorruptCheckpoint` rather than going back to an older step behind your back.
        """
        self._line.settle()
        steps = self.steps()
        if not steps:
            return 0, tree
        try:
            return steps[-1], self.load(steps[-1], tree)
        except CorruptCheckpoint as error:
            error.add_note(f"step {steps[-1]} is damaged. {_listed(steps[:-1])}; see Manager.load")
            raise

    def load(
        self, step: int | None = None, target: PyTree = None, **options: Unpack[LoadChoices]
    ) -> PyTree:
        """Read one step, the newest if none is named; options and errors are those of `load`.

        Waits for a save in flight if the step is, or may be, the one being written.
        """
        number = None if step is None else step_number(step)
        if number is None or self._line.is_writing(number):
            self._line.settle()
        if number is None:
            number = self.latest()
            if number is None:
                raise CheckpointNotFound(f"there is no step in {self.root} yet")
        return load(_place(self._root, number), target, store=self._root.store, **options)

    def steps(self) -> list[int]:
        """The steps that are visible now, ascending; none that is in flight or has failed."""
        return [step for step in self._root.steps() if step not in self._writer.doubtful]

    def latest(self) -> int | None:
        """The largest of `steps()`, or None."""
        return max(self.steps(), default=None)

    def best(self, metric: str, mode: Mode = "min") -> int | None:
        """The step with the smallest (or largest: `"max"`) value of a metric; of equals the newest.

        None if no step has it.
        """
        return next(iter(Best(1, metric, mode).keep(self.history())), None)

    def metrics(self, step: int) -> Any:
        """The metrics that a step was saved with, or None.

        Raises `CheckpointNotFound`, `CorruptCheckpoint`.
        """
        return read_metrics(self._root.store, _place(self._root, step_number(step)))

    def history(self) -> list[StepRecord]:
        """The visible steps with times and metrics, ascending. Reads small files of each step."""
        root = self._root
        records = read_history(root.store, root.path, root.naming, metrics=True, times=True)
        return [record for record in records if record.step not in self._writer.doubtful]

    def delete(self, step: int) -> None:
        """Delete a step, be it the newest. When this returns it is invisible, durably.

        Waits if that step is being written. Raises `CheckpointNotFound`, `StorageError`.
        """
        number = step_number(step)
        if self._line.is_writing(number):
            self._line.settle()
        self._deleter.delete_or_raise(_place(self._root, number))
        self._writer.doubtful.discard(number)

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until the save in flight is durable and old steps are gone; raise its failure.

        Any number of threads may wait; each gets the failure. Raises `TimeoutError` after
        `timeout_s` seconds; everything goes on then.
        """
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        self._line.settle(timeout_s)
        left_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
        if not self._deleter.wait(left_s):
            raise TimeoutError(f"old steps are not gone after {timeout_s} s")

    def close(self) -> None:
        """Wait for everything and save no more; raise a failure that nobody was told of.

        Reading goes on to work. May be called twice.
        """
        with self._turn:
            self._closed = True
        try:
            self._line.settle()
        finally:
            self._deleter.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except Exception as failure:
            if error is None:
                raise
            # What went wrong in the block comes first; this is told along with it.
            error.add_note(f"closing the Manager failed, too: {type(failure).__name__}: {failure}")


def _last_save(root: StepRoot) -> tuple[int, float] | None:
    """The newest step of earlier runs, and when it was made."""
    steps = root.steps()
    if not steps:
        return None
    step, directory = next(reversed(steps.items()))
    record = read_record(root.store, step, directory, metrics=False, times=True)
    return None if record is None else (step, record.time_ns / 1e9)


def _place(root: StepRoot, step: int) -> str:
    """Where a visible step lies. Raises `CheckpointNotFound`."""
    steps = root.steps()
    if step not in steps:
        raise CheckpointNotFound(f"there is no step {step} in {root.path}. {_listed(list(steps))}")
    return steps[step]


def _listed(steps: Sequence[int]) -> str:
    if not steps:
        return "There is no other step"
    shown = [str(step) for step in steps[-_SHOWN_STEPS:]]
    return f"There are {'..., ' if len(steps) > len(shown) else ''}{', '.join(shown)}"
