# SPDX-License-Identifier: Apache-2.0
"""A program that ends while its manager saves: the interpreter finishes the save first; what the
system ends at once leaves the step before.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pertinax
from pertinax import checkpoint as ocp
from tests.checkpoint.manager.endings import HARD, SOFT, place, tree

pytestmark = [pytest.mark.slow, pytest.mark.crash]


def run(root: str) -> None:
    """Let one program end in each way; nobody closes anything."""
    source = str(Path(pertinax.__file__).parents[1])
    paths = os.pathsep.join([source, ".", os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "tests.checkpoint.manager.endings", root],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert done.stdout.startswith("True"), done.stdout + done.stderr


def look(root: str) -> None:
    """What was in flight is there, or else what was before; and the run goes on."""
    for how in SOFT | HARD:
        options = ocp.CheckpointManagerOptions(max_to_keep=1, cleanup_tmp_directories=True)
        with ocp.CheckpointManager(place(root, how), options=options) as manager:
            newest = manager.latest_step()
            assert newest in ((1,) if how in SOFT else (0, 1)), how
            found = manager.restore(newest)
            assert all(np.array_equal(found[key], value) for key, value in tree(newest).items())
            assert manager.save(2, args=ocp.args.StandardSave(tree(2, 10)))
            manager.wait_until_finished()
            assert manager.all_steps() == [2]


def test_a_save_in_flight_is_finished_or_was_never_there(tmp_path: Path) -> None:
    run(str(tmp_path))
    look(str(tmp_path))
    left = {one.name for how in SOFT | HARD for one in Path(place(str(tmp_path), how)).iterdir()}
    assert left <= {"2", ".pertinax"}
