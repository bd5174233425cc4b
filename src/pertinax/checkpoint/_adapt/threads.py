# SPDX-License-Identifier: Apache-2.0
"""Threads of the door: one for work in the background, one to run a coroutine.

Knows threads and event loops. Knows nothing of checkpoints. A coroutine gets a loop of its own, on
another thread where one runs already, so that it runs the same from a script, from inside a running
loop and in a notebook; nobody's loop is patched.
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
    """The result of `coroutine`, run to its end on a loop of its own; the caller waits.

    It runs on the caller's thread, or on another one if a loop runs there already. The loop that
    the thread may have set for itself stays set.
    """
    if not loop_is_running():
        return _run(coroutine)
    return start(lambda: _run(coroutine), "pertinax-loop").result()


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    # With a factory of its own, a runner leaves the current event loop of the thread alone.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(coroutine)


def loop_is_running() -> bool:
    """Whether an event loop runs on this thread now."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
