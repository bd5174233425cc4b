# SPDX-License-Identifier: Apache-2.0
"""How long `pertinax.describe` takes on 10,000 leaves. Prints milliseconds: the median."""

import argparse
import json
import os
import shutil
import statistics
import time

LEAVES = 10_000
TIMES = 11


def measure(directory: str, times: int = TIMES) -> list[float]:
    """Seconds of each call, in this process, page cache warm."""
    from workloads import WORKLOADS

    import pertinax

    path = os.path.join(os.path.abspath(directory), "describe")
    os.makedirs(directory, exist_ok=True)
    try:
        pertinax.save(path, WORKLOADS["small10k"].build(False), exists="replace")
        found: list[float] = []
        for _ in range(times):
            began = time.perf_counter()
            description = pertinax.describe(path)
            found.append(time.perf_counter() - began)
            assert len(description.leaves) == LEAVES
        return found
    finally:
        shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", default=os.path.join(os.path.dirname(__file__), ".scratch"))
    parser.add_argument("--json", action="store_true", help="print all seconds as JSON instead")
    args = parser.parse_args()
    seconds = measure(args.dir)
    if args.json:
        print(json.dumps(seconds))
    else:
        print(f"{statistics.median(seconds) * 1e3:.1f} ms (min {min(seconds) * 1e3:.1f})")
