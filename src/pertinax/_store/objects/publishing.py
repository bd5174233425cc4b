# SPDX-License-Identifier: Apache-2.0
"""How checkpoints appear, vanish and are found in an object store (design note 004).

Knows markers and attempts. Knows nothing of formats or steps. A checkpoint is visible if and only
if its marker is there.
"""

import contextlib
from typing import final

from pertinax._store.objects.attempts import Holding
from pertinax._store.objects.draft import ObjectDraft, remove_below
from pertinax._store.objects.finding import Finding
from pertinax._store.objects.removing import Removing
from pertinax._store.objects.store import MARKER, ObjectStore
from pertinax.errors import CheckpointExists, InvalidOption


@final
class MarkerPublishing(Finding, Removing):
    """Publishing in place, finished by a marker. See `Publishing`."""

    def __init__(self, store: ObjectStore) -> None:
        Finding.__init__(self, store)
        Removing.__init__(self, store)

    @property
    def replaces(self) -> bool:
        """Two checkpoints cannot share a place, and nothing can be renamed."""
        return False

    def open_draft(
        self,
        final: str,
        *,
        mode: int = 0o777,  # noqa: ARG002 - rights are the bucket's
        path: str | None = None,
        shared: bool = False,
        window_bytes: int | None = None,
    ) -> ObjectDraft:
        """Raises `CheckpointExists` if there is a checkpoint, `WriterConflict` if somebody else
        writes there.
        """
        final = final.rstrip("/")
        place = self.place(final)
        if path is not None and path.rstrip("/") != final:
            raise InvalidOption(f"a draft of {final} cannot lie elsewhere, in an object store")
        claim = self.attempts.claim(place, "save", roll_forward=self.roll_forward)
        holding = Holding(self.attempts, claim.attempt, over=claim.over, thread=True)
        try:
            if MARKER in claim.names:
                raise CheckpointExists(f"there is a checkpoint at {final}")
            if claim.names and not claim.over:
                raise CheckpointExists(
                    f"there is something at {final}, and no save of ours left it"
                )
            if claim.names:
                remove_below(self.requests, place, holding)
        except BaseException:
            holding.stop()
            with contextlib.suppress(OSError):
                self.attempts.forget([claim.attempt])
            raise
        return ObjectDraft(
            self.store,
            final,
            holding,
            self.attempts,
            shared=shared,
            window_bytes=window_bytes,
        )

    def join_draft(self, final: str, path: str, *, window_bytes: int | None = None) -> ObjectDraft:
        """The draft of another process."""
        if path != final:
            raise InvalidOption(f"a draft of {final} cannot lie elsewhere, in an object store")
        return ObjectDraft(
            self.store, final, None, self.attempts, shared=True, window_bytes=window_bytes
        )

    def clean_beside(self, final: str) -> None:
        """Nothing: what was left at `final` itself goes when a draft is opened there."""

    def make_dirs(self, path: str) -> None:
        """Nothing: a directory is there when something is in it."""

    def replace_file(self, path: str, data: bytes) -> None:
        """Put a small file in the place of whatever is there."""
        self.requests.put(self.store.key(path), data)
