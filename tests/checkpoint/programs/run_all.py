# SPDX-License-Identifier: Apache-2.0
"""Runs every program of this folder with the library that is installed; prints what they told.

    python run_all.py DIRECTORY

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
NAMES = (
    "background",
    "checkpointers",
    "evaluators",
    "futures",
    "items",
    "leaf_types",
    "manager_edges",
    "manager_failures",
    "manager_handlers",
    "manager_items",
    "manager_kinds",
    "manager_legacy",
    "manager_metrics",
    "manager_random",
    "manager_retention",
    "manager_saving",
    "mappings",
    "monitored",
    "paths",
    "preemption",
    "registries",
    "standard",
    "step_names",
    "texts",
)


def main(root: Path) -> None:
    sys.path.insert(0, str(HERE))
    import saying

    told = {}
    for name in NAMES:
        (root / name).mkdir()
        sys.argv = [name, str(root / name)]
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            runpy.run_path(str(HERE / f"{name}.py"))
        told[name] = saying.heard()
    print(json.dumps(told, ensure_ascii=False))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
