# SPDX-License-Identifier: Apache-2.0
"""`exists="replace"` replaces checkpoints, and never anything else that lies at the path."""

from pathlib import Path

import pytest

import pertinax


def test_a_root_of_steps_is_not_replaced_by_a_tree(tmp_path: Path) -> None:
    with pertinax.Manager(tmp_path / "run") as manager:
        manager.save(1, {"w": 1})
        manager.save(2, {"w": 2})
    with pytest.raises(pertinax.errors.NotACheckpoint, match="root of steps"):
        pertinax.save(tmp_path / "run", {"w": 3}, exists="replace")
    with pytest.raises(pertinax.errors.NotACheckpoint, match="root of steps"):
        pertinax.save_async(tmp_path / "run", {"w": 3}, exists="replace")
    assert pertinax.Manager(tmp_path / "run").steps() == [1, 2]


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_what_is_no_checkpoint_is_not_replaced(tmp_path: Path, kind: str) -> None:
    precious = tmp_path / "thesis" if kind == "file" else tmp_path / "thesis" / "thesis.tex"
    precious.parent.mkdir(exist_ok=True)
    precious.write_text("five years")
    with pytest.raises(pertinax.errors.NotACheckpoint, match="replaces checkpoints only"):
        pertinax.save(tmp_path / "thesis", {"w": 3}, exists="replace")
    assert precious.read_text() == "five years"


def test_checkpoints_steps_and_empty_directories_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    pertinax.save(tmp_path / "empty", {"w": 1}, exists="replace")
    pertinax.save(tmp_path / "empty", {"w": 2}, exists="replace")
    with pertinax.Manager(tmp_path / "run") as manager:
        manager.save(1, {"w": 1})
    pertinax.save(tmp_path / "run" / "1", {"w": 4}, exists="replace")
    assert pertinax.load(tmp_path / "empty") == {"w": 2}
    assert pertinax.load(tmp_path / "run" / "1") == {"w": 4}
