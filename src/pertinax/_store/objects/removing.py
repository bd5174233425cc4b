# SPDX-License-Identifier: Apache-2.0
"""Removing checkpoints from an object store: out of sight first, then gone; and what the dead left.

Knows markers and attempts. Knows nothing of formats or steps.
"""

import contextlib
import logging
from collections.abc import Sequence
from typing import Final

from pertinax._store.objects.attempts import Attempt, Attempts, End, Holding, is_attempt
from pertinax._store.objects.draft import finish, remove_below
from pertinax._store.objects.store import MARKER, ObjectStore
from pertinax._store.publishing import Hidden
from pertinax._store.workers import Workers
from pertinax.errors import InvalidOption, WriterConflict

_LOG: Final = logging.getLogger(__name__)
_AT_ONCE: Final = 8


class Removing:
    """What `Publishing` takes away."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self.requests = store.requests
        self.attempts = Attempts(store.requests, lease_s=store.lease_s)

    def hide_all(self, paths: Sequence[str]) -> tuple[dict[str, Hidden], dict[str, OSError]]:
        """Each costs a few requests of its own; several are under way at a time."""
        hidden: dict[str, Hidden] = {}
        failures: dict[str, OSError] = {}

        def hide(path: str) -> None:
            try:
                hidden[path] = self.hide(path)
            except FileNotFoundError:
                hidden[path] = Hidden(path)
            except OSError as error:
                failures[path] = error

        if len(paths) == 1:
            hide(paths[0])
        elif paths:
            with Workers(min(_AT_ONCE, len(paths)), "pertinax-hide") as workers:
                workers.run_all([lambda path=path: hide(path) for path in paths])
        return hidden, failures

    def hide(self, path: str) -> Hidden:
        """Remove the marker, and keep the place until `remove` or `restore`."""
        place = self.place(path)
        marker = f"{place}/{MARKER}"
        if self.requests.head(marker) is None:
            raise FileNotFoundError(2, "there is no checkpoint", path)
        claim = self.attempts.claim(place, "delete", roll_forward=self.roll_forward)
        holding = Holding(self.attempts, claim.attempt, over=claim.over)
        try:
            text = self.requests.get(marker)
        except BaseException:
            with contextlib.suppress(OSError):
                holding.release()
            raise
        try:
            self.requests.delete([marker])
        except OSError:
            # As long as nobody knows, the attempt stays: it says that there is something to remove.
            if self.requests.head(marker) is not None:
                holding.release()
                raise
        return Hidden(path, (claim.attempt.write_id,), text)

    def restore(self, hidden: Hidden) -> None:
        """Make visible what was hidden, and not removed."""
        for attempt in self._held(hidden):
            holding = Holding(self.attempts, attempt)
            holding.renew()
            self.requests.create(f"{attempt.place}/{MARKER}", hidden.marker)
            holding.release()

    def remove(self, hidden: Hidden) -> None:
        """Remove what was hidden, unless somebody else has taken that over."""
        for attempt in self._held(hidden):
            self._remove(Holding(self.attempts, attempt))

    def discard(self, path: str) -> None:
        """Hide and remove."""
        self.remove(self.hide(path))

    def clean(self, root: str, *, dry_run: bool = False) -> list[str]:
        """Remove what dead processes left below `root`, and finish what they had decided."""
        key = self.store.key(root)
        places: set[str] = set()
        marked: set[str] = set()
        for page in self.requests.list(key):
            for one in page:
                place, _, name = one.key.rpartition("/")
                if name == MARKER:
                    marked.add(place)
                elif is_attempt(one.key):
                    places.add(place)
        removed: list[str] = []
        for place in sorted(places):
            url = f"{self.requests.front}/{place}"
            if dry_run:
                removed += [] if place in marked or not self._is_dead(place) else [url]
                continue
            with contextlib.suppress(WriterConflict):
                if self._clean_place(place):
                    removed.append(url)
        return removed

    def remove_unfinished(self, path: str) -> bool:
        """Remove what has no marker, also what another program has left, which owns nothing."""
        place = self.place(path)
        prefixes, objects = self.requests.list_level(place)
        return bool(prefixes or objects) and self._clean_place(place)

    def place(self, path: str) -> str:
        """The key of a checkpoint. Raises `InvalidOption` for a bucket."""
        key = self.store.key(path)
        if not key:
            raise InvalidOption(f"{path} is a bucket: a checkpoint needs a name in it")
        return key

    def _held(self, hidden: Hidden) -> list[Attempt]:
        place = self.store.key(hidden.final)
        found = (self.attempts.read(place, write_id) for write_id in hidden.names)
        return [one for one in found if one is not None]

    def _remove(self, holding: Holding) -> None:
        place = holding.attempt.place
        try:
            holding.renew()
            remove_below(self.requests, place, holding)
            holding.check()
        except WriterConflict as error:
            _LOG.warning("somebody else removes %s: %s", place, error)
            return
        holding.release()

    def _clean_place(self, place: str) -> bool:
        """True if something was removed. Raises `WriterConflict` if its owner may live."""
        claim = self.attempts.claim(place, "delete", roll_forward=self.roll_forward, patient=False)
        holding = Holding(self.attempts, claim.attempt, over=claim.over)
        if MARKER in claim.names:
            # Visible: what tells of attempts was left by one who had finished, or not begun.
            holding.release()
            return False
        self._remove(holding)
        return True

    def _is_dead(self, place: str) -> bool:
        _, objects = self.requests.list_level(place)
        return all(self.attempts.is_proven_over(place, one.key) for one in objects)

    def roll_forward(self, attempt: Attempt, end: End) -> bool:
        """Finish what its writer had decided; whether there is a checkpoint now."""
        done = finish(self.requests, attempt, end)
        if done:
            _LOG.warning("finished the save of a dead writer at %s", attempt.place)
        return done
