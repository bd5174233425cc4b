# SPDX-License-Identifier: Apache-2.0
"""Quiet: no garbage collection while thousands of objects are made that all stay alive.

Knows Python's collector. Knows nothing of what is made. Each of its full passes walks every object
of the program, JAX's modules included, finds nothing, and stops all threads meanwhile: a quarter of
the time of a load of 10,000 leaves.
"""

import contextlib
import gc
from collections.abc import Iterator

MANY = 1000
"""Below this many leaves it is not worth the while."""


@contextlib.contextmanager
def collector_paused(leaves: int) -> Iterator[None]:
    """No automatic garbage collection inside, if there are many leaves and nobody else has switched
    it off.
    """
    if leaves < MANY or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
