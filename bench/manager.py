# SPDX-License-Identifier: Apache-2.0
"""What a manager costs in a root of ten thousand steps: opening, listing, choosing, saving.

    python bench/manager.py --rounds 5 [--json]

The steps are one saved step under many names (hard links): every file is there and can be read.
Saves are paired: in each round a bare `save_async` and a manager's `save` of the same tree, both
timed until they return, in an order that changes with the round.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

STEPS = 10_000
OURS, ORBAX, BARE = "pertinax", "Orbax", "save_async"


def measure(directory: str, *, steps: int = STEPS, rounds: int = 5) -> dict[str, Any]:
    """Seconds by contestant and measure."""
    os.makedirs(directory, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        root = os.path.join(folder, "run")
        _fill(root, steps)
        seconds: dict[str, dict[str, list[float]]] = {}
        for turn in range(rounds + 1):
            for name, found in _looks(root):
                seconds.setdefault(OURS, {}).setdefault(name, []).append(found)
            if turn < 2:  # it takes minutes
                for name, found in _orbax_looks(root):
                    seconds.setdefault(ORBAX, {}).setdefault(name, []).append(found)
        for _ in range(rounds + 1):  # last: for a while the root counts as changing
            seconds[OURS].setdefault("changed best", []).append(_changed_best(root))
        saves = _saves(root, os.path.join(folder, "bare"), steps, rounds)
        seconds[OURS]["save"], seconds[BARE] = saves[OURS], {"save": saves[BARE]}
    for measures in seconds.values():
        for name, values in measures.items():
            if name != "first best":
                del values[:1]  # not counted
    return {"steps": steps, "seconds": seconds}


def _fill(root: str, steps: int) -> None:
    import numpy as np

    import pertinax

    with pertinax.Manager(root) as manager:
        manager.save(0, {"w": np.zeros(100)}, metrics={"loss": 0.5})
    source = os.path.join(root, "0")
    walked = [(os.path.relpath(place, source), names) for place, _, names in os.walk(source)]
    for step in range(1, steps):
        for place, names in walked:
            target = os.path.normpath(os.path.join(root, str(step), place))
            os.mkdir(target)
            for name in names:
                os.link(os.path.join(source, place, name), os.path.join(target, name))


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def _looks(root: str) -> list[tuple[str, float]]:
    """What a new process asks."""
    from pertinax import Manager

    opened, manager = _timed(lambda: Manager(root))
    listed, steps = _timed(manager.steps)
    latest, _ = _timed(manager.latest)
    first = not os.path.exists(os.path.join(root, ".pertinax", "steps"))
    best, found = _timed(lambda: manager.best("loss"))
    manager.close()
    assert found == len(steps) - 1
    name = "first best" if first else "best"
    return [("open", opened), ("list", listed), ("latest", latest), (name, best)]


def _changed_best(root: str) -> float:
    """The best step, asked by a new process when the root has changed this very moment: every row
    of the index is compared with its step.
    """
    from pertinax import Manager

    os.mkdir(os.path.join(root, "notes"))
    os.rmdir(os.path.join(root, "notes"))
    manager = Manager(root)
    seconds, _ = _timed(lambda: manager.best("loss"))
    manager.close()
    return seconds


def _orbax_looks(root: str) -> list[tuple[str, float]]:
    try:
        import orbax.checkpoint as ocp
    except ImportError:
        return []
    options = ocp.CheckpointManagerOptions(best_fn=lambda found: found["loss"], best_mode="min")
    opened, manager = _timed(lambda: ocp.CheckpointManager(root, options=options))
    listed, _ = _timed(manager.all_steps)
    latest, _ = _timed(manager.latest_step)
    best, _ = _timed(manager.best_step)
    manager.close()
    return [("open", opened), ("list", listed), ("latest", latest), ("best", best)]


def _saves(root: str, bare: str, steps: int, rounds: int) -> dict[str, list[float]]:
    import jax
    import numpy as np

    import pertinax
    from pertinax.policies import Best, EverySteps, Latest

    tree = {f"w{i}": jax.numpy.asarray(np.zeros(10_000, np.float32) + i) for i in range(20)}
    found: dict[str, list[float]] = {OURS: [], BARE: []}
    keep = Latest(3) | Best(3, "loss") | EverySteps(1)
    with pertinax.Manager(root, keep=keep) as manager:

        def ours(turn: int) -> None:
            seconds, _ = _timed(lambda: manager.save(steps + turn, tree, metrics={"loss": 1.0}))
            found[OURS].append(seconds)
            manager.wait()

        def plain(turn: int) -> None:
            seconds, pending = _timed(lambda: pertinax.save_async(f"{bare}/{turn}", tree))
            found[BARE].append(seconds)
            pending.result()

        for turn in range(4 * rounds + 1):
            for one in (ours, plain) if turn % 2 else (plain, ours):
                one(turn)
    shutil.rmtree(bare, ignore_errors=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", default=os.path.join(os.path.dirname(__file__), ".scratch"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--json", action="store_true", help="print all seconds as JSON instead")
    args = parser.parse_args()
    result = measure(args.dir, steps=args.steps, rounds=args.rounds)
    if args.json:
        print(json.dumps(result))
        return 0
    for who, measures in result["seconds"].items():
        for name, values in measures.items():
            print(f"{who:12} {name:12} {statistics.median(values) * 1e3:10.2f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
