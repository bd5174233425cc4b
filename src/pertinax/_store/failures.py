# SPDX-License-Identifier: Apache-2.0
"""What an error of the disk means to the person who saves.

Knows error numbers and our exceptions. Knows nothing of what was being done; the caller says it in
words.
"""

import contextlib
import errno
from collections.abc import Iterator
from typing import Final

from pertinax.errors import PertinaxError, StorageError, StorageFull, StorageStalled

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextlib.contextmanager
def storage_errors(action: str, path: str, *, names_too: bool = False) -> Iterator[None]:
    """Turn `OSError`s of the block into `StorageError`s: "could not <action>: ...". Those that mean
    that there is no room are `StorageFull`, those that mean that nobody answers `StorageStalled`.

    `FileExistsError` and `FileNotFoundError` pass as they are: only the caller knows whether they
    mean a taken path, a missing checkpoint or a broken one. With `names_too` they mean neither.
    """
    try:
        yield
    except PertinaxError:
        raise
    except OSError as error:
        if isinstance(error, FileExistsError | FileNotFoundError) and not names_too:
            raise
        kind = StorageFull if error.errno in _FULL else StorageError
        if isinstance(error, TimeoutError):
            kind = StorageStalled
        text = f"could not {action}: {error.strerror or error}"
        named: object = error.filename
        raise kind(error.errno or errno.EIO, text, named or path) from error
