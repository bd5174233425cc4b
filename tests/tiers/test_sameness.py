# SPDX-License-Identifier: Apache-2.0
"""What each process keeps a copy of is the same on all, or nobody saves it."""

import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import pertinax
from tests.hosts import processes

pytestmark = pytest.mark.slow

SAME: dict[str, Any] = {
    "table": np.arange(6.0),
    "large": np.zeros((200, 200)),
    "step": 7,
    "huge": 2**80,
    "run": "a",
    "raw": b"xyz",
}
OTHERS: dict[str, Any] = {
    "table": np.arange(6.0) + 1e-300,
    "large": np.zeros((200, 200)).T - np.zeros((200, 200)) + np.eye(200),
    "step": 8,
    "huge": 2**80 + 1,
    "run": "b",
    "raw": b"xyy",
}


def save_what_differs(folder: str) -> Any:
    me = jax.process_index()
    answers: dict[str, tuple[str, str]] = {}

    def attempt(name: str, state: Any) -> None:
        try:
            manager.save(4, state, tiers=(True, False))
            manager.wait()
        except pertinax.errors.PertinaxError as error:
            answers[name] = type(error).__name__, str(error)

    near = f"{folder}/near/{me}"
    with pertinax.TieredManager(near, f"{folder}/durable", keep_local=2) as manager:
        manager.save(2, SAME, tiers=(True, False))
        for name, other in OTHERS.items():
            attempt(name, SAME | {name: other} if me else SAME)
        attempt("dtype", SAME | {"table": np.arange(6, dtype="f4")} if me else SAME)
        attempt("leaves", SAME | {"more": 1} if me else SAME)
        attempt("empty", SAME | {"more": {}} if me else SAME)
        attempt("two", SAME | {"step": 9, "run": "c"} if me else SAME)
        kept = manager.steps()
        attempt("equal", dict(SAME))
        return answers, kept, manager.steps(), sorted(os.listdir(near))


def test_values_that_differ_between_processes_are_refused_by_name(tmp_path: Path) -> None:
    told = processes.run(save_what_differs, 2, str(tmp_path), folder=tmp_path / "job")
    assert told[0] == told[1]
    answers, kept, after, listed = told[0]
    assert {kind for kind, _ in answers.values()} == {"UnsupportedLeaf"}
    assert set(answers) == {*SAME, "dtype", "leaves", "empty", "two"}
    for name in SAME:
        assert f"leaf '{name}' is another on process 1 than on process 0:" in answers[name][1]
    assert "leaf 'more' is another" in answers["leaves"][1]
    assert "leaves, dtypes or shapes are others on process 1" in answers["empty"][1]
    assert "'run'" in answers["two"][1]
    assert "1 more like this" in answers["two"][1]
    assert (kept, after, listed) == ([2], [2, 4], ["2", "4"])
