# SPDX-License-Identifier: Apache-2.0
"""Looking at files and directories."""

import os

import pytest

from pertinax.checkpoint._adapt import files


def test_a_look_tells_files_directories_and_nothing(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "dir").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "dir")
    paths = [tmp_path / name for name in ("file", "dir", "link", "none")]
    assert [files.exists(path) for path in paths] == [True, True, True, False]
    assert [files.is_dir(path) for path in paths] == [False, True, True, False]
    assert [files.is_file(path) for path in paths] == [True, False, False, False]
    # A step may be a link to a directory elsewhere.
    assert sorted(files.children(tmp_path)) == [("dir", True), ("file", False), ("link", True)]
    assert files.read_bytes(tmp_path / "file") == b"content"
    os.utime(tmp_path / "file", ns=(0, 1_500_000_000))
    assert files.mtime_s(tmp_path / "file") == 1.5


@pytest.mark.parametrize("look", [files.children, files.read_bytes, files.mtime_s])
def test_what_is_missing_is_told(tmp_path, look):
    with pytest.raises(FileNotFoundError):
        look(tmp_path / "none")
