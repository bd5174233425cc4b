# SPDX-License-Identifier: Apache-2.0
"""What a step on disk is made of, for a manager that nobody has told.

Knows the directories of items and the note that says who wrote them. Knows nothing of how they are
read: it answers with the args to read them with.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from etils import epath

from pertinax._formats.detect import UNPUBLISHED_MARK
from pertinax._formats.metadata.step_metadata import STEP_FILE, decode_step
from pertinax._formats.metadata.tree_metadata import TREE_FILE
from pertinax.checkpoint import args as args_lib
from pertinax.checkpoint._adapt import files
from pertinax.checkpoint.checkpoint_args import CheckpointArgs

_LOCK_NAME: Final = "LOCKED"
_ARRAY_MARKS: Final = ("manifest.ocdbt", ".zarray", "zarr.json")
_ARGS_OF: Final[Mapping[str, str]] = MappingProxyType(
    {
        "StandardCheckpointHandler": "StandardRestore",
        "PyTreeCheckpointHandler": "PyTreeRestore",
        "BasePyTreeCheckpointHandler": "PyTreeRestore",
        "JsonCheckpointHandler": "JsonRestore",
        "ArrayCheckpointHandler": "ArrayRestore",
        "JaxRandomKeyCheckpointHandler": "JaxRandomKeyRestore",
        "NumpyRandomKeyCheckpointHandler": "NumpyRandomKeyRestore",
    }
)


def list_items(step_path: epath.Path) -> list[str]:
    """The names of the items of a step, in order. `FileNotFoundError` if there is no step."""
    children = (name for name, is_dir in files.children(step_path) if is_dir)
    return sorted(name for name in children if name != _LOCK_NAME and UNPUBLISHED_MARK not in name)


def guess_restore_args(step_path: epath.Path, item: str) -> CheckpointArgs | None:
    """Args that restore `item` as it was saved, or None if nothing tells how."""
    writer = _writer(step_path, item)
    if writer is not None:
        name = _ARGS_OF.get(writer)
        return _build(name) if name is not None else None
    names = {name for name, _ in files.children(step_path / item)}
    if TREE_FILE in names:
        return _build("PyTreeRestore")
    if "metadata" in names and not names & set(_ARRAY_MARKS):
        return _build("JsonRestore")
    return None


def _writer(step_path: epath.Path, item: str) -> str | None:
    """The name of the handler's class, as the step's note has it."""
    try:
        handlers = decode_step(files.read_bytes(step_path / STEP_FILE)).item_handlers
    except OSError:
        return None
    named = handlers.get(item) if isinstance(handlers, Mapping) else None
    return None if named is None else named.rpartition(".")[2]


def _build(name: str) -> CheckpointArgs | None:
    cls: Any = getattr(args_lib, name, None)
    return None if cls is None else cls()
