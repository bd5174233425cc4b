# SPDX-License-Identifier: Apache-2.0
"""A small file in the place of another: who reads finds the old content or the new one.

Knows names and in which order they change. Knows nothing of what the files say.
"""

import contextlib

from pertinax._store.contract import Buffer, Store


def replace_file(store: Store, path: str, content: Buffer, beside: str) -> None:
    """Write `content` to `path`, whatever is there, by way of the new name `beside`.

    Not synced. Where the store cannot swap names there is an instant without the file. `beside` is
    gone afterwards, also when an `OSError` of the store comes through.
    """
    try:
        with store.create(beside) as writer:
            writer.write_at(0, [content])
        _put(store, beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            store.remove_file(beside)
        raise


def _put(store: Store, new: str, path: str) -> None:
    if store.stat(path) is not None:
        try:
            store.exchange(new, path)
        except NotImplementedError:
            store.remove_file(path)
        else:
            store.remove_file(new)
            return
    store.rename(new, path)
