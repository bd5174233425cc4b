# SPDX-License-Identifier: Apache-2.0
"""Peak memory of a process, seen from outside, so that looking does not slow down what is seen.

Knows `/proc`. Counts anonymous and shared-anonymous pages; pages of mapped files are the kernel's
to drop and do not count.
"""

import contextlib
import ctypes
import os
import select
import subprocess
import sys
import time
from typing import Self

_EVERY_S = 0.002


def resident(pid: int | str) -> int:
    """Bytes of anonymous memory that the process has touched."""
    total = 0
    with open(f"/proc/{pid}/status") as lines:
        for line in lines:
            if line.startswith(("RssAnon:", "RssShmem:")):
                total += int(line.split()[1]) * 1024
    return total


class PeakMemory:
    """Context manager: `.extra` is the peak during the block beyond what there was before."""

    def __enter__(self) -> Self:
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).malloc_trim(0)  # what was freed before must not hide what comes
        self.before = resident("self")
        command = [sys.executable, "-S", __file__, str(os.getpid())]
        self._watcher = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._watcher.stdout is not None
        self._watcher.stdout.readline()  # it is watching now
        self.peak = self.before
        return self

    @property
    def extra(self) -> int:
        """Bytes beyond what there was before."""
        return max(0, self.peak - self.before)

    def __exit__(self, *_: object) -> None:
        out, _err = self._watcher.communicate("")
        self.peak = max(self.before, int(out))


def _watch(pid: int) -> None:
    print("watching", flush=True)
    peak = 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        peak = max(peak, resident(pid))
        time.sleep(_EVERY_S)
    print(peak)


if __name__ == "__main__":
    _watch(int(sys.argv[1]))
