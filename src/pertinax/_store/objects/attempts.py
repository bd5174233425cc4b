# SPDX-License-Identifier: Apache-2.0
"""Attempts: who may write, or delete, the checkpoint at a key, and how that ended.

Knows three kinds of objects (design note 004), leases, and the clock of the store. Knows nothing of
what is written. An attempt that is open belongs to its owner. It is closed by one object that
owner and successors compete for; what it says is what happened.
"""

import json
import logging
import os
import platform
import random
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, final

from pertinax._store.objects.requests import Meta, Requests
from pertinax._store.objects.store import ATTEMPT
from pertinax._store.owner import is_ours, new_token, owner_alive
from pertinax.errors import WriterConflict

Kind = Literal["save", "delete"]
Verdict = Literal["complete", "abandoned"]

_LOG: Final = logging.getLogger(__name__)
_NAME: Final = re.compile(re.escape(ATTEMPT) + r"([0-9a-f]{32})(\.end)?")
_PROBE: Final = f"{ATTEMPT}probe."
_TRIES: Final = 6
_APART_S: Final = 0.2
_SIGNS: Final = 6
"""How often within its lease an owner gives a sign of life."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt, as its object tells it."""

    place: str
    write_id: str
    owner: str
    kind: Kind
    host: str
    process: int

    @property
    def key(self) -> str:
        """The object that says that there is an attempt."""
        return f"{self.place}/{ATTEMPT}{self.write_id}"

    @property
    def end_key(self) -> str:
        """The object that says how it ended."""
        return f"{self.key}.end"

    def encode(self) -> bytes:
        """The content of the object."""
        told = {
            "owner": self.owner,
            "kind": self.kind,
            "host": self.host,
            "process": self.process,
        }
        return json.dumps(told).encode()


@dataclass(frozen=True, slots=True)
class Claim:
    """An attempt of ours, and those before it, which are over.

    Attributes:
        names: what lay directly in the place, but for what tells of attempts.
    """

    attempt: Attempt
    over: tuple[Attempt, ...]
    names: frozenset[str]


@dataclass(frozen=True, slots=True)
class End:
    """How an attempt ended: `objects` are all that a complete checkpoint has, by name, with their
    lengths; `markers` are what then makes it visible, in this order.
    """

    verdict: Verdict
    by: str
    objects: Mapping[str, int] = field(default_factory=dict[str, int])
    markers: Mapping[str, str] = field(default_factory=dict[str, str])

    def encode(self) -> bytes:
        """The content of the object. No two writers make the same."""
        told = {
            "verdict": self.verdict,
            "by": self.by,
            "objects": dict(self.objects),
            "markers": dict(self.markers),
        }
        return json.dumps(told).encode("utf-8", "surrogatepass")


def _end_of(data: bytes) -> End:
    """The inverse of `End.encode`. Raises `ValueError`, `KeyError` or `TypeError`."""
    told: dict[str, Any] = json.loads(data)
    objects: dict[str, Any] = told["objects"]
    markers: dict[str, Any] = told["markers"]
    lengths = all(isinstance(one, int) for one in dict.values(objects))
    texts = all(isinstance(one, str) for one in dict.values(markers))
    if not (lengths and texts and told["verdict"] in ("complete", "abandoned")):
        raise ValueError("not the end of an attempt")
    return End(told["verdict"], str(told["by"]), objects, markers)


@final
class Attempts:
    """The attempts at one bucket. `sleep` and `lease_s` are for tests to choose."""

    def __init__(
        self, requests: Requests, *, lease_s: float, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.requests: Final = requests
        self.lease_s: Final = lease_s
        self.pause: Final = sleep

    def claim(
        self,
        place: str,
        kind: Kind,
        *,
        roll_forward: Callable[[Attempt, End], bool],
        patient: bool = True,
    ) -> Claim:
        """Become the one who writes at `place`, after those who did before.

        `roll_forward` is given an attempt that is complete and not over; it returns whether the
        checkpoint is there now. An owner on another host is waited for, unless we are not
        `patient`. Raises `WriterConflict` if somebody else writes there.
        """
        mine = Attempt(
            place, uuid.uuid4().hex, new_token(), kind, platform.node() or "?", os.getpid()
        )
        for left in reversed(range(_TRIES)):
            try:
                over = self._settle(place, roll_forward, patient=patient)
            except WriterConflict:
                if not left or left == _TRIES - 1:
                    raise
                over = None  # it may be one who came with us, and goes away as we did
            if over is not None:
                self.requests.put(mine.key, mine.encode())
                # Of two who look after they have said that they are here, one sees the other.
                below, after = self.requests.list_level(place)
                here = {_id(one.key, place) for one in after} - {None, mine.write_id}
                if here <= {one.write_id for one in over}:
                    probes = [one.key for one in after if _PROBE in one.key]
                    if probes:  # of one who died while it asked for the time
                        self.requests.delete(probes)
                    keys = [*(one.key for one in after if not is_attempt(one.key)), *below]
                    names = frozenset(key.rstrip("/").rpartition("/")[2] for key in keys)
                    return Claim(mine, tuple(over), names)
                self.requests.delete([mine.key])
            self.pause(random.uniform(0, _APART_S * (_TRIES - left)))
        raise WriterConflict(f"too many others want to write {self._url(place)}: try again")

    def close(self, attempt: Attempt, end: End) -> End:
        """Say how an attempt ended, and return what is on record: another may have been faster.

        Raises `OSError` if nobody knows.
        """
        data = end.encode()
        try:
            self.requests.create(attempt.end_key, data)
            return end
        except OSError:
            found = self.ended(attempt)
            if found is None:
                raise
            return found

    def ended(self, attempt: Attempt) -> End | None:
        """How an attempt ended, or None if it is open."""
        try:
            return _end_of(self.requests.get(attempt.end_key))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            # Nothing says that it is complete, and nobody but its owner could have known better.
            return End("abandoned", "?")

    def read(self, place: str, write_id: str) -> Attempt | None:
        """What an attempt says of itself; None if it is gone."""
        key = f"{place}/{ATTEMPT}{write_id}"
        try:
            data = self.requests.get(key)
        except FileNotFoundError:
            return None
        try:
            told: dict[str, Any] = json.loads(data)
            return Attempt(
                place,
                write_id,
                str(told["owner"]),
                "delete" if told["kind"] == "delete" else "save",
                str(told["host"]),
                int(told["process"]),
            )
        except (ValueError, KeyError, TypeError):
            # Not ours to understand: it belongs to nobody whom we could ask.
            return Attempt(place, write_id, "", "save", "?", 0)

    def forget(self, attempts: Sequence[Attempt]) -> None:
        """Remove all that tells of attempts: they are over."""
        # Without its end an attempt would seem to be open.
        self.requests.delete([one.key for one in attempts])
        self.requests.delete([one.end_key for one in attempts])

    def refresh(self, attempt: Attempt) -> bool:
        """Give a sign of life; False if the attempt is not open any more."""
        closed = self.requests.head(attempt.end_key) is not None
        if closed or self.requests.head(attempt.key) is None:  # the end goes last
            return False
        self.requests.put(attempt.key, attempt.encode())
        return True

    def is_proven_over(self, place: str, key: str) -> bool:
        """Whether the attempt that an object tells of is over, without asking the store's clock."""
        write_id = _id(key, place)
        attempt = None if write_id is None else self.read(place, write_id)
        return (
            attempt is None
            or owner_alive(attempt.owner) is False
            or self.ended(attempt) is not None
        )

    def _settle(
        self, place: str, roll_forward: Callable[[Attempt, End], bool], *, patient: bool
    ) -> list[Attempt] | None:
        """The attempts at `place`, which are all over now; None: look again.

        Raises `WriterConflict`.
        """
        _, objects = self.requests.list_level(place)
        over: list[Attempt] = []
        for write_id in sorted({_id(one.key, place) or "" for one in objects} - {""}):
            attempt = self.read(place, write_id)
            if attempt is None:  # its end is left, which is removed last
                over.append(Attempt(place, write_id, "", "save", "?", 0))
            elif self._is_over(attempt, roll_forward, patient=patient):
                over.append(attempt)
            else:
                return None
        return over

    def _is_over(
        self, attempt: Attempt, roll_forward: Callable[[Attempt, End], bool], *, patient: bool
    ) -> bool:
        """Whether the attempt is closed, by its owner or now by us. False: look again.

        Raises `WriterConflict`.
        """
        end = self.ended(attempt)
        if end is None:
            if not self._wait_for_death(attempt, patient=patient):
                return False
            me = uuid.uuid4().hex
            end = self.close(attempt, End("abandoned", me))
            if end.by == me and self.requests.head(attempt.key) is None:
                # It was over, and its owner has just removed what told of it.
                self.requests.delete([attempt.end_key])
                return False
            if end.by == me:
                _LOG.warning(
                    "closed the attempt of a dead writer place=%s process=%d host=%s",
                    *(self._url(attempt.place), attempt.process, attempt.host),
                )
        if end.verdict == "complete" and roll_forward(attempt, end):
            self.forget([attempt])
            return False
        return True

    def _wait_for_death(self, attempt: Attempt, *, patient: bool) -> bool:
        """True once the owner is dead, False if there is no such attempt any more.

        Raises `WriterConflict` if it lives.
        """
        first: Meta | None = None
        while (found := self.requests.head(attempt.key)) is not None:
            alive = owner_alive(attempt.owner)
            if alive is False or _is_given_up(attempt):
                return True
            age_s = self._age_s(found)
            if age_s >= self.lease_s:
                return True
            heard = first is not None and (first.modified_ns, first.etag) != (
                found.modified_ns,
                found.etag,
            )
            if alive or heard or not patient:
                raise WriterConflict(
                    f"{self._url(attempt.place)} is being {_DOING[attempt.kind]} by process "
                    f"{attempt.process} on {attempt.host}, last heard of {age_s:.0f} s ago: wait "
                    "until that is done, or choose another path"
                )
            first = found
            self.pause(self.lease_s / _SIGNS)
        return False

    def _age_s(self, found: Meta) -> float:
        """Seconds since an object was written, by the store's own clock."""
        probe = f"{found.key.rpartition('/')[0]}/{_PROBE}{uuid.uuid4().hex}"
        self.requests.put(probe, b".")  # an emulator of GCS cannot take nothing
        try:
            now = self.requests.head(probe)
        finally:
            self.requests.delete([probe])
        return 0.0 if now is None else (now.modified_ns - found.modified_ns) / 1e9

    def _url(self, place: str) -> str:
        return f"{self.requests.front}/{place}"


_DOING: Final[Mapping[str, str]] = {"save": "written", "delete": "deleted"}


@final
class Holding:
    """An attempt of ours, with signs of life as long as it is held."""

    def __init__(
        self,
        attempts: Attempts,
        attempt: Attempt,
        *,
        over: Sequence[Attempt] = (),
        thread: bool = False,
    ) -> None:
        """`over`: attempts before, to be forgotten along with ours. `thread`: signs of life come
        by themselves; else with each `check`.
        """
        self.attempt: Final = attempt
        self._over_before = tuple(over)
        self._attempts = attempts
        self._heard_s = time.monotonic()
        self._lost = False
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        if thread:
            name = _thread_name(attempt)
            self._thread = threading.Thread(target=self._keep, name=name, daemon=True)
            self._thread.start()

    @property
    def keys(self) -> set[str]:
        """All that tells of our attempt and of those before."""
        known = (self.attempt, *self._over_before)
        return {one.key for one in known} | {one.end_key for one in known}

    def check(self) -> None:
        """Raise `WriterConflict` if the attempt is not ours any more; a request only if the last
        sign of life was some time ago.
        """
        if not self._lost and time.monotonic() - self._heard_s > self._attempts.lease_s / 3:
            self.renew()
        if self._lost:
            raise self.conflict()

    def renew(self) -> None:
        """Give a sign of life now. Raises `WriterConflict` if it comes too late, and `OSError`."""
        before_s = time.monotonic()
        if self._attempts.refresh(self.attempt):
            self._heard_s = before_s
        else:
            self._lost = True
            raise self.conflict()

    def conflict(self) -> WriterConflict:
        """The error for one who was taken for dead."""
        return WriterConflict(
            f"another process has taken over {self._attempts.requests.front}/{self.attempt.place}: "
            f"this one was not heard of for {self._attempts.lease_s:.0f} s, or was stopped"
        )

    def stop(self) -> None:
        """No more signs of life."""
        self._over.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def release(self) -> None:
        """The attempt is over, and nothing need tell of it any more. Raises `OSError`."""
        self.stop()
        self._attempts.forget([self.attempt, *self._over_before])

    def _keep(self) -> None:
        while not self._over.wait(self._attempts.lease_s / _SIGNS) and not self._lost:
            try:
                self.renew()
            except WriterConflict:
                return
            except OSError as error:  # the next one may get through; `check` counts the seconds
                _LOG.warning("no sign of life key=%s error=%s", self.attempt.key, error)


def _thread_name(attempt: Attempt) -> str:
    return f"pertinax-lease-{attempt.write_id}"


def _is_given_up(attempt: Attempt) -> bool:
    """Whether this very process began a save and then let go of it, while the store could not be
    reached: it still lives, but gives no sign of life for it any more.
    """
    if attempt.kind != "save" or not is_ours(attempt.owner):
        return False
    return _thread_name(attempt) not in {one.name for one in threading.enumerate()}


def _id(key: str, place: str) -> str | None:
    """The attempt that an object directly in `place` tells of, if it does."""
    found = _NAME.fullmatch(key[len(place) + 1 :])
    return None if found is None else found[1]


def is_probe(key: str) -> bool:
    """Whether a key is there only to ask the store for the time."""
    return key.rpartition("/")[2].startswith(_PROBE)


def is_attempt(key: str) -> bool:
    """Whether a key tells of an attempt."""
    return key.rpartition("/")[2].startswith(ATTEMPT)
