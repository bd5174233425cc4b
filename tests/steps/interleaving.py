# SPDX-License-Identifier: Apache-2.0
"""Several workers on one store, one call at a time, in an order that the test decides."""

import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from pertinax._store.contract import Store
from tests.steps.trees import Intercepted


class Waiting(NamedTuple):
    """A worker ahead of its next call; `idle`: it waits for another one's doing."""

    name: str
    idle: bool


Choose = Callable[[Sequence[Waiting]], str]


class Interleaving:
    """Runs workers in threads of their own. Ahead of each call of the store, and where one would
    sleep, all stand still, and `choose` says who goes on.
    """

    def __init__(self, disk: Store, choose: Choose) -> None:
        self.store: Any = Intercepted(disk, lambda *_: self.pause())
        self._choose = choose
        self._change = threading.Condition()
        self._waiting: dict[str, bool] = {}
        self._running: set[str] = set()
        self._next: str | None = None

    def run(self, **workers: Callable[[], Any]) -> dict[str, Any]:
        """What each worker returned or raised."""
        results: dict[str, Any] = {}

        def work(name: str, worker: Callable[[], Any]) -> None:
            try:
                results[name] = worker()
            except Exception as error:
                results[name] = error
            finally:
                with self._change:
                    self._running.discard(name)
                    self._pick()

        self._running = set(workers)
        threads = [
            threading.Thread(target=work, args=one, name=one[0], daemon=True)
            for one in workers.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), "nobody goes on"
        return results

    def pause(self, *, idle: bool = False) -> None:
        name = threading.current_thread().name
        if name not in self._running:
            return
        with self._change:
            self._waiting[name] = idle
            self._pick()
            self._change.wait_for(lambda: self._next == name)
            self._next = None
            del self._waiting[name]

    def sleep(self, _: float) -> None:
        self.pause(idle=True)

    def _pick(self) -> None:
        if self._next is None and self._waiting and self._waiting.keys() == self._running:
            self._next = self._choose([Waiting(*one) for one in sorted(self._waiting.items())])
            self._change.notify_all()


def first_then(first: str, calls: int) -> Choose:
    """`first` makes so many calls; then all others go on as far as they can, then it, too."""
    left = [calls]

    def choose(waiting: Sequence[Waiting]) -> str:
        names = [one.name for one in waiting]
        if first in names and left[0] > 0:
            left[0] -= 1
            return first
        busy = [one.name for one in waiting if one.name != first and not one.idle]
        return busy[0] if busy else first if first in names else names[0]

    return choose
