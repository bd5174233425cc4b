# SPDX-License-Identifier: Apache-2.0
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pertinax._formats.zarr.array import chunk_key, parse_chunk_suffix, split_chunk_key
from pertinax._plan.chunks import index_of

DRIVERS = ["zarr", "zarr3"]


@pytest.mark.parametrize(
    ("driver", "index", "key"),
    [
        ("zarr", (), "a.b/0"),
        ("zarr", (1, 2), "a.b/1.2"),
        ("zarr3", (), "a.b/c"),
        ("zarr3", (1, 2), "a.b/c/1/2"),
    ],
)
def test_chunks_are_named_as_orbax_names_them(driver, index, key):
    assert chunk_key(driver, "a.b", index) == key
    assert chunk_key(driver, "", index) == key.removeprefix("a.b/")


@given(
    st.sampled_from(DRIVERS),
    st.lists(st.integers(1, 30), max_size=4).map(tuple),
    st.sampled_from(["", "a", "a/b.c", "x/c", "x/c/0", "x/c/0/c", "3", "c", "c/1"]),
    st.data(),
)
def test_a_chunk_key_says_whose_and_which_it_is(driver, grid, name, data):
    ordinal = data.draw(st.integers(0, math.prod(grid) - 1))
    key = chunk_key(driver, name, index_of(ordinal, grid))
    found = split_chunk_key(driver, key)
    assert found is not None
    assert found[0] == name
    assert parse_chunk_suffix(driver, found[1], grid) == ordinal


@pytest.mark.parametrize("suffix", ["01", "2", "-1", "1.1", "", "x", "٣", "9" * 30])
def test_suffixes_of_no_chunk_are_told_from_chunks(suffix):
    assert parse_chunk_suffix("zarr", suffix, (2,)) is None


@given(st.sampled_from(DRIVERS), st.text(), st.lists(st.integers(0, 9), max_size=3).map(tuple))
def test_any_text_may_be_a_key(driver, text, grid):
    found = split_chunk_key(driver, text)
    if found is not None:
        parse_chunk_suffix(driver, found[1], grid)
