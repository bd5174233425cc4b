# SPDX-License-Identifier: Apache-2.0
"""What the mirrored API keeps for the whole program: which handler class belongs to which args
class, which type handler to which type of leaf, and numbers that processes count in step.

Knows the maps and counters, and nothing of what uses them. This is the one module of the library
with state of its own.
"""

import itertools
import time
from collections import defaultdict
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from pertinax.checkpoint._adapt.type_table import TypeTable

SAVE_HANDLERS: dict[type, type] = {}
"""Args class -> handler class, in the order of registration."""
RESTORE_HANDLERS: dict[type, type] = {}
"""The same for restoring."""
GLOBAL_TYPE_HANDLER_REGISTRY = TypeTable()
"""The type handlers of programs that name no registry."""
LAST_SAID: dict[str, float] = {}
"""When a warning that need not be repeated was last logged, in seconds of the monotonic clock."""
COUNTERS: defaultdict[str, Iterator[int]] = defaultdict(itertools.count)
"""What `multihost.counters` has counted, by use."""
RUNTIME_TO_DISTRIBUTED_IDS: list[int] = []
"""For each of JAX's processes the number that `jax.distributed` has for it; empty until asked."""
OPERATION: ContextVar[Any] = ContextVar("pertinax_operation", default=None)
"""What the processes of the job are at, as far as the calling code is a part of it."""
LAST_SAVE_BEGAN_S: list[float] = [time.time()]
"""When the last published save began, in seconds since the epoch; at first, when we were loaded."""
