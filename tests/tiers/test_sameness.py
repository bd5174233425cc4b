# SPDX-License-Identifier: Apache-2.0
"""What each process keeps a copy of is the same on all, or nobody saves it."""

import os
import threading
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pertinax
from pertinax._core.options import SaveOptions
from pertinax._core.prepare import prepare
from pertinax._core.write import Contents
from pertinax._hosts import Topology
from pertinax._tiers.sameness import refuse_differences
from tests.hosts import processes
from tests.hosts.service import clients, clusters

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


@pytest.mark.slow
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


def contents_of(tree: Any) -> Contents:
    apart = Topology(0, (0,), 0, apart=True)
    notes = {"notes": {"a.json": b"{}"}}
    return Contents({"default": prepare(tree, SaveOptions(), "copy", apart), **notes})


def meant(trees: list[Any]) -> list[str]:
    """What each of the processes, played by threads, raises."""
    heard = [""] * len(trees)
    with clients(len(trees)) as made:
        hosts = clusters(made)

        def one(process: int) -> None:
            with hosts[process].begin("save", "s", timeout_s=60.0) as talk:
                try:
                    refuse_differences(talk, contents_of(trees[process]))
                except pertinax.errors.UnsupportedLeaf as error:
                    heard[process] = str(error)

        threads = [threading.Thread(target=one, args=(i,)) for i in range(len(trees))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return heard


def test_arrays_of_jax_may_differ_and_all_else_is_compared():
    tree = {**SAME, "w": jnp.arange(4.0), "key": jax.random.key(1)}
    other = {**SAME, "w": jnp.arange(4.0) + 1, "key": jax.random.key(2)}
    assert meant([tree, other]) == ["", ""]
    found = meant([tree, tree | {"step": 8, "run": "b"}, tree])
    assert len(set(found)) == 1
    assert "leaf 'run' is another on process 1 than on process 0 (and 1 more like this)" in found[0]
    (first, second) = meant([tree, tree | {"more": {}}])
    assert first == second
    assert "leaves, dtypes or shapes are others on process 1" in first
