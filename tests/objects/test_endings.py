# SPDX-License-Identifier: Apache-2.0
"""A program that ends while a save into a bucket is in flight, through both doors."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import pertinax
from tests.checkpoint.manager.test_endings import look, run

pytestmark = [pytest.mark.slow, pytest.mark.crash]

PROGRAM = """
    import os, sys, numpy as np, pertinax
    endings = ["", "sys.exit(3)", "raise RuntimeError('boom')"]
    endings += ["os._exit(4)", "os.kill(os.getpid(), 15)"]
    codes = []
    for number, ending in enumerate(endings):
        pid = os.fork()
        if not pid:
            break
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    else:
        print(codes)
        os._exit(0)
    manager = pertinax.Manager(f"{sys.argv[1]}/{number}")
    manager.save(1, {"n": 1})
    manager.wait()
    manager.save(2, {"n": 2, "a": np.arange(1_000_000)})
    exec(ending)
"""


def test_a_save_in_flight_is_finished_or_was_never_there(gcs):
    root = gcs.new_root()
    source = str(Path(pertinax.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), root],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": source},
    )
    assert done.stdout.strip() == str([0, 3, 1, 4, -signal.SIGTERM]), done.stderr
    for number in range(5):
        with pertinax.Manager(f"{root}/{number}") as manager:
            assert manager.steps() in ([[1, 2]] if number < 3 else [[1], [1, 2]])
            found = manager.load()
            assert found["n"] == max(manager.steps())
            assert found["n"] == 1 or np.array_equal(found["a"], np.arange(1_000_000))
            assert pertinax.verify(f"{root}/{number}/1").ok
            manager.save(3, {"n": 3})
            manager.wait()
            assert manager.latest() == 3


@pytest.mark.campaign
def test_a_save_through_the_orbax_door_is_finished_or_was_never_there(s3):
    root = s3.new_root()
    run(root)
    look(root)
