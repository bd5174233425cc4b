# SPDX-License-Identifier: Apache-2.0
"""Steps on disk: how their directories are called, found and judged finished.

Knows names, formats of names and the marks of unfinished directories. Knows nothing of what a step
holds, nor who keeps it.
"""

import concurrent.futures
import contextlib
import dataclasses
import datetime as dt
import functools
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Protocol, TypeVar, final, runtime_checkable

import jax
from etils import epath

from pertinax._core.places import locate
from pertinax._formats.metadata.commit import COMMIT_FILE
from pertinax._formats.metadata.step_metadata import STEP_FILE, StepMetadata, decode_step
from pertinax._steps.index import PRIVATE_DIR
from pertinax._steps.naming import PlainNaming
from pertinax._store.leftovers import find_visible, parse_leftover
from pertinax._store.owner import TMP_MARK, owner_alive
from pertinax._store.publishing import publishing
from pertinax.checkpoint import _registry
from pertinax.checkpoint._adapt import files
from pertinax.checkpoint._adapt.meeting import Meeting
from pertinax.checkpoint.options import MultiprocessingOptions
from pertinax.errors import WriterConflict

_LOG: Final = logging.getLogger(__name__)

TMP_DIR_SUFFIX: Final = TMP_MARK
TMP_DIR_STEP_PATTERN: Final = r"(?:[^_]+_)?(\d+)\.orbax-checkpoint-tmp-\d+"
WORLD_READABLE_MODE: Final = 0o777
_COMMIT_SUCCESS_FILE: Final = COMMIT_FILE
_SNAPSHOTS: Final = "_SNAPSHOTS"
_EPOCH: Final = dt.datetime.fromtimestamp(0, tz=dt.UTC)
# Recent Orbax writes nothing behind the word, so the final dash is no part of the test.
_UNFINISHED: Final = TMP_DIR_SUFFIX.rstrip("-")

MetadataT_co = TypeVar("MetadataT_co", bound="Metadata", covariant=True)


@dataclasses.dataclass(frozen=True)
class Metadata:
    """A finished step: its number and where it lies. Times are read when asked for, once.

    Attributes:
        step: the number.
        path: the directory.
    """

    step: int
    path: epath.Path

    @functools.cached_property
    def _note(self) -> StepMetadata:
        try:
            return decode_step(files.read_bytes(epath.Path(self.path) / STEP_FILE))
        except OSError:
            return StepMetadata()

    @property
    def init_timestamp_nsecs(self) -> int | None:
        """When the save began, in nanoseconds since the epoch, if the step says so."""
        return self._note.init_timestamp_nsecs

    @property
    def commit_timestamp_nsecs(self) -> int | None:
        """When the save became visible, in nanoseconds since the epoch, if the step says so."""
        return self._note.commit_timestamp_nsecs

    @functools.cached_property
    def commit_timestamp(self) -> dt.datetime:
        """When the save became visible (UTC); the age of the directory where nothing says so."""
        stamp = self.commit_timestamp_nsecs
        if stamp is None:
            return dt.datetime.fromtimestamp(files.mtime_s(self.path), tz=dt.UTC)
        # Whole microseconds: a float of so many seconds would round them.
        return _EPOCH + dt.timedelta(microseconds=stamp // 1000)


@runtime_checkable
class NameFormat(Protocol[MetadataT_co]):
    """How steps are called, and how they are found again."""

    def build_name(self, step: int) -> str:
        """The directory name of `step`. A format that only reads may raise."""
        ...

    def find_all(self, base_path: epath.PathLike) -> Iterator[MetadataT_co]:
        """All finished steps under `base_path`, in any order."""
        ...

    def find_step(self, base_path: epath.PathLike, step: int) -> MetadataT_co:
        """The finished `step`. Raises `ValueError` if there is none."""
        ...


@final
@dataclasses.dataclass(frozen=True)
class _StandardNameFormat(NameFormat[Metadata]):
    step_prefix: str | None = None
    step_format_fixed_length: int | None = None

    def build_name(self, step: int) -> str:
        return self._naming.name(int(step))

    def find_all(self, base_path: epath.PathLike) -> Iterator[Metadata]:
        base = epath.Path(base_path)
        if not files.is_remote(base) and not files.exists(base):
            return  # who looks for steps may come before who saves them
        for name in _finished(base):
            step = self._naming.step(name)
            if step is not None:
                yield Metadata(step, base / name)

    def find_step(self, base_path: epath.PathLike, step: int) -> Metadata:
        path = build_step_path(base_path, self, step)
        if not files.is_dir(path) or not is_checkpoint_finalized(path):
            raise ValueError(
                f"No finished step path found: step={step}, expected directory {path.name!r} "
                f"by {self} in {epath.Path(base_path)}"
            )
        return Metadata(int(step), path)

    @property
    def _naming(self) -> PlainNaming:
        # A length of zero pads nothing, as none does.
        return PlainNaming(self.step_prefix, self.step_format_fixed_length or None)


@final
@dataclasses.dataclass(frozen=True)
class _CompositeNameFormat(NameFormat[Metadata]):
    write_name_format: NameFormat[Any]
    read_name_formats: Sequence[NameFormat[Any]]

    def __post_init__(self) -> None:
        if self.write_name_format not in self.read_name_formats:
            raise ValueError(
                f"write_name_format={self.write_name_format} must be one of "
                f"read_name_formats={self.read_name_formats}: what is written must be found again"
            )

    def build_name(self, step: int) -> str:
        return self.write_name_format.build_name(step)

    def find_all(self, base_path: epath.PathLike) -> Iterator[Metadata]:
        seen: set[str] = set()
        for read_format in self.read_name_formats:
            for found in read_format.find_all(base_path):
                if os.fspath(found.path) not in seen:
                    seen.add(os.fspath(found.path))
                    yield found

    def find_step(self, base_path: epath.PathLike, step: int) -> Metadata:
        reasons: list[str] = []
        for read_format in self.read_name_formats:
            try:
                return read_format.find_step(base_path, step)
            except ValueError as error:
                reasons.append(str(error))
        raise ValueError("\n".join(reasons))


def standard_name_format(
    step_prefix: str | None = None, step_format_fixed_length: int | None = None
) -> NameFormat[Metadata]:
    """Names of an optional prefix, an underscore and the number, padded with zeros if so wished."""
    return _StandardNameFormat(step_prefix, step_format_fixed_length)


def composite_name_format(
    write_name_format: NameFormat[Any], read_name_formats: Sequence[NameFormat[Any]]
) -> NameFormat[Metadata]:
    """Write under one format and find what any of several wrote, the first one winning.

    Raises `ValueError` if `write_name_format` is not among `read_name_formats`.
    """
    return _CompositeNameFormat(write_name_format, tuple(read_name_formats))


# ------------------------------------------------------------------------------------------ finding


def build_step_path(
    base_path: epath.PathLike, name_format: NameFormat[Any], step: int
) -> epath.Path:
    """Where `step` lies, or would lie."""
    return epath.Path(base_path) / name_format.build_name(step)


def build_step_metadatas(
    step_paths: Iterator[epath.Path], build_metadata: Callable[[epath.Path], MetadataT_co | None]
) -> Iterator[MetadataT_co]:
    """Apply `build_metadata` to all paths at once; what is not None, in the order of completion."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for future in concurrent.futures.as_completed(
            [pool.submit(build_metadata, path) for path in step_paths]
        ):
            built = future.result()
            if built is not None:
                yield built


def step_prefix_with_underscore(step_prefix: str | None) -> str:
    """What stands before the number."""
    return "" if step_prefix is None else f"{step_prefix}_"


def latest_step_metadata(
    root_path: epath.PathLike, name_format: NameFormat[MetadataT_co]
) -> MetadataT_co | None:
    """The step with the largest number, or None. Among equal numbers the last name counts."""
    found = name_format.find_all(root_path)
    return max(found, key=lambda one: (one.step, one.path.name), default=None)


def step_metadata_of_checkpoint_path(
    checkpoint_path: epath.PathLike, name_format: NameFormat[MetadataT_co]
) -> MetadataT_co:
    """The step whose directory is `checkpoint_path`. Raises `ValueError` if it is none."""
    path = epath.Path(checkpoint_path)
    for found in name_format.find_all(path.parent):
        if found.path.name == path.name:
            return found
    raise ValueError(f"Failed to resolve step metadata of checkpoint path: {path} by {name_format}")


def find_step_path(
    base_path: epath.PathLike,
    name_format: NameFormat[Any],
    *,
    step: int,
    include_uncommitted: bool = False,
) -> epath.Path:
    """Where `step` lies. With `include_uncommitted`, an unfinished save of it comes first.

    Raises `ValueError` if there is neither.
    """
    if include_uncommitted:
        base, name = epath.Path(base_path), name_format.build_name(step)
        if _in_object_store(base) and files.exists(base / name):
            return base / name
        started = sorted(
            child for child, _ in files.children(base) if child.startswith(name + _UNFINISHED)
        )
        if started:
            return base / started[0]
    return name_format.find_step(base_path, step).path


def get_save_directory(
    step: int,
    directory: epath.PathLike | None,
    name: str | None = None,
    step_prefix: str | None = None,
    override_directory: epath.PathLike | None = None,
    step_format_fixed_length: int | None = None,
    step_name_format: NameFormat[Any] | None = None,
) -> epath.Path:
    """The directory of a step, or of the item `name` in it.

    `override_directory` stands for the step's directory. Raises `ValueError` without `directory`.
    """
    if directory is None:
        raise ValueError("directory cannot be None")
    if override_directory is not None:
        found = epath.Path(override_directory)
    else:
        chosen = step_name_format or standard_name_format(step_prefix, step_format_fixed_length)
        found = build_step_path(directory, chosen, step)
    return found if name is None else found / name


# ----------------------------------------------------------------------------------------- finality


def is_gcs_path(path: epath.Path) -> bool:
    """Whether `path` lies in an object store, where names cannot be changed."""
    return path.as_posix().startswith("gs://")


def _in_object_store(path: epath.PathLike) -> bool:
    """Whether markers tell what is finished at `path`: as `is_gcs_path`, for all object stores."""
    return is_gcs_path(epath.Path(path)) or files.is_remote(path)


def is_tmp_checkpoint(path: epath.PathLike) -> bool:
    """Whether `path` is the directory of a save that was not published.

    Raises `ValueError` if nothing is there.
    """
    where = epath.Path(path)
    if not files.exists(where):
        raise ValueError(f"Path {where} does not exist.")
    if not files.is_dir(where):
        return False
    return (_in_object_store(where) and not _has_marker(where)) or _UNFINISHED in where.name


def is_checkpoint_finalized(path: epath.PathLike) -> bool:
    """Whether the checkpoint at `path` was published.

    Raises `ValueError` if no directory is there.
    """
    where = epath.Path(path)
    if not files.exists(where):
        raise ValueError(f"Path {where} does not exist.")
    if not files.is_dir(where):
        raise ValueError(f"Path {where} is not a directory. Not a valid checkpoint")
    if _in_object_store(where) and not _has_marker(where):
        _LOG.warning(
            "unfinished checkpoint path=%s: it has no file %s. If it was copied from elsewhere and "
            "is known to be whole, add that file",
            where,
            _COMMIT_SUCCESS_FILE,
        )
        return False
    return _UNFINISHED not in where.name


def tmp_checkpoints(checkpoint_dir: epath.PathLike) -> list[str]:
    """The names in `checkpoint_dir` that belong to saves that were not published."""
    base = epath.Path(checkpoint_dir)
    try:
        names = sorted(name for name, is_dir in files.children(base) if is_dir)
    except FileNotFoundError:
        if files.is_remote(base):  # there, a directory with nothing in it is none
            return []
        raise
    if files.is_remote(base):
        finished = {*_finished(base), PRIVATE_DIR, _SNAPSHOTS}
        return [name for name in names if name not in finished or _UNFINISHED in name]
    return [name for name in names if is_tmp_checkpoint(base / name)]


def cleanup_tmp_directories(
    directory: epath.PathLike,
    primary_host: int | None = 0,
    active_processes: set[int] | None = None,
    barrier_sync_key_prefix: str | None = None,
) -> None:
    """Have the primary host remove what unpublished saves left in `directory`, except those of
    processes that live; all `active_processes` (None: every one) call this, and wait for it.

    In an object store, what looks like no step is left alone: it may be anybody's. Raises what the
    primary host met, there, and `PeerFailed` elsewhere.
    """
    options = MultiprocessingOptions(primary_host, active_processes, barrier_sync_key_prefix)
    with Meeting(options).begin("cleanup_tmp_directories", os.fspath(directory)) as talk:
        talk.agree("removed", lambda: remove_tmp_directories(directory))


def remove_tmp_directories(directory: epath.PathLike) -> None:
    """As `cleanup_tmp_directories`, by this process and for nobody else."""
    base = epath.Path(directory)
    for name in filter(lambda name: _may_be_ours(base / name), tmp_checkpoints(base)):
        store, path = locate(base / name)
        leftover = parse_leftover(path)
        if leftover is not None and owner_alive(leftover.token) is True:
            continue
        if (
            leftover is not None
            and leftover.replaced
            and find_visible(store, leftover.final) == path
        ):
            continue  # not litter: for now it is the checkpoint
        with contextlib.suppress(WriterConflict):
            publishing(store).remove_unfinished(path)


def _may_be_ours(path: epath.Path) -> bool:
    name = path.name
    looks = _UNFINISHED in name or _LISTED_NAME.fullmatch(name) is not None
    return looks or files.exists(path / STEP_FILE)


def record_saved_duration(checkpoint_start_time: float) -> None:
    """Tell who measures how far apart saves begin.

    `checkpoint_start_time`: when the save began that was just published, in seconds since the
    epoch.
    """
    before_s = _registry.LAST_SAVE_BEGAN_S[0]
    _registry.LAST_SAVE_BEGAN_S[0] = checkpoint_start_time
    jax.monitoring.record_event_duration_secs(
        "/jax/checkpoint/write/duration_since_last_checkpoint_secs",
        checkpoint_start_time - before_s,
    )


def _finished(base: epath.Path) -> list[str]:
    """The names of directories that nothing tells to be unfinished, by one listing."""
    if files.is_remote(base):
        store, root = locate(base)
        return [entry.name for entry in publishing(store).list_root(root)]
    names = [name for name, is_dir in files.children(base) if is_dir]
    return [name for name in names if not is_gcs_path(base) or _has_marker(base / name)]


def _has_marker(path: epath.Path) -> bool:
    return files.exists(path / _COMMIT_SUCCESS_FILE)


# -------------------------------------------------------------------------------- names we are told


_PLAIN_NAME: Final = re.compile(r"(?:[^_]+_)?(\d+)")
_LISTED_NAME: Final = re.compile(r"(?:.*_)?(\d+)")


def step_from_checkpoint_name(name: str) -> int:
    """The number in the name of a step, finished or not. Raises `ValueError` if there is none."""
    match = _PLAIN_NAME.fullmatch(name) or re.fullmatch(TMP_DIR_STEP_PATTERN, name)
    if match is None:
        raise ValueError(f"Unrecognized name format: {name}.")
    return int(match[1])


def checkpoint_steps_paths(checkpoint_dir: epath.PathLike) -> list[epath.Path]:
    """Finished directories whose names end like a step's. Raises `ValueError` without the root.

    In an object store an empty root and none are the same.
    """
    base = epath.Path(checkpoint_dir)
    if not files.is_remote(base) and not files.exists(base):
        raise ValueError(f"Path {base} does not exist.")
    return [base / name for name in _finished(base) if _LISTED_NAME.fullmatch(name)]


def checkpoint_steps(
    checkpoint_dir: epath.PathLike, single_host_load_and_broadcast: bool = False
) -> list[int]:
    """The numbers of all finished steps, in no order."""
    found = (_LISTED_NAME.fullmatch(path.name) for path in checkpoint_steps_paths(checkpoint_dir))
    return [int(match[1]) for match in found if match is not None]


def any_checkpoint_step(checkpoint_dir: epath.PathLike) -> int | None:
    """Some finished step, or None. Raises `FileNotFoundError` without the directory."""
    if not files.is_remote(checkpoint_dir) and not files.exists(checkpoint_dir):
        raise FileNotFoundError(f"Path {checkpoint_dir} does not exist.")
    return next(iter(checkpoint_steps(checkpoint_dir)), None)
