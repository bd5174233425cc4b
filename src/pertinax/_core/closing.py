# SPDX-License-Identifier: Apache-2.0
"""Closing at the end of a `with` block.

Knows what comes first when both the block and the closing fail. Knows nothing of what is closed.
"""

from collections.abc import Callable


def close_after(close: Callable[[], None], error: BaseException | None) -> None:
    """Close, after a block that ended with `error`, or well (None).

    A failure to close is raised if nothing else has failed; else it is a note on `error`.
    """
    try:
        close()
    except Exception as failure:
        if error is None:
            raise
        error.add_note(f"closing failed, too: {type(failure).__name__}: {failure}")
