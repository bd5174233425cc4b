# SPDX-License-Identifier: Apache-2.0
"""A save removes what dead processes left beside its path, and nothing else."""

import subprocess
import sys
from pathlib import Path

import pertinax
from pertinax._store.owner import TMP_MARK, new_token

_DIE = """
import sys
from pertinax._store.owner import TMP_MARK, new_token
print(TMP_MARK + new_token())
"""


def test_a_save_cleans_what_the_dead_left_and_spares_the_living(tmp_path: Path) -> None:
    dead_mark = subprocess.run(
        [sys.executable, "-c", _DIE], capture_output=True, text=True, check=True
    ).stdout.strip()
    dead = tmp_path / f"state{dead_mark}"
    alive = tmp_path / f"state{TMP_MARK}{new_token()}"
    foreign = tmp_path / f"state{TMP_MARK}-12"
    for one in (dead, alive, foreign):
        one.mkdir()
        (one / "data").write_bytes(b"half")
    pertinax.save(tmp_path / "state", {"w": 1})
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["state", alive.name, foreign.name])
    assert pertinax.load(tmp_path / "state") == {"w": 1}
