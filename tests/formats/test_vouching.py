# SPDX-License-Identifier: Apache-2.0
"""Who vouches for which file: each is in exactly one ledger, and is read and synced once."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pertinax
from pertinax._formats.manifest import FileRecord
from pertinax._formats.vouching import vouch
from pertinax._store.local import LocalStore
from pertinax.errors import CorruptCheckpoint, StorageError
from tests.steps.trees import Intercepted


def records(root: Path, **options: Any) -> dict[str, FileRecord]:
    found = list(vouch(LocalStore(), str(root), **options))
    assert len({one.name for one in found}) == len(found)
    return {one.name: one for one in found}


def test_a_ledger_below_vouches_for_its_own_and_is_itself_vouched_for(tmp_path: Path) -> None:
    pertinax.save(tmp_path / "item", {"w": np.arange(5)})
    pertinax.save(tmp_path / "deep" / "er", {"w": np.arange(5)})
    (tmp_path / "notes").write_bytes(b"mine")
    (tmp_path / "item" / "late").write_bytes(b"of nobody")
    found = records(tmp_path)
    wanted = {"notes", "item/late", "item/pertinax.json", "deep/er/pertinax.json"}
    commit = {name for name in found if name.endswith(("commit_success.txt", "_METADATA"))}
    assert found.keys() - commit == wanted
    assert found["notes"] == FileRecord("notes", 4, zlib.crc32(b"mine"))


def test_files_that_somebody_vouches_for_already_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for name in ("a", "b", "d/c"):
        (tmp_path / name).write_bytes(b"x")
    assert records(tmp_path, vouched=frozenset({"a", "d/c"})).keys() == {"b"}


def test_a_ledger_that_is_damaged_vouches_for_nothing(tmp_path: Path) -> None:
    pertinax.save(tmp_path / "item", {"w": np.arange(5)})
    ledger = tmp_path / "item" / "pertinax.json"
    ledger.write_bytes(ledger.read_bytes()[:-3])
    with pytest.raises(CorruptCheckpoint):
        records(tmp_path)


@pytest.mark.parametrize("method", ["list_dir", "open"])
def test_a_disk_that_fails_is_told_as_that(tmp_path: Path, method: str) -> None:
    (tmp_path / "notes").write_bytes(b"mine")

    def fail(called: str, path: str) -> None:
        if called == method:
            raise OSError(5, "the disk is bad", path)

    store: Any = Intercepted(LocalStore(), fail)
    with pytest.raises(StorageError, match="the disk is bad"):
        list(vouch(store, str(tmp_path)))
