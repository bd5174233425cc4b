# SPDX-License-Identifier: Apache-2.0
"""What is whole in itself and belongs to another step is not taken for this one's."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pertinax
from pertinax import checkpoint as ocp
from pertinax.errors import CorruptCheckpoint


def tree(step: int) -> dict[str, Any]:
    return {"w": np.full(1000, step, np.float32)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    with pertinax.Manager(tmp_path / "run") as manager:
        for step in (1, 2):
            manager.save(step, tree(step), metrics={"loss": step})
    return tmp_path / "run"


def take_over(root: Path, name: str, called: str | None = None) -> None:
    """Put an item of step 2 into step 1."""
    target = root / "1" / (called or name)
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(root / "2" / name, target)


def test_an_item_of_another_step_is_refused_by_whoever_reads(root: Path) -> None:
    take_over(root, "default")
    readers: list[Any] = [
        lambda: pertinax.load(root / "1"),
        lambda: pertinax.load(root / "1", select="w"),
        lambda: pertinax.load(root / "1", tree(0)),
        lambda: pertinax.verify(root / "1"),
        lambda: pertinax.Manager(root).load(1),
        lambda: ocp.CheckpointManager(root).restore(1, args=ocp.args.StandardRestore(tree(0))),
    ]
    for read in readers:
        with pytest.raises(CorruptCheckpoint, match=r"default/pertinax\.json"):
            read()
    report = pertinax.verify(root / "1", on_damage="report")
    assert [problem.file for problem in report.problems] == ["default/pertinax.json"]
    assert pertinax.load(root / "2")["w"].tolist() == [2.0] * 1000
    assert pertinax.Manager(root).restore(fallback=True).step == 2


def test_an_item_that_was_put_beside_the_others_is_refused(root: Path) -> None:
    take_over(root, "default", "more")
    with pytest.raises(CorruptCheckpoint, match=r"does not vouch for 'more/pertinax\.json'"):
        pertinax.load(root / "1", item="more")
    assert pertinax.load(root / "1", item="default")["w"].tolist() == [1.0] * 1000


def test_metrics_of_another_step_are_refused(root: Path) -> None:
    take_over(root, "metrics")
    manager = pertinax.Manager(root)
    with pytest.raises(CorruptCheckpoint, match="metrics/metrics"):
        manager.metrics(1)
    assert manager.best("loss") == 2  # nobody knows any more what step 1 is worth
    with pytest.raises(CorruptCheckpoint, match="metrics/metrics"):
        pertinax.verify(root / "1")
