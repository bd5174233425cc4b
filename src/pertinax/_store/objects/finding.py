# SPDX-License-Identifier: Apache-2.0
"""Finding checkpoints in an object store, by their markers.

Knows keys and listings. Knows nothing of who writes.
"""

from collections.abc import Mapping

from pertinax._store.contract import Entry, Store
from pertinax._store.objects.listed import Listed
from pertinax._store.objects.store import ATTEMPT, MARKER, ObjectStore
from pertinax._store.publishing import Look


class Finding:
    """The questions of `Publishing`."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self.requests = store.requests

    def find_visible(self, final: str) -> str | None:
        """`final`, if its marker is there, or that of the step whose item it is."""
        final = final.rstrip("/")
        key = self.store.key(final)
        if not key:
            return None
        if self.requests.head(f"{key}/{MARKER}") is not None:
            return final
        above = key.rpartition("/")[0]
        if not above or self.requests.head(f"{above}/{MARKER}") is None:
            return None
        prefixes, objects = self.requests.list_level(key)
        return final if prefixes or objects else None

    def look(self, final: str) -> Look:
        """What lies at a path."""
        final = final.rstrip("/")
        if self.find_visible(final) is not None:
            return "visible"
        key = self.store.key(final)
        prefixes, objects = self.requests.list_level(key)
        names = {one.key.rpartition("/")[2] for one in objects}
        if any(name.startswith(ATTEMPT) for name in names):
            return "unfinished"
        if not prefixes and not objects:
            found = self.requests.head(key) if key else None
            return "missing" if found is None else "other"
        return "other"

    def view(self, path: str) -> Store:
        """The store, with one listing that answers all questions about names below `path`."""
        return Listed.of(self.store, path)

    def list_root(self, root: str) -> list[Entry]:
        """What is visible directly in `root`, from one listing; an empty list if there is nothing.

        Directories without a marker are left out, and so are files.
        """
        return [Entry(name, is_dir=True) for name in self.times(root)]

    def times(self, root: str) -> Mapping[str, int]:
        """When the markers in a root were made; from the same listing."""
        key = self.store.key(root)
        begin = len(key) + 1 if key else 0
        found: dict[str, int] = {}
        for page in self.requests.list(key):
            for one in page:
                name, _, rest = one.key[begin:].partition("/")
                if rest == MARKER:
                    found[name] = one.modified_ns
        return found
