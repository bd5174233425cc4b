# SPDX-License-Identifier: Apache-2.0
"""The same damage for Pertinax and for Orbax: `python -m tests.corruption.compare [seed] [limit]`.

Knows both libraries' plainest save and load. Prints a table with a row for each kind of damage:
how often a load was refused, gave what was saved, or gave something else without a word. The files
of each library are damaged by the same generator; an undamaged copy is loaded first, and must be
right.
"""

import collections
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import pertinax
from pertinax import checkpoint as door
from pertinax._store.local import LocalStore
from pertinax._store.memory import MemoryStore
from pertinax.testing import read_tree
from tests.corruption.scenes import damages

KINDS = ("bit", "zeros", "cut", "longer", "stale", "swapped", "gone", "directory")
OUTCOMES = ("refused", "as saved", "WRONG VALUES")


def tree(mark: int) -> dict[str, Any]:
    """Arrays alone, for both libraries take them: 100 kB in five leaves."""
    rng = np.random.default_rng(mark)
    return {
        "w": rng.normal(size=(100, 200)).astype(np.float32),
        "table": rng.integers(0, 99, 5000).astype(np.int32),
        "b": rng.normal(size=300).astype(np.float32),
        "small": np.arange(5, dtype=np.int32) * mark,
        "n": np.full((), mark, np.int32),
    }


def front_save(path: str, saved: Any) -> None:
    pertinax.save(path, saved)


def front_load(path: str, wanted: Any) -> Any:
    return pertinax.load(path)


def orbax() -> Any:
    from orbax import checkpoint

    return checkpoint


def savers(library: Callable[[], Any]) -> tuple[Any, Any]:
    def save(path: str, saved: Any) -> None:
        with library().StandardCheckpointer() as checkpointer:
            checkpointer.save(path, saved)

    def load(path: str, wanted: Any) -> Any:
        with library().StandardCheckpointer() as checkpointer:
            return checkpointer.restore(path, wanted)

    return save, load


LIBRARIES: dict[str, tuple[Any, Any]] = {
    "pertinax": (front_save, front_load),
    "pertinax.checkpoint": savers(lambda: door),
    "orbax.checkpoint": savers(orbax),
}


def in_memory(save: Any, folder: Path, mark: int) -> MemoryStore:
    save(str(folder / str(mark) / "c"), tree(mark))
    store = MemoryStore()
    store.make_dir("/c")
    for name, content in read_tree(LocalStore(), str(folder / str(mark) / "c")).items():
        if name.endswith("/"):
            store.make_dir(f"/c/{name[:-1]}")
        else:
            with store.create(f"/c/{name}") as writer:
                writer.write_at(0, [content])
    return store


def dump(store: MemoryStore, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for name, content in read_tree(store, "/c").items():
        if name.endswith("/"):
            (target / name).mkdir()
        else:
            (target / name).write_bytes(content)


def same(found: Any, wanted: Any) -> bool:
    if jax.tree.structure(found) != jax.tree.structure(wanted):
        return False
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
    return all(
        np.asarray(a).dtype == np.asarray(b).dtype
        and np.asarray(a).tobytes() == np.asarray(b).tobytes()
        for a, b in pairs
    )


def outcome(load: Any, path: Path) -> str:
    """What a load does."""
    try:
        found = load(str(path), tree(0))
    except Exception:
        return "refused"
    return "as saved" if same(found, tree(2)) else "WRONG VALUES"


def kind_of(words: str) -> str:
    return next(kind for kind in KINDS if kind in words.replace("filled ", ""))


def campaign(name: str, limit: int, seed: int) -> dict[str, collections.Counter[str]]:
    save, load = LIBRARIES[name]
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/tmp")) as folder:
        whole = in_memory(save, Path(folder), 2)
        stale = in_memory(save, Path(folder), 3)
        dump(whole, Path(folder) / "c")
        assert outcome(load, Path(folder) / "c") == "as saved", "the control is not whole"
        counts["control"]["as saved"] += 1
        for words, damaged in damages(whole, stale, limit, seed):
            dump(damaged, Path(folder) / "c")
            counts[kind_of(words)][outcome(load, Path(folder) / "c")] += 1
    return counts


def main(seed: int = 0, limit: int = 400) -> None:
    warnings.simplefilter("ignore")
    print(f"seed {seed}, {limit} bits a file; Orbax {orbax().__version__}\n")
    print(f"| library | damage | {' | '.join(OUTCOMES)} |\n|---|---|---|---|---|")
    for name in LIBRARIES:
        counts = campaign(name, limit, seed)
        total: collections.Counter[str] = collections.Counter()
        for kind in ("control", *KINDS):
            row = counts[kind]
            total += row if kind != "control" else collections.Counter()
            print(f"| `{name}` | {kind} | {' | '.join(f'{row[one]:,}' for one in OUTCOMES)} |")
        print(f"| `{name}` | **all** | {' | '.join(f'{total[one]:,}' for one in OUTCOMES)} |")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
