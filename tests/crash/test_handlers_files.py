# SPDX-License-Identifier: Apache-2.0
"""Files that a handler of the program writes, by whatever means and without a sync of its own, are
durable before the checkpoint has its name.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pertinax import checkpoint as ocp
from pertinax._store import local
from pertinax._store.local import LocalStore
from pertinax._store.owner import TMP_MARK

pytestmark = pytest.mark.crash


class Careless(ocp.CheckpointHandler):
    """Writes with the plainest tools, into directories of its own too."""

    def save(self, directory: Any, item: Any) -> None:
        place = Path(directory)
        (place / "deep" / "deeper").mkdir(parents=True)
        (place / "words").write_text(item)
        (place / "deep" / "deeper" / "more").write_bytes(b"x" * 5000)

    def restore(self, directory: Any, item: Any = None) -> Any:
        return (Path(directory) / "words").read_text()


class CarelessInBackground(Careless, ocp.AsyncCheckpointHandler):
    async def async_save(self, directory: Any, item: Any) -> Any:
        self.save(directory, item)
        return None


def by_checkpointer(root: Path) -> None:
    ocp.Checkpointer(Careless()).save(root / "it", "text")


def in_background(root: Path) -> None:
    with ocp.AsyncCheckpointer(CarelessInBackground()) as checkpointer:
        checkpointer.save(root / "it", "text")


def by_manager(root: Path) -> None:
    old = {"words": ocp.Checkpointer(Careless()), "tree": ocp.PyTreeCheckpointer()}
    with ocp.CheckpointManager(root / "run", old) as manager:
        manager.save(1, {"words": "text", "tree": {"w": np.arange(3)}})


def final(path: str) -> str:
    """What a path is called when all that it lies in has been published."""
    return re.sub(re.escape(TMP_MARK) + "[^/]*", "", path)


@pytest.mark.parametrize("save", [by_checkpointer, in_background, by_manager])
def test_all_that_a_handler_writes_is_synced_before_it_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: Callable[[Path], None]
) -> None:
    synced: set[str] = set()
    published: list[tuple[set[str], set[str]]] = []
    sync, rename = local._sync, LocalStore.rename

    def noted(descriptor: int) -> None:
        sync(descriptor)
        synced.add(final(os.readlink(f"/proc/self/fd/{descriptor}")))

    def watched(self: LocalStore, source: str, target: str) -> None:
        if TMP_MARK in source and TMP_MARK not in target:
            found = {final(str(one)) for one in Path(source).rglob("*")}
            published.append((found, set(synced)))
        rename(self, source, target)

    monkeypatch.setattr(local, "_sync", noted)
    monkeypatch.setattr(LocalStore, "rename", watched)
    save(tmp_path)
    found, durable = published[-1]
    place = tmp_path / ("run/1/words" if save is by_manager else "it")
    written = {str(place / one) for one in ("words", "deep/deeper/more", "deep/deeper", "deep")}
    assert written <= found
    assert found - durable == set()
