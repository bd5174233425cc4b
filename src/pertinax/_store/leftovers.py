# SPDX-License-Identifier: Apache-2.0
"""Invisible names: what dies, what was set aside, and what a dead process left behind.

Knows how temporary names are built and in which order names may change. Knows nothing of what the
directories hold. Two kinds of names stand beside a checkpoint `<final>`:

    <final><TMP_MARK><token>            being written or being deleted: invisible, worth nothing
    <final><TMP_MARK><token>-replaced   the old checkpoint, set aside where names cannot be swapped;
                                        as long as `<final>` is missing it *is* the checkpoint

The second kind is dangerous: if it survived the removal of `<final>`, a deleted checkpoint would
come back from the dead, perhaps with half its files. So it is always retired (renamed to the first
kind, and that made durable) before it or `<final>` is taken away.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pertinax._store.contract import Store
from pertinax._store.owner import TMP_MARK, new_token, owner_alive

REPLACED: Final = "-replaced"


@dataclass(frozen=True, slots=True)
class Leftover:
    """A temporary name, taken apart."""

    path: str
    final: str
    token: str
    replaced: bool


def hidden_name(final: str) -> str:
    """A new invisible name beside `final`, owned by this process."""
    return f"{final}{TMP_MARK}{new_token()}"


def parent_of(path: str) -> str:
    """The directory that holds `path`."""
    return path.rstrip("/").rpartition("/")[0] or "/"


def join_path(parent: str, name: str) -> str:
    """`name` in `parent`."""
    return f"{parent.rstrip('/')}/{name}"


def find_visible(store: Store, final: str) -> str | None:
    """Where the checkpoint `final` lies at this instant: there, set aside, or nowhere (None)."""
    if store.stat(final) is not None:
        return final
    aside = displaced(store, final)
    if aside is not None:
        return aside
    # A replacement may have finished between the two looks.
    return final if store.stat(final) is not None else None


def displaced(store: Store, final: str) -> str | None:
    """The old checkpoint, set aside by a replacement that has not put the new one in place."""
    if store.stat(final) is not None:
        return None
    aside = _set_aside(store, final)
    return aside[-1].path if aside else None


def restore_displaced(store: Store, final: str) -> None:
    """Give a checkpoint that was set aside its name back, unless its owner lives."""
    if store.stat(final) is not None:
        return
    for one in reversed(_set_aside(store, final)):
        if owner_alive(one.token) is True:
            continue
        # Somebody else may restore it, or finish, at the same time; either way `final` is there.
        with contextlib.suppress(FileExistsError, FileNotFoundError):
            store.rename(one.path, final)
        store.sync_dir(parent_of(final))
        return


def retire_displaced(store: Store, final: str) -> list[str]:
    """Make what was set aside for `final` worthless, durably. Returns the new, invisible names."""
    retired: list[str] = []
    for one in _set_aside(store, final):
        hidden = hidden_name(final)
        with contextlib.suppress(FileNotFoundError):
            store.rename(one.path, hidden)
            retired.append(hidden)
    if retired:
        store.sync_dir(parent_of(final))
    return retired


def hide(store: Store, path: str) -> list[str]:
    """Make a visible checkpoint invisible, durably; returns what is left to be removed.

    A crash leaves it whole or invisible, never in part. `FileNotFoundError` if there is none.
    """
    retired = retire_displaced(store, path)
    if store.stat(path) is not None or not retired:
        hidden = hidden_name(path)
        store.rename(path, hidden)
        store.sync_dir(parent_of(path))
        retired.append(hidden)
    return retired


def hide_all(store: Store, paths: Sequence[str]) -> tuple[dict[str, list[str]], dict[str, OSError]]:
    """As `hide`, for several checkpoints in one directory at the price of one sync.

    Returns, for each path that is invisible now, what is left to be removed (nothing, if it was
    not there), and why the others stay. Raises `OSError` if nobody can know what a power cut would
    bring back; nothing may be removed then.
    """
    hidden: dict[str, list[str]] = {}
    failures: dict[str, OSError] = {}
    if not paths:
        return hidden, failures
    parent = parent_of(paths[0])
    aside = {one.final for one in _leftovers(store, parent) if one.replaced}
    for path in paths:
        try:
            if path in aside:
                hidden[path] = hide(store, path)
            else:
                name = hidden_name(path)
                store.rename(path, name)
                hidden[path] = [name]
        except FileNotFoundError:
            hidden[path] = []
        except OSError as error:
            failures[path] = error
    store.sync_dir(parent)
    return hidden, failures


def discard(store: Store, path: str) -> None:
    """Delete a visible checkpoint: invisible first and durably so (`hide`), then gone."""
    for hidden in hide(store, path):
        remove_tree(store, hidden)


def remove_tree(store: Store, path: str) -> None:
    """Delete a file or a directory with all that is in it. Links are cut, never followed."""
    try:
        store.remove_file(path)
    except IsADirectoryError:
        _remove_dir(store, path)


def clean_leftovers(store: Store, parent: str, *, dry_run: bool = False) -> list[str]:
    """Delete what dead processes left in `parent`; returns those paths.

    Only what bears a token of ours whose owner is proven dead. A checkpoint that was set aside and
    never replaced gets its name back. With `dry_run` nothing is touched.
    """
    doomed: list[Leftover] = []
    for one in _leftovers(store, parent):
        if one.replaced and store.stat(one.final) is None:
            if not dry_run:
                restore_displaced(store, one.final)
        elif owner_alive(one.token) is False:
            doomed.append(one)
    if doomed and not dry_run:
        # What looks invisible may be so in memory only: a replacement that died before its last
        # sync. To delete now, and lose the exchange of names to a power cut, would leave `final`
        # without its bytes.
        store.sync_dir(parent)
        for one in doomed:
            _remove_leftover(store, one)
    return [one.path for one in doomed]


def parse_leftover(path: str) -> Leftover | None:
    """Take a temporary name apart, or None if it is not one."""
    parent, name = parent_of(path), path.rstrip("/").rpartition("/")[2]
    final, mark, token = name.rpartition(TMP_MARK)
    if not mark or not final:
        return None
    replaced = token.endswith(REPLACED)
    return Leftover(path, join_path(parent, final), token.removesuffix(REPLACED), replaced)


def _remove_leftover(store: Store, one: Leftover) -> None:
    with contextlib.suppress(FileNotFoundError):  # two cleaners at once
        if one.replaced:
            hidden = hidden_name(one.final)
            store.rename(one.path, hidden)
            store.sync_dir(parent_of(one.path))
            remove_tree(store, hidden)
        else:
            remove_tree(store, one.path)


def _remove_dir(store: Store, path: str) -> None:
    for entry in store.list_dir(path):
        child = join_path(path, entry.name)
        if entry.is_dir:
            _remove_dir(store, child)
        else:
            store.remove_file(child)
    store.remove_dir(path)


def _leftovers(store: Store, parent: str) -> list[Leftover]:
    # A root may hold ten thousand steps and no leftover: names are told apart before anything else.
    names = sorted(entry.name for entry in store.list_dir(parent) if TMP_MARK in entry.name)
    found = (parse_leftover(join_path(parent, name)) for name in names)
    return [one for one in found if one is not None]


def _set_aside(store: Store, final: str) -> list[Leftover]:
    final = final.rstrip("/")
    try:
        found = _leftovers(store, parent_of(final))
    except FileNotFoundError:
        return []
    return [one for one in found if one.replaced and one.final == final]
