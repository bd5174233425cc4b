# SPDX-License-Identifier: Apache-2.0
"""Meetings: the points of a save where the processes of a job wait for each other, as the options
of the mirrored API arrange them.

Knows who takes part, who leads, how the names of meetings are made, and which operation the calling
code is a part of: who fails in it will not come to any meeting. The waiting is done by the engine's
rounds. Knows nothing of saves.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, final

import jax

from pertinax._hosts import Alone, Hosts, Round, Topology, this_job
from pertinax.checkpoint import _registry, multihost
from pertinax.checkpoint.options import MultiprocessingOptions
from pertinax.errors import InvalidOption

_WAITED: Final = "/jax/checkpoint/sync_global_devices_duration_sec"


@dataclass(frozen=True, slots=True)
class _Operation:
    talk: Round
    options: MultiprocessingOptions
    moved: Callable[[], None]


@final
class LastMove:
    """Called whenever something has been written; `at_s` is when that was last, by the monotonic
    clock.
    """

    __slots__ = ("at_s",)

    def __init__(self) -> None:
        self.at_s = 0.0

    def __call__(self) -> None:
        """Something has moved."""
        self.at_s = time.monotonic()


@final
class Meeting:
    """Who meets, and how.

    Options that say nothing are those of the operation that the caller is a part of: a handler
    without any takes part as its checkpointer does. `barrier` is a program's own way to wait, which
    is called besides; `prefix` is put before the names, after that of the options.
    """

    def __init__(
        self,
        options: MultiprocessingOptions | None = None,
        *,
        barrier: multihost.BarrierSyncFn | None = None,
        prefix: str | None = None,
    ) -> None:
        self._given = options or MultiprocessingOptions()
        self._barrier = barrier
        self._own_prefix = prefix

    def check(self) -> None:
        """Raise `InvalidOption` if the options cannot be, or this process does not take part."""
        active, host = self._given.active_processes, self._given.primary_host
        if active is None:
            return
        if not active or min(active) < 0 or (host is not None and host not in active):
            raise InvalidOption(
                f"active_processes={sorted(active)} with primary_host={host}: name at least one "
                "process, by its number, and the primary host among them"
            )
        me = multihost.process_index()
        if jax.process_count() > 1 and me not in active:
            raise InvalidOption(
                f"process {me} is none of the active_processes {sorted(active)}: only they make "
                "and call this object"
            )

    @property
    def options(self) -> MultiprocessingOptions:
        """Who takes part, and who leads."""
        operation = _current()
        if operation is not None and self._given == MultiprocessingOptions():
            return operation.options
        return self._given

    @property
    def job(self) -> Hosts:
        """The processes that save one checkpoint together.

        Where every process is its own leader, each saves what it holds, by itself. Raises
        `InvalidOption` if the leader, or this process, does not take part.
        """
        if multihost.should_skip_process_sync() or jax.process_count() == 1:
            return Alone()
        options, me = self.options, jax.process_index()
        if options.primary_host is None:
            return Alone(Topology(me, (me,), me, apart=True))
        members = options.active_processes
        (leader,) = multihost.jax_process_ids({options.primary_host})
        return this_job(
            members=None if members is None else multihost.jax_process_ids(members), primary=leader
        )

    @property
    def is_primary(self) -> bool:
        """Whether this process makes directories and publishes."""
        return multihost.leads(self.options.primary_host)

    def begin(self, kind: str, subject: str, *, timeout_s: float = 600.0) -> Round:
        """An operation of all who take part. Who fails in what the caller is a part of does not
        come; the new operation may outlive it.
        """
        operation = _current()
        within = None if operation is None else operation.talk
        return self.job.begin(kind, subject, timeout_s=timeout_s, within=within)

    def begin_part(
        self, kind: str, subject: str, *, beside: str, timeout_s: float = 600.0
    ) -> Round:
        """As `begin`, for what ends before the operation does that the caller is a part of.

        `beside` takes the place of `subject` where there is none: few names should stay behind.
        """
        operation = _current()
        if operation is None or operation.talk.topology != self.job.topology:
            return self.begin(kind, beside, timeout_s=timeout_s)
        return operation.talk.begin(kind, subject, timeout_s=timeout_s)

    @contextlib.contextmanager
    def inside(self, talk: Round, moved: Callable[[], None] | None = None) -> Iterator[None]:
        """What the block calls is a part of this operation, and calls `moved` as it goes on."""
        operation = _Operation(talk, self.options, moved or (lambda: None))
        token = _registry.OPERATION.set(operation)
        try:
            yield
        finally:
            _registry.OPERATION.reset(token)

    def gather(self, key: str, suffix: str, *, talk: Round, timeout_s: int | None = None) -> None:
        """Wait until all have come here. Every process comes to the same meetings in the same
        order.

        The failure of another process ends the waiting, as `PeerFailed`. Raises `TimeoutError` if
        somebody does not come within the time of the round. With `timeout_s`, all then wait in the
        program's own way, too.
        """
        if jax.process_count() == 1:
            # Nobody is there, unless a test says otherwise.
            multihost.sync_global_processes(
                self._key(key, suffix),
                timeout=timeout_s,
                processes=self.options.active_processes,
                barrier_sync_fn=self._barrier,
            )
            return
        began_s = time.monotonic()
        # Without the suffix: it has numbers that each process counts by itself.
        talk.collect(key, None, _nothing)
        jax.monitoring.record_event_duration_secs(_WAITED, time.monotonic() - began_s)
        if timeout_s is not None:
            self.call_barrier(key, suffix, timeout_s=timeout_s)

    def call_barrier(self, key: str, suffix: str, *, timeout_s: int) -> None:
        """Wait in the program's own way, if it has one; it may, then, wait for nobody."""
        if self._barrier is not None:
            self._barrier(key=self._key(key, suffix), timeout_ms=timeout_s * 1000)

    def _key(self, key: str, suffix: str) -> str:
        parts = [self.options.barrier_sync_key_prefix, self._own_prefix]
        prefix = ".".join(part for part in parts if part is not None) or None
        return multihost.unique_barrier_key(key, prefix=prefix, suffix=suffix)


def told_by_primary(phase: str, decide: Callable[[], str]) -> str | None:
    """What `decide` returns on the process that leads the operation at hand; None without one."""
    operation = _current()
    if operation is None or operation.talk.topology.alone:
        return None
    return operation.talk.agree(phase, decide)


def who_hears_of_progress() -> Callable[[], None]:
    """What to call, from any thread, whenever the operation at hand has moved."""
    operation = _current()
    return (lambda: None) if operation is None else operation.moved


def _current() -> _Operation | None:
    return _registry.OPERATION.get()


def _nothing(_: Mapping[int, Any]) -> None:
    """Coming is all."""
