# SPDX-License-Identifier: Apache-2.0
"""Where the steps of a manager lie.

Knows one root and how its steps are called. Knows nothing of what they hold or of who writes them.
"""

import contextlib
import errno
import logging
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, final

from etils import epath

from pertinax._core.places import locate
from pertinax._hosts import decide_for_all
from pertinax._steps.recovery import open_root
from pertinax._store.failures import storage_errors
from pertinax._store.publishing import publishing
from pertinax.checkpoint._adapt import files
from pertinax.checkpoint._adapt.manager_options import CheckpointManagerOptions, name_format_of
from pertinax.checkpoint._adapt.marker import commits_by_marker, in_object_store, is_unfinished
from pertinax.checkpoint._adapt.meeting import Meeting
from pertinax.checkpoint._adapt.removal import Removal
from pertinax.checkpoint.options import AsyncOptions
from pertinax.checkpoint.path import step as step_lib
from pertinax.errors import (
    CheckpointNotFound,
    NotACheckpoint,
    StorageError,
    UnsupportedTopology,
)

_LOG: Final = logging.getLogger(__name__)


def plain_step(step: Any) -> int:
    """A step of any integer type as Python's. Raises `TypeError`, or `ValueError` if negative."""
    number = operator.index(step)
    if number < 0:
        raise ValueError(f"a step is not negative: {number}")
    return number


def prepare_root(directory: epath.Path, options: CheckpointManagerOptions) -> None:
    """Make the root, if that is wished, and put it in order.

    Raises `ValueError` if there is none and none is to be made.
    """
    if options.read_only:
        _LOG.warning("read_only: steps of %s are neither saved nor deleted", directory)
        return
    if options.create and options.multiprocessing_options.active_processes is not None:
        raise NotImplementedError(
            "create=True with active_processes: make the root yourself and say create=False"
        )
    meeting = Meeting(options.multiprocessing_options)
    with meeting.begin("CheckpointManager:create_directory", str(directory)) as talk:
        decide_for_all(
            talk, "made", lambda: _open(directory, options), ValueError, NotADirectoryError
        )


def _open(directory: epath.Path, options: CheckpointManagerOptions) -> None:
    store, root = locate(directory)
    try:
        mode = options.file_options.path_permission_mode
        open_root(store, root, create=options.create, mode=mode)
    except CheckpointNotFound as error:
        raise ValueError(f"Path {directory} does not exist.") from error
    except StorageError as error:
        if error.errno != errno.ENOTDIR:
            raise
        raise NotADirectoryError(errno.ENOTDIR, "Not a directory", root) from error
    if options.cleanup_tmp_directories:
        step_lib.remove_tmp_directories(directory)
        if commits_by_marker(options):
            for found in list(name_format_of(options).find_all(directory)):
                if is_unfinished(found.path):
                    found.path.rmtree()


@final
class Places:
    """Paths of steps, by number."""

    def __init__(self, directory: epath.Path, options: CheckpointManagerOptions) -> None:
        self._directory = directory
        self._options = options
        asynchronous = options.async_options or AsyncOptions()
        self._timeout_s = asynchronous.timeout_secs
        self._meeting = Meeting(
            options.multiprocessing_options, barrier=asynchronous.barrier_sync_fn
        )
        self._meeting.check()
        self._format = name_format_of(options)
        self._is_own_format = options.step_name_format is not None

    def new(self, step: int) -> epath.Path:
        """Where `step` is to be written."""
        return step_lib.build_step_path(self._directory, self._format, step)

    def clear(self, step: int) -> epath.Path:
        """As `new`; where steps are not renamed, free of what was left there unfinished."""
        path = self.new(step)
        if in_object_store(path) or commits_by_marker(self._options):
            self.agreed("CheckpointManager:delete_unfinalized_step_gcs", step, lambda: _clear(path))
        return path

    def agreed(self, point: str, step: int, decide: Callable[[], Any]) -> Any:
        """What `decide` returns on the primary host, on all processes: plain data.

        It is called when all have come; who has its answer knows that the primary is done. Where
        each process has a root of its own, each decides.
        """
        meeting = self._meeting

        def when_all_have_come(places: Mapping[int, str]) -> Any:
            if len(set(places.values())) > 1:
                raise UnsupportedTopology(
                    f"{point} was called for another step on each process: {dict(places)}; all "
                    "must make the same calls in the same order"
                )
            return decide()

        with meeting.begin(point, str(self._directory), timeout_s=self._timeout_s) as talk:
            return talk.collect(point, str(self.new(step)), when_all_have_come)

    def meet(self, point: str, step: int) -> None:
        """Wait once more in the program's own way, if it has one."""
        self._meeting.call_barrier(point, str(step), timeout_s=self._timeout_s)

    @contextlib.contextmanager
    def operation(self, kind: str) -> Iterator[None]:
        """What all processes do together in the block: who fails in it fails for all.

        Who only reads does so alone.
        """
        if self._options.read_only:
            yield
            return
        meeting = self._meeting
        with (
            meeting.begin(kind, str(self._directory), timeout_s=self._timeout_s) as talk,
            meeting.inside(talk),
        ):
            yield

    def known(self, step: int) -> epath.Path:
        """Where a known step lies: not always where it would be written."""
        if self._is_own_format:
            with contextlib.suppress(ValueError):
                return self._format.find_step(self._directory, step).path
        return self.new(step)

    def stored(self, step: int, root: epath.Path) -> epath.Path:
        """Where `step` lies in some root.

        If it does not: `FileNotFoundError`, or what the program's own format of names raises.
        """
        if self._is_own_format:
            return self._format.find_step(root, step).path
        if step < 0:  # what waiting gives when nothing came
            raise FileNotFoundError(f"Checkpoint at {root / str(step)} not found.")
        path = step_lib.build_step_path(root, self._format, step)
        by_marker = in_object_store(path)
        if not is_visible(path) and not (by_marker and files.exists(path)):
            raise FileNotFoundError(f"Checkpoint at {path} not found.")
        if files.is_file(path):
            raise NotACheckpoint(f"Path {path} is not a directory. Not a valid checkpoint")
        if commits_by_marker(self._options) and is_unfinished(path):
            raise ValueError(f"Found incomplete checkpoint at {path}.")
        if by_marker and not step_lib.is_checkpoint_finalized(path):
            raise ValueError(f"Found incomplete checkpoint at {path}.")
        return path

    def removal(self) -> Removal:
        """How steps leave the root."""
        return Removal(
            self._directory,
            subdir=self._options.todelete_subdir,
            background=self._options.enable_background_delete,
            primary_host=self._options.multiprocessing_options.primary_host,
        )

    def latest(self, root: epath.Path) -> int | None:
        """The largest step in some root."""
        found = step_lib.latest_step_metadata(root, self._format)
        return None if found is None else int(found.step)


def is_visible(path: epath.Path) -> bool:
    """Whether a published step lies at `path`."""
    store, place = locate(path)
    with storage_errors("look for the step", place):
        return publishing(store).find_visible(place) is not None


def _clear(path: epath.Path) -> None:
    store, place = locate(path)
    with storage_errors("remove what was left of the step", place, names_too=True):
        if store.stat(place) is None:
            return
        if is_unfinished(path) or not step_lib.is_checkpoint_finalized(path):
            publishing(store).remove_unfinished(place)
