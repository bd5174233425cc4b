# SPDX-License-Identifier: Apache-2.0
"""Questions and changes to a file system that do not hold up an event loop.

Knows paths, and that each call runs on a thread of the running loop. Knows nothing of checkpoints
but how an unfinished one is told.
"""

from typing import Any

from etils import epath

from pertinax.checkpoint.asyncio_utils import as_async_function
from pertinax.checkpoint.path import step


async def async_makedirs(
    path: epath.Path, *args: Any, parents: bool = False, exist_ok: bool = True, **kwargs: Any
) -> None:
    """Make the directory; more arguments go to `path.mkdir`.

    Raises `FileExistsError` where it exists and may not, `FileNotFoundError` without its parent.
    """
    make = as_async_function(path.mkdir)
    await make(*args, parents=parents, exist_ok=exist_ok, **kwargs)


async def async_write_bytes(path: epath.Path, data: Any) -> int:
    """Write the file; returns the number of bytes."""
    return await as_async_function(path.write_bytes)(data)


async def async_exists(path: epath.Path) -> bool:
    """Whether something is there."""
    return await as_async_function(path.exists)()


async def async_stat(path: epath.Path) -> Any:
    """What the file system knows of it. Raises `FileNotFoundError` if nothing is there."""
    return await as_async_function(path.stat)()


async def async_rmtree(path: epath.Path) -> None:
    """Remove the directory with everything in it."""
    await as_async_function(path.rmtree)()


async def async_is_tmp_checkpoint(path: epath.Path) -> bool:
    """Whether it is the directory of a save that was not published.

    Raises `ValueError` if nothing is there.
    """
    return await as_async_function(step.is_tmp_checkpoint)(path)
