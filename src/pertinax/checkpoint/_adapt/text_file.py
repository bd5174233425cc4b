# SPDX-License-Identifier: Apache-2.0
"""An item that is one text file: written by one process, checked when it is read.

Knows one file of a directory and the thread that writes it. Knows nothing of what the text means.
"""

import concurrent.futures
from typing import final

from etils import epath

from pertinax._core.open import read_file
from pertinax._core.places import locate
from pertinax._formats.item import write_file
from pertinax.checkpoint._adapt.meeting import Meeting
from pertinax.checkpoint._adapt.saving import make_dirs
from pertinax.checkpoint._adapt.stored import check_beside
from pertinax.checkpoint.options import MultiprocessingOptions


def one_thread(name: str) -> concurrent.futures.ThreadPoolExecutor:
    """Writes one file after the other; its thread starts with the first."""
    return concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)


@final
class TextFile:
    """The file of that name in the directory of an item; the primary process writes it."""

    def __init__(self, name: str, options: MultiprocessingOptions | None) -> None:
        self.name = name
        self._meeting = Meeting(options)

    @property
    def is_ours(self) -> bool:
        """Whether this process is the one that writes. A process alone is."""
        return self._meeting.is_primary

    def write(self, directory: epath.Path, text: str) -> int:
        """Write it durably, in place of an older one. Returns how many bytes it has."""
        store, path = locate(directory)
        make_dirs(store, path)
        file = f"{path}/{self.name}"
        if store.stat(file) is not None:
            store.remove_file(file)
        data = text.encode()
        write_file(store, file, data)
        return len(data)

    def read(self, directory: epath.Path) -> str:
        """The text.

        Raises `FileNotFoundError` if it is not there, `CorruptCheckpoint` if it is not what was
        saved.
        """
        store, path = locate(directory)
        if store.stat(f"{path}/{self.name}") is None:
            raise FileNotFoundError(2, "no such file", f"{path}/{self.name}")
        check_beside(store, path, self.name)
        return read_file(store, path, self.name).decode()
