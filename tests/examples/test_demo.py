# SPDX-License-Identifier: Apache-2.0
"""The demo tells its story to the end, and ends well only because the weights are equal.

Knows the demo's command line and what it prints. Knows nothing of how it works.
"""

import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo.py"


@pytest.mark.slow
@pytest.mark.crash
def test_the_demo_is_killed_in_a_save_and_ends_with_the_same_bits(tmp_path: Path) -> None:
    flags = ["--steps", "40", "--save-every", "5", "--width", "1024", "--output", "out"]
    ended = subprocess.run(
        [sys.executable, str(DEMO), *flags],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    told = ended.stdout + ended.stderr
    assert ended.returncode == 0, told
    assert "was being written" in told
    assert "It removed the unfinished save" in told
    assert "All 23 leaves of the final state equal" in told
    assert (tmp_path / "out" / "loss.png").stat().st_size > 10_000


@pytest.mark.slow
def test_a_run_that_is_already_done_has_nothing_to_do(tmp_path: Path) -> None:
    program = DEMO.with_name("train_digits.py")
    flags = ["--steps", "2", "--save-every", "2", "--width", "8"]
    told = [
        subprocess.run(
            [sys.executable, str(program), str(tmp_path / "root"), *flags],
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        ).stdout
        for _ in range(2)
    ]
    assert told[0].startswith("begins after step 0\n")
    assert told[1].startswith("begins after step 2\n")
    assert told[0].splitlines()[1] == told[1].splitlines()[1]
