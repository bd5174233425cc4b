# SPDX-License-Identifier: Apache-2.0
"""A store that answers questions about names from one listing.

Knows keys below one prefix. Knows nothing of what is there. For whoever looks at a checkpoint: it
asks a dozen questions, and each would be a request. What is visible never changes, so a listing is
as good as its moment.
"""

from collections.abc import Mapping
from typing import Final, final

from pertinax._store.contract import Entry, Reader, Stat, Store
from pertinax._store.objects.delegating import Delegating
from pertinax._store.objects.requests import Meta
from pertinax._store.objects.store import ATTEMPT, ObjectStore, time_of

_MOST_PAGES: Final = 5
"""Longer listings cost more than they save: arrays of many files are found without them."""


@final
class Listed(Delegating):
    """The store `base`, with a listing of all that lies below `path`."""

    def __init__(self, base: ObjectStore, path: str, metas: Mapping[str, Meta]) -> None:
        super().__init__(base)
        self._front = path
        self._levels: dict[str, dict[str, Meta | None]] = {path: {}}
        for key, meta in metas.items():
            self._add(f"{base.requests.front}/{key}", meta)

    @classmethod
    def of(cls, base: ObjectStore, path: str) -> Store:
        """List what lies below `path`; the store itself, if that is too much."""
        path = path.rstrip("/")
        metas: dict[str, Meta] = {}
        for number, page in enumerate(base.requests.list(base.key(path))):
            if number >= _MOST_PAGES:
                return base
            metas.update({one.key: one for one in page})
        return cls(base, path, metas) if metas else base

    def _add(self, path: str, meta: Meta) -> None:
        if meta.key.endswith("/"):
            return
        above, _, name = path.rpartition("/")
        self._levels.setdefault(above, {})[name] = meta
        while above != self._front:
            above, _, name = above.rpartition("/")
            level = self._levels.setdefault(above, {})
            if name in level:
                return
            level[name] = None

    def publishing(self) -> object:
        """As of the store below."""
        return self.base.publishing()

    def list_dir(self, path: str) -> list[Entry]:
        level = self._levels.get(path.rstrip("/"))
        if level is None:
            return self.base.list_dir(path)
        return [
            Entry(name, is_dir=meta is None)
            for name, meta in level.items()
            if not name.startswith(ATTEMPT)
        ]

    def stat(self, path: str) -> Stat | None:
        path = path.rstrip("/")
        level = self._levels.get(path)
        if level is not None:
            own = [meta for meta in level.values() if meta is not None]
            return Stat(is_dir=True, length=0, mtime_ns=time_of(own))
        if not path.startswith(f"{self._front}/"):
            return self.base.stat(path)
        meta = self._meta(path)
        return None if meta is None else Stat(False, meta.length, meta.modified_ns)  # noqa: FBT003

    def open(self, path: str) -> Reader:
        return self.base.open_known(path, self._meta(path))

    def _meta(self, path: str) -> Meta | None:
        above, _, name = path.rpartition("/")
        return self._levels.get(above, {}).get(name)
