# SPDX-License-Identifier: Apache-2.0
"""Whole trees in one file: written by one process, read as Orbax reads them."""

import asyncio
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from pertinax import checkpoint as door
from pertinax.checkpoint.aggregate_handlers import AggregateHandler, MsgpackHandler
from pertinax.errors import CorruptCheckpoint
from tests.checkpoint.data.twins import agree, same


class Pair(NamedTuple):
    x: Any
    y: Any


TREES: dict[str, Any] = {
    "plain": {"b": np.arange(3), "a": {"x": 1.5}, "n": None, "e": {}},
    "attributes": {"p": Pair(1, (2, [3]))},
    "list": [1, {"a": jnp.ones(2)}],
    "text": {"a": "PLACEHOLDER://a"},
}


def written(ocp: Any, path: Path, tree: Any) -> Any:
    handler = ocp.aggregate_handlers.MsgpackHandler()
    asyncio.run(handler.serialize(epath.Path(path), tree)).result()
    return handler


@pytest.mark.interop
@pytest.mark.parametrize("name", TREES)
def test_a_tree_goes_into_the_file_and_comes_back(name: str, tmp_path: Path):
    def program(ocp: Any, root: Path) -> Any:
        handler = written(ocp, root / "file", TREES[name])
        return [(root / "file").read_bytes(), handler.deserialize(epath.Path(root / "file"))]

    agree(program, tmp_path)


@pytest.mark.interop
def test_a_missing_file_is_said_to_be_missing(tmp_path: Path):
    def program(ocp: Any, root: Path) -> Any:
        return ocp.aggregate_handlers.MsgpackHandler().deserialize(epath.Path(root / "none"))

    assert isinstance(agree(program, tmp_path), FileNotFoundError)


def test_a_file_is_written_over_and_its_handler_closed(tmp_path: Path):
    written(door, tmp_path / "file", {"a": np.arange(100)})
    handler = written(door, tmp_path / "file", {"a": 1})
    handler.close()
    same(handler.deserialize(epath.Path(tmp_path / "file")), {"a": 1})


@pytest.mark.parametrize(("primary_host", "writes"), [(0, True), (None, True), (1, False)])
def test_only_the_primary_host_writes(primary_host: int | None, writes: bool, tmp_path: Path):
    handler = MsgpackHandler(primary_host=primary_host)
    asyncio.run(handler.serialize(epath.Path(tmp_path / "file"), {"a": 1})).result()
    assert (tmp_path / "file").exists() == writes


def test_what_the_program_changes_after_the_call_is_not_written(tmp_path: Path):
    tree = {"a": np.arange(3)}
    future = asyncio.run(MsgpackHandler().serialize(epath.Path(tmp_path / "file"), tree))
    tree["a"][:] = 9
    future.result()
    assert MsgpackHandler().deserialize(epath.Path(tmp_path / "file"))["a"].tolist() == [0, 1, 2]


def test_a_damaged_file_is_named(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"\x91")
    with pytest.raises(CorruptCheckpoint, match="file"):
        MsgpackHandler().deserialize(epath.Path(tmp_path / "file"))


def test_programs_may_have_handlers_of_their_own():
    with pytest.raises(TypeError, match="abstract"):
        AggregateHandler()  # type: ignore[abstract] - that is the point
