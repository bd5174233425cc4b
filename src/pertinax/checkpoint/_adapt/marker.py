# SPDX-License-Identifier: Apache-2.0
"""Steps that are written where they will be: finished when something in them says so.

Knows the option that asks for it, the marker and the step's own note. Knows nothing of roots.
"""

from etils import epath

from pertinax._formats.metadata.commit import COMMIT_FILE
from pertinax.checkpoint._adapt import files
from pertinax.checkpoint._adapt.manager_options import CheckpointManagerOptions
from pertinax.checkpoint.path import step as step_lib
from pertinax.checkpoint.path.atomicity import CommitFileTemporaryPath


def in_object_store(path: epath.PathLike) -> bool:
    """Whether markers tell what is finished at `path`: as `is_gcs_path`, for all object stores."""
    return step_lib.is_gcs_path(epath.Path(path)) or files.is_remote(path)


def commits_by_marker(options: CheckpointManagerOptions) -> bool:
    """Whether a manager's steps have their final names before they are finished, on a disk."""
    cls = options.temporary_path_class
    return isinstance(cls, type) and issubclass(cls, CommitFileTemporaryPath)


def is_unfinished(path: epath.PathLike) -> bool:
    """Whether the directory of a step was begun and never finished.

    Steps that were renamed need no marker: their note says when they were finished, or they have
    none.
    """
    place = epath.Path(path)
    if not files.is_dir(place) or files.exists(place / COMMIT_FILE):
        return False
    note = step_lib.Metadata(0, place)
    return note.init_timestamp_nsecs is not None and note.commit_timestamp_nsecs is None
