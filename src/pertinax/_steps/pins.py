# SPDX-License-Identifier: Apache-2.0
"""Pins: steps that live whatever the policy says, because somebody said so, under a label.

Knows one directory of empty files, `<root>/.pertinax/pins/<step>-<label>`. Knows nothing of
policies. Any process may pin: an evaluator can keep what a trainer would delete.
"""

import contextlib
import re
import time
from collections.abc import Iterator
from typing import Final

from pertinax._steps.index import PRIVATE_DIR
from pertinax._store.contract import Store
from pertinax._store.failures import storage_errors
from pertinax._store.leftovers import join_path
from pertinax._store.owner import new_token, owner_alive
from pertinax._store.publishing import publishing
from pertinax.errors import InvalidOption, StorageError

_LABEL: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_HELD: Final = "held-"
_HELD_NS: Final = 24 * 3600 * 10**9
_NAME: Final = re.compile(rf"([0-9]{{1,100}})-({_LABEL.pattern})")


def read_pins(store: Store, root: str) -> dict[int, tuple[str, ...]]:
    """The labels of each pinned step, whether it is there or not. One listing of a small directory.

    Raises `StorageError`.
    """
    with storage_errors("read the pins", root):
        try:
            entries = store.list_dir(_pins_dir(root))
        except (FileNotFoundError, NotADirectoryError):
            return {}
    found: dict[int, tuple[str, ...]] = {}
    for name in sorted(entry.name for entry in entries):
        match = _NAME.fullmatch(name)
        if match is not None and not _is_stale(store, root, name, match[2]):
            step = int(match[1])
            found[step] = (*found.get(step, ()), match[2])
    return found


def add_pin(store: Store, root: str, step: int, label: str) -> None:
    """Pin a step, durably. Pinning again does nothing. Raises `InvalidOption`, `StorageError`."""
    path = _pin_path(root, step, label)
    with storage_errors("pin the step", path):
        publishing(store).make_dirs(_pins_dir(root))
        with contextlib.suppress(FileExistsError), store.create(path) as writer:
            writer.sync()
        store.sync_dir(_pins_dir(root))


def remove_pin(store: Store, root: str, step: int, label: str) -> None:
    """Take a pin away; nothing happens if there is none. Raises as `add_pin` does."""
    path = _pin_path(root, step, label)
    with storage_errors("unpin the step", path), contextlib.suppress(FileNotFoundError):
        store.remove_file(path)
        store.sync_dir(_pins_dir(root))


@contextlib.contextmanager
def held_by_pin(store: Store, root: str, step: int) -> Iterator[None]:
    """Pin a step as long as the block runs, under a label of this process's own.

    If this process dies the pin counts no more: at once on this machine, elsewhere after a day.
    Raises as `add_pin` does.
    """
    label = f"{_HELD}{new_token()}"
    add_pin(store, root, step, label)
    try:
        yield
    finally:
        with contextlib.suppress(StorageError):
            remove_pin(store, root, step, label)


def _is_stale(store: Store, root: str, name: str, label: str) -> bool:
    """Whether a pin was to hold a step for somebody who is dead, or has held it for too long."""
    if not label.startswith(_HELD):
        return False
    path = join_path(_pins_dir(root), name)
    stale = owner_alive(label.removeprefix(_HELD)) is False
    if not stale:
        with storage_errors("look at a pin", path):
            found = store.stat(path)
        stale = found is None or time.time_ns() - found.mtime_ns > _HELD_NS
    if stale:
        with contextlib.suppress(OSError):
            store.remove_file(path)
    return stale


def _pins_dir(root: str) -> str:
    return join_path(join_path(root, PRIVATE_DIR), "pins")


def _pin_path(root: str, step: int, label: str) -> str:
    if not isinstance(label, str) or not _LABEL.fullmatch(label):
        raise InvalidOption(
            f"label={label!r}: letters, digits, '_', '-' and '.', at most 100, not '-' or '.' first"
        )
    return join_path(_pins_dir(root), f"{step}-{label}")
