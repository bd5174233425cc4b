# SPDX-License-Identifier: Apache-2.0
"""How much longer `import pertinax` takes than `import jax` alone.

JAX is imported first, then the clock starts: what pertinax shares with JAX costs nothing, what it
needs beyond does, and neither the start of Python nor JAX's own import adds noise. Every sample is
a fresh process. Prints milliseconds: the median.
"""

import statistics
import subprocess
import sys

TIMES = 11
_CODE = """
import time, jax
began = time.perf_counter()
import pertinax
print(time.perf_counter() - began)
"""


def measure(times: int = TIMES) -> list[float]:
    """For each process, the seconds of `import pertinax` after `import jax`."""
    return [_once() for _ in range(times + 1)][1:]  # the first one writes byte code


def _once() -> float:
    command = [sys.executable, "-c", _CODE]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    found = measure()
    print(f"{statistics.median(found) * 1e3:.1f} ms beyond import jax (min {min(found) * 1e3:.1f})")
