# SPDX-License-Identifier: Apache-2.0
"""Buckets for tests: in memory, and each request a step that can be watched, cut or delayed."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence

from pertinax._store.contract import Buffer
from pertinax._store.objects.requests import Meta
from pertinax._store.objects.store import ObjectStore
from pertinax.testing import SimulatedDeath

FRONT = "memory://bucket"
CHANGES = ("put", "create", "upload", "delete")


class Shelf:
    """The objects of a bucket, as the server has them. Its clock goes when it is told to."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, int, int]] = {}
        self.lock = threading.RLock()
        self.late_s = 0.0
        self._version = 0

    def now_ns(self) -> int:
        return time.time_ns() + int(self.late_s * 1e9)

    def store(self, key: str, data: bytes) -> None:
        self._version += 1
        self.objects[key] = (data, self.now_ns(), self._version)

    def meta(self, key: str) -> Meta:
        data, when, version = self.objects[key]
        return Meta(key, len(data), when, str(version))

    def content(self) -> dict[str, bytes]:
        return {key: data for key, (data, _, _) in sorted(self.objects.items())}


class Memory:
    """Requests to a shelf. `before(method, key)` is called before each, `after` when it is done and
    the reply is on its way: either may raise, or wait.
    """

    front = FRONT

    def __init__(
        self,
        shelf: Shelf,
        before: Callable[[str, str], None] | None = None,
        after: Callable[[str, str], None] | None = None,
    ) -> None:
        self.shelf = shelf
        self.before = before or (lambda method, key: None)
        self.after = after or (lambda method, key: None)
        self.log: list[tuple[str, str]] = []

    def _do(self, method: str, key: str, work: Callable[[], object]) -> object:
        self.before(method, key)
        with self.shelf.lock:
            self.log.append((method, key))
            result = work()
        self.after(method, key)
        return result

    def head(self, key: str) -> Meta | None:
        shelf = self.shelf
        return self._do("head", key, lambda: shelf.meta(key) if key in shelf.objects else None)

    def get(self, key: str) -> bytes:
        return self._do("get", key, lambda: self._data(key))

    def get_range(self, key: str, start: int, stop: int) -> tuple[Buffer, Meta]:
        def work() -> tuple[Buffer, Meta]:
            data = self._data(key)
            if start >= len(data):
                raise EOFError(key)
            return data[start:stop], self.shelf.meta(key)

        return self._do("get", key, work)

    def put(self, key: str, data: Buffer) -> None:
        self._do("put", key, lambda: self.shelf.store(key, bytes(data)))

    def create(self, key: str, data: Buffer) -> None:
        def work() -> None:
            if key in self.shelf.objects:
                raise FileExistsError(17, "there is an object", key)
            self.shelf.store(key, bytes(data))

        self._do("create", key, work)

    def upload(
        self, key: str, pieces: Iterator[Buffer], part_bytes: int, parts_at_once: int
    ) -> None:
        data = b"".join(bytes(piece) for piece in pieces)
        self._do("upload", key, lambda: self.shelf.store(key, data))

    def list(self, prefix: str) -> Iterator[Sequence[Meta]]:
        front = f"{prefix}/" if prefix else ""
        shelf = self.shelf
        found = self._do(
            "list",
            prefix,
            lambda: [shelf.meta(key) for key in sorted(shelf.objects) if key.startswith(front)],
        )
        for start in range(0, len(found), 1000):
            yield found[start : start + 1000]

    def list_level(self, prefix: str) -> tuple[Sequence[str], Sequence[Meta]]:
        front = f"{prefix}/" if prefix else ""
        shelf = self.shelf

        def work() -> tuple[list[str], list[Meta]]:
            keys = [key for key in sorted(shelf.objects) if key.startswith(front)]
            below = {
                front + key[len(front) :].partition("/")[0]
                for key in keys
                if "/" in key[len(front) :]
            }
            return sorted(below), [shelf.meta(key) for key in keys if "/" not in key[len(front) :]]

        return self._do("list", prefix, work)

    def delete(self, keys: Sequence[str]) -> None:
        if keys:
            self._do("delete", keys[0], lambda: [self.shelf.objects.pop(k, None) for k in keys])

    def _data(self, key: str) -> bytes:
        if key not in self.shelf.objects:
            raise FileNotFoundError(2, "no such object", key)
        return self.shelf.objects[key][0]


class Dying(Memory):
    """The process dies at its n-th request, before it is carried out or after."""

    def __init__(self, shelf: Shelf, at: int, *, carried_out: bool = False) -> None:
        super().__init__(shelf, self._count, self._count_after)
        self._at = at
        self._carried_out = carried_out
        self.requests = 0
        self.dead = False

    def _count(self, method: str, key: str) -> None:
        if self.dead:
            raise SimulatedDeath
        self.requests += 1
        if self.requests == self._at and not self._carried_out:
            self.dead = True
            raise SimulatedDeath

    def _count_after(self, method: str, key: str) -> None:
        if self.requests == self._at and self._carried_out:
            self.dead = True
            raise SimulatedDeath


def bucket(requests: Memory, *, lease_s: float = 60.0) -> ObjectStore:
    return ObjectStore.on(requests, FRONT, lease_s=lease_s)
