# SPDX-License-Identifier: Apache-2.0
"""The line of saves into one root: one at a time, each telling the next how it went.

Knows the save in flight and who was told of its end. Knows nothing of when to save, nor of how a
step is written.
"""

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol, final

from pertinax._core.open import DEFAULT_ITEM
from pertinax._core.options import SaveOptions
from pertinax._core.pending import Pending
from pertinax._core.plans import Plans
from pertinax._core.prepare import prepare
from pertinax._core.write import Contents
from pertinax._hosts import Hosts, Round, Topology, decide_for_all, handed_over
from pertinax._steps.history import METRICS_ITEM
from pertinax._steps.metrics import encode_metrics
from pertinax._steps.statistics import Tally
from pertinax._steps.writing import StepRoot
from pertinax.errors import CheckpointExists
from pertinax.typing import PyTree


class Writer(Protocol):
    """What writes the steps of a line, as `StepWriter` does; see there."""

    last: tuple[int, float] | None

    @property
    def root(self) -> StepRoot:
        """Where."""
        ...

    @property
    def tally(self) -> Tally:
        """What the saves cost."""
        ...

    def refuse_if_taken(self, step: int) -> None:
        """Raise `CheckpointExists` if the step may not be written."""
        ...

    def rehearse(self, step: int, metrics: bytes | None) -> None:
        """Raise what would be raised too late otherwise."""
        ...

    def write(
        self,
        step: int,
        contents: Contents,
        options: SaveOptions,
        progress: Callable[[int, int], None],
        *,
        talk: Round,
    ) -> None:
        """Make the step visible, durably."""
        ...


@final
class SaveLine:
    """Saves into one root, one after the other. The caller serialises `begin`.

    `apart`: how this process sees itself where each saves what it holds into a root of its own;
    `subject` is then what all call their saves, for their roots may have different names.
    """

    def __init__(
        self,
        writer: Writer,
        hosts: Hosts,
        *,
        apart: Topology | None = None,
        subject: str | None = None,
    ) -> None:
        self._writer = writer
        self._hosts = hosts
        self._apart = apart
        self._subject = writer.root.path if subject is None else subject
        self._plans = Plans()
        self._flight: Pending | None = None
        self._flight_step: int | None = None

    @property
    def busy(self) -> bool:
        """Whether a step is being written now."""
        return self._flight is not None and not self._flight.done()

    @property
    def failed(self) -> bool:
        """Whether the save that was begun last has ended in vain and nobody was told so far."""
        return self._flight is not None and self._flight.failed

    @property
    def failed_step(self) -> int | None:
        """The step that was tried last, if that was in vain and somebody was told."""
        flight = self._flight
        if flight is None or not flight.asked or flight.exception() is None:
            return None
        return self._flight_step

    def settle(self, timeout_s: float | None = None) -> None:
        """Wait for the save in flight; raise its failure, unless somebody has been told.

        Raises `TimeoutError` after `timeout_s` seconds.
        """
        flight = self._flight
        if flight is not None and not flight.asked:
            flight.result(timeout_s)

    def settle_if(self, step: int | None) -> None:
        """`settle` if that step (None: the newest) is, or may be, the one being written."""
        if step is None or self.is_writing(step):
            self.settle()

    def raise_failure(self) -> None:
        """Raise the failure of a save that has ended, unless somebody was told. Never waits."""
        flight = self._flight
        if flight is not None and flight.done():
            self.settle()

    def is_writing(self, step: int) -> bool:
        """Whether this step is being written now."""
        return self.busy and self._flight_step == step

    def begin(
        self,
        step: int,
        tree: PyTree,
        metrics: Mapping[str, Any] | None,
        options: SaveOptions,
        now_s: float,
        *,
        facts: Mapping[str, Any] | None = None,
        settled: Callable[[], None] = lambda: None,
    ) -> Pending:
        """Wait for the save before, take hold of `tree`, and start to write it.

        `facts` go into the ledger of the tree; `settled` is called when the save before has ended.

        Raises the failure of the save before, if nobody was told; `InvalidOption` for metrics;
        `CheckpointExists`, `UnsupportedLeaf`, `StorageError`, `PeerFailed` and whatever the keep
        policy raises. Nothing has been written then.
        """
        writer = self._writer
        with contextlib.ExitStack() as stack:
            # First of all: whatever goes wrong here, the other processes wait for us there.
            talk = stack.enter_context(self._hosts.begin("save", self._subject))
            measured = None if metrics is None else encode_metrics(metrics)
            self.settle()
            settled()
            begun_s = time.monotonic()

            def check() -> None:
                writer.refuse_if_taken(step)
                writer.rehearse(step, measured)

            about = f"{self._subject}/{writer.root.naming.name(step)}"
            decide_for_all(talk, "look at the step", check, CheckpointExists, about=about)
            topology = self._apart or talk.topology
            content = prepare(tree, options, options.snapshot, topology, self._plans)
            content = replace(content, facts={**content.facts, **(facts or {})})
            items: dict[str, Any] = {DEFAULT_ITEM: content}
            if measured is not None:
                items[METRICS_ITEM] = {METRICS_ITEM: measured}
            contents = Contents(items)
            before, writer.last = writer.last, (step, now_s)
            writer.tally.begin(step, contents.total_bytes)
            try:
                with handed_over(stack) as on_thread:

                    def work(progress: Callable[[int, int], None]) -> None:
                        try:
                            with on_thread:
                                writer.write(step, contents, options, progress, talk=talk)
                        except BaseException:
                            writer.last = before
                            raise

                    flight = Pending(
                        writer.root.directory(step),
                        work,
                        begun_s=begun_s,
                        total_bytes=contents.total_bytes,
                    )
            except BaseException as error:  # no thread to be had
                writer.tally.ended(0.0, error=error)
                writer.last = before
                raise
        self._flight, self._flight_step = flight, step
        return flight
