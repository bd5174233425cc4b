# SPDX-License-Identifier: Apache-2.0
"""What a manifest knows of itself."""

import numpy as np
import pytest

from pertinax._formats.manifest import ChunkTable, Manifest, StoredLeaf, lacks_chunks

LEAVES = (
    StoredLeaf((), "a", "numpy", "int8", (4,), "int8", (2,)),
    StoredLeaf((), "n", "str", codec="none"),
    StoredLeaf((), "t", "numpy", "int8", (4,), "int8", (2,), codec="tensorstore"),
    StoredLeaf((), "b", "numpy", "int8", (1,), "int8", (1,)),
)


def table(*leaf: int) -> ChunkTable:
    """The first is the container's own."""
    zero = np.zeros(len(leaf), np.int64)
    return ChunkTable(("d/0",), np.array(leaf, np.int64), zero, zero, zero, zero, None)


@pytest.mark.parametrize(
    ("chunks", "lacks"),
    [((-1, 0, 0, 3), False), ((0, 0, 3), False), ((-1, 0, 3), True), ((-1, 0, 0), True)],
)
def test_an_array_lacks_chunks_if_its_grid_has_more_of_them(chunks, lacks):
    assert lacks_chunks(LEAVES, table(*chunks)) == lacks
    assert len(table(*chunks)) == len(chunks)


def test_what_is_not_said_of_an_item_is_what_most_are():
    ours = Manifest("pertinax", None, LEAVES, table())
    assert ours.verified
    assert not Manifest("orbax", None, LEAVES, table()).verified
    assert ours.typed
    assert not ours.partial
