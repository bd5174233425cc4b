# SPDX-License-Identifier: Apache-2.0
"""A store that hands everything to another, for those that do some of it themselves.

Knows the methods of a store. Knows nothing of what they do.
"""

from pertinax._store.contract import Entry, Reader, Stat, Traits, Writer
from pertinax._store.objects.store import ObjectStore


class Delegating:
    """What `base` does."""

    def __init__(self, base: ObjectStore) -> None:
        self.base = base

    @property
    def traits(self) -> Traits:
        return self.base.traits

    def absolute(self, text: str) -> str:
        """As `base` has it."""
        return self.base.absolute(text)

    def make_dir(self, path: str, mode: int = 0o777) -> None:
        self.base.make_dir(path, mode)

    def create(self, path: str, length: int = 0) -> Writer:
        return self.base.create(path, length)

    def sync_dir(self, path: str) -> None:
        self.base.sync_dir(path)

    def rename(self, source: str, target: str) -> None:
        self.base.rename(source, target)

    def exchange(self, one: str, other: str) -> None:
        self.base.exchange(one, other)

    def remove_file(self, path: str) -> None:
        self.base.remove_file(path)

    def remove_dir(self, path: str) -> None:
        self.base.remove_dir(path)

    def list_dir(self, path: str) -> list[Entry]:
        return self.base.list_dir(path)

    def stat(self, path: str) -> Stat | None:
        return self.base.stat(path)

    def open(self, path: str) -> Reader:
        return self.base.open(path)

    def free_bytes(self, path: str) -> int | None:
        return self.base.free_bytes(path)
