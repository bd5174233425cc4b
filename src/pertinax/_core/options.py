# SPDX-License-Identifier: Apache-2.0
"""Options of the verbs, checked at birth.

Knows which values mean something. Knows nothing of what is done with them.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args, get_type_hints

from pertinax._formats.layout import LayoutName
from pertinax._store.contract import Store, traits_of
from pertinax._store.draft import Exists
from pertinax.errors import InvalidOption

Compression = Literal["none", "zstd"]
Snapshotting = Literal["hold", "copy"]
Missing = Literal["error", "keep"]
Extra = Literal["error", "ignore"]
Cast = Literal["error", "lossless", "lossy"]
Shapes = Literal["error", "cut", "pad", "fit"]
Arrays = Literal["jax", "numpy"]
Check = Literal["all", "read"]
_CARRIED_BYTES = 1 << 30


def check_choices(options: Any) -> None:
    """Raise `InvalidOption` for a field whose `Literal` type does not list its value."""
    hints = get_type_hints(type(options))
    for field in fields(options):
        choices = get_args(hints[field.name])
        if choices and all(isinstance(choice, str) for choice in choices):
            value = getattr(options, field.name)
            if value not in choices:
                listed = ", ".join(map(repr, choices))
                raise InvalidOption(f"{field.name}={value!r} means nothing: choose one of {listed}")


@dataclass(frozen=True, slots=True)
class SaveOptions:
    """How to save.

    Attributes:
        exists: what to do if the path is taken: `error`, `replace` it (as safely as a first save),
            or `skip`.
        snapshot: `hold` large CPU arrays and check that nobody wrote into them; `copy` them all.
        compression: of array bytes, `none` or `zstd`.
        chunk_bytes: upper bound of one stored chunk, for all leaves or one for each; None: a chunk
            is a shard.
        dtypes: the dtype to store each leaf in, None where it stays; None: all stay.
        layout: in which files, and in which version of Zarr.
        file_bytes: a data file is closed, and another begun, once it exceeds this, and no chunk is
            larger unless its array cannot be cut evenly; 0: one file, chunks of any size; None: one
            file, chunks of 2 GiB at most. A layout with one file for each chunk does not ask.
        taken_name: what no leaf may be called in such a layout, for readers look for a file there.
        threads: how many threads write.
        budget_bytes: how much may be on its way to the disk at a time; None: 1 GiB, of which
            threads take more than a few MiB only for chunks that are compressed or cut out.
        pinned: whether large arrays leave accelerators by way of page-locked memory.
        read_back: whether what was written is read again and compared before it becomes visible.
        mode: permission bits of new directories, before the umask.
    """

    exists: Exists = "error"
    snapshot: Snapshotting = "hold"
    compression: Compression = "none"
    chunk_bytes: int | Sequence[int | None] | None = None
    dtypes: Sequence[str | None] | None = None
    layout: LayoutName = "ocdbt+zarr2"
    file_bytes: int | None = None
    taken_name: str | None = "checkpoint"
    threads: int = min(4, (os.cpu_count() or 1) + 1)
    budget_bytes: int | None = None
    pinned: bool = False
    read_back: bool = False
    mode: int = 0o777

    def __post_init__(self) -> None:
        check_choices(self)
        if self.threads < 1:
            raise InvalidOption(f"threads={self.threads} means nothing: at least 1")
        if self.file_bytes is not None and self.file_bytes < 0:
            raise InvalidOption(f"file_bytes={self.file_bytes} means nothing: 0 is no limit")
        if self.budget_bytes is not None and self.budget_bytes < 1:
            raise InvalidOption(f"budget_bytes={self.budget_bytes} means nothing: at least 1")
        _check_limits(self.chunk_bytes)
        if isinstance(self.chunk_bytes, list):  # the caller may change it later
            object.__setattr__(self, "chunk_bytes", tuple(self.chunk_bytes))

    @property
    def carried_bytes(self) -> int:
        """The budget: what threads may carry together, in memory that is not the program's."""
        return _CARRIED_BYTES if self.budget_bytes is None else self.budget_bytes

    def on(self, store: Store) -> "SaveOptions":
        """These options where `store` is written to, which may have wishes of its own."""
        if self.file_bytes is not None:
            return self
        return replace(self, file_bytes=traits_of(store).file_bytes)


def _check_limits(chunk_bytes: Any) -> None:
    """Raise `InvalidOption` for what is no number of bytes, no None and no list of these."""
    limits = list(chunk_bytes) if isinstance(chunk_bytes, Sequence) else [chunk_bytes]
    if not all(limit is None or (type(limit) is int and limit > 0) for limit in limits):
        raise InvalidOption(
            f"chunk_bytes={chunk_bytes!r} means nothing: a whole number, at least 1, or None"
        )


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How to load.

    Attributes:
        missing: a leaf of the target that is not stored: `error`, or `keep` the target's own.
        extra: a stored leaf that the target does not have: `error` or `ignore`.
        cast: a differing dtype: `error`, convert if `lossless`, or convert even if `lossy`.
        shapes: a differing shape: `error`, `cut` what is too much, `pad` with zeros, or both:
            `fit`.
        mmap: map local files and use their pages as they are where possible; else read into memory.
        arrays: without a target, whether saved `jax.Array`s come back as such or as `numpy`.
        check: where every leaf is read, `all` else that lies in the checkpoint is compared with its
            checksums, too; or only what is `read`.
        threads: how many threads read and verify.
        budget_bytes: how much memory may be in flight between store and device at a time.
    """

    missing: Missing = "error"
    extra: Extra = "error"
    cast: Cast = "error"
    shapes: Shapes = "error"
    mmap: bool = True
    arrays: Arrays = "jax"
    check: Check = "all"
    threads: int = min(4, (os.cpu_count() or 1) + 1)
    budget_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        check_choices(self)
        if self.threads < 1 or self.budget_bytes < 1:
            raise InvalidOption(
                f"threads={self.threads}, budget_bytes={self.budget_bytes}: at least 1"
            )
