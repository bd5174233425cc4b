# SPDX-License-Identifier: Apache-2.0
"""Notes: what the visible steps of a root say of themselves, each read once.

Knows when a step's notes must be read, and when what was read before still holds: as long as its
directory is the same, for a visible step never changes. Knows nothing of policies.
"""

import threading
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Final, final

from pertinax._steps.history import StepRecord, read_record
from pertinax._steps.index import Index, Row, read_index, write_index
from pertinax._store.contract import Store, traits_of
from pertinax._store.local import changed_times
from pertinax._store.publishing import publishing
from pertinax._store.workers import Workers
from pertinax._tree.quiet import collector_paused

# Fewer are read as quickly as an index would be, and small roots stay free of it.
_MANY: Final = 64
_COARSE_NS: Final = 10**9
# A directory that changed so long ago would get another time if it changed again.
_SETTLED_NS: Final = 3 * _COARSE_NS


@final
class Notes:
    """The notes of the steps in one root. Safe to use from several threads.

    Who only looks, and may leave no index, says `writes=False`.
    """

    def __init__(self, store: Store, root: str, *, writes: bool = True) -> None:
        self._store = store
        self._writes = writes
        self._root = root
        self._front = root.rstrip("/") + "/"
        self._rows: dict[str, Row] = {}
        self._root_ns: int | None = None  # all rows hold as long as the root has this time
        self._unsaved = 0
        self._has_index = False
        self._times: Mapping[str, int] | None = None  # by name, while many are looked at
        self._turn = threading.Lock()

    def records(self, found: Mapping[int, str]) -> list[StepRecord]:
        """What is known of the steps in `found` (their directories), ascending; those that are gone
        meanwhile are left out. Looks at each directory, and reads the notes of new ones only.
        """
        with self._turn, collector_paused(len(found)):
            if len(found) >= _MANY:
                self._merge_index()
            cut = len(self._front)
            names = [directory[cut:] for directory in found.values()]
            self._times = publishing(self._store).times(self._root)
            root_ns = self._root_changed_ns()
            if root_ns is not None and root_ns == self._root_ns:
                looked = self._complete(found, [self._rows.get(name) for name in names])
            else:
                looked = self._compare(found, names)
                self._settle(names, root_ns)
            self._times = None
            self._save_index(_MANY)
        return [record for record in looked if record is not None]

    def add(self, step: int, directory: str) -> None:
        """Read the notes of a step that has just been made, so that nobody need do it later."""
        with self._turn:
            self._compare({step: directory}, [directory[len(self._front) :]])
            if self._unsaved >= _MANY and len(self._rows) >= _MANY:
                self._merge_index()
                self._save_index(_MANY)

    def forget(self, directories: Collection[str]) -> None:
        """Drop what is known of steps that are gone: a run of a million steps may keep three."""
        with self._turn:
            for directory in directories:
                self._rows.pop(directory[len(self._front) :], None)

    def confirm(self, records: Collection[StepRecord]) -> bool:
        """Whether the steps themselves say the same. What does not is forgotten.

        An index that was tampered with must not decide what is deleted.
        """
        with self._turn:
            now = _read_all(self._store, [(one.step, one.directory) for one in records])
            pairs = zip(records, now, strict=True)
            wrong = [record for record, found in pairs if _differ(record, found)]
            for record in wrong:
                self._rows.pop(record.directory[len(self._front) :], None)
            return not wrong

    def flush(self) -> None:
        """Leave what was read to the next process, if it is worth a file."""
        with self._turn:
            if self._unsaved and len(self._rows) >= _MANY:
                self._merge_index()
                self._save_index(1)

    def _compare(self, found: Mapping[int, str], names: Sequence[str]) -> list[StepRecord | None]:
        """What is known, as far as the directories are still the same; the others are read."""
        if self._times is None:
            times = changed_times(self._store, self._root, names)
        else:
            times = [self._times.get(name) for name in names]
        known = [self._rows.get(name) for name in names]
        same = [
            row if row is not None and row.changed_ns == changed_ns else None
            for row, changed_ns in zip(known, times, strict=True)
        ]
        return self._complete(found, same)

    def _complete(
        self, found: Mapping[int, str], known: Sequence[Row | None]
    ) -> list[StepRecord | None]:
        """Records of rows; steps without one are read, several at a time where that pays."""
        unknown = [one for one, row in zip(found.items(), known, strict=True) if row is None]
        before = [self._changed_ns(directory) for _, directory in unknown]
        read = iter(_read_all(self._store, unknown))
        changed = iter(before)
        return [
            self._keep(directory, next(changed), next(read))
            if row is None
            else StepRecord(step, row.time_ns, row.metrics, directory)
            for (step, directory), row in zip(found.items(), known, strict=True)
        ]

    def _settle(self, names: Sequence[str], root_ns: int | None) -> None:
        """All rows were compared with their directories since the root had this time."""
        rows = self._rows
        self._rows = {name: rows[name] for name in names if name in rows}
        if (
            root_ns is None
            or time.time_ns() - root_ns < _SETTLED_NS
            or self._root_changed_ns() != root_ns
        ):
            self._root_ns = None
            return
        if self._root_ns is None and len(names) >= _MANY:
            self._unsaved = max(self._unsaved, _MANY)  # the next process need not compare them
        self._root_ns = root_ns

    def _keep(
        self, directory: str, changed_ns: int | None, record: StepRecord | None
    ) -> StepRecord | None:
        # The time was taken before the notes were read: if the directory is replaced in between,
        # the row will not fit it.
        if record is None or not record.readable or changed_ns is None or _may_repeat(changed_ns):
            return record
        name = directory[len(self._front) :]
        self._rows[name] = Row(changed_ns, record.time_ns, record.metrics)
        self._unsaved += 1
        return record

    def _root_changed_ns(self) -> int | None:
        """When the root changed last; None if it does not tell."""
        if not traits_of(self._store).keeps_times:
            return None
        return self._changed_ns(self._root)

    def _changed_ns(self, path: str) -> int | None:
        folder, _, name = path.rpartition("/")
        if self._times is not None:
            return self._times.get(name)
        return changed_times(self._store, folder, [name])[0]

    def _merge_index(self) -> None:
        """Take over what earlier processes read, once."""
        if not self._has_index:
            self._has_index = True
            known = read_index(self._store, self._root)
            self._root_ns = None if self._rows else known.root_ns
            self._rows = {**known.rows, **self._rows}

    def _save_index(self, least: int) -> None:
        if self._writes and self._unsaved >= least:
            self._unsaved = 0
            write_index(self._store, self._root, Index(self._rows, self._root_ns))


def _read_all(store: Store, steps: Sequence[tuple[int, str]]) -> list[StepRecord | None]:
    """What steps in these directories say, several read at a time where that pays."""

    def read(one: tuple[int, str]) -> StepRecord | None:
        return read_record(store, *one, metrics=True, times=True)

    count = min(len(steps), traits_of(store).read_threads)
    if count <= 1:
        return [read(one) for one in steps]
    with Workers(count, "pertinax-notes") as workers:
        return list(workers.map(read, steps))


def _differ(record: StepRecord, found: StepRecord | None) -> bool:
    if found is None:  # gone: nothing is lost by deleting it
        return False
    # As text: a NaN is not equal to itself.
    return repr((found.time_ns, found.metrics, found.readable)) != repr(
        (record.time_ns, record.metrics, record.readable)
    )


def _may_repeat(changed_ns: int) -> bool:
    """Whether a directory that replaces this one could bear the same time: a file system that
    counts whole seconds, and the second is not over.
    """
    return changed_ns % _COARSE_NS == 0 and time.time_ns() - changed_ns < _SETTLED_NS
