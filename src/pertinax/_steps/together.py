# SPDX-License-Identifier: Apache-2.0
"""Together: several processes look for a step, and all read the same one or none.

Knows rounds and which failures are a step's own. Knows nothing of how a step is read.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, final

from pertinax._hosts import Round
from pertinax.errors import (
    CheckpointNotFound,
    CorruptCheckpoint,
    NotACheckpoint,
    PeerFailed,
    StorageError,
)
from pertinax.typing import PyTree

_KINDS: Final[Mapping[str, type[Exception]]] = {
    "CheckpointNotFound": CheckpointNotFound,
    "NotACheckpoint": NotACheckpoint,
    "UnfinishedCheckpoint": NotACheckpoint,
    "StorageError": StorageError,
}


@final
class Together:
    """`look` and `read` of one process, as those of all: one list, and everybody's failures."""

    def __init__(
        self,
        talk: Round,
        look: Callable[[], dict[int, str]],
        read: Callable[[str], PyTree],
    ) -> None:
        self._talk = talk
        self._look = look
        self._read = read
        self._tries = 0

    def look(self) -> dict[int, str]:
        """The steps that the primary sees, and where they lie."""
        if self._talk.topology.alone:
            return self._look()
        self._tries += 1
        told = self._talk.agree(f"look {self._tries}", self._look)
        return {int(step): place for step, place in told.items()}

    def read(self, place: str) -> PyTree:
        """One step, once every process has read its part.

        Raises what reading raised here; or, if it was another process that failed, the same kind of
        failure with its number.
        """
        if self._talk.topology.alone:
            return self._read(place)
        own: Exception | None = None
        tree: PyTree = None
        try:
            tree = self._read(place)
        except Exception as error:  # noqa: BLE001 - first all are told
            own = error
        story = None if own is None else [type(own).__name__, str(own), getattr(own, "file", "")]
        first = self._talk.collect(f"read {self._tries}", story, _first_failure)
        if own is not None:
            raise own
        if first is not None:
            process, name, text, file = first
            raise _failure_of(process, name, text, file=file, talk=self._talk)
        return tree


def _first_failure(stories: Mapping[int, Any]) -> list[Any] | None:
    failed = [[process, *story] for process, story in stories.items() if story is not None]
    return failed[0] if failed else None


def _failure_of(process: int, name: str, text: str, *, file: str, talk: Round) -> Exception:
    told = f"process {process} could not read its part: {text}"
    if name == "CorruptCheckpoint":
        return CorruptCheckpoint(told, file=file)
    if name in _KINDS:
        return _KINDS[name](told)
    return PeerFailed(
        text,
        process=process,
        phase="read",
        operation=f"restore on {len(talk.topology.members)} processes",
        type_name=name,
    )
