# SPDX-License-Identifier: Apache-2.0
"""Who says it: the beginning of each line of the log that may come from several threads at once.

Knows the process, the thread and the step. Knows nothing of what is said.
"""

import threading

from pertinax.checkpoint import multihost


def teller(step: int | None = None) -> str:
    """The beginning of a line: `[process=0][thread=MainThread][step=3]`."""
    where = f"[process={multihost.process_index()}][thread={threading.current_thread().name}]"
    return where if step is None else f"{where}[step={step}]"
