# SPDX-License-Identifier: Apache-2.0
import pytest

from pertinax._formats.directory.names import is_inside, unfit_names


@pytest.mark.parametrize("name", ["a", "a.b/c", "...", "a b", "ü"])
def test_plain_names_are_fit(name):
    assert is_inside(name)
    assert unfit_names([name], ".zarray") == {}


@pytest.mark.parametrize("name", ["..", "a/../b", "/a", "a/", "a//b", ".", "./a", "a\0"])
def test_names_that_lead_elsewhere_are_unfit(name):
    assert not is_inside(name)
    assert list(unfit_names([name, "ok"], ".zarray")) == [name]


@pytest.mark.parametrize(
    "name",
    ["x" * 256, "a/" + "ü" * 128, "_METADATA", "_sharding/x", "pertinax.json", "ocdbt.process_0"],
)
def test_names_that_the_item_or_the_file_system_cannot_give_are_unfit(name):
    assert list(unfit_names([name], "zarr.json")) == [name]


@pytest.mark.parametrize("below", ["0", "1.2", "c", "c/0", "zarr.json"])
def test_names_that_are_files_of_another_leaf_are_unfit(below):
    assert list(unfit_names(["a", f"a/{below}"], "zarr.json")) == [f"a/{below}"]
    assert unfit_names([f"a/{below}", "b"], "zarr.json") == {}


def test_the_root_leaf_is_fit():
    assert unfit_names([""], ".zarray") == {}
