# SPDX-License-Identifier: Apache-2.0
"""Files that an item lacks: most often somebody copied it and left them behind.

Knows which files the mirrored API asks for before it reads, and the exceptions that programs catch.
The engine does without them where its ledger has all that they said; through this door they are
missed, for other programs that read the item would miss them too.
"""

import errno
import posixpath
from collections.abc import Iterable
from typing import Final

from pertinax._core.open import Opened
from pertinax._formats.metadata.sharding import SHARDING_FILE
from pertinax._store.contract import Store
from pertinax.errors import CheckpointNotFound, CorruptCheckpoint

_DATABASE_FILE: Final = "manifest.ocdbt"


def raise_if_absent(store: Store, path: str, error: CorruptCheckpoint) -> None:
    """Raise `FileNotFoundError` if `error` is about a file of a leaf that is not there."""
    name = posixpath.basename(error.file)
    if error.leaf is None or name.startswith("<") or store.stat(f"{path}/{_DATABASE_FILE}"):
        return  # of no leaf, any of its chunks, or all in one database
    if store.stat(f"{path}/{error.file}") is None:
        raise absent(path, error.file) from error


def refuse_absent(opened: Opened, leaves: Iterable[int]) -> None:
    """Raise `FileNotFoundError` if the metadata of one of `leaves` is not where it was written.

    Only where each array has files of its own, and the ledger says which.
    """
    manifest = opened.manifest
    if manifest.container != "directory" or not manifest.files:
        return
    written: dict[str, list[str]] = {}
    for record in manifest.files:
        written.setdefault(posixpath.dirname(record.name), []).append(record.name)
    for leaf in leaves:
        for name in written.get(manifest.leaves[leaf].name, ()):
            if opened.store.stat(f"{opened.directory}/{name}") is None:
                raise absent(opened.path, name)


def has_layouts(opened: Opened) -> bool:
    """Whether the item has the file that says how arrays were laid out over devices, or never had
    any layout to say.
    """
    manifest = opened.manifest
    if manifest.source == "pertinax" and SHARDING_FILE not in {one.name for one in manifest.files}:
        return True
    return opened.store.stat(f"{opened.directory}/{SHARDING_FILE}") is not None


def absent(path: str, name: str) -> CheckpointNotFound:
    """The error for the file `name` of the item at `path`."""
    reason = (
        "this part of the checkpoint was not found; was it copied without its hidden files? "
        "`cp -a` takes them along"
    )
    return CheckpointNotFound(errno.ENOENT, reason, f"{path}/{name}")
