# SPDX-License-Identifier: Apache-2.0
"""Pieces on their way: in how many writes, and where each comes to lie."""

import numpy as np
import pytest

from pertinax._formats.data_file import SEGMENT_BYTES, writes_of


@pytest.mark.parametrize(
    ("length", "writes"),
    [(0, 0), (1, 1), (SEGMENT_BYTES, 1), (SEGMENT_BYTES + 1, 2), (3 * SEGMENT_BYTES, 3)],
)
def test_a_piece_takes_a_write_for_each_segment(length: int, writes: int) -> None:
    assert writes_of(np.zeros(length, np.int8)) == writes


def test_a_piece_that_is_cut_out_of_a_shard_takes_one_write() -> None:
    assert writes_of(np.zeros((4, SEGMENT_BYTES), np.int8)[:, 1:]) == 1
