"""The registries that the mirrored API keeps for the whole program: which handler class belongs to
which args class.

Knows the maps, and nothing of what fills them. This is the one module of the library with state of
its own.
"""

SAVE_HANDLERS: dict[type, type] = {}
"""Args class -> handler class, in the order of registration."""
RESTORE_HANDLERS: dict[type, type] = {}
"""The same for restoring."""
