# SPDX-License-Identifier: Apache-2.0
"""Temporary paths: directories in which a checkpoint is made, and the step that makes it visible.

Knows two ways to commit, by name and by marker, and how the processes of a job make directories
together. The syncs and renames are the engine's. Knows nothing of what is written into them.
"""

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, Self

import jax
from etils import epath

from pertinax._core.places import locate
from pertinax._formats.item import write_file
from pertinax._formats.metadata.commit import COMMIT_FILE, encode_commit
from pertinax._store.draft import Draft
from pertinax._store.leftovers import hidden_name, parent_of
from pertinax._store.local import sync_file
from pertinax._store.publishing import AnyDraft, publishing
from pertinax.checkpoint import multihost
from pertinax.checkpoint._adapt import files
from pertinax.checkpoint._adapt.meeting import Meeting, told_by_primary
from pertinax.checkpoint._adapt.step_notes import StepNotes
from pertinax.checkpoint._adapt.telling import teller
from pertinax.checkpoint.multihost import counters
from pertinax.checkpoint.options import FileOptions, MultiprocessingOptions
from pertinax.checkpoint.path import step as step_lib
from pertinax.errors import CheckpointExists

_LOG: Final = logging.getLogger(__name__)

TMP_DIR_SUFFIX: Final = step_lib.TMP_DIR_SUFFIX

Finish = Callable[[AnyDraft], None]
"""Done to a directory between the last byte of its items and its commit."""


class TemporaryPath(Protocol):
    """A directory in the making. One of your own goes to a checkpointer as `temporary_path_class=`.

    All processes call all methods, except `finalize`: that is for the primary host alone, and may
    come from a background thread.
    """

    @classmethod
    def from_final(
        cls,
        final_path: epath.Path,
        *,
        checkpoint_metadata_store: Any = None,
        file_options: FileOptions | None = None,
        multiprocessing_options: MultiprocessingOptions | None = None,
    ) -> Self:
        """The temporary path for a checkpoint that shall be `final_path`. Touches no disk."""
        ...

    @classmethod
    def match(cls, temporary_path: epath.Path, final_path: epath.Path) -> bool:
        """Whether the one may be a temporary path of the other."""
        ...

    def get(self) -> epath.Path:
        """Where to write. Touches no disk."""
        ...

    def get_final(self) -> epath.Path:
        """Where the checkpoint will be. Touches no disk."""
        ...

    async def create(self, *, file_options: FileOptions = FileOptions()) -> epath.Path:  # noqa: B008 - frozen
        """Make the directory. Waits for nobody."""
        ...

    def finalize(self) -> None:
        """Make visible what was written."""
        ...


class EnginePath(TemporaryPath):
    """What the temporary paths of this library share: the engine's drafts are behind them.

    Attributes:
        replace: whether an older checkpoint at the final path may be replaced.
        durable: whether `finalize` syncs; no need inside a directory that is itself not visible.
        finish: called by `finalize` before the commit.
    """

    def __init__(
        self,
        temporary_path: epath.Path,
        final_path: epath.Path,
        *,
        checkpoint_metadata_store: Any = None,
        file_options: FileOptions | None = None,
        multiprocessing_options: MultiprocessingOptions | None = None,
    ) -> None:
        self._temporary = epath.Path(temporary_path)
        self._final = epath.Path(final_path)
        self._notes = (
            None if checkpoint_metadata_store is None else StepNotes(checkpoint_metadata_store)
        )
        self._file_options = file_options or FileOptions()
        self._meeting = Meeting(multiprocessing_options)
        self._draft: AnyDraft | None = None
        self._done = False
        self.replace = False
        self.durable = True
        self.finish: Finish | None = None

    def get(self) -> epath.Path:
        """Where to write."""
        return self._temporary

    def get_final(self) -> epath.Path:
        """Where the checkpoint will be."""
        return self._final

    async def create(self, *, file_options: FileOptions = FileOptions()) -> epath.Path:  # noqa: B008 - frozen
        """Make the directory, and the parents it needs, on the primary host.

        A temporary directory of the same name gives way. Raises `FileExistsError` if something else
        stands there.
        """
        if self._meeting.is_primary:
            self._make(file_options.path_permission_mode or self._file_options.path_permission_mode)
            if self._notes is not None:
                self._notes.begin(self._temporary, time.time_ns())
        return self._temporary

    def _make(self, mode: int | None) -> None:
        store, path = locate(self._temporary)
        final = locate(self._final)[1]
        publish = publishing(store)
        if store.stat(path) is not None:
            if not step_lib.is_tmp_checkpoint(self._temporary):
                raise FileExistsError(17, "there is something already", path)
            _LOG.warning("removed the temporary directory of another save path=%s", path)
            publish.remove_unfinished(path)
        mode = step_lib.WORLD_READABLE_MODE if mode is None else mode
        if self.durable and (path != final or not publish.replaces):
            self._draft = publish.open_draft(final, mode=mode, path=path, shared=True)
        else:
            publish.make_dirs(parent_of(path))
            store.make_dir(path, mode)

    def abandon(self) -> None:
        """Remove what was written, as far as the store lets us. What is visible stays."""
        if self._notes is not None:
            with contextlib.suppress(Exception):  # its thread must not write into what goes now
                self._notes.wait_until_finished()
        if self._meeting.is_primary and not self._done:
            self._engine_draft().abandon()

    def _engine_draft(self) -> AnyDraft:
        if self._draft is None:  # one and the same, for it remembers that it was committed
            store, path = locate(self._temporary)
            self._draft = Draft(store, locate(self._final)[1], path)
        return self._draft

    def _prepare(self) -> AnyDraft:
        """Complete the note and whatever else comes before the commit; all files are then synced,
        if this one has to be durable.
        """
        draft = self._engine_draft()
        if self._notes is not None:
            self._notes.commit(self._temporary)
        if self.finish is not None:
            self.finish(draft)
        elif self.durable:
            _sync_files(draft, draft.path)
        return draft

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(tmp={self._temporary.name!r}, final={self._final.name!r}, "
            f"directory={str(self._final.parent)!r})"
        )


class AtomicRenameTemporaryPath(EnginePath):
    """Written under another name beside the final one, and renamed.

    >>> path = AtomicRenameTemporaryPath.from_final(epath.Path("runs/first"))
    >>> directory = await path.create()
    >>> ...  # write into it
    >>> path.finalize()
    """

    @classmethod
    def from_final(
        cls,
        final_path: epath.Path,
        *,
        checkpoint_metadata_store: Any = None,
        file_options: FileOptions | None = None,
        multiprocessing_options: MultiprocessingOptions | None = None,
    ) -> Self:
        """A name that nobody else uses."""
        return cls(
            _get_tmp_directory(epath.Path(final_path)),
            final_path,
            checkpoint_metadata_store=checkpoint_metadata_store,
            file_options=file_options,
            multiprocessing_options=multiprocessing_options,
        )

    @classmethod
    def match(cls, temporary_path: epath.Path, final_path: epath.Path) -> bool:
        """Whether the name is the final one, the suffix, and something that tells it apart."""
        pattern = re.escape(epath.Path(final_path).name + TMP_DIR_SUFFIX) + ".+"
        temporary = epath.Path(temporary_path)
        same_parent = temporary.parent == epath.Path(final_path).parent
        return same_parent and re.fullmatch(pattern, temporary.name) is not None

    def sign(self, owner: str) -> None:
        """Say whose it is, before it is made: `owner` is the end of the name from now on.

        Another job that counts from 0 as well must not take it for its own.
        """
        self._temporary = self._final.parent / f"{self._final.name}{TMP_DIR_SUFFIX}{owner}"

    def finalize(self) -> None:
        """Sync and rename. Raises `FileExistsError` if the final name is taken."""
        draft = self._prepare()
        if not self.durable and draft.store.stat(draft.final) is None:
            draft.store.rename(draft.path, draft.final)
            self._done = True
            return
        try:
            draft.commit(replace=self.replace)
        except CheckpointExists as error:
            raise FileExistsError(
                17, f"cannot rename {draft.path}: its name already exists", draft.final
            ) from error
        self._done = True


class CommitFileTemporaryPath(EnginePath):
    """Written where it will be; a marker, written last, says that it is whole.

    For stores without renames. On a local disk readers do not look for the marker.
    """

    @classmethod
    def from_final(
        cls,
        final_path: epath.Path,
        *,
        checkpoint_metadata_store: Any = None,
        file_options: FileOptions | None = None,
        multiprocessing_options: MultiprocessingOptions | None = None,
    ) -> Self:
        """The path itself."""
        return cls(
            final_path,
            final_path,
            checkpoint_metadata_store=checkpoint_metadata_store,
            file_options=file_options,
            multiprocessing_options=multiprocessing_options,
        )

    @classmethod
    def match(cls, temporary_path: epath.Path, final_path: epath.Path) -> bool:
        """Whether they are the same."""
        return epath.Path(temporary_path) == epath.Path(final_path)

    def finalize(self) -> None:
        """Sync, then write the marker."""
        draft = self._prepare()
        if self._draft is not None and draft.write_id is not None:
            draft.commit(replace=False)
            self._done = True
            return
        marker = f"{draft.path}/{COMMIT_FILE}"
        if draft.store.stat(marker) is None:
            write_file(draft.store, marker, encode_commit(draft.final))
            draft.store.sync_dir(draft.path)
        self._done = True


def get_default_temporary_path_class(final_path: epath.Path) -> type[EnginePath]:
    """The way to commit that suits the store: by marker in object stores, by name elsewhere."""
    if step_lib.is_gcs_path(epath.Path(final_path)) or files.is_remote(final_path):
        return CommitFileTemporaryPath
    return AtomicRenameTemporaryPath


async def create_all(
    paths: Sequence[TemporaryPath], *, multiprocessing_options: MultiprocessingOptions | None = None
) -> None:
    """Make several directories at once, with one meeting of all processes before and one after."""
    if not paths:
        return
    began_s = time.monotonic()
    meeting = Meeting(multiprocessing_options)
    names = ",".join(path.get_final().name for path in paths)
    suffix = f"{names}.{counters.tmp_directory_counter()}"
    place = str(paths[0].get_final().parent)
    timeout_s = multihost.DIRECTORY_CREATION_TIMEOUT
    kind = "create_tmp_directory"
    with meeting.begin_part(kind, place, beside=place, timeout_s=timeout_s) as talk:
        meeting.gather("create_tmp_directory:pre", suffix, talk=talk, timeout_s=timeout_s)
        await asyncio.gather(*(path.create() for path in paths))
        meeting.gather("create_tmp_directory:post", suffix, talk=talk, timeout_s=timeout_s)
    jax.monitoring.record_event_duration_secs(
        "/jax/orbax/write/directory_creation_secs", time.monotonic() - began_s
    )


def on_commit_callback(tmp_dir: TemporaryPath, *, checkpoint_start_time: float) -> None:
    """Commit, and tell who measures. `checkpoint_start_time`: seconds since the epoch."""
    tmp_dir.finalize()
    step_lib.record_saved_duration(checkpoint_start_time)
    jax.monitoring.record_event("/jax/orbax/write/success")
    _LOG.info("%s published path=%s", teller(), tmp_dir.get_final())


def _get_tmp_directory(final_path: epath.Path) -> epath.Path:
    """Who leads signs the name, so that its leftovers can be told from those of the living.

    Several processes that are not at the same operation must find one name without asking: they
    count.
    """
    if multihost.should_skip_process_sync():
        return epath.Path(hidden_name(str(final_path)))
    phase = f"temporary name of {final_path.parent.name}/{final_path.name}"
    told = told_by_primary(phase, lambda: hidden_name(str(final_path)))
    if told is not None:
        return epath.Path(told)
    number = counters.tmp_directory_counter()
    return final_path.parent / f"{final_path.name}{TMP_DIR_SUFFIX}{number}"


def _sync_files(draft: AnyDraft, path: str) -> None:
    for entry in draft.store.list_dir(path):
        below = f"{path}/{entry.name}"
        if entry.is_dir:
            _sync_files(draft, below)
        else:
            sync_file(draft.store, below)
    draft.store.sync_dir(path)
