"""Publishing: the directories that checkpointers work in, from a free name to a visible checkpoint.

Knows drafts, the notes that handlers leave, and what makes a directory a finished checkpoint. The
syncs and renames are the engine's.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from etils import epath

from pertinax._core.places import locate
from pertinax._core.seal import seal
from pertinax._formats.detect import UNPUBLISHED_MARK
from pertinax._store.contract import Store
from pertinax._store.draft import Draft, open_draft
from pertinax._store.leftovers import find_visible
from pertinax.checkpoint._adapt.legacy import unwrapped
from pertinax.checkpoint.handlers.composite_checkpoint_handler import CompositeCheckpointHandler
from pertinax.checkpoint.options import FileOptions
from pertinax.errors import (
    CheckpointExists,
    CheckpointNotFound,
    NotACheckpoint,
    PertinaxError,
    UnfinishedCheckpoint,
)
from pertinax.typing import PathLike


class DestinationExists(PertinaxError, FileExistsError, ValueError):
    """The directory is taken; the mirrored API promises a `ValueError` here."""


class Place(NamedTuple):
    """Where a checkpoint shall become visible, and whether it may replace another."""

    store: Store
    final: str
    force: bool


def choose_place(directory: PathLike, *, force: bool) -> Place:
    """Look at the directory before anything is done.

    Raises `ValueError` if it is taken and `force` is false.
    """
    store, final = locate(directory)
    if not force and find_visible(store, final) is not None:
        raise DestinationExists(f"Destination {final} already exists: force=True replaces it")
    return Place(store, final, force)


def begin(place: Place, options: FileOptions) -> Draft:
    """Make the directory that nobody sees."""
    mode = options.path_permission_mode
    return open_draft(place.store, place.final, mode=0o777 if mode is None else mode)


def publish(
    draft: Draft,
    place: Place,
    handler: Any,
    *,
    begun_ns: int,
    custom: Mapping[str, Any] | None = None,
) -> None:
    """Add notes and ledger, make all durable, and make it visible.

    An existing checkpoint stays until then.
    """
    inner = unwrapped(handler)
    if isinstance(inner, CompositeCheckpointHandler):
        names: Any = inner.handler_names()
    else:
        names = inner.typestr() if hasattr(inner, "typestr") else type(inner).__qualname__
    seal(
        draft,
        begun_ns=begun_ns,
        item_handlers=names if isinstance(names, str | dict) else None,
        custom=custom,
    )
    try:
        draft.commit(replace=place.force)
    except CheckpointExists as error:
        raise DestinationExists(
            f"Destination {place.final} already exists: somebody else was faster"
        ) from error


def find_finished(directory: PathLike) -> epath.Path:
    """Where the finished checkpoint lies that people call `directory`.

    Raises `FileNotFoundError` if nothing is there, `ValueError` if it is a file or an unfinished
    save.
    """
    store, path = locate(directory)
    found = find_visible(store, path)
    if found is None:
        raise CheckpointNotFound(2, "Checkpoint not found", path)
    if UNPUBLISHED_MARK in path.rpartition("/")[2]:
        raise UnfinishedCheckpoint(
            f"Found incomplete checkpoint at {path}: its save was never published"
        )
    stat = store.stat(found)
    if stat is None or not stat.is_dir:
        raise NotACheckpoint(f"{path} is not a directory, so it is not a checkpoint")
    return epath.Path(found)
