# SPDX-License-Identifier: Apache-2.0
"""Describing: what is in a checkpoint, without reading an array byte.

Knows how to say it. Knows nothing of devices.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from pertinax._core.match import stored_text, visible_shape
from pertinax._core.open import Found, find, open_found, read_settled
from pertinax._formats.manifest import Manifest, StoredLeaf
from pertinax._formats.zarr.dtypes import numpy_dtype
from pertinax._plan.boxes import Shape
from pertinax._store.contract import Store
from pertinax._tree.paths import path_text
from pertinax._tree.quiet import collector_paused
from pertinax._tree.rebuild import inexact_nodes
from pertinax.typing import PathLike

_SHOWN_LEAVES = 40


@dataclass(frozen=True, slots=True)
class LeafInfo:
    """One leaf: `path` as text, what it is, its dtype and shape, `nbytes` of its elements, and its
    saved layout.
    """

    path: str
    kind: str
    dtype: str
    shape: Shape
    nbytes: int
    sharding: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Description:
    """What is in a checkpoint. Printed, it is a table.

    Attributes:
        path: the item that is described.
        format: `pertinax` (every byte can be verified) or `orbax` (nothing can).
        leaves: in the order of the tree.
        nbytes: bytes of all elements.
        saved_at: when the save began, if that is known.
        writer: who wrote it, if that is known.
        items: names of the items of a step; empty for a single tree.
        partial: whether the item holds a part of its arrays only: what one process had.
        held_bytes: bytes of the elements that are here; differs from `nbytes` if it is partial.
        as_dicts: nodes that a load without a target gives back as dicts, with the type that they
            had.
    """

    path: str
    format: str
    leaves: tuple[LeafInfo, ...]
    nbytes: int
    saved_at: datetime | None
    writer: str | None
    items: tuple[str, ...]
    as_dicts: tuple[tuple[str, str], ...]
    partial: bool = False
    held_bytes: int = 0

    @property
    def verified(self) -> bool:
        """Whether loads check every byte."""
        return self.format == "pertinax"

    def __str__(self) -> str:
        checked = (
            "every byte is checked on load"
            if self.verified
            else "unverified: Orbax keeps no checksums"
        )
        lines = [f"{self.path}", f"  {self.format}, {checked}"]
        if self.saved_at is not None:
            lines.append(f"  saved {self.saved_at:%Y-%m-%d %H:%M:%S} UTC by {self.writer}")
        if self.items:
            lines.append(f"  items {', '.join(self.items)}")
        lines.append(f"  {len(self.leaves)} leaves, {bytes_text(self.nbytes)}")
        if self.partial:
            lines.append(f"  the part of one process: {bytes_text(self.held_bytes)} of it")
        lines += _table(self.leaves)
        lines += [
            f"  without a target, {path} comes back as a dict (it was a {name})"
            for path, name in self.as_dicts
        ]
        return "\n".join(lines)


def _table(leaves: Sequence[LeafInfo]) -> list[str]:
    shown = leaves if len(leaves) <= _SHOWN_LEAVES else leaves[: _SHOWN_LEAVES - 1]
    width = max((len(leaf.path) for leaf in shown), default=0)
    kind = max((len(leaf.text) for leaf in shown), default=0)
    lines = [
        f"    {leaf.path:<{width}}  {leaf.text:<{kind}}  {bytes_text(leaf.nbytes):>9}"
        for leaf in shown
    ]
    if len(shown) < len(leaves):
        lines.append(f"    ... and {len(leaves) - len(shown)} more")
    return lines


def describe(path: PathLike, *, item: str | None = None, store: Store | None = None) -> Description:
    """What is in the checkpoint at `path`: leaves, types, shapes, sizes. Reads no array bytes.

    Raises `CheckpointNotFound`, `NotACheckpoint`, `UnfinishedCheckpoint`, `NewerFormat`,
    `CorruptCheckpoint`.

    >>> print(pertinax.describe("runs/first"))
    """
    return read_settled(path, store, lambda: _describe(path, item, store))


def _describe(path: PathLike, item: str | None, store: Store | None) -> Description:
    found = find(path, store)
    opened = open_found(found, item)
    manifest = opened.manifest
    with collector_paused(len(manifest.leaves)):
        leaves = tuple(_leaf_info(leaf, i, manifest) for i, leaf in enumerate(manifest.leaves))
    writer = manifest.facts.get("writer")
    total = sum(leaf.nbytes for leaf in leaves)
    return Description(
        path=opened.path,
        format=manifest.source,
        leaves=leaves,
        nbytes=total,
        saved_at=_time(manifest),
        writer=writer if isinstance(writer, str) else None,
        items=_items(found),
        as_dicts=tuple((path_text(p), name) for p, name in inexact_nodes(manifest.root)),
        partial=manifest.partial,
        held_bytes=_held_bytes(manifest) if manifest.partial else total,
    )


def _held_bytes(manifest: Manifest) -> int:
    """Bytes of elements in chunks that are there, before any compression."""
    counts = np.bincount(
        manifest.chunks.leaf[manifest.chunks.leaf >= 0], minlength=len(manifest.leaves)
    ).tolist()
    return sum(
        count * math.prod(leaf.chunk_shape) * numpy_dtype(leaf.storage_dtype).itemsize
        for count, leaf in zip(counts, manifest.leaves, strict=True)
        if count
    )


def _items(found: Found) -> tuple[str, ...]:
    return tuple(name for name, _ in found.detected.items)


def _time(manifest: Manifest) -> datetime | None:
    saved_at_ns = manifest.facts.get("saved_at_ns")
    if not isinstance(saved_at_ns, int) or not 0 <= saved_at_ns < 1 << 62:
        return None
    return datetime.fromtimestamp(saved_at_ns / 1e9, UTC)


def _leaf_info(leaf: StoredLeaf, position: int, manifest: Manifest) -> LeafInfo:
    if leaf.codec == "none":
        nbytes = len(str(manifest.values.get(position, "")).encode("utf-8", "surrogatepass"))
    elif leaf.storage_dtype:
        nbytes = math.prod(leaf.shape) * numpy_dtype(leaf.storage_dtype).itemsize
    else:
        nbytes = 0
    return LeafInfo(
        path_text(leaf.path),
        leaf.kind,
        leaf.dtype,
        visible_shape(leaf),
        nbytes,
        leaf.sharding,
        stored_text(leaf),
    )


def bytes_text(count: float) -> str:
    """A size as people say it: `1.5 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
