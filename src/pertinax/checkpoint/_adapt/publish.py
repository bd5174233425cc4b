# SPDX-License-Identifier: Apache-2.0
"""Publishing: the directories that checkpointers work in, from a free name to a visible checkpoint.

Knows temporary paths, ours and the program's own, the notes that handlers leave, and what makes a
directory a finished checkpoint. The syncs and renames are the engine's.
"""

import logging
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from etils import epath

from pertinax._core.places import locate
from pertinax._core.seal import seal
from pertinax._hosts import Round, decide_for_all
from pertinax._store.contract import Store
from pertinax._store.draft import Draft
from pertinax._store.failures import storage_errors
from pertinax._store.leftovers import parent_of
from pertinax._store.owner import new_token
from pertinax._store.publishing import AnyDraft, publishing
from pertinax.checkpoint._adapt import files
from pertinax.checkpoint._adapt.legacy import unwrapped
from pertinax.checkpoint._adapt.meeting import Meeting
from pertinax.checkpoint._adapt.telling import teller
from pertinax.checkpoint.handlers.composite_checkpoint_handler import (
    CompositeCheckpointHandler,
    class_name,
)
from pertinax.checkpoint.path import step as step_lib
from pertinax.checkpoint.path.atomicity import (
    AtomicRenameTemporaryPath,
    EnginePath,
    TemporaryPath,
    on_commit_callback,
)
from pertinax.errors import (
    CheckpointNotFound,
    NotACheckpoint,
    PertinaxError,
    UnfinishedCheckpoint,
)
from pertinax.typing import PathLike

_LOG: Final = logging.getLogger(__name__)


class DestinationExists(PertinaxError, FileExistsError, ValueError):
    """The directory is taken; the mirrored API promises a `ValueError` here."""


class Place(NamedTuple):
    """Where a checkpoint shall become visible, and whether it may replace another. `owner`: a part
    of a name that nobody else has, the same on all processes.
    """

    store: Store
    final: str
    force: bool
    owner: str

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.final.rpartition("/")[2]


def begin_round(meeting: Meeting, kind: str, directory: PathLike, timeout_s: float) -> Round:
    """An operation on a checkpoint by all processes that take part."""
    return meeting.begin(kind, parent_of(locate(directory)[1]), timeout_s=timeout_s)


def choose_place(directory: PathLike, *, force: bool, talk: Round) -> Place:
    """Let the primary look at the directory before anything is done.

    Raises `ValueError` if it is taken and `force` is false.
    """
    store, final = locate(directory)

    def look() -> str:
        with storage_errors("look at the destination", final, names_too=True):
            taken = publishing(store).find_visible(final) is not None
        if taken:
            if not force:
                text = f"Destination {final} already exists: force=True replaces it"
                raise DestinationExists(text)
            _LOG.info("%s force: what is there will be replaced path=%s", teller(), final)
        return new_token()

    owner = decide_for_all(talk, "look at the destination", look, DestinationExists, about=final)
    return Place(store, final, force, owner)


def clear_for(path_class: type[Any], place: Place, talk: Round) -> None:
    """Have the primary remove the checkpoint that will be replaced, where the new one cannot take
    its place in one step.
    """
    if not place.force or issubclass(path_class, AtomicRenameTemporaryPath):
        return

    def clear() -> None:
        publish = publishing(place.store)
        if publish.find_visible(place.final) is not None:
            publish.remove(publish.hide(place.final))

    talk.agree("remove what will be replaced", clear)


def publish(
    path: TemporaryPath,
    place: Place,
    handler: Any,
    *,
    begun_ns: int,
    custom: Mapping[str, Any] | None = None,
) -> None:
    """Add notes and ledger, make all durable, and make it visible.

    An existing checkpoint stays until then.
    """
    ours = isinstance(path, EnginePath)

    def finish(draft: AnyDraft) -> None:
        seal(
            draft,
            begun_ns=begun_ns,
            item_handlers=_class_names(handler),
            custom=custom,
            note_is_final=ours,
        )

    if isinstance(path, EnginePath):
        path.replace, path.finish = place.force, finish
    else:
        finish(Draft(place.store, place.final, locate(path.get())[1]))
    try:
        on_commit_callback(path, checkpoint_start_time=begun_ns / 1e9)
    except FileExistsError as error:
        raise DestinationExists(
            f"Destination {place.final} already exists: somebody else was faster"
        ) from error


def abandon(path: TemporaryPath) -> None:
    """Remove what a save has written that failed. Paths of the program's own are its own affair."""
    if isinstance(path, EnginePath):
        path.abandon()


def _class_names(handler: Any) -> str | dict[str, str]:
    inner = unwrapped(handler)
    if isinstance(inner, CompositeCheckpointHandler):
        return inner.handler_names()
    return class_name(inner)


def find_finished(directory: PathLike) -> epath.Path:
    """Where the finished checkpoint lies that people call `directory`.

    Raises `FileNotFoundError` if nothing is there, `ValueError` if it is a file or an unfinished
    save.
    """
    store, path = locate(directory)
    with storage_errors("look for the checkpoint", path):
        found = publishing(store).find_visible(path)
        if found is None and files.is_remote(path) and files.exists(path):
            found = path
    if found is None:
        raise CheckpointNotFound(2, "Checkpoint not found", path)
    stat = store.stat(found)
    if stat is None or not stat.is_dir:
        raise NotACheckpoint(
            f"Path {path} is not a directory. Not a valid checkpoint: it must be one"
        )
    if found == path and not step_lib.is_checkpoint_finalized(found):
        raise UnfinishedCheckpoint(
            f"Found incomplete checkpoint at {path}: its save was never published"
        )
    return epath.Path(found)
