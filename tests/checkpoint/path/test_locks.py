# SPDX-License-Identifier: Apache-2.0
"""Marks that a step is in use: made by programs, looked up in any format of names."""

from pathlib import Path
from typing import Any

import pytest
from etils import epath

from pertinax import checkpoint as door


def steps(root: Path) -> epath.Path:
    for name in ("1", "2/LOCKED", "step_00003/LOCKED"):
        (root / name).mkdir(parents=True)
    return epath.Path(root)


@pytest.mark.parametrize(
    ("numbers", "names", "locked"),
    [
        ([1, 2], {}, [False, True]),
        ((2,), {}, [True]),
        ([], {}, []),
        ([3], {"step_prefix": "step", "step_format_fixed_length": 5}, [True]),
    ],
    ids=str,
)
def test_steps_with_a_mark_are_locked(
    numbers: Any, names: dict[str, Any], locked: list[bool], tmp_path: Path
):
    assert door.path.utils.are_locked(steps(tmp_path), numbers, **names) == locked


def test_a_format_of_names_may_be_given(tmp_path: Path):
    names = door.step.standard_name_format(step_prefix="step", step_format_fixed_length=5)
    assert door.path.utils.are_locked(steps(tmp_path), [3], step_name_format=names) == [True]


def test_the_mark_is_a_directory_in_the_step(tmp_path: Path):
    root = steps(tmp_path)
    assert door.utils.lockdir(root / "1") == root / "1" / "LOCKED"
    assert not door.utils.is_locked(root / "1")
    door.utils.lockdir(root / "1").mkdir()
    assert door.utils.is_locked(root / "1")


def test_what_is_not_there_cannot_be_locked(tmp_path: Path):
    with pytest.raises(ValueError, match="no directory"):
        door.utils.is_locked(tmp_path / "9")
    with pytest.raises(ValueError, match="9"):
        door.path.utils.are_locked(steps(tmp_path), [1, 9])
