# SPDX-License-Identifier: Apache-2.0
"""History: which steps lie in a root, when they were made, and what was measured.

Knows directories of steps and the two notes in them. Knows nothing of policies. What the disk
shows is the truth: nothing is remembered here, and a step that vanishes while we look was never
there. Unfinished saves are not steps; a checkpoint that an interrupted replacement set aside is,
under its own name.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, final

from pertinax._core.open import check_file, read_file
from pertinax._formats.detect import UNPUBLISHED_MARK
from pertinax._formats.ledger import LEDGER_FILE, decode_ledger
from pertinax._formats.metadata.step_metadata import STEP_FILE, decode_step
from pertinax._steps.naming import Naming
from pertinax._store.contract import Entry, Store
from pertinax._store.failures import storage_errors
from pertinax._store.leftovers import join_path, parse_leftover
from pertinax._store.publishing import publishing
from pertinax._tree.quiet import MANY, collector_paused
from pertinax.errors import CheckpointNotFound, CorruptCheckpoint, PertinaxError

_LOG: Final = logging.getLogger(__name__)

METRICS_ITEM: Final = "metrics"
"""The item, and the file in it, that holds the metrics of a step; Orbax calls them so."""
_METRICS_FILE: Final = f"{METRICS_ITEM}/{METRICS_ITEM}"


@final
@dataclass(frozen=True, slots=True)
class StepRecord:
    """What is known of one visible step.

    Attributes:
        step: its number.
        time_ns: when it was finished, in nanoseconds since the epoch; 0 if nobody asked.
        metrics: what was measured, as JSON gives it back: names and numbers if a `Manager` wrote
            it. None if there is nothing, or nobody asked.
        directory: where it lies.
        readable: whether its notes could be read, and nobody found it damaged; if not, no policy
            may judge the step.
        pins: the labels that it was pinned with.
    """

    step: int
    time_ns: int
    metrics: Any
    directory: str
    readable: bool = True
    pins: tuple[str, ...] = ()


def list_steps(store: Store, root: str, naming: Naming) -> dict[int, str]:
    """The visible steps and their directories, in ascending order; one listing, no file is read.

    If two names mean one step, the one that `naming` writes counts, else the last. Raises
    `CheckpointNotFound` if there is no root, `StorageError` if it cannot be listed.
    """
    try:
        # Nobody knows yet how many there are.
        with storage_errors("list the steps", root), collector_paused(MANY):
            entries = publishing(store).list_root(root)
    except FileNotFoundError as error:
        raise CheckpointNotFound(f"there is no directory {root}") from error
    found: dict[int, str] = {}
    for name in _visible_names(store, root, naming, entries):
        step = naming.step(name)
        if step is not None and (step not in found or _is_chosen(name, found[step], naming, step)):
            found[step] = name
    front = root.rstrip("/") + "/"
    return {step: front + found[step] for step in sorted(found)}


def read_record(
    store: Store, step: int, directory: str, *, metrics: bool, times: bool
) -> StepRecord | None:
    """What is known of one step, or None if it is gone."""
    if not metrics and not times:
        return StepRecord(step, 0, None, directory)
    readable, time_ns, measured = True, 0, None
    try:
        place = publishing(store).find_visible(directory)
        if place is None:
            return None
        try:
            time_ns = _read_time(store, place) if times else 0
            measured = _read_metrics(store, place) if metrics else None
            if measured is None and publishing(store).find_visible(directory) is None:
                return None
        except (PertinaxError, OSError):
            # A step that is deleted while we read is not a damaged one.
            if publishing(store).find_visible(directory) is None:
                return None
            raise
    except (PertinaxError, OSError) as error:
        readable = False
        _LOG.warning("unreadable notes step=%d path=%s error=%s", step, directory, error)
    return StepRecord(step, time_ns, measured, directory, readable)


def read_metrics(store: Store, directory: str) -> Any:
    """The metrics of the step in `directory`, checked against its ledger; None if it has none.

    Raises `CheckpointNotFound`, `CorruptCheckpoint` or `StorageError`.
    """
    with storage_errors("read the metrics", directory):
        place = publishing(store).find_visible(directory)
        if place is None:
            raise CheckpointNotFound(f"there is no step at {directory}")
        return _read_metrics(store, place)


def _read_time(store: Store, place: str) -> int:
    """When the step was finished, by its own note; else when its directory last changed."""
    data = _read_if_there(store, place, STEP_FILE)
    if data is not None:
        note = decode_step(data)
        if note.commit_timestamp_nsecs is not None:
            return note.commit_timestamp_nsecs
    stat = store.stat(place)
    return 0 if stat is None else stat.mtime_ns


def _read_if_there(store: Store, place: str, name: str) -> bytes | None:
    """A note, without asking for it first: in a bucket each question is a request."""
    try:
        return read_file(store, place, name)
    except CorruptCheckpoint as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise


def _read_metrics(store: Store, place: str) -> Any:
    data = _read_if_there(store, place, LEDGER_FILE)
    if data is not None:
        ledger = decode_ledger(data)
        vouched = next((one for one in ledger.files if one.name == _METRICS_FILE), None)
        return None if vouched is None else _decode(check_file(store, place, vouched))
    if store.stat(f"{place}/{_METRICS_FILE}") is None:
        return None
    return _decode(read_file(store, place, _METRICS_FILE))


def _decode(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CorruptCheckpoint(f"not JSON: {error}", file=_METRICS_FILE) from error


def _visible_names(store: Store, root: str, naming: Naming, entries: list[Entry]) -> Iterator[str]:
    """Final names of all that is visible in `root` and may be a directory."""
    aside: list[str] = []
    for entry in entries:
        name = entry.name
        if UNPUBLISHED_MARK in name:
            leftover = parse_leftover(join_path(root, name)) if entry.is_dir else None
            if leftover is not None and leftover.replaced:
                aside.append(leftover.final.rpartition("/")[2])
        elif entry.is_dir or (naming.step(name) is not None and _is_linked_dir(store, root, name)):
            yield name
    taken = {entry.name for entry in entries} if aside else set[str]()
    yield from (name for name in aside if name not in taken and UNPUBLISHED_MARK not in name)


def _is_chosen(name: str, other: str, naming: Naming, step: int) -> bool:
    """Of two names of one step: the one that is written, else the last."""
    written = naming.name(step)
    return name == written or (other != written and name > other)


def _is_linked_dir(store: Store, root: str, name: str) -> bool:
    """Somebody may keep a step on another disk, and a link here."""
    stat = store.stat(join_path(root, name))
    return stat is not None and stat.is_dir
