# SPDX-License-Identifier: Apache-2.0
"""The manager of two tiers: near storage often, durable storage seldom, and back from wherever it
is.

Knows when which tier saves. Knows nothing of what processes have and how it comes back
(`restoring`), nor of how a step is written.
"""

import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self, final

from pertinax._core.closing import close_after
from pertinax._core.options import LoadOptions, SaveOptions
from pertinax._core.places import locate
from pertinax._formats.layout import LayoutName
from pertinax._hosts import Hosts, Preemption, Topology, decide_for_all, this_job
from pertinax._steps.deletion import Deleter
from pertinax._steps.line import SaveLine, Writer
from pertinax._steps.naming import Naming, PlainNaming, step_number
from pertinax._steps.policies import (
    KeepPolicy,
    SaveContext,
    SavePolicy,
    goes_by_steps,
    keep_policy,
    save_policy,
)
from pertinax._steps.reading import last_save
from pertinax._steps.recovery import open_root
from pertinax._steps.writing import StepRoot, StepWriter, delete_step, forget_step
from pertinax._store.contract import Store
from pertinax._tiers.local import LocalTier
from pertinax._tiers.restoring import Regained, Restorer
from pertinax.errors import CheckpointNotFound, InvalidOption, PeerFailed
from pertinax.typing import PathLike, PyTree


@final
class TieredManager:
    """The checkpoints of one run in two tiers.

        with pertinax.TieredManager("/dev/shm/run", "/shared/run", save_local=10) as manager:
            start, state = manager.resume(state)
            for step in range(start + 1, stop + 1):
                state = train(state, step)
                manager.save(step, state)

    Every process keeps the shards that it holds in `local`, a directory of its own (it may have the
    same name everywhere), often; all together save to `durable`, which all of them see, seldom. A
    restore takes the newest step that is whole across the job: each piece from this process's own
    storage, from that of a peer that has the same shard, or from the durable tier. Which process
    had which place in the mesh does not count, for each part says which shards it holds.

    All processes make the same calls in the same order. numpy arrays and numbers must be the same
    on all of them; each keeps its own copy.

    Args:
        local: near storage; made if missing.
        durable: storage that outlives the processes; made if missing.
        save_local, save: which steps each tier saves: a policy, or `n` for every n-th.
        keep_local: how many steps stay in near storage; while one is written there is one more.
            None: nothing is ever removed there.
        keep: which steps stay in durable storage, as for `Manager`.
        background: whether `save` returns at once and threads write.
        layout: as for `save`.
        store: the store of the durable tier, if not this machine's files.
        naming: how steps are called.
        timeout_s: how long processes wait for each other when they look for a step.
        clock: seconds since the epoch, for policies that go by time.

    Attributes:
        restorer: looks for steps and restores them.
    """

    __module__ = "pertinax"

    def __init__(
        self,
        local: PathLike,
        durable: PathLike,
        *,
        save_local: SavePolicy | int | None = 10,
        save: SavePolicy | int | None = 1000,
        keep_local: int | None = 1,
        keep: KeepPolicy | int | None = None,
        background: bool = True,
        layout: LayoutName = "ocdbt+zarr2",
        store: Store | None = None,
        naming: Naming | None = None,
        timeout_s: float = 600.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if keep_local is not None and keep_local < 1:
            raise InvalidOption(f"keep_local={keep_local} means nothing: at least 1")
        self._policies = (save_policy(save_local), save_policy(save))
        self._clock = clock
        self._background = background
        self._options = SaveOptions(layout=layout)
        self._hosts = this_job()
        me = self._hosts.topology.process
        apart = Topology(me, (me,), me, apart=True)
        self._preemption = Preemption()
        naming = naming or PlainNaming()
        self._local = LocalTier(StepRoot(*locate(local), naming), keep_local, apart)
        self._root = StepRoot(*locate(durable, store), naming)
        self._deleter = Deleter(self._root.store)
        self._run, last = _open(self._local.root, self._root, self._hosts)
        self._writer = StepWriter(self._root, keep_policy(keep), self._deleter, last=last)
        self._lines = (
            SaveLine(
                self._local, self._hosts, apart=apart, subject=f"near tier of {self._root.path}"
            ),
            SaveLine(self._writer, self._hosts),
        )
        self.restorer: Final = Restorer(self._local, self._root, self._hosts, timeout_s)
        # A run before us may have ended when some had let go what others still needed: so first all
        # look together at what is whole.
        self._local.let_go_older(self.restorer.tiers()[0])
        self._saves = 0
        self._turn = threading.RLock()
        self._closed = False

    # -------------------------------------------------------------------------------------- saving

    @property
    def preempted(self) -> bool:
        """Whether the job will be stopped soon. `save` has saved the step then, in both tiers, at
        which all processes know it: end the loop there.
        """
        return self._preemption.noticed

    def due(self, step: int) -> tuple[bool, bool]:
        """Whether the near, and whether the durable tier wants this step; both if the job will be
        stopped.

        Looks at no file. Unless both policies go by steps alone, the primary decides, and all must
        ask.
        """
        number = step_number(step)
        if self._preemption.reached(number):
            return True, True

        def ask() -> list[bool]:
            tiers = zip(self._policies, (self._local, self._writer), self._lines, strict=True)
            now_s = self._clock()
            return [
                policy.due(number, _context(writer, line, now_s)) for policy, writer, line in tiers
            ]

        if self._hosts.topology.alone or all(map(goes_by_steps, self._policies)):
            near, durable = ask()
        else:
            with self._hosts.begin("should save", self._root.path) as talk:
                near, durable = talk.agree("ask the policies", ask)
        return near, durable

    def save(
        self,
        step: int,
        tree: PyTree,
        *,
        metrics: Mapping[str, Any] | None = None,
        force: bool = False,
        tiers: tuple[bool, bool] | None = None,
    ) -> tuple[bool, bool]:
        """Save `tree` in the tiers whose policy wants the step (with `force`, in both); which.

        `tiers` says so instead of the policies. `metrics` are for the policies of the durable tier,
        as for `Manager.save`. If the job will be stopped, both tiers save the step that all
        processes know (see `preempted`). Returns while threads write, with the rights that
        `save_async` gives you. Each tier has one save at a time: the near one does not wait for the
        durable one. Raises the failure of an earlier save, of several processes on all at the same
        step, and as `Manager.save` does.
        """
        number = step_number(step)
        with self._turn:
            if self._closed:
                raise RuntimeError("this TieredManager is closed and saves no more")
            if self._hosts.topology.alone:
                self.raise_failure()
            due = self.due(number) if tiers is None else tiers  # asked also when `force` decides
            chosen = (True, True) if force and tiers is None else due
            if not any(chosen):
                return chosen
            _raise_together(self._hosts, self._root.path, self._lines)
            self._saves += 1
            facts = {"save_id": f"{self._run}/{number}/{self._saves}"}
            for tier, (wanted, line) in enumerate(zip(chosen, self._lines, strict=True)):
                if wanted:
                    line.settle()
                    noted = metrics if tier else None
                    pending = line.begin(
                        number, tree, noted, self._options, self._clock(), facts=facts
                    )
                    if not self._background:
                        pending.result()
            return chosen

    def delete(self, step: int) -> None:
        """Delete a step in both tiers, on all processes, which call this together.

        Waits for what is being saved. When this returns the step is invisible, durably. Raises
        `CheckpointNotFound` if no process has any of it, `InvalidOption` if it is pinned in the
        durable tier, `StorageError`, `PeerFailed`.
        """
        number = step_number(step)
        with self._turn, self._hosts.begin("delete", self._root.path) as talk:
            self.wait()
            near = self._local.root.steps().get(number)

            def look(told: Mapping[int, Any]) -> bool:
                return any(told.values()) or number in self._root.steps()

            if not talk.collect("who has it", near is not None, look):
                raise CheckpointNotFound(f"there is no step {number} to delete in either tier")

            def delete() -> None:
                place = self._root.steps().get(number)
                if place is not None:
                    delete_step(self._root, self._deleter, number, place)

            decide_for_all(talk, "delete it", delete, InvalidOption)
            forget_step(self._writer, number)
            if near is not None:
                self._local.delete(near)
            talk.collect("it is gone", None, lambda _: None)

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until what was saved is durable, each tier in its way; raise a failure.

        Raises `TimeoutError` as `Manager.wait` does.
        """
        end_s = None if timeout_s is None else time.monotonic() + timeout_s
        for line in self._lines:
            line.settle(None if end_s is None else max(0.0, end_s - time.monotonic()))
        if end_s is None:
            self._deleter.close()
        elif not self._deleter.wait(max(0.0, end_s - time.monotonic())):
            raise TimeoutError(f"old steps are not gone after {timeout_s} s")

    def raise_failure(self) -> None:
        """Raise the failure of a save that has ended. Never waits, and asks nobody: of several
        processes some may hear of it some steps earlier than others. `save` and `wait` raise it on
        all at the same step.
        """
        for line in self._lines:
            line.raise_failure()

    @property
    def failed_steps(self) -> tuple[int | None, int | None]:
        """For each tier the step that it tried last, if that was in vain. Ask after a failure."""
        near, durable = (line.failed_step for line in self._lines)
        return near, durable

    @property
    def busy(self) -> bool:
        """Whether some tier is being written."""
        return any(line.busy for line in self._lines)

    # --------------------------------------------------------------------------------- restoring

    def steps(self) -> list[int]:
        """The steps that can be restored: whole across the job, or durable. All processes ask."""
        self.wait()
        return self.restorer.steps()

    def resume(self, tree: PyTree) -> tuple[int, PyTree]:
        """The newest step and its state in the form of `tree`; `(0, tree)` if there is no step."""
        self.wait()
        found = self.restorer.restore(tree, None, LoadOptions())
        return (0, tree) if found is None else (found.step, found.tree)

    def restore(
        self, target: PyTree, step: int | None = None, *, options: LoadOptions | None = None
    ) -> Regained:
        """One step, or the newest, in the form of `target`: on all processes, or on none.

        Raises `CheckpointNotFound` if there is none, or if neither tier has it whole;
        `RestoreMismatch`; `CorruptCheckpoint` if the durable tier is damaged; `PeerFailed`.
        """
        self.wait()
        number = None if step is None else step_number(step)
        found = self.restorer.restore(target, number, options or LoadOptions())
        if found is None:
            what = "a step" if step is None else f"step {step}"
            raise CheckpointNotFound(
                f"neither the local storage of all processes nor {self._root.path} has {what} whole"
            )
        return found

    # ------------------------------------------------------------------------------------ the end

    def close(self) -> None:
        """Wait for everything and save no more; raise a failure that nobody was told of."""
        with self._turn:
            self._closed = True
        try:
            self.wait()
        finally:
            try:
                self._writer.notes.flush()
            finally:
                self._local.close()
                self._deleter.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        close_after(self.close, error)


def _raise_together(hosts: Hosts, root: str, lines: Sequence[SaveLine]) -> None:
    """Raise the failure of an earlier save at the same step on all processes: some know of it
    before others do, and who skips a step must not do so alone.
    """
    if hosts.topology.alone:
        return
    with hosts.begin("failures", root) as talk:
        failed = talk.collect("tell", [line.failed for line in lines], _first_to_know)
    for line, tier, process in zip(lines, ("near", "durable"), failed, strict=True):
        if process is not None:
            line.settle()
            raise PeerFailed(
                f"a save to the {tier} tier failed there",
                process=process,
                phase="save",
                operation=root,
            )


def _first_to_know(told: Mapping[int, Sequence[bool]]) -> list[int | None]:
    """For each tier a process that knows of a failure, or None."""
    tiers = range(len(next(iter(told.values()))))
    return [next((p for p in sorted(told) if told[p][tier]), None) for tier in tiers]


def _context(writer: Writer, line: SaveLine, now_s: float) -> SaveContext:
    last_step, last_time_s = writer.last or (None, None)
    return SaveContext(last_step, last_time_s, now_s, busy=line.busy)


def _open(near: StepRoot, durable: StepRoot, hosts: Hosts) -> tuple[str, tuple[int, float] | None]:
    """Put both roots in order; all agree on what to call this run, and on what was saved last."""
    open_root(near.store, near.path)

    def open_it() -> list[Any]:
        open_root(durable.store, durable.path)
        return [uuid.uuid4().hex, last_save(durable)]

    with hosts.begin("open", durable.path) as talk:
        run, last = decide_for_all(talk, "open the root", open_it)
    return run, None if last is None else (int(last[0]), float(last[1]))
