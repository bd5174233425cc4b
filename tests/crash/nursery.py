# SPDX-License-Identifier: Apache-2.0
"""Programs that train and are killed: a process that has imported everything once, and forks one
for each life.

Knows four ways to save a run whose every state follows from the one before, bit for bit. Knows
nothing of what is expected of the files.
"""

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SIZE = 60_000
Say = Callable[[str], None]


def state(step: int) -> dict[str, Any]:
    """The state after `step` steps, as a run that was never killed has it."""
    return follow({"n": 0, "a": np.arange(SIZE, dtype=np.uint32), "text": "0"}, step)


def follow(tree: dict[str, Any], steps: int) -> dict[str, Any]:
    """So many steps of training: each one depends on all bits of the one before."""
    for _ in range(steps):
        n, a = tree["n"] + 1, np.asarray(tree["a"])
        tree = {"n": n, "a": a * np.uint32(1664525) + np.uint32(1013904223), "text": str(n)}
    return tree


def replacing(path: str, say: Say, asynchronous: bool = False) -> None:
    """One checkpoint, replaced by the next."""
    import pertinax

    tree = pertinax.load(path) if os.path.exists(path) else state(0)
    while True:
        tree = follow(tree, 1)
        if asynchronous:
            pertinax.save_async(path, tree, exists="replace").result()
        else:
            pertinax.save(path, tree, exists="replace")
        say(f"done {tree['n']}")


def replacing_async(path: str, say: Say) -> None:
    replacing(path, say, asynchronous=True)


def managed(path: str, say: Say) -> None:
    """A step at each turn, in the background: the one before is done when the next is asked for."""
    import pertinax

    with pertinax.Manager(path, keep=2) as manager:
        _, tree = manager.resume(state(0))
        before: Any = None
        while True:
            tree = follow(tree, 1)
            pending = manager.save(tree["n"], tree)
            if before is not None:
                before.result()
                say(f"done {tree['n'] - 1}")
            before = pending


def orbax_managed(path: str, say: Say) -> None:
    """The same through the Orbax door."""
    import jax

    from pertinax import checkpoint as ocp

    options = ocp.CheckpointManagerOptions(max_to_keep=2, cleanup_tmp_directories=True)
    with ocp.CheckpointManager(path, options=options) as manager:
        newest = manager.latest_step()
        tree: Any = {"n": 0, "a": state(0)["a"]}
        if newest is not None:
            wanted = jax.tree.map(np.zeros_like, tree)
            tree = manager.restore(newest, args=ocp.args.StandardRestore(wanted))
        while True:
            n = int(tree["n"])
            tree = {key: follow({**tree, "n": n}, 1)[key] for key in ("n", "a")}
            manager.save(n + 1, args=ocp.args.StandardSave(tree))
            if n:
                say(f"done {n}")  # a manager finishes the save before, or raises


PROGRAMS: dict[str, Callable[[str, Say], None]] = {
    "replacing": replacing,
    "replacing-async": replacing_async,
    "managed": managed,
    "orbax-managed": orbax_managed,
}


class Nursery:
    """The process that forks. Close it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-u", "-m", "tests.crash.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            bufsize=0,
        )

    def begin(self, program: str, path: Path) -> int:
        """Start a life; its process id."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{program} {path}\n".encode())
        return int(self.hear().removeprefix("begun "))

    def hear(self, seconds: float = 240) -> str:
        """The next line; the test fails if there is none in time."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        assert ready, "the process says nothing"
        line = self._process.stdout.readline().decode().strip()
        assert line, "the nursery is gone"
        return line

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        assert self._process.wait(60) == 0
        self._process.stdout.close()


def main() -> None:
    import jax
    import jax.numpy  # noqa: F401

    import pertinax.checkpoint

    _ = pertinax.checkpoint.CheckpointManager, pertinax.checkpoint.args.StandardSave
    for line in sys.stdin:
        name, path = line.split()
        pid = os.fork()
        if not pid:
            print(f"begun {os.getpid()}", flush=True)  # itself: before anything else it says
            PROGRAMS[name](path, lambda words: print(words, flush=True))
        os.waitpid(pid, 0)
        print("ended", flush=True)


def turn(count: int) -> None:
    """Let some time pass that is not by the clock: the other is somewhere in its next save."""
    end = time.perf_counter() + count / 4e7
    while time.perf_counter() < end:
        pass


if __name__ == "__main__":
    main()
