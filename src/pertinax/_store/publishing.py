# SPDX-License-Identifier: Apache-2.0
"""Publishing: how checkpoints appear, vanish and are found in a store.

Knows that there are two ways: names change (`draft`, `leftovers`), or a marker comes and goes
(`objects.publishing`). Knows nothing of either. Whoever makes or removes a checkpoint asks here,
and never what kind of store it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol, Self, final, runtime_checkable

from pertinax._store import draft, leftovers, replacing
from pertinax._store.contract import Buffer, Entry, Store

Look = Literal["visible", "unfinished", "other", "missing"]
"""What lies at a path: a checkpoint, or what a save has left that was never published, or anything
else, or nothing. Where names tell, whatever is there counts as visible."""


@dataclass(frozen=True, slots=True)
class Hidden:
    """A checkpoint that is out of sight: what is left to be removed, and what would bring it back.

    Attributes:
        final: where it was seen.
        names: what holds it now, the checkpoint itself last; empty if there was nothing.
        marker: what made it visible, where that is a file.
    """

    final: str
    names: tuple[str, ...] = ()
    marker: bytes = b""


class AnyDraft(Protocol):
    """A checkpoint in the making. As a context manager it abandons what was not committed."""

    @property
    def store(self) -> Store:
        """Where to write it."""
        ...

    @property
    def final(self) -> str:
        """Where it will be seen."""
        ...

    @property
    def path(self) -> str:
        """Where it lies until then."""
        ...

    @property
    def write_id(self) -> str | None:
        """What its marker must contain, where a marker is all that makes it visible."""
        ...

    def make_dir(self, name: str) -> None:
        """Make a directory in the draft; its parent must be there."""
        ...

    def write_file(self, name: str, content: Buffer) -> int:
        """Write a whole file and make its bytes durable. Returns its length."""
        ...

    def locate(self, name: str) -> str:
        """The path of `name` inside the draft. `ValueError` if it is not inside."""
        ...

    def commit(self, *, replace: bool) -> None:
        """Make it visible as `final`, whole and durable. Every file must have been synced."""
        ...

    def abandon(self) -> None:
        """Remove everything, as far as the store lets us. Never raises an error of the store."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Appearing(Protocol):
    """How checkpoints are made. Methods raise `OSError`s."""

    @property
    def replaces(self) -> bool:
        """Whether one checkpoint can take the place of another without a moment of neither."""
        ...

    def open_draft(
        self,
        final: str,
        *,
        mode: int = 0o777,
        path: str | None = None,
        shared: bool = False,
        window_bytes: int | None = None,
    ) -> AnyDraft:
        """Begin a checkpoint, invisible, at `path` if the caller knows better than we do.

        `shared`: other processes write into it, too. `window_bytes`: how much of large files may be
        in memory on its way, where they must be.
        """
        ...

    def join_draft(self, final: str, path: str, *, window_bytes: int | None = None) -> AnyDraft:
        """The draft that another process has opened at `path`; that one commits."""
        ...

    def clean_beside(self, final: str) -> None:
        """Remove what dead processes left where `final` will be."""
        ...

    def make_dirs(self, path: str) -> None:
        """Make a directory and the parents that it lacks, durably, where there are such things."""
        ...

    def replace_file(self, path: str, data: bytes) -> None:
        """Put a small file in the place of whatever is there. Not synced."""
        ...


class Looking(Protocol):
    """How checkpoints are found. Methods raise `OSError`s."""

    def find_visible(self, final: str) -> str | None:
        """Where the checkpoint `final` lies at this instant, or None."""
        ...

    def look(self, final: str) -> Look:
        """What lies at a path."""
        ...

    def view(self, path: str) -> Store:
        """A store for reading what lies at `path` now."""
        ...

    def list_root(self, root: str) -> list[Entry]:
        """What lies in a root. Directories are visible checkpoints, or bear temporary names."""
        ...

    def times(self, root: str) -> Mapping[str, int] | None:
        """When each visible checkpoint directly in a root appeared, by name, in nanoseconds since
        the epoch; None where the times of directories say it.
        """
        ...


class Vanishing(Protocol):
    """How checkpoints go. Methods raise `OSError`s."""

    def hide(self, path: str) -> Hidden:
        """Make a checkpoint invisible, durably. `FileNotFoundError` if there is none."""
        ...

    def hide_all(self, paths: Sequence[str]) -> tuple[dict[str, Hidden], dict[str, OSError]]:
        """As `hide` for several in one root: those that are invisible now, also those that were not
        there, and why the others stay. Raises `OSError` if nobody can know.
        """
        ...

    def restore(self, hidden: Hidden) -> None:
        """Make visible again what was hidden and not removed."""
        ...

    def remove(self, hidden: Hidden) -> None:
        """Remove what was hidden. It may be gone already."""
        ...

    def clean(self, root: str, *, dry_run: bool = False) -> list[str]:
        """Remove what dead processes left in a root; returns those paths."""
        ...

    def remove_unfinished(self, path: str) -> bool:
        """Remove what lies at `path` and was never published, whoever left it; whether anything was
        there. `WriterConflict` if somebody is known to be writing it.
        """
        ...


class Publishing(Appearing, Looking, Vanishing, Protocol):
    """How checkpoints appear, vanish and are found."""


@runtime_checkable
class Publishes(Protocol):
    """A store with a way of its own."""

    def publishing(self) -> Publishing:
        """How checkpoints appear in it."""
        ...


def publishing(store: Store) -> Publishing:
    """How checkpoints appear in a store."""
    return store.publishing() if isinstance(store, Publishes) else RenamePublishing(store)


class _Renamed:
    """What is found, and goes, by its name."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def find_visible(self, final: str) -> str | None:
        """Under its name, or set aside by an interrupted replacement."""
        return leftovers.find_visible(self._store, final)

    def look(self, final: str) -> Look:
        """Whatever has the name is visible."""
        return "missing" if self._store.stat(final) is None else "visible"

    def view(self, path: str) -> Store:  # noqa: ARG002 - looking costs nothing
        """The store."""
        return self._store

    def list_root(self, root: str) -> list[Entry]:
        """One listing."""
        return self._store.list_dir(root)

    def times(self, root: str) -> Mapping[str, int] | None:  # noqa: ARG002
        """Directories have times."""
        return None

    def hide(self, path: str) -> Hidden:
        """Rename it, durably."""
        return Hidden(path, tuple(leftovers.hide(self._store, path)))

    def hide_all(self, paths: Sequence[str]) -> tuple[dict[str, Hidden], dict[str, OSError]]:
        """At the price of one sync."""
        hidden, failures = leftovers.hide_all(self._store, paths)
        return {path: Hidden(path, tuple(names)) for path, names in hidden.items()}, failures

    def restore(self, hidden: Hidden) -> None:
        """Give it its name back."""
        if hidden.names:
            self._store.rename(hidden.names[-1], hidden.final)
            self._store.sync_dir(leftovers.parent_of(hidden.final))
        self.remove(Hidden(hidden.final, hidden.names[:-1]))

    def remove(self, hidden: Hidden) -> None:
        """Delete the trees."""
        for name in hidden.names:
            try:
                leftovers.remove_tree(self._store, name)
            except FileNotFoundError:
                continue

    def remove_unfinished(self, path: str) -> bool:
        """Delete the tree, which nobody is known to write."""
        there = self._store.stat(path) is not None
        if there:
            leftovers.remove_tree(self._store, path)
        return there

    def clean(self, root: str, *, dry_run: bool = False) -> list[str]:
        """What bears the names of the dead."""
        return leftovers.clean_leftovers(self._store, root, dry_run=dry_run)


@final
class RenamePublishing(_Renamed):
    """Publishing by renaming: see `draft` and `leftovers`."""

    @property
    def replaces(self) -> bool:
        """Names can be swapped, or as good as that."""
        return True

    def open_draft(
        self,
        final: str,
        *,
        mode: int = 0o777,
        path: str | None = None,
        shared: bool = False,  # noqa: ARG002 - all see the same directory
        window_bytes: int | None = None,  # noqa: ARG002 - nothing is kept
    ) -> draft.Draft:
        """An invisible directory beside `final`."""
        return draft.open_draft(self._store, final, mode=mode, path=path)

    def join_draft(
        self,
        final: str,
        path: str,
        *,
        window_bytes: int | None = None,  # noqa: ARG002
    ) -> draft.Draft:
        """The same directory."""
        return draft.Draft(self._store, final, path)

    def clean_beside(self, final: str) -> None:
        """The same in the directory that holds `final`."""
        leftovers.clean_leftovers(self._store, leftovers.parent_of(final))

    def make_dirs(self, path: str) -> None:
        """One after the other."""
        draft.make_dirs(self._store, path)

    def replace_file(self, path: str, data: bytes) -> None:
        """Beside it first, then in its place."""
        replacing.replace_file(self._store, path, data, leftovers.hidden_name(path))
