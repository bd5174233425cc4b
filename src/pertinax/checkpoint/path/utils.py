# SPDX-License-Identifier: Apache-2.0
"""Locks of steps, as evaluators used to make them.

Knows the mark in a step's directory. Managers do not look at it: snapshots took its place.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from etils import epath

from pertinax.checkpoint._adapt import files
from pertinax.checkpoint.path.step import NameFormat, standard_name_format

_LOCK: Final = "LOCKED"
_THREADS: Final = 16


def lockdir(directory: epath.PathLike) -> epath.Path:
    """The mark that a step in this directory is in use."""
    return epath.Path(directory) / _LOCK


def is_locked(directory: epath.PathLike) -> bool:
    """Whether the mark is there. Raises `ValueError` if the directory itself is not."""
    if not files.exists(directory):
        raise ValueError(f"there is no directory {directory}")
    return files.exists(lockdir(directory))


def are_locked(
    directory: epath.PathLike,
    steps: Sequence[int],
    step_prefix: str | None = None,
    step_format_fixed_length: int | None = None,
    step_name_format: NameFormat[Any] | None = None,
) -> list[bool]:
    """Whether each of these steps is locked, looked up side by side.

    Raises `ValueError` if one of them is not there.
    """
    names = step_name_format or standard_name_format(step_prefix, step_format_fixed_length)
    paths = [names.find_step(directory, step).path for step in steps]
    with ThreadPoolExecutor(_THREADS, "pertinax-locks") as pool:
        return list(pool.map(is_locked, paths))
