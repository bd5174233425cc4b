# SPDX-License-Identifier: Apache-2.0
"""Turns: one process at a time looks at something and acts on what it saw.

Knows directories that can be made, renamed and removed in one step, and who has died. Knows nothing
of what is done meanwhile. A turn is a directory that holds one other, named after who has it.
Taking it is one rename, to a name that must be free. It is ended, also for the dead, by removing
the inner directory and then the outer one, which fails if it is somebody else's by then: so nobody
can end a turn that he has not looked at.
"""

import contextlib
import errno
import time
from collections.abc import Iterator
from typing import Final

from pertinax._store.contract import Store
from pertinax._store.draft import make_dirs
from pertinax._store.leftovers import hidden_name, parent_of
from pertinax._store.owner import TMP_MARK, owner_alive

_PAUSE_S: Final = 0.01
_PATIENCE_S: Final = 60.0
# Nobody can tell from here whether a process on another machine lives; no turn takes so long.
_STRANGERS_TURN_NS: Final = 600 * 10**9


@contextlib.contextmanager
def turn(store: Store, place: str) -> Iterator[None]:
    """Have the turn called `place` while the block runs; the directory it lies in is made.

    For a few quick steps, not for reading or writing data. Raises `OSError` if a living process has
    it for a minute.
    """
    own = hidden_name(place)
    token = own.rpartition(TMP_MARK)[2]
    _prepare(store, own, token)
    try:
        _take(store, own, place)
    except BaseException:
        _end(store, own, token)
        raise
    try:
        yield
    finally:
        _end(store, place, token)


def _prepare(store: Store, own: str, token: str) -> None:
    while True:
        make_dirs(store, parent_of(own))
        with contextlib.suppress(FileNotFoundError):  # somebody has just tidied up
            store.make_dir(own)
            break
    store.make_dir(f"{own}/{token}")


def _take(store: Store, own: str, place: str) -> None:
    end_s = time.monotonic() + _PATIENCE_S
    while True:
        try:
            store.rename(own, place)
        except FileExistsError:
            if time.monotonic() > end_s:
                raise OSError(
                    errno.EBUSY, "somebody has this turn and does not end it", place
                ) from None
        else:
            return
        if not _end_for_the_dead(store, place):
            time.sleep(_PAUSE_S)


def _end_for_the_dead(store: Store, place: str) -> bool:
    """Whether it is worth trying again at once."""
    try:
        names = [entry.name for entry in store.list_dir(place)]
        stat = store.stat(place)
    except FileNotFoundError:
        return True
    if stat is None:
        return True
    old = time.time_ns() - stat.mtime_ns > _STRANGERS_TURN_NS
    for name in names:
        alive = owner_alive(name)
        if alive is False or (alive is None and old):
            _end(store, place, name)
            return True
    if not names:  # who had it is about to remove it, or died over that
        with contextlib.suppress(OSError):
            store.remove_dir(place)
        return True
    return False


def _end(store: Store, place: str, token: str) -> None:
    with contextlib.suppress(OSError):  # somebody has done so
        store.remove_dir(f"{place}/{token}")
        store.remove_dir(place)
