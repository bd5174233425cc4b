# SPDX-License-Identifier: Apache-2.0
"""Writing a checkpoint: the second half of a save, on whichever thread.

Knows the directory of a checkpoint: one item of its own, or several items below, with Orbax's notes
beside them and a ledger over all. Knows nothing of live arrays: it gets bytes that hold still.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from pertinax._core.options import SaveOptions
from pertinax._core.verify import Share, read_back
from pertinax._formats.crc import file_crc
from pertinax._formats.item import ItemContent, write_file, write_item
from pertinax._formats.ledger import LEDGER_FILE, encode_step_ledger
from pertinax._formats.manifest import FileRecord
from pertinax._formats.metadata.commit import COMMIT_FILE, encode_commit
from pertinax._formats.metadata.step_metadata import STEP_FILE, StepMetadata, encode_step
from pertinax._formats.parts import Exchange
from pertinax._hosts import Monologue, Round
from pertinax._store.contract import Store, traits_of
from pertinax._store.failures import storage_errors
from pertinax._store.leftovers import parent_of
from pertinax._store.publishing import AnyDraft, publishing
from pertinax._store.workers import Workers
from pertinax._version import VERSION
from pertinax.errors import StorageFull

_ALONE: Final = Monologue()
_LOG: Final = logging.getLogger(__name__)
_HANDLERS: Final = "orbax.checkpoint._src.handlers."
TREE_HANDLER: Final = _HANDLERS + "pytree_checkpoint_handler.PyTreeCheckpointHandler"
JSON_HANDLER: Final = _HANDLERS + "json_checkpoint_handler.JsonCheckpointHandler"
_SPARE_BYTES: Final = 1 << 20
_DIRECTORIES_AT_ONCE: Final = 16

JsonFiles = Mapping[str, bytes]
"""An item that is only small files: name -> content."""
Progress = Callable[[int, int], None]
"""Called with bytes written so far and bytes in all, from any thread."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What goes into a checkpoint: `items` by name; the name `""` is the checkpoint itself and
    stands alone.
    """

    items: Mapping[str, ItemContent | JsonFiles]

    @property
    def total_bytes(self) -> int:
        """Array bytes, before any compression."""
        trees = (item for item in self.items.values() if isinstance(item, ItemContent))
        return sum(item.plan.total_bytes for item in trees)

    @property
    def sure_bytes(self) -> int:
        """Array bytes that take room for certain: nobody knows how far compression goes."""
        trees = (item for item in self.items.values() if isinstance(item, ItemContent))
        return sum(item.plan.placed_bytes for item in trees)


def write_checkpoint(
    store: Store,
    final: str,
    contents: Contents,
    options: SaveOptions,
    progress: Progress | None = None,
    *,
    talk: Round = _ALONE,
    now_ns: Callable[[], int] = time.time_ns,
) -> None:
    """Write everything, make it durable, and make it visible as `final`, in this order.

    Every process of the round writes its part; the primary makes the draft and publishes it, and
    returns when the others do. If it fails, nothing visible is left behind. The notes in it say
    when it was made, by `now_ns`. Raises `CheckpointExists`, `StorageFull`, `StorageError`,
    `SnapshotChanged`, `PeerFailed` or `PeerAbsent`.
    """
    begun_s, begun_ns = time.monotonic(), now_ns()
    check_room(store, final, contents.sure_bytes)
    with (
        # What appears or vanishes under our hands is not the path that the user gave.
        storage_errors("save the checkpoint", final, names_too=True),
        _shared_draft(store, final, options, talk) as draft,
        Workers(options.threads, "pertinax-write", budget_bytes=options.carried_bytes) as workers,
    ):
        counter = _Counter(contents.total_bytes, progress, talk)
        write_contents(
            draft, contents, workers, counter.add, begun_ns=begun_ns, talk=talk, now_ns=now_ns
        )
        counter.finish()
        if options.read_back:
            _read_back(draft, options, talk)
        talk.agree("publish", lambda: draft.commit(replace=options.exists == "replace"))
    seconds = time.monotonic() - begun_s
    _LOG.info("saved path=%s bytes=%d seconds=%.3f", final, contents.total_bytes, seconds)


def _read_back(draft: AnyDraft, options: SaveOptions, talk: Round) -> None:
    """Let every process compare its share of the draft with what was meant to be written."""
    who = talk.topology
    talk.agree("all is written", _nothing)
    share = Share(who.members.index(who.process), len(who.members))
    read_back(draft.store, draft.path, threads=options.threads, share=share)
    talk.collect("read back", None, lambda _: None)


@contextlib.contextmanager
def _shared_draft(
    store: Store, final: str, options: SaveOptions, talk: Round
) -> Iterator[AnyDraft]:
    """The primary's draft, on every process; if it is abandoned, then after all have stopped."""
    publish = publishing(store)
    if not talk.topology.is_primary:
        path = talk.agree("open a draft", str)
        yield publish.join_draft(final, path, window_bytes=options.budget_bytes)
        return
    with publish.open_draft(
        final,
        mode=options.mode,
        shared=not talk.topology.alone,
        window_bytes=options.budget_bytes,
    ) as draft:
        try:
            talk.agree("open a draft", lambda: draft.path)
            yield draft
        except BaseException as error:
            talk.fail(error)
            raise


def write_contents(
    draft: AnyDraft,
    contents: Contents,
    workers: Workers,
    progress: Callable[[int], None],
    *,
    begun_ns: int,
    talk: Round = _ALONE,
    now_ns: Callable[[], int] = time.time_ns,
) -> None:
    """All files of the checkpoint, in the draft."""
    is_step = "" not in contents.items

    def written_notes() -> dict[str, bytes]:
        made = StepMetadata(_handlers(contents), {}, begun_ns, now_ns())
        return {
            STEP_FILE: encode_step(made),
            COMMIT_FILE: encode_commit(draft.final, draft.write_id, vouched=is_step),
        }

    facts = {"writer": f"pertinax {VERSION}", "saved_at_ns": begun_ns}
    if not is_step:
        item = contents.items[""]
        assert isinstance(item, ItemContent)  # noqa: S101 - the verbs build no other
        whole = replace(item, facts=facts, beside={**item.beside, **written_notes()})
        write_item(
            draft.store,
            draft.path,
            whole,
            workers=workers,
            progress=progress,
            exchange=Exchange(talk),
        )
        return
    if talk.topology.is_primary:
        _make_dirs(draft, list(contents.items))
    records: list[FileRecord] = []
    for name, item in contents.items.items():
        told = (
            replace(item, facts={**item.facts, **facts}) if isinstance(item, ItemContent) else item
        )
        records += _write_one(draft, name, told, workers, progress, talk=talk)
    if not talk.topology.is_primary:
        return
    notes = written_notes()
    records += [FileRecord(name, len(data), file_crc(data)) for name, data in notes.items()]
    notes[LEDGER_FILE] = encode_step_ledger(records, {**facts, "items": list(contents.items)})
    workers.run_all(
        [lambda n=n, d=d: write_file(draft.store, draft.locate(n), d) for n, d in notes.items()]
    )


def _make_dirs(draft: AnyDraft, names: list[str]) -> None:
    """A directory for each item, all at once: on a network each is a round trip."""
    if len(names) == 1:
        draft.make_dir(names[0])
        return
    with Workers(min(len(names), _DIRECTORIES_AT_ONCE), "pertinax-directories") as workers:
        workers.run_all([lambda n=n: draft.make_dir(n) for n in names])


def _write_one(
    draft: AnyDraft,
    name: str,
    item: ItemContent | JsonFiles,
    workers: Workers,
    progress: Callable[[int], None],
    *,
    talk: Round,
) -> list[FileRecord]:
    """One item in its directory; returns what the ledger above must vouch for."""
    if isinstance(item, ItemContent):
        talk.agree(f"make a directory for {name}", _nothing)
    elif not talk.topology.is_primary:
        return []
    marker = {COMMIT_FILE: encode_commit(f"{draft.final}/{name}")}
    if isinstance(item, ItemContent):
        inner = replace(item, beside={**item.beside, **marker})
        record = write_item(
            draft.store,
            draft.locate(name),
            inner,
            workers=workers,
            progress=progress,
            exchange=Exchange(talk, name),
        )
        if record is None:
            return []
        return [FileRecord(f"{name}/{record.name}", record.length, record.crc)]
    files = {**item, **marker}
    workers.run_all(
        [
            lambda n=n, d=d: write_file(draft.store, draft.locate(f"{name}/{n}"), d)
            for n, d in files.items()
        ]
    )
    return [FileRecord(f"{name}/{n}", len(data), file_crc(data)) for n, data in files.items()]


def _nothing() -> None:
    """There is nothing to say but that it is done."""


def _handlers(contents: Contents) -> Any:
    if "" in contents.items:
        return TREE_HANDLER
    return {
        name: TREE_HANDLER if isinstance(item, ItemContent) else JSON_HANDLER
        for name, item in contents.items.items()
    }


def check_room(store: Store, final: str, needed_bytes: int) -> None:
    """Raise `StorageFull` before anything is written, if it is plain that it cannot fit."""
    if not traits_of(store).has_room:
        return
    with storage_errors("look for room", final, names_too=True):
        place = parent_of(final)
        while store.stat(place) is None and place != "/":
            place = parent_of(place)
        free = store.free_bytes(place)
    if free is not None and free < needed_bytes + _SPARE_BYTES:
        raise StorageFull(
            28,
            f"the checkpoint needs {needed_bytes + _SPARE_BYTES:,} bytes, {free:,} are free: make "
            "room or save elsewhere",
            final,
        )


class _Counter:
    """Adds up what threads report. A line may come late or miss some bytes; the last is right.

    A good moment, too, to stop when another process has failed.
    """

    def __init__(self, total: int, progress: Progress | None, talk: Round) -> None:
        self._talk = talk
        self._total = total
        self._progress = progress
        self._done = 0

    def add(self, written: int) -> None:
        self._talk.check()
        self._done += written
        if self._progress is not None:
            self._progress(self._done, self._total)

    def finish(self) -> None:
        """All is written: gaps between arrays, and whatever threads have miscounted, included."""
        self.add(self._total - self._done)
