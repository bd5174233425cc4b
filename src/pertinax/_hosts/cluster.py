# SPDX-License-Identifier: Apache-2.0
"""A job of several processes, which talk over JAX's coordination service.

Knows rounds: how members give values to the primary, hear its decision, and learn within a second
or so that one of them has failed or fallen silent. Knows nothing of devices: no collective is used,
so any thread may wait here while the program computes.

The names on the board: `<kind>/<subject and members>/` holds `calls/<process>`, which counts the
operations that each process has begun, and `<n>/` for the n-th of them (or, of those within another
one, `<that one>-<n>/`, which each process counts by itself): `<phase>/<process>` the
values, `said/<phase>` the primary's decision, `failed/<process>` who gave up and why, `left` how
many are through with it. The last to leave wipes it.
"""

import contextlib
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Final, Self, final

import jax

from pertinax._hosts.board import Board, NoAnswer, Patience
from pertinax._hosts.contract import Round
from pertinax._hosts.pulse import Listener, keep_beating
from pertinax._plan.topology import Topology
from pertinax.errors import PeerAbsent, PeerFailed

_SLICE_S: Final = 0.5
"""How long to wait for the expected before looking for the unexpected."""
_SILENCE_S: Final = 10.0
_GRACE_S: Final = 5.0
_SERVICE: Final = 0
"""The process that runs JAX's coordination service."""
_TEXT_LIMIT: Final = 4000


@final
class Cluster:
    """`Hosts` for several processes."""

    def __init__(self, client: Any, topology: Topology, *, silence_s: float = _SILENCE_S) -> None:
        self.topology: Final = topology
        self._board = Board(client, patience=Patience(silence_s))
        self._silence_s = silence_s

    def begin(
        self, kind: str, subject: str, *, timeout_s: float = 600.0, within: Round | None = None
    ) -> "Conversation":
        """Begin the next operation of this kind on this subject."""
        who = self.topology
        keep_beating(self._board, who.process, len(who.members))
        listener = Listener(self._board, self._silence_s)
        return _begin(self._board, who, listener, kind, subject, timeout_s=timeout_s, within=within)


@final
class Conversation:
    """`Round` for several processes."""

    def __init__(
        self,
        board: Board,
        topology: Topology,
        listener: Listener,
        name: str,
        *,
        timeout_s: float,
        within: Round | None,
    ) -> None:
        self.topology: Final = topology
        self._parts: Counter[str] = Counter()
        self._within = within
        self._board = board
        self._told = False
        self._deaf = False
        self._listener = listener
        self._name = name
        self._timeout_s = timeout_s
        self._phase = "beginning"
        self._checked_s = 0.0

    def agree(self, phase: str, decide: Callable[[], Any]) -> Any:
        """What the primary's `decide` returns. Only the others wait."""
        self._phase = phase
        with self._answered():
            if not self.topology.is_primary:
                return self._hear(phase)
            self._raise_failures()
        decision = decide()
        with self._answered():
            self._board.put(f"said/{phase}", json.dumps(decision))
        return decision

    def collect(self, phase: str, value: Any, decide: Callable[[Mapping[int, Any]], Any]) -> Any:
        """What the primary's `decide` makes of the values of all members. All wait."""
        self._phase = phase
        with self._answered():
            if not self.topology.is_primary:
                self._board.put(f"{phase}/{self.topology.process}", json.dumps(value))
                return self._hear(phase)
            self._raise_failures()
            values = self._gather(phase)
        values[self.topology.process] = value
        decision = decide(dict(sorted(values.items())))
        with self._answered():
            self._board.put(f"said/{phase}", json.dumps(decision))
        return decision

    def begin(self, kind: str, subject: str, *, timeout_s: float = 600.0) -> "Conversation":
        """A part of this one: what it leaves on the board goes with it."""
        board, who = self._board, self.topology
        return _begin(board, who, self._listener, kind, subject, timeout_s=timeout_s, within=self)

    def number_of(self, name: str) -> str:
        """The number of the next operation of that name which is begun within this one."""
        self._parts[name] += 1
        own = hashlib.sha256(self._board.name.encode()).hexdigest()[:16]
        return f"{own}-{self._parts[name]}"

    def fail(self, error: BaseException) -> None:
        """Tell the others; the primary waits until they have heard it, though not for long."""
        if self._deaf:
            return
        end_s = time.monotonic() + _GRACE_S
        others = set(self.topology.members) - {self.topology.process}
        with contextlib.suppress(NoAnswer):
            self._tell(error)
            while self.topology.is_primary and time.monotonic() < end_s:
                stopped = {int(process) for process in self._board.read_all("stopped")}
                awaited = others - stopped - self._listener.silent(others).keys()
                if not awaited:
                    return
                self._board.read(f"stopped/{min(awaited)}", _SLICE_S)

    def check(self) -> None:
        """Raise `PeerFailed` if another member has failed."""
        now = time.monotonic()
        if now - self._checked_s < 1.0:
            return
        self._checked_s = now
        with self._answered():
            self._raise_failures()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._deaf:
            return
        try:
            if error is not None:
                self._tell(error)
            self._phase = "leaving"
            if error is not None:
                self._board.put(f"stopped/{self.topology.process}", "")
            if self._board.count("left") == len(self.topology.members):
                self._board.clear()
        except NoAnswer:
            self._deaf = True  # what was to be done here is done
        except jax.errors.JaxRuntimeError:
            if error is None:  # else the service went away, and `error` tells it better
                raise

    def _tell(self, error: BaseException) -> None:
        """Pass the failure on: our own, or the first one that we heard of."""
        if self._told or self._deaf:
            return
        self._told = True
        story = {
            "process": self.topology.process,
            "phase": self._phase,
            "type": type(error).__name__,
            "text": str(error)[:_TEXT_LIMIT],
        }
        if isinstance(error, PeerFailed):
            story |= {
                "process": error.process,
                "phase": error.phase,
                "type": error.type_name,
                "text": error.text,
            }
        self._board.put(f"failed/{self.topology.process}", json.dumps(story))

    def _hear(self, phase: str) -> Any:
        """Wait for the primary's decision.

        What it said counts, even if it has failed since: it may have failed for what it said.
        """
        end_s = time.monotonic() + self._timeout_s
        while True:
            text = self._board.read(f"said/{phase}", _slice(end_s))
            if text is not None:
                return json.loads(text)
            self._look_around({self.topology.primary}, end_s)

    def _gather(self, phase: str) -> dict[int, Any]:
        """Wait for the values of all others."""
        end_s = time.monotonic() + self._timeout_s
        others = set(self.topology.members) - {self.topology.process}
        while True:
            found = {int(p): text for p, text in self._board.read_all(phase).items()}
            absent = others - found.keys()
            if not absent:
                return {process: json.loads(found[process]) for process in others}
            first = min(absent)
            if self._board.read(f"{phase}/{first}", _slice(end_s)) is None:
                self._look_around(absent, end_s)

    def _look_around(self, awaited: set[int], end_s: float) -> None:
        """Raise if there is no point in waiting any longer."""
        self._raise_failures()
        silent = self._listener.silent(awaited)
        if silent:
            process, seconds = min(silent.items())
            raise PeerFailed(
                f"nothing was heard of it for {seconds:.0f} s: it was killed or stopped, or its "
                "machine is gone",
                process=process,
                phase=self._phase,
                operation=self._name,
            )
        if time.monotonic() >= end_s:
            raise PeerAbsent(
                f"{self._name}: process {self.topology.process} waited {self._timeout_s:.0f} s in "
                f"phase {self._phase!r} for {_names(awaited)}: every member must make the same "
                "calls in the same order"
            )

    @contextlib.contextmanager
    def _answered(self) -> Iterator[None]:
        with _answered(self._phase, self._name):
            try:
                yield
            except NoAnswer:
                self._deaf = True
                raise

    def _raise_failures(self) -> None:
        told = self._board.read_all("failed")
        told.pop(str(self.topology.process), None)
        if not told:
            if self._within is not None:
                self._within.check()
            return
        story = json.loads(told[min(told, key=int)])
        raise PeerFailed(
            story["text"],
            process=story["process"],
            phase=story["phase"],
            operation=self._name,
            type_name=story["type"],
        )


def _begin(
    board: Board,
    who: Topology,
    listener: Listener,
    kind: str,
    subject: str,
    *,
    timeout_s: float,
    within: Round | None,
) -> Conversation:
    members = ",".join(map(str, who.members))
    digest = hashlib.sha256(f"{members}/{subject}".encode()).hexdigest()[:16]
    place = board.below(f"{kind}/{digest}")
    if isinstance(within, Conversation):
        # Counted within: who fails there does not come here, and must not lag behind for ever.
        number = within.number_of(place.name)
        name = f"{kind} of {subject}"
    else:
        with _answered("beginning", f"{kind} of {subject}"):
            number = str(place.count(f"calls/{who.process}"))
        name = f"{kind} {number} of {subject}"
    return Conversation(
        place.below(number), who, listener, name, timeout_s=timeout_s, within=within
    )


def _slice(end_s: float) -> float:
    return max(0.001, min(_SLICE_S, end_s - time.monotonic()))


@contextlib.contextmanager
def _answered(phase: str, operation: str) -> Iterator[None]:
    """A service that does not answer is a process that has failed."""
    try:
        yield
    except NoAnswer as error:
        raise PeerFailed(
            f"it runs the coordination service of the job, which gave {error}: it was stopped, or "
            "its machine is gone",
            process=_SERVICE,
            phase=phase,
            operation=operation,
        ) from error


def _names(processes: set[int]) -> str:
    listed = ", ".join(map(str, sorted(processes)[:20])) + (", ..." if len(processes) > 20 else "")
    return f"process{'es' if len(processes) > 1 else ''} {listed}"
