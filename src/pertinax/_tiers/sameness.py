# SPDX-License-Identifier: Apache-2.0
"""Sameness: the leaves that each process keeps a copy of must be the same on all of them.

Knows the contents of a save and the round in which all processes make it. Knows nothing of files.
Shards of one `jax.Array` are different by nature, and JAX sees to it that copies of them are not.
numpy arrays, numbers and text are the program's own: if they differ, a restore would give some
process the value of another, so such a save is refused before anything is visible.
"""

import hashlib
import zlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from pertinax._core.write import Contents
from pertinax._device.snapshot import little_endian
from pertinax._formats.crc import crc32c
from pertinax._formats.item import ItemContent
from pertinax._hosts import Round
from pertinax._tree.paths import path_text
from pertinax.errors import UnsupportedLeaf

_SHARDED: Final = frozenset({"jax", "key"})
_TREE: Final = ""
"""What the shape of the tree is listed as, among the leaves."""


def refuse_differences(talk: Round, contents: Contents) -> None:
    """Raise `UnsupportedLeaf` on all processes if they do not mean the same. All call it."""
    if talk.topology.alone:
        return
    own = _described(contents)
    digest = hashlib.sha256(repr(sorted(own.items())).encode()).hexdigest()
    if talk.collect("all mean the same", digest, _all_equal):
        return
    found = talk.collect("what differs", own, _differences)
    (name, who), others = found[0], len(found) - 1
    what = f"leaf {name!r} is another" if name != _TREE else "leaves, dtypes or shapes are others"
    more = f" (and {others} more like this)" if others else ""
    raise UnsupportedLeaf(
        f"{what} on process {', '.join(map(str, who))} than on process {talk.topology.primary}"
        f"{more}: numpy arrays, numbers and text are kept by each process and must be the same on "
        "all. Make a global array of what differs (jax.make_array_from_process_local_data)"
    )


def _described(contents: Contents) -> dict[str, Any]:
    """What must be equal: a digest of the tree, and a checksum for each leaf that is no array of
    JAX.
    """
    out: dict[str, Any] = {}
    tree = hashlib.sha256()
    for name, item in contents.items.items():
        if not isinstance(item, ItemContent):
            tree.update(repr((name, sorted(item.items()))).encode())
            continue
        out |= _host_leaves(item)
        tree.update(repr([(one.name, one.node.kind) for one in item.names]).encode())
        for leaf in item.leaves:
            kind = (leaf.kind, leaf.impl, leaf.dtype, leaf.shape, leaf.chunk_shape)
            tree.update(repr((name, path_text(leaf.path), kind)).encode())
    return {**out, _TREE: tree.hexdigest()}


def _host_leaves(item: ItemContent) -> dict[str, Any]:
    sums: dict[int, int] = {}
    for index, value in item.values.items():
        sums[index] = zlib.crc32(repr(value).encode())
    plan, snapshot = item.plan, item.snapshot
    offsets = plan.offsets.tolist()
    for number, piece in enumerate(plan.pieces):
        if item.leaves[piece.leaf].kind in _SHARDED:
            continue
        if number < plan.packed:
            data: Any = snapshot.image(offsets[number], offsets[number] + piece.length)
        else:
            data = np.ascontiguousarray(little_endian(snapshot.large[number - plan.packed]))
        known = f"{sums.get(piece.leaf, 0)} {piece.ordinal} {crc32c(data)}"
        sums[piece.leaf] = zlib.crc32(known.encode())
    return {path_text(item.leaves[index].path): one for index, one in sorted(sums.items())}


def _all_equal(told: Mapping[int, Any]) -> bool:
    return len(set(told.values())) == 1


def _differences(told: Mapping[int, Any]) -> list[Any]:
    """For each thing that differs from the first process's, which processes have another."""
    reference = next(iter(told.values()))
    keys = [*sorted({key for one in told.values() for key in one} - {_TREE}), _TREE]
    found = [
        [key, [p for p, one in told.items() if one.get(key) != reference.get(key)]] for key in keys
    ]
    return [one for one in found if one[1]]
