# SPDX-License-Identifier: Apache-2.0
"""The steps of a manager's root, as the disk shows them.

Knows how names, times and metrics of steps are found, and which of them the options need. Knows
nothing of what is done with them. Where metrics or times are needed, what was read is kept as the
engine keeps it: in memory, and beside many steps in the index.
"""

from collections.abc import Sequence
from typing import Final, final

from etils import epath

from pertinax._core.places import locate
from pertinax._steps.history import StepRecord, list_steps, read_record
from pertinax._steps.naming import PlainNaming
from pertinax._steps.notes import Notes
from pertinax.checkpoint._adapt import files
from pertinax.checkpoint._adapt.manager_options import CheckpointManagerOptions, name_format_of
from pertinax.checkpoint._adapt.marker import commits_by_marker, is_unfinished
from pertinax.checkpoint._adapt.meeting import Meeting
from pertinax.checkpoint.path import step as step_lib


@final
class Listing:
    """Looks at one root. Safe to use from several threads."""

    def __init__(self, directory: epath.Path, options: CheckpointManagerOptions) -> None:
        self._directory: Final = directory
        self._options: Final = options
        self._store, self._root = locate(directory)
        self._metrics: Final = options.best_fn is not None
        self._times: Final = options.keep_time_interval is not None
        # Steps of other names may lie anywhere.
        by_name = files.is_remote(directory) or not step_lib.is_gcs_path(directory)
        plain = options.step_name_format is None and by_name
        self._naming: Final = (
            PlainNaming(options.step_prefix, options.step_format_fixed_length or None)
            if plain
            else None
        )
        # In object stores directories have no times, which what was noted is compared with.
        noted = plain and not files.is_remote(directory) and (self._metrics or self._times)
        self._notes = Notes(self._store, self._root, writes=self._may_write()) if noted else None

    def records(self) -> list[StepRecord]:
        """The finished steps in ascending order, with as much as the options need.

        Raises `ValueError` if there is no root.
        """
        if not files.is_remote(self._directory) and self._store.stat(self._root) is None:
            raise ValueError(f"Path {self._directory} does not exist.")
        found = self._directories()
        if self._notes is not None:
            return self._notes.records(found)
        records = (self._read(step, path) for step, path in found.items())
        return [record for record in records if record is not None]

    def add(self, step: int) -> None:
        """A step has just been saved."""
        if self._notes is not None and self._naming is not None:
            self._notes.add(step, f"{self._root.rstrip('/')}/{self._naming.name(step)}")

    def forget(self, steps: Sequence[int]) -> None:
        """These steps are gone."""
        if self._notes is not None and self._naming is not None:
            front = self._root.rstrip("/")
            self._notes.forget([f"{front}/{self._naming.name(step)}" for step in steps])

    def corrected(self, records: Sequence[StepRecord]) -> list[StepRecord] | None:
        """What the steps themselves say now; None if that is what `records` say."""
        if self._notes is None or not records or self._notes.confirm(records):
            return None
        return [self._read(one.step, one.directory) or one for one in records]

    def close(self) -> None:
        """Leave what was read to the next process, if that is worth a file."""
        if self._notes is not None:
            self._notes.flush()

    def _directories(self) -> dict[int, str]:
        if self._naming is not None:
            found = list_steps(self._store, self._root, self._naming)
        else:
            steps = name_format_of(self._options).find_all(self._directory)
            found = {int(one.step): locate(one.path)[1] for one in steps}
        if commits_by_marker(self._options):
            found = {step: path for step, path in found.items() if not is_unfinished(path)}
        return dict(sorted(found.items()))

    def _read(self, step: int, path: str) -> StepRecord | None:
        return read_record(self._store, step, path, metrics=self._metrics, times=self._times)

    def _may_write(self) -> bool:
        meeting = Meeting(self._options.multiprocessing_options)
        return not self._options.read_only and meeting.is_primary
