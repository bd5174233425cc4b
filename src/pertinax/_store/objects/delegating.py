# SPDX-License-Identifier: Apache-2.0
"""A store that hands all changes to another, for those that answer questions themselves.

Knows the methods of a store. Knows nothing of what they do.
"""

from pertinax._store.contract import Traits, Writer
from pertinax._store.objects.store import ObjectStore


class Delegating:
    """What `base` does, but for `list_dir`, `stat` and `open`."""

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

    def free_bytes(self, path: str) -> int | None:
        return self.base.free_bytes(path)
