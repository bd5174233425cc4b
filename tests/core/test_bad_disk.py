# SPDX-License-Identifier: Apache-2.0
"""Memory and files that change under our hands: an error, never a wrong byte or a dead process."""

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import pertinax

_CUT_WHILE_MAPPED = """
import os, sys
import pertinax
from pertinax._store.local import LocalStore, _LocalReader

whole = _LocalReader.map
def cut(self, *, populate=True):
    view = whole(self, populate=populate)
    os.truncate(self._path, 4096)  # as a disk does that loses a sector behind our back
    return view
_LocalReader.map = cut
try:
    pertinax.load(sys.argv[1], arrays="numpy")
except pertinax.errors.CorruptCheckpoint as error:
    print("told:", error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs MADV_POPULATE_READ")
def test_a_page_that_cannot_be_read_is_an_error_and_not_the_end(tmp_path: Path) -> None:
    pertinax.save(tmp_path / "a", {"w": np.arange(1 << 20, dtype=np.float32)})
    program = subprocess.run(
        [sys.executable, "-c", _CUT_WHILE_MAPPED, str(tmp_path / "a")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert program.returncode == 0, program.stderr
    assert program.stdout.startswith("told: file 'd/")
    assert "does not give these bytes" in program.stdout


def test_an_array_that_another_thread_writes_to_is_never_published_torn(tmp_path: Path) -> None:
    array = np.zeros(1 << 23, np.float32)
    stop = threading.Event()

    def scribble() -> None:
        while not stop.is_set():
            np.add(array, 1, out=array)

    thread = threading.Thread(target=scribble)
    thread.start()
    refused: list[str] = []
    try:
        for i in range(10):
            try:
                pertinax.save(tmp_path / str(i), {"w": array})
            except pertinax.errors.SnapshotChanged as error:
                refused.append(str(error))
    finally:
        stop.set()
        thread.join()
    assert refused
    assert all("leaf 'w'" in text for text in refused)
    for one in tmp_path.iterdir():
        assert pertinax.verify(one).ok
