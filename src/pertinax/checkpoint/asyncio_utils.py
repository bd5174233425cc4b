# SPDX-License-Identifier: Apache-2.0
"""Coroutines from ordinary code, and ordinary functions from coroutines.

Knows event loops. Knows nothing of checkpoints. No loop is patched, whoever runs it.
"""

import asyncio
import contextvars
import functools
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar

from pertinax.checkpoint._adapt.threads import loop_is_running, run_coroutine

T = TypeVar("T")


def run_sync(coro: Coroutine[Any, Any, T], enable_nest_asyncio: bool = True) -> T:
    """The result of `coro`, run to its end; what it raises is raised.

    Works where an event loop is running already (a notebook, an `async def`), to any depth: the
    coroutine then gets a loop on another thread. `enable_nest_asyncio=False` refuses that with
    `RuntimeError`, as `asyncio.run` does.
    """
    if not enable_nest_asyncio and loop_is_running():
        coro.close()
        raise RuntimeError("an event loop is running on this thread: await the coroutine instead")
    return run_coroutine(coro)


def as_async_function(func: Callable[..., T]) -> Callable[..., Coroutine[Any, Any, T]]:
    """A coroutine function that calls `func` on a thread.

    What it returns takes `loop` and `executor` besides the arguments of `func`; by default they are
    the running loop and that loop's own executor.
    """

    @functools.wraps(func)
    async def call(
        *args: Any,
        loop: asyncio.AbstractEventLoop | None = None,
        executor: Executor | None = None,
        **kwargs: Any,
    ) -> T:
        work = functools.partial(contextvars.copy_context().run, func, *args, **kwargs)
        chosen = asyncio.get_running_loop() if loop is None else loop
        return await chosen.run_in_executor(executor, work)

    return call
