# SPDX-License-Identifier: Apache-2.0
"""Directories for tests: empty ones, and those that an interrupted save leaves behind.

Knows how the directory of a save is named, made and committed. Knows nothing of what is in it.
"""

import logging
import time
from collections.abc import Sequence

from etils import epath

from pertinax._formats.metadata.commit import COMMIT_FILE
from pertinax.checkpoint import multihost
from pertinax.checkpoint.metadata import StepMetadata
from pertinax.checkpoint.metadata.checkpoint import CheckpointMetadataStore
from pertinax.checkpoint.multihost import counters
from pertinax.checkpoint.path import step as steps
from pertinax.typing import PathLike

_LOG = logging.getLogger(__name__)
_EVERYBODY = 0o777


def erase_and_create_empty(directory: PathLike) -> epath.Path:
    """Remove the directory with all that is in it, if it is there, and make it anew."""
    path = epath.Path(directory)
    if path.exists():
        path.rmtree()
    path.mkdir(parents=True)
    return path


def empty_directory(directory: PathLike) -> bool:
    """Remove what is in the directory. False if there is no such directory."""
    path = epath.Path(directory)
    if not path.is_dir():
        return False
    for child in path.iterdir():
        if child.is_dir():
            child.rmtree()
        else:
            child.unlink()
    return True


def print_directory(directory: PathLike, level: int = 0) -> None:
    """Log what is in the directory, deeper things further to the right."""
    path = epath.Path(directory)
    if level == 0:
        _LOG.info("directory tree: %s/", path)
    for child in sorted(path.iterdir()):
        is_dir = child.is_dir()
        _LOG.info("%s%s%s", ".." * (level + 1), child.name, "/" if is_dir else "")
        if is_dir:
            print_directory(child, level + 1)


def create_tmp_directory(
    tmp_dir: epath.Path,
    final_dir: epath.Path,
    *,
    primary_host: int | None = 0,
    active_processes: set[int] | None = None,
    barrier_sync_key_prefix: str | None = None,
    path_permission_mode: int = _EVERYBODY,
    checkpoint_metadata_store: CheckpointMetadataStore | None = None,
) -> epath.Path:
    """Make the directory of a save to `final_dir`, on the primary process; all processes wait.

    A directory of that name that was left unfinished is removed first; `FileExistsError` if it is
    anything else. A store is told when the save began.
    """
    meet = _Meeting(final_dir, active_processes, barrier_sync_key_prefix)
    meet.at("create_tmp_directory:pre")
    if multihost.is_primary_host(primary_host):
        if tmp_dir.exists():
            if not steps.is_tmp_checkpoint(tmp_dir):
                raise FileExistsError(f"{tmp_dir} is there, and is not left over from a save")
            _LOG.warning("removed an unfinished save path=%s", tmp_dir)
            tmp_dir.rmtree()
        tmp_dir.mkdir(parents=True, mode=path_permission_mode)
        if checkpoint_metadata_store is not None:
            begun = StepMetadata(init_timestamp_nsecs=time.time_ns())
            checkpoint_metadata_store.write(checkpoint_path=tmp_dir, checkpoint_metadata=begun)
    meet.at("create_tmp_directory:post")
    return tmp_dir


class _Meeting:
    """Barriers about one directory; each name is used once."""

    def __init__(
        self, directory: epath.Path, processes: set[int] | None, prefix: str | None
    ) -> None:
        self._name = directory.name
        self._processes = processes
        self._prefix = prefix

    def at(self, key: str) -> None:
        suffix = f"{self._name}.{counters.tmp_directory_counter()}"
        multihost.sync_global_processes(
            multihost.unique_barrier_key(key, prefix=self._prefix, suffix=suffix),
            timeout=multihost.DIRECTORY_CREATION_TIMEOUT,
            processes=self._processes,
        )


def ensure_atomic_save(
    temp_ckpt_dir: epath.Path,
    final_ckpt_dir: epath.Path,
    checkpoint_metadata_store: CheckpointMetadataStore | None = None,
) -> None:
    """Commit: give the directory its final name, or, if it has it already, put the marker there.

    A store is told when that was. Raises `FileExistsError` if the final name is taken.
    """
    if checkpoint_metadata_store is not None:
        checkpoint_metadata_store.wait_until_finished()
        checkpoint_metadata_store.update(
            checkpoint_path=temp_ckpt_dir, commit_timestamp_nsecs=time.time_ns()
        )
        checkpoint_metadata_store.wait_until_finished()
    if temp_ckpt_dir == final_ckpt_dir:
        (final_ckpt_dir / COMMIT_FILE).write_text(
            f"Checkpoint commit was successful to {final_ckpt_dir}"
        )
    elif final_ckpt_dir.exists():
        raise FileExistsError(f"{final_ckpt_dir} is there already")
    else:
        temp_ckpt_dir.rename(final_ckpt_dir)


def save_fake_tmp_dir(
    directory: epath.Path,
    step: int,
    item: str,
    subdirs: Sequence[str] | None = None,
    step_prefix: str | None = None,
) -> epath.Path:
    """What a program that dies while it saves `item` of a step leaves behind; returns the item's
    directory, in which are `subdirs`.
    """
    root = epath.Path(directory)
    parent = root / steps.standard_name_format(step_prefix).build_name(step)
    unfinished = create_tmp_directory(_tmp_name(parent), parent)
    made = create_tmp_directory(_tmp_name(unfinished / item), unfinished / item)
    if multihost.process_index() == 0:
        for name in subdirs or ():
            (made / name).mkdir(parents=True)
    multihost.sync_global_processes(f"save_fake_tmp_dir.{made.name}")
    return made


def _tmp_name(final: epath.Path) -> epath.Path:
    number = counters.tmp_directory_counter()
    return final.parent / f"{final.name}{steps.TMP_DIR_SUFFIX}{number}"
