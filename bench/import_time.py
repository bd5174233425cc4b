"""How much longer `import pertinax` takes than `import jax` alone.

Each is imported in a fresh process, in pairs; the clock runs inside the process, so that starting
Python does not count. Prints milliseconds: median of the differences.
"""

import statistics
import subprocess
import sys

PAIRS = 11
_CODE = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"


def import_seconds(statement: str) -> float:
    """Seconds that the statement takes in a fresh process."""
    command = [sys.executable, "-c", _CODE.format(statement)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(pairs: int = PAIRS) -> list[float]:
    """For each pair of processes, the seconds beyond `import jax`."""
    import_seconds("import jax; import pertinax")  # byte code and page cache
    both = "import jax; import pertinax"
    return [import_seconds(both) - import_seconds("import jax") for _ in range(pairs)]


if __name__ == "__main__":
    found = measure()
    print(f"{statistics.median(found) * 1e3:.1f} ms beyond import jax (min {min(found) * 1e3:.1f})")
