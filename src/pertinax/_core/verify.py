# SPDX-License-Identifier: Apache-2.0
"""Verifying: is every byte of a checkpoint the byte that was written?

Knows what the ledgers vouch for: chunks, files, and that nothing but zeros lies between chunks.
Knows nothing of values: nothing is placed, and only what no ledger vouches for is decoded.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pertinax._core.fetch import Fetcher, Request
from pertinax._core.open import (
    Found,
    check_large_file,
    detect_aside,
    find,
    read_file,
    read_foreign,
    read_settled,
    read_step_ledger,
)
from pertinax._core.rest import Share
from pertinax._formats.ledger import LEDGER_FILE, decode_ledger
from pertinax._formats.manifest import FileRecord, Manifest
from pertinax._plan.boxes import Box
from pertinax._store.contract import Store
from pertinax._store.local import forget_cached
from pertinax.errors import CorruptCheckpoint, InvalidOption
from pertinax.typing import PathLike

_STEP_BYTES = 1 << 24


_WHOLE = Share()


@dataclass(frozen=True, slots=True)
class Verification:
    """The outcome. `verified` is False for checkpoints of Orbax: they were read through, but
    nothing vouches for them.

    `problems` lists all damage when `on_damage="report"` was asked for.
    """

    path: str
    verified: bool
    checked_bytes: int
    problems: tuple[CorruptCheckpoint, ...] = ()

    @property
    def ok(self) -> bool:
        """Every byte is known to be as written."""
        return self.verified and not self.problems

    def __str__(self) -> str:
        if self.problems:
            listed = "".join(f"\n  {problem}" for problem in self.problems)
            return f"{self.path}: damaged, {len(self.problems)} problems{listed}"
        if not self.verified:
            return f"{self.path}: readable, but nothing vouches for its bytes"
        return f"{self.path}: good, {self.checked_bytes:,} bytes checked"


def verify(
    path: PathLike,
    *,
    on_damage: Literal["raise", "report"] = "raise",
    threads: int = 2,
    store: Store | None = None,
) -> Verification:
    """Read the whole checkpoint at `path` (all items of a step) and compare every byte with its
    checksum.

    Raises `CorruptCheckpoint` for the first damage found, or lists all of it with
    `on_damage="report"`; beside that what `describe` raises.

    >>> pertinax.verify("runs/first").ok
    True
    """
    if on_damage not in ("raise", "report"):
        raise InvalidOption(f"on_damage={on_damage!r} means nothing: 'raise' or 'report'")
    if threads < 1:
        raise InvalidOption(f"threads={threads} means nothing: at least 1")

    def read() -> Verification:
        return _verify(find(path, store), _Report(raising=on_damage == "raise"), threads)

    return read_settled(path, store, read, is_good=lambda result: not result.problems)


def read_back(store: Store, directory: str, *, threads: int, share: Share = _WHOLE) -> None:
    """Read what was written into `directory`, which nobody sees yet, from the storage itself where
    that can be had, and compare it with its checksums; of several processes each does its share.

    Raises `CorruptCheckpoint` and what the store does.
    """
    forget_cached(store, directory)
    found = Found(store, directory, directory, detect_aside(store, directory))
    try:
        if found.detected.kind not in ("pertinax", "step"):
            raise CorruptCheckpoint("there is no checkpoint of ours", file=LEDGER_FILE)
        result = _verify(found, _Report(raising=True, share=share), threads)
        if not result.verified:
            raise CorruptCheckpoint("the file is missing", file=LEDGER_FILE)
    except CorruptCheckpoint as error:
        error.add_note("the storage did not keep what was written; nothing was published")
        raise


def _verify(found: Found, report: "_Report", threads: int) -> Verification:
    if found.detected.kind != "step":
        _check_item(found, "", found.detected.kind, report, threads)
    else:
        step_items = _check_step_files(found, report)
        for name, kind in found.detected.items:
            _check_item(found, name, kind, report, threads)
        for name in step_items.difference(name for name, _ in found.detected.items):
            _check_item(found, name, "pertinax", report, threads)  # an item within an item
    return Verification(found.path, report.verified, report.checked_bytes, tuple(report.problems))


class _Report:
    """What was found so far, and which share of the work is ours."""

    def __init__(self, *, raising: bool, share: Share = _WHOLE) -> None:
        self.raising = raising
        self.share = share
        self.verified = True
        self.checked_bytes = 0
        self.problems: list[CorruptCheckpoint] = []

    def add(self, problem: CorruptCheckpoint) -> None:
        if self.raising:
            raise problem
        self.problems.append(problem)


def _check_step_files(found: Found, report: _Report) -> set[str]:
    """Check what the step's own ledger vouches for; returns the items that have ledgers too."""
    try:
        step = read_step_ledger(found)
    except CorruptCheckpoint as problem:
        report.add(problem)
        return set()
    if step is None:
        report.verified = False
        return set()
    _check_files(found.store, found.directory, step.files, report)
    places = (record.name.rpartition("/") for record in step.files)
    return {place for place, _, name in places if name == LEDGER_FILE and place}


def _check_files(
    store: Store, directory: str, records: tuple[FileRecord, ...], report: _Report
) -> None:
    for record in report.share.of(records):
        try:
            check_large_file(store, directory, record)
            report.checked_bytes += record.length
        except CorruptCheckpoint as problem:
            report.add(problem)


def _check_item(found: Found, name: str, kind: str, report: _Report, threads: int) -> None:
    directory = f"{found.directory}/{name}" if name else found.directory
    try:
        if kind == "orbax":
            report.verified = False
            _read_through(found.store, directory, read_foreign(found.store, directory), threads)
        elif kind == "pertinax":
            manifest = decode_ledger(read_file(found.store, directory, LEDGER_FILE))
            _check_files(found.store, directory, manifest.files, report)
            _check_data(found.store, directory, manifest, report, threads)
    except CorruptCheckpoint as problem:
        report.add(problem)


def _read_through(store: Store, directory: str, manifest: Manifest, threads: int) -> None:
    """Decode everything once: damage that breaks a format shows, damage to bare elements cannot."""
    with Fetcher(store, directory, manifest, use_map=True, threads=threads) as fetcher:
        for i, leaf in enumerate(manifest.leaves):
            if leaf.codec != "none" and leaf.kind != "foreign":
                fetcher.fetch([Request(i, Box.whole(leaf.shape))])


def _check_data(
    store: Store, directory: str, manifest: Manifest, report: _Report, threads: int
) -> None:
    chunks = manifest.chunks
    rows = list(range(len(chunks)))
    with Fetcher(
        store, directory, manifest, use_map=True, threads=threads, padding=True
    ) as fetcher:
        for group in report.share.of(list(_groups(rows, chunks.length.tolist()))):
            for problem in fetcher.check_rows(group):
                report.add(problem)
        for problem in fetcher.check_edges():
            report.add(problem)
    report.checked_bytes += int(chunks.length.sum())


def _groups(rows: list[int], lengths: list[int]) -> Iterator[list[int]]:
    group: list[int] = []
    weight = 0
    for row in rows:
        group.append(row)
        weight += lengths[row]
        if weight >= 8 * _STEP_BYTES:
            yield group
            group, weight = [], 0
    if group:
        yield group
