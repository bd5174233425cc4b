# SPDX-License-Identifier: Apache-2.0
"""Programs that end with a save of `CheckpointManager` in flight, each a fork of one process.

`python -m tests.checkpoint.manager.endings ROOT` prints how each ended. Knows the ways to end, and
what is saved; knows nothing of what must be there afterwards.
"""

import os
import signal
import sys
from typing import Any

import numpy as np

from pertinax import checkpoint as ocp

SOFT = {"last line": 0, "SystemExit": 3, "exception": 1}
HARD = {"os._exit": 4, "SIGTERM": -signal.SIGTERM}


def tree(step: int, size: int = 1_000_000) -> dict[str, Any]:
    return {"n": np.int64(step), "a": np.arange(size) + step}


def place(root: str, how: str) -> str:
    return f"{root}/{how.replace(' ', '-')}"


def end(how: str) -> None:
    if how == "SystemExit":
        raise SystemExit(3)
    if how == "exception":
        raise RuntimeError("boom")
    if how == "os._exit":
        os._exit(4)
    if how == "SIGTERM":
        os.kill(os.getpid(), signal.SIGTERM)


def begin(root: str) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(max_to_keep=1)
    manager = ocp.CheckpointManager(root, options=options)
    manager.save(0, args=ocp.args.StandardSave(tree(0)))
    manager.wait_until_finished()
    manager.save(1, args=ocp.args.StandardSave(tree(1)))
    return manager


if __name__ == "__main__":
    ended = {}
    child = ""
    for how in SOFT | HARD:
        pid = os.fork()  # nothing has used JAX yet
        if not pid:
            child = how
            break
        ended[how] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if child:
        manager = begin(place(sys.argv[1], child))
        end(child)
    else:
        print(ended == SOFT | HARD, ended)
