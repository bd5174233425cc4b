# SPDX-License-Identifier: Apache-2.0
"""Globs choose leaves by the text of their paths."""

import pytest

from pertinax._tree.flatten import flatten
from pertinax._tree.paths import path_text
from pertinax._tree.select import select_paths

TREE = {
    "params": {"dense": {"kernel": 1, "bias": 2}, "dense2": {"kernel": 3}, "a.b": 4, "[x]": 5},
    "opt": [{"mu": 6}, {"mu": 7}],
    3: 8,
    "step": 9,
}


@pytest.mark.parametrize(
    ("patterns", "wanted"),
    [
        ("step", {"step"}),
        ("3", {"3"}),
        (
            "params",
            {
                "params/dense/kernel",
                "params/dense/bias",
                "params/dense2/kernel",
                "params/a.b",
                "params/[x]",
            },
        ),
        (
            "params/",
            {
                "params/dense/kernel",
                "params/dense/bias",
                "params/dense2/kernel",
                "params/a.b",
                "params/[x]",
            },
        ),
        ("params/dense", {"params/dense/kernel", "params/dense/bias"}),
        ("params/dense?", {"params/dense2/kernel"}),
        ("*/*/kernel", {"params/dense/kernel", "params/dense2/kernel"}),
        ("**/kernel", {"params/dense/kernel", "params/dense2/kernel"}),
        ("**/mu", {"opt/0/mu", "opt/1/mu"}),
        ("opt/*/mu", {"opt/0/mu", "opt/1/mu"}),
        ("params/a.b", {"params/a.b"}),
        ("params/[x]", {"params/[x]"}),
        (["step", "opt/1"], {"step", "opt/1/mu"}),
        ("st*", {"step"}),
    ],
)
def test_a_pattern_chooses_what_it_says(patterns, wanted):
    paths = flatten(TREE).paths
    chosen = select_paths(paths, patterns)
    assert {path_text(p) for p, yes in zip(paths, chosen, strict=True) if yes} == wanted


def test_two_stars_choose_everything():
    paths = flatten(TREE).paths
    assert all(select_paths(paths, "**"))


@pytest.mark.parametrize(
    "pattern", ["para", "kernel", "params/dens", "*/kernel", "paramsXa.b", "opt/1x"]
)
def test_a_pattern_that_matches_nothing_is_an_error(pattern):
    with pytest.raises(ValueError, match="matches none of 9 leaves"):
        select_paths(flatten(TREE).paths, ["step", pattern])
