# SPDX-License-Identifier: Apache-2.0
"""Workers: the few threads that move bytes, and how many bytes they may carry at a time.

Knows threads and tasks. Knows nothing of what the tasks do. The standard library's executor refuses
work as soon as the main thread ends, which is exactly when a save in the background must still
finish; these go on until closed.
"""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Self, TypeVar, final

T = TypeVar("T")
S = TypeVar("S")
_Task = tuple["Future[Any]", Callable[[], Any]]


@final
class Workers:
    """A pool of `count` threads, `name-0`, `name-1`, ... Close it: it is a context manager.

    `budget_bytes` is what all of them together may carry; None: as much as they like.
    """

    def __init__(self, count: int, name: str, *, budget_bytes: int | None = None) -> None:
        self._budget = None if budget_bytes is None else _Budget(budget_bytes)
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{i}", daemon=False)
            for i in range(count)
        ]
        started: list[threading.Thread] = []
        try:
            for thread in self._threads:
                thread.start()
                started.append(thread)
        except BaseException:
            self._threads = started
            self.close()
            raise

    def submit(self, task: Callable[[], T]) -> "Future[T]":
        """Have `task` run by some thread."""
        future: Future[T] = Future()
        self._tasks.put((future, task))
        return future

    def run_all(self, tasks: Iterable[Callable[[], T]]) -> list[T]:
        """Results in order.

        A failure cancels what has not begun. Once all is still, that of the first task is raised:
        it is the same each time, for what comes before it had begun.
        """
        futures: list[Future[T]] = []
        try:
            for task in tasks:
                futures.append(self.submit(task))  # noqa: PERF401 - what there is must be cancelled
            done, waiting = wait(futures, return_when=FIRST_EXCEPTION)
        except BaseException:  # Ctrl-C: what has not begun would be done before the program ends
            for future in futures:
                future.cancel()
            raise
        if any(future.exception() is not None for future in done):
            for future in waiting:
                future.cancel()
            wait(futures)
            failed = next(f for f in futures if not f.cancelled() and f.exception() is not None)
            failed.result()
        return [future.result() for future in futures]

    def map(self, call: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
        """`call` of each item, in order; as `run_all` otherwise."""
        return iter(self.run_all([lambda item=item: call(item) for item in items]))

    def carrying(self, length: int) -> AbstractContextManager[None]:
        """Carry `length` bytes in the block; waits for its turn. What exceeds the whole budget is
        carried alone.
        """
        return nullcontext() if self._budget is None else self._budget.taking(length)

    def close(self) -> None:
        """Finish what was submitted and end the threads."""
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _work(self) -> None:
        while (entry := self._tasks.get()) is not None:
            future, task = entry
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(task())
            except BaseException as error:  # noqa: BLE001 - it belongs to whoever asks for the result
                future.set_exception(error)
            del (
                entry,
                future,
                task,
            )  # or the last task's buffers would live until the next task comes


class _Budget:
    """Bytes that several threads may take out and put back. Who comes first is served first, so
    that a large request is not passed by small ones for ever.
    """

    def __init__(self, total: int) -> None:
        self._total = self._left = total
        self._turn = threading.Lock()
        self._changed = threading.Condition()

    @contextmanager
    def taking(self, length: int) -> Iterator[None]:
        length = min(length, self._total)
        with self._turn, self._changed:
            self._changed.wait_for(lambda: self._left >= length)
            self._left -= length
        try:
            yield
        finally:
            with self._changed:
                self._left += length
                self._changed.notify()
