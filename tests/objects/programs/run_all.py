# SPDX-License-Identifier: Apache-2.0
"""Runs every program of this folder with the library that is installed; prints what they told.

    python run_all.py gs://BUCKET

Knows programs by their files. Runs under the Python of Orbax 0.8.0, so it imports nothing of ours.
"""

import contextlib
import io
import json
import runpy
import sys
import warnings
from pathlib import Path

HERE = Path(__file__).resolve().parent
NAMES = ("checkpointers", "iterator", "manager")


def main(root: str) -> None:
    sys.path[:0] = [str(HERE), str(HERE.parents[1] / "checkpoint" / "programs")]
    import directories
    import saying

    directories.install()
    told = {}
    for name in NAMES:
        sys.argv = [name, f"{root}/{name}/run"]
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            runpy.run_path(str(HERE / f"{name}.py"))
        told[name] = saying.heard()
    print(json.dumps(told, ensure_ascii=False))


if __name__ == "__main__":
    main(sys.argv[1])
