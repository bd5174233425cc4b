# SPDX-License-Identifier: Apache-2.0
"""Leaves that type handlers of a program have written in the way of the stock ones: read by Orbax's
own account of the item.

Knows which leaves these are, and that they are only as good as the files that the ledger vouches
for. Knows nothing of handlers.
"""

from dataclasses import replace

import numpy as np

from pertinax._core.fetch import Fetcher
from pertinax._core.open import Opened, SecondReading, check_file, read_foreign
from pertinax._core.options import LoadOptions
from pertinax._formats.manifest import StoredLeaf
from pertinax._formats.metadata.array_metadatas import ARRAY_METADATAS_DIR
from pertinax._formats.metadata.sharding import SHARDING_FILE
from pertinax._formats.metadata.strings import STRINGS_FILE
from pertinax._formats.metadata.tree_metadata import TREE_FILE
from pertinax._formats.ocdbt import MANIFEST_FILE
from pertinax._formats.zarr.array import METADATA_KEY
from pertinax.errors import CorruptCheckpoint, NotACheckpoint

STOCK_TYPESTRS = frozenset({"jax.Array", "np.ndarray", "scalar", "string"})
_NOTES = frozenset({TREE_FILE, SHARDING_FILE, STRINGS_FILE, MANIFEST_FILE})
_LOAD = LoadOptions()


def with_second_reading(opened: Opened) -> Opened:
    """The item with such leaves described as what they are, where their arrays are in the usual
    places; others stay foreign.

    Raises `CorruptCheckpoint` if the files that say so are damaged.
    """
    manifest = opened.manifest
    picked = [i for i, leaf in enumerate(manifest.leaves) if leaf.typestr in STOCK_TYPESTRS]
    if not picked:
        return opened
    _check_notes(opened)
    try:
        second = read_foreign(opened.store, opened.directory)
    except (CorruptCheckpoint, NotACheckpoint):  # their handler keeps them elsewhere
        return opened
    positions = {leaf.name: i for i, leaf in enumerate(second.leaves)}
    leaves, values = list(manifest.leaves), dict(manifest.values)
    places: dict[int, int] = {}
    for i in picked:
        place = positions.get(leaves[i].name)
        found: StoredLeaf | None = None if place is None else second.leaves[place]
        if place is None or found is None or found.kind == "foreign":
            continue
        leaves[i] = found._replace(path=leaves[i].path)
        places[i] = place
        if place in second.values:
            values[i] = second.values[place]
    seen = replace(manifest, leaves=tuple(leaves), values=values)
    other = Opened(opened.store, opened.path, opened.directory, second)
    return replace(opened, manifest=seen, second=SecondReading(other, places))


def _check_notes(opened: Opened) -> None:
    """The files that `read_foreign` believes, and the nodes of the database."""
    manifest = opened.manifest
    for record in manifest.files:
        name = record.name.rpartition("/")[2]
        is_note = record.name in _NOTES or record.name.startswith(f"{ARRAY_METADATAS_DIR}/")
        if is_note or name in METADATA_KEY.values():
            check_file(opened.store, opened.directory, record)
    nodes = np.flatnonzero(manifest.chunks.leaf < 0).tolist()
    with Fetcher(
        opened.store, opened.directory, manifest, use_map=_LOAD.mmap, threads=_LOAD.threads
    ) as fetcher:
        for error in fetcher.check_rows(nodes):
            raise error
