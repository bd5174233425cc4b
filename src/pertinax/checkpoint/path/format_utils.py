# SPDX-License-Identifier: Apache-2.0
"""Telling checkpoints from other directories, by the names of their files.

Knows the files that an item of arrays has, in every layout. Reads none but the note of a step.
"""

import json
from typing import Final

from etils import epath

from pertinax._formats.metadata.step_metadata import STEP_FILE
from pertinax._formats.metadata.tree_metadata import TREE_FILE
from pertinax.checkpoint._adapt import files

PYTREE_METADATA_FILE: Final = TREE_FILE
_AGGREGATE_FILE: Final = "checkpoint"
_DATABASE_FILE: Final = "manifest.ocdbt"
_ARRAY_FILES: Final = (".zarray", "zarr.json")


def is_ocdbt_checkpoint(path: epath.PathLike) -> bool:
    """Whether the arrays of the item at `path` lie in a database."""
    return files.exists(epath.Path(path) / _DATABASE_FILE)


def is_orbax_checkpoint(path: epath.PathLike) -> bool:
    """Whether `path` is a step, or an item of arrays, or holds such items. A guess by file names.

    Raises `FileNotFoundError` for a missing path, `NotADirectoryError` for a file.
    """
    place = epath.Path(path)
    if not files.exists(place):
        raise FileNotFoundError(f"there is nothing at {place}")
    if not files.is_dir(place):
        raise NotADirectoryError(f"{place} is a file; a checkpoint is a directory")
    return (
        _has_note(place)
        or _is_tree(place)
        or any(_is_tree(place / name) for name, is_dir in files.children(place) if is_dir)
    )


# What the name becomes in a program that was ported by replacing one word.
is_pertinax_checkpoint = is_orbax_checkpoint


def _has_note(place: epath.Path) -> bool:
    try:
        return isinstance(json.loads(files.read_bytes(place / STEP_FILE)), dict)
    except (OSError, ValueError):
        return False


def _is_tree(place: epath.Path) -> bool:
    aggregate = files.is_file(place / _AGGREGATE_FILE)
    if not aggregate and not files.is_file(place / TREE_FILE):
        return False
    arrays = any(
        files.exists(place / child / name)
        for child, is_dir in files.children(place)
        if is_dir
        for name in _ARRAY_FILES
    )
    return is_ocdbt_checkpoint(place) or arrays or aggregate
