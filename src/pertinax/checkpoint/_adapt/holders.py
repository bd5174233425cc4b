# SPDX-License-Identifier: Apache-2.0
"""Who holds snapshots: marks that readers leave beside them, each with the token of its process.

Knows one directory of marks and whose count. Knows nothing of what a snapshot is. Marks of the dead
do not count.
"""

import contextlib
import time
from collections.abc import Iterator
from typing import Final

from pertinax._store.contract import Store
from pertinax._store.leftovers import Leftover, join_path, parse_leftover
from pertinax._store.owner import owner_alive

# Nobody can tell from here whether a reader on another machine lives; none reads for so long.
_STRANGERS_HOLD_NS: Final = 24 * 3600 * 10**9


def held_names(store: Store, marks: str) -> set[str]:
    """The names that somebody holds who lives, or of whom nobody knows whether he does."""
    return {one.final.rpartition("/")[2] for one in _marks(store, marks) if _counts(store, one)}


def forget_dead(store: Store, marks: str) -> None:
    """Remove the marks that do not count, where each is a file."""
    for one in _marks(store, marks):
        if not _counts(store, one):
            with contextlib.suppress(FileNotFoundError):
                store.remove_file(one.path)


def _marks(store: Store, marks: str) -> Iterator[Leftover]:
    if store.stat(marks) is not None:
        found = (parse_leftover(join_path(marks, entry.name)) for entry in store.list_dir(marks))
        yield from (one for one in found if one is not None)


def _counts(store: Store, mark: Leftover) -> bool:
    alive = owner_alive(mark.token)
    if alive is not None:
        return alive
    stat = store.stat(mark.path)
    return stat is not None and time.time_ns() - stat.mtime_ns < _STRANGERS_HOLD_NS
