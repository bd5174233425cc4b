# SPDX-License-Identifier: Apache-2.0
"""What a later version of Pertinax has written is called so wherever it is opened: nobody takes it
for damaged, passes it over, or removes it.
"""

import json
import shutil
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crc32c import crc32c

import pertinax
from pertinax import checkpoint as ocp
from pertinax.errors import NewerFormat

STATE = {"w": np.arange(6.0), "n": 3}


def make_newer(item: Path) -> None:
    """Give a ledger a version that is not there yet, and its right checksum."""
    ledger = item / "pertinax.json"
    body = ledger.read_bytes()[:-21].replace(b'"pertinax":1', b'"pertinax":3')
    ledger.write_bytes(body + b',"crc32c":"%08x"}' % crc32c(body))


def make_newer_item(step: Path) -> None:
    """An item of a later version in a step of this one, which vouches for it."""
    make_newer(step / "default")
    name, own = "default/pertinax.json", step / "pertinax.json"
    data = (step / name).read_bytes()
    fields = json.loads(own.read_bytes())
    del fields["crc32c"]
    others = [one for one in fields["files"] if one[0] != name]
    fields["files"] = [*others, [name, len(data), f"{zlib.crc32(data):08x}"]]
    body = json.dumps(fields, separators=(",", ":")).encode()[:-1]
    own.write_bytes(body + b',"crc32c":"%08x"}' % crc32c(body))


def files_of(root: Path) -> dict[str, bytes]:
    found = [one for one in sorted(root.rglob("*")) if one.is_file()]
    return {str(one.relative_to(root)): one.read_bytes() for one in found}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain checkpoint, a run of the front door and one of the Orbax door, by a later version."""
    root = tmp_path_factory.mktemp("newer")
    pertinax.save(root / "item", STATE)
    make_newer(root / "item")
    with pertinax.Manager(root / "run", background=False) as manager:
        for step in (1, 2):
            manager.save(step, STATE, metrics={"loss": 0.5})
    make_newer_item(root / "run" / "2")
    with ocp.CheckpointManager(root / "orbax") as manager:
        for step in (1, 2):
            manager.save(step, args=ocp.args.StandardSave(STATE))
    make_newer_item(root / "orbax" / "2")
    shutil.copytree(root / "run", root / "all newer")
    make_newer(root / "all newer" / "2")
    return root


def of_run(use: Callable[[pertinax.Manager], Any], name: str = "run") -> Callable[[Path], Any]:
    def call(root: Path) -> Any:
        with pertinax.Manager(root / name, background=False) as manager:
            return use(manager)

    return call


def of_orbax(use: Callable[[ocp.CheckpointManager], Any]) -> Callable[[Path], Any]:
    def call(root: Path) -> Any:
        handlers = ocp.StandardCheckpointHandler()
        with ocp.CheckpointManager(root / "orbax", item_handlers=handlers) as manager:
            return use(manager)

    return call


def watched(root: Path) -> Any:
    return next(iter(pertinax.Manager.watch(root / "run", timeout=0))).load()


def near(root: Path) -> Any:
    """A job of two tiers, with the run as its durable one."""
    with pertinax.TieredManager(root / "near", root / "run") as manager:
        return manager.resume(STATE)


ENTRIES: Mapping[str, Callable[[Path], Any]] = {
    "load": lambda root: pertinax.load(root / "item"),
    "load into a target": lambda root: pertinax.load(root / "item", STATE),
    "load a part": lambda root: pertinax.load(root / "item", select=["n"]),
    "describe": lambda root: pertinax.describe(root / "item"),
    "verify": lambda root: pertinax.verify(root / "item"),
    "load a step": lambda root: pertinax.load(root / "run" / "2"),
    "load a step that is new itself": lambda root: pertinax.load(root / "all newer" / "2"),
    "verify a step that is new itself": lambda root: pertinax.verify(root / "all newer" / "2"),
    "describe a step": lambda root: pertinax.describe(root / "run" / "2"),
    "verify a step": lambda root: pertinax.verify(root / "run" / "2"),
    "Manager.load": of_run(lambda one: one.load(2)),
    "Manager.restore": of_run(lambda one: one.restore()),
    "Manager.restore with fallback": of_run(lambda one: one.restore(fallback=True)),
    "Manager.resume": of_run(lambda one: one.resume(STATE)),
    "Manager.resume with fallback": of_run(lambda one: one.resume(STATE, fallback=True)),
    "Manager.resume of a step that is new itself": of_run(
        lambda one: one.resume(STATE, fallback=True), "all newer"
    ),
    "Manager.watch": watched,
    "TieredManager.resume": near,
    "ocp.CheckpointManager.restore": of_orbax(lambda one: one.restore(2)),
    "ocp.CheckpointManager.restore with args": of_orbax(
        lambda one: one.restore(2, args=ocp.args.StandardRestore(STATE))
    ),
    "ocp.CheckpointManager.item_metadata": of_orbax(lambda one: one.item_metadata(2)),
    "ocp.StandardCheckpointer.restore": lambda root: ocp.StandardCheckpointer().restore(
        root / "item"
    ),
    "ocp.PyTreeCheckpointer.restore": lambda root: ocp.PyTreeCheckpointer().restore(root / "item"),
    "ocp.PyTreeCheckpointer.metadata": lambda root: ocp.PyTreeCheckpointer().metadata(
        root / "item"
    ),
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_newer_version_says_so_and_stays_as_it_is(
    saved: Path, tmp_path: Path, entry: str
) -> None:
    root = Path(shutil.copytree(saved, tmp_path / "newer"))
    before = files_of(root)
    with pytest.raises(NewerFormat, match=r"format version 3.*upgrade pertinax"):
        ENTRIES[entry](root)
    after = files_of(root)
    assert {name: after.get(name) for name in before} == before


def test_a_report_of_damage_is_no_place_for_a_newer_version(saved: Path) -> None:
    with pytest.raises(NewerFormat, match="upgrade"):
        pertinax.verify(saved / "item", on_damage="report")


def test_steps_of_a_newer_version_are_listed_and_older_ones_are_read(
    saved: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(saved, tmp_path / "newer"))
    with pertinax.Manager(root / "run") as manager:
        assert manager.steps() == [1, 2]
        assert manager.load(1)["n"] == 3
    with ocp.CheckpointManager(root / "orbax") as manager:
        assert manager.all_steps() == [1, 2]
        assert manager.restore(1)["n"] == 3
