# SPDX-License-Identifier: Apache-2.0
"""Verifying: is every byte of a checkpoint the byte that was written?

Knows what the ledgers vouch for: chunks, files, and that nothing but zeros lies between chunks.
Knows nothing of values: nothing is placed, and only what no ledger vouches for is decoded.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from pertinax._core.fetch import Fetcher, Request
from pertinax._core.open import (
    Found,
    check_large_file,
    detect_aside,
    find,
    read_file,
    read_foreign,
    read_settled,
)
from pertinax._formats.ledger import LEDGER_FILE, decode_ledger
from pertinax._formats.manifest import FileRecord, Manifest
from pertinax._plan.boxes import Box
from pertinax._store.contract import Store, traits_of
from pertinax._store.local import forget_cached
from pertinax._store.workers import Workers
from pertinax.errors import CorruptCheckpoint, InvalidOption
from pertinax.typing import PathLike

T = TypeVar("T")
_STEP_BYTES = 1 << 24


class Share(NamedTuple):
    """Of `parts` equal shares of the files and chunks, the one with this number."""

    number: int = 0
    parts: int = 1

    def of(self, things: Sequence[T]) -> Sequence[T]:
        """Ours of `things`."""
        return things[self.number :: self.parts]


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
    if found.store.stat(f"{found.directory}/{LEDGER_FILE}") is None:
        report.verified = False
        return set()
    try:
        step = decode_ledger(read_file(found.store, found.directory, LEDGER_FILE))
    except CorruptCheckpoint as problem:
        report.add(problem)
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
    with Fetcher(store, directory, manifest, use_map=True, threads=threads) as fetcher:
        for group in report.share.of(list(_groups(rows, chunks.length.tolist()))):
            for problem in fetcher.check_rows(group):
                report.add(problem)
    report.checked_bytes += int(chunks.length.sum())
    for file, name in report.share.of(list(enumerate(chunks.files))):
        picked = np.flatnonzero(chunks.file == file)
        spans = sorted(
            zip(chunks.offset[picked].tolist(), chunks.length[picked].tolist(), strict=True)
        )
        try:
            _check_gaps(store, directory, name, spans)
        except CorruptCheckpoint as problem:
            report.add(problem)


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


def _check_gaps(store: Store, directory: str, name: str, spans: list[tuple[int, int]]) -> None:
    """Between chunks there is only padding, and behind the last one nothing."""
    try:
        reader = store.open(f"{directory}/{name}")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise CorruptCheckpoint("the file is missing", file=name) from error
    traits = traits_of(store)
    gaps: list[tuple[int, int]] = []
    end = 0
    for offset, length in spans:
        last = min(offset, reader.length)
        gaps += [(start, min(start + _STEP_BYTES, last)) for start in range(end, last, _STEP_BYTES)]
        end = max(end, offset + length)

    def check(group: list[tuple[int, int]]) -> None:
        first = group[0][0]
        data = reader.read(first, group[-1][1] - first)
        for start, stop in group:
            if any(data[start - first : stop - first]):
                raise CorruptCheckpoint("padding is not zero", file=name, start=start, stop=stop)

    groups = _near(gaps, traits.read_gap_bytes)
    with reader:
        if traits.read_threads > 1 and len(groups) > 1:
            with Workers(traits.read_threads, "pertinax-verify") as workers:
                workers.run_all([lambda group=group: check(group) for group in groups])
        else:
            for group in groups:
                check(group)
        if end < reader.length:
            raise CorruptCheckpoint(
                "bytes behind the last chunk", file=name, start=end, stop=reader.length
            )


def _near(gaps: list[tuple[int, int]], apart: int) -> list[list[tuple[int, int]]]:
    """Gaps that are read together: what lies between them is no more than `apart` each time."""
    groups: list[list[tuple[int, int]]] = []
    for gap in gaps:
        near = groups and gap[0] - groups[-1][-1][1] <= apart
        if near and gap[1] - groups[-1][0][0] <= _STEP_BYTES:
            groups[-1].append(gap)
        else:
            groups.append([gap])
    return groups
