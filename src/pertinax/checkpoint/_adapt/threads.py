"""Threads of the door: one for work in the background, one to run a coroutine.

Knows threads and event loops. Knows nothing of checkpoints. A coroutine gets a loop of its own on a
thread of its own, so that it runs the same from a script, from inside a running loop and in a
notebook; nobody's loop is patched.
"""

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


def start(work: Callable[[], T], name: str) -> "Future[T]":
    """Begin `work` on a thread of its own, which the program waits for when it ends."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()
    context = contextvars.copy_context()
    thread = threading.Thread(
        target=context.run, args=(_carry_out, work, future), name=name, daemon=False
    )
    thread.start()
    return future


def _carry_out(work: Callable[[], T], future: "Future[T]") -> None:
    try:
        future.set_result(work())
    except BaseException as error:  # noqa: BLE001 - it belongs to whoever asks for the result
        future.set_exception(error)


def run_coroutine(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of `coroutine`, run to its end on a private loop; the caller waits."""
    return start(lambda: asyncio.run(coroutine), "pertinax-loop").result()
