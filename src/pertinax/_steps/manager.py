# SPDX-License-Identifier: Apache-2.0
"""Manager: the checkpoints of one training run.

Knows the verbs that a training loop needs. Decides nothing itself: policies say which steps are
made and live, the line of saves orders them, the disk tells which there are.
"""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Literal, Self, final

import jax

from pertinax._core.closing import close_after
from pertinax._core.options import Compression, SaveOptions, Snapshotting
from pertinax._core.pending import Pending
from pertinax._core.places import locate
from pertinax._formats.layout import LayoutName
from pertinax._hosts import Hosts, decide_for_all, this_job
from pertinax._steps.deletion import Deleter
from pertinax._steps.history import StepRecord
from pertinax._steps.line import SaveLine
from pertinax._steps.metrics import encode_metrics
from pertinax._steps.naming import PlainNaming, step_number
from pertinax._steps.pins import add_pin, remove_pin
from pertinax._steps.plan import Plan
from pertinax._steps.policies import (
    KeepPolicy,
    Overhead,
    SaveContext,
    SavePolicy,
    goes_by_steps,
    keep_policy,
    parts_of,
    save_policy,
)
from pertinax._steps.reading import Reading, last_save, place_of
from pertinax._steps.recovery import open_root
from pertinax._steps.retention import explain
from pertinax._steps.statistics import RunStatistics
from pertinax._steps.watch import watch
from pertinax._steps.writing import StepRoot, StepWriter, delete_step, forget_step
from pertinax._store.contract import Store
from pertinax.errors import CheckpointExists, CheckpointNotFound, InvalidOption
from pertinax.typing import PathLike, PyTree


@final
class Manager(Reading):
    """The checkpoints of one training run, in one directory, a step each.

        with pertinax.Manager("runs/a", save=1000, keep=3) as manager:
            start, state = manager.resume(state)
            for step in range(start + 1, stop + 1):
                state, loss = train(state, step)
                manager.save(step, state, metrics={"loss": loss})

    A step is in the history if and only if it is on the disk, whole and durable. Old steps are
    deleted only when the new one is visible, and the newest never is. Any thread may call anything.

    Where `jax.distributed` runs, a SIGTERM to any process makes all of them save one more step,
    whatever the policy says: `if manager.preempted: break` after `save` ends the loop there.

    Args:
        root: the directory; made if missing. What dead processes left unfinished in it is removed.
        save: which steps to save: a policy, `n` for `EverySteps(n)`, None for every call.
        keep: which steps live: a policy, `n` for `Latest(n)`, None for all. See `policies`.
        background: whether `save` returns at once and a thread writes.
        compression, snapshot, chunk_bytes, layout, budget_bytes: as for `save_async`.
        read_back: whether each step is read from the disk again, and compared, before it becomes
            visible and older ones go: then every step of this run has been verified once.
        store: where to write, if not this machine's files.
        prefix, width: step 7 is called `7`, or `<prefix>_7`, or with a width of 4 `0007`.
        clock: seconds since the epoch, for policies that go by time, for what saves cost, and for
            the time that a step notes.

    Attributes:
        root: the directory, as an absolute path.

    Raises `InvalidOption` and `StorageError`.
    """

    __module__ = "pertinax"

    watch = staticmethod(watch)

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
        read_back: bool = False,
        budget_bytes: int | None = None,
        store: Store | None = None,
        prefix: str | None = None,
        width: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._policy = save_policy(save)
        self._counts_cost = any(isinstance(part, Overhead) for part in parts_of(self._policy))
        keep = keep_policy(keep)
        self._options = SaveOptions(
            compression=compression,
            snapshot=snapshot,
            chunk_bytes=chunk_bytes,
            layout=layout,
            read_back=read_back,
            budget_bytes=budget_bytes,
        )
        self._background = background
        self._clock = clock
        where, path = locate(root, store)
        self._options = self._options.on(where)
        self.root: Final = path
        root_of_steps = StepRoot(where, path, PlainNaming(prefix, width))
        self._hosts = this_job()
        self._deleter = Deleter(where)
        writer = StepWriter(
            root_of_steps,
            keep,
            self._deleter,
            last=_open(root_of_steps, self._hosts),
            now_ns=time.time_ns if clock is time.time else lambda: int(clock() * 1e9),
        )
        super().__init__(writer, SaveLine(writer, self._hosts), self._hosts)
        # The system's clock may be set while a save is timed; one that was given goes for all.
        self._timer = time.monotonic if clock is time.time else clock
        self._begun_s = self._timer()
        self._cost_s: float | None = None
        self._turn = threading.RLock()  # a signal handler may save in the middle of a save
        self._closed = False

    def should_save(self, step: int) -> bool:
        """Whether the save policy wants this step, or it is the last before the job is stopped.

        Ask about the step at hand: JAX takes it for where this process is. Looks at no file. Of
        several processes all must ask, unless the policy goes by steps alone: the primary's clock
        decides.
        """
        return self._preemption.reached(step_number(step)) or self._wants(step)

    def _wants(self, step: int) -> bool:
        def is_due() -> bool:
            last_step, last_time_s = self._writer.last or (None, None)
            context = SaveContext(
                last_step, last_time_s, self._clock(), cost_s=self._cost_s, busy=self._line.busy
            )
            return self._policy.due(step_number(step), context)

        if self._hosts.topology.alone or goes_by_steps(self._policy):
            return is_due()
        with self._hosts.begin("should save", self.root) as talk:
            return talk.agree("ask the policy", is_due)

    def save(
        self,
        step: int,
        tree: PyTree,
        *,
        metrics: Mapping[str, Any] | None = None,
        force: bool = False,
        exists: Literal["error", "skip"] = "error",
    ) -> Pending | None:
        """Save `tree` as `step` if the policy wants it (or `force`); None if nothing is saved.

        Returns at once while a thread writes, with the rights that `save_async` gives you; or, with
        `background=False`, when the step is durable. There is one save at a time: this one waits
        for the one before. If that one failed and nobody has asked its handle, the failure is
        raised here, and nothing is saved.

        Args:
            step: a whole number, at least 0, of Python, numpy or JAX.
            tree: what `pertinax.save` takes.
            metrics: numbers by name, for `best` and for `Best`; of Python, numpy or JAX.
            force: save whatever the policy says.
            exists: if there is such a step: `"error"`, or `"skip"` the save.

        Raises:
            CheckpointExists: there is such a step, or there is one whose save failed at the end.
            InvalidOption: the step or a metric is no number.
            UnsupportedLeaf, StorageFull, StorageError, SnapshotChanged, CorruptCheckpoint: as
                `save_async`.
            RuntimeError: the manager is closed.
        """
        number = step_number(step)
        if exists not in ("error", "skip"):
            raise InvalidOption(f"exists={exists!r} means nothing: 'error' or 'skip'")
        with self._turn:
            if self._closed:
                raise RuntimeError(f"the Manager of {self.root} is closed and saves no more")
            if self._hosts.topology.alone:
                # Several processes learn of a failure at different times: they ask together, below.
                self._line.raise_failure()
            if not (self._preemption.reached(number) or force or self._wants(number)):
                return None
            if self._counts_cost:  # computing what is to be saved is not the cost of saving it
                _wait_computed((tree, metrics))
            begun_s = self._timer()
            settled_s = [begun_s]
            try:
                pending = self._line.begin(
                    number,
                    tree,
                    metrics,
                    self._options,
                    self._clock(),
                    settled=lambda: settled_s.append(self._timer()),
                )
            except CheckpointExists:
                if exists == "error" or number in self._writer.doubtful:
                    raise
                return None
            waited_s = max(0.0, settled_s[-1] - begun_s)
            try:
                if not self._background:
                    self._line.settle()
            finally:
                self._cost_s = max(0.0, self._timer() - begun_s)
                self._writer.tally.returned(waited_s, self._cost_s)
            return pending

    def resume(self, tree: PyTree, *, fallback: bool = False) -> tuple[int, PyTree]:
        """The newest step and its state in the form of `tree`; `(0, tree)` if there is no step yet.

        Waits for a save in flight. Strict: raises `RestoreMismatch` if the state does not fit, and
        `CorruptCheckpoint` rather than going back to an older step behind your back. With
        `fallback` it goes back, and says so in the log; `restore` returns what was passed over.
        """
        found = self._restore(tree, fallback, {})
        return (0, tree) if found is None else (found.step, found.tree)

    def plan(self, step: int | None = None, *, metrics: Mapping[str, Any] | None = None) -> Plan:
        """A dry run: what the keep policy would delete now, or if `step` were saved with these
        metrics, and why; and whether the save policy wants that step.
        """
        history = self._writer.look()
        if step is None:
            verdicts = explain(self._writer.keep, history)
            return Plan(None, None, tuple(verdicts))
        number = step_number(step)
        measured = None if metrics is None else json.loads(encode_metrics(metrics))
        place = self._root.directory(number)
        new = StepRecord(number, int(self._clock() * 1e9), measured, place)
        others = [one for one in history if one.step != number]
        verdicts = explain(self._writer.keep, [*others, new], protect={number})
        return Plan(number, self._wants(number), tuple(verdicts))

    def statistics(self) -> RunStatistics:
        """What the saves of this manager cost so far: seconds, bytes, rates; and the last one."""
        return self._writer.tally.look(self._timer() - self._begun_s)

    def pin(self, step: int, label: str = "pinned") -> None:
        """Keep a step whatever the policy says, in this and in every other process, until `unpin`.

        Durable when it returns. A step may have several labels; they are in `history`. Raises
        `CheckpointNotFound`, `InvalidOption`, `StorageError`.
        """
        number = step_number(step)

        def pin() -> None:
            add_pin(self._root.store, self._root.path, number, label)
            try:
                place_of(self._root, number)  # afterwards: see StepWriter
            except CheckpointNotFound:
                remove_pin(self._root.store, self._root.path, number, label)
                raise

        _for_all(self._hosts, self.root, "pin", pin)

    def unpin(self, step: int, label: str = "pinned") -> None:
        """Take a label away; without any, the policy decides again. Raises as `pin` does."""
        number = step_number(step)
        _for_all(
            self._hosts,
            self.root,
            "unpin",
            lambda: remove_pin(self._root.store, self._root.path, number, label),
        )

    def delete(self, step: int) -> None:
        """Delete a step, be it the newest. When this returns it is invisible, durably.

        Waits if that step is being written. Raises `CheckpointNotFound`, `StorageError`, and
        `InvalidOption` if it is pinned.
        """
        number = step_number(step)
        if self._line.is_writing(number):
            self._line.settle()

        def delete() -> None:
            delete_step(self._root, self._deleter, number, place_of(self._root, number))

        _for_all(self._hosts, self.root, "delete", delete)
        forget_step(self._writer, number)

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until the save in flight is durable and old steps are gone; raise its failure.

        Any number of threads may wait; each gets the failure. Raises `TimeoutError` after
        `timeout_s` seconds, or without a limit once nothing has moved for half an hour (then it is
        a `StorageStalled`, as from every other call that waits); everything goes on then.
        """
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        self._line.settle(timeout_s)
        if deadline_s is None:
            self._deleter.close()
        elif not self._deleter.wait(max(0.0, deadline_s - time.monotonic())):
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
            try:
                self._writer.notes.flush()
            finally:
                self._deleter.close()

    def __repr__(self) -> str:
        return f"Manager({self.root!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        close_after(self.close, error)


def _wait_computed(tree: PyTree) -> None:
    """Wait for what the devices are still computing; what cannot be saved is told by the save."""
    with contextlib.suppress(Exception):
        jax.block_until_ready(tree)


def _open(root: StepRoot, hosts: Hosts) -> tuple[int, float] | None:
    """The primary puts the root in order; all agree on the step that was saved last."""

    def open_it() -> tuple[int, float] | None:
        open_root(root.store, root.path)
        return last_save(root)

    with hosts.begin("open", root.path) as talk:
        last = decide_for_all(talk, "open the root", open_it)
    return None if last is None else (int(last[0]), float(last[1]))


def _for_all(hosts: Hosts, root: str, what: str, do: Callable[[], None]) -> None:
    """The primary does it; all return, or raise, when it is done."""
    with hosts.begin(what, root) as talk:
        decide_for_all(talk, what, do, CheckpointNotFound, InvalidOption)
