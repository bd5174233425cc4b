# SPDX-License-Identifier: Apache-2.0
"""Handing over: an operation that one thread begins and another one ends.

Knows what must be left in the end, and that a thread may not be had. Knows nothing of what the
threads do.
"""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def handed_over(stack: contextlib.ExitStack) -> Iterator[contextlib.ExitStack]:
    """What was entered on `stack`, for a thread that the block starts, and which is to leave it.

    If the block fails, there is no such thread: it is left here, with the failure, so that other
    processes hear of it.
    """
    passed_on = stack.pop_all()
    try:
        yield passed_on
    except BaseException as error:
        passed_on.__exit__(type(error), error, error.__traceback__)
        raise
