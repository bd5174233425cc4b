# SPDX-License-Identifier: Apache-2.0
"""Databases of processes in an item: merged by the save, by `finalize`, or by a program."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from etils import epath

import pertinax
from pertinax import checkpoint as ocp
from pertinax.checkpoint import type_handlers as th
from tests.checkpoint.type_handlers.leaves import checkpointer, with_stock


def write(directory: Path, process: str, values: dict[str, Any], zarr3: bool = False) -> None:
    """Arrays in the database of one process, through the stock handler."""
    handler = th.NumpyHandler()
    handler._override_ocdbt_process_id = process
    place = epath.Path(directory)
    infos = [
        th.ParamInfo(
            name=name,
            path=place / name,
            parent_dir=place,
            is_ocdbt_checkpoint=True,
            use_zarr3=zarr3,
        )
        for name in values
    ]

    async def save() -> None:
        for future in await handler.serialize(list(values.values()), infos):
            future.result()

    asyncio.run(save())


def read(directory: Path, name: str, zarr3: bool = False) -> Any:
    info = th.ParamInfo(
        name=name,
        parent_dir=epath.Path(directory),
        is_ocdbt_checkpoint=True,
        use_zarr3=zarr3,
    )
    return asyncio.run(th.NumpyHandler().deserialize([info]))[0]


def merge(directory: Path, zarr3: bool = False, **options: Any) -> None:
    context = ocp.serialization.tensorstore_utils.get_ts_context()
    asyncio.run(th.merge_ocdbt_per_process_files(epath.Path(directory), context, zarr3, **options))


@pytest.mark.row("R107", "R128")
@pytest.mark.parametrize("zarr3", [False, True])
def test_what_several_processes_wrote_is_read_as_one(tmp_path: Path, zarr3: bool):
    for i in range(3):
        write(tmp_path, str(i), {f"x{i}": np.full(1000, i), "same": np.arange(3)}, zarr3)
    merge(tmp_path, zarr3)
    assert th.is_ocdbt_checkpoint(tmp_path)
    for i in range(3):
        assert read(tmp_path, f"x{i}", zarr3).tolist() == [i] * 1000
    assert read(tmp_path, "same", zarr3).tolist() == [0, 1, 2]


@pytest.mark.row("R280")
def test_a_lost_part_is_found(tmp_path: Path):
    write(tmp_path, "0", {"x": np.arange(3000)})
    import tensorstore as ts

    base = {"driver": "file", "path": f"{tmp_path}/ocdbt.process_0"}
    store = ts.KvStore.open({"driver": "ocdbt", "base": base}).result()
    store.write("x/.zarray", None).result()
    with pytest.raises(ValueError, match=r"without metadata \[x\]"):
        merge(tmp_path)
    merge(tmp_path, enable_validation=False)
    assert th.is_ocdbt_checkpoint(tmp_path)


@pytest.mark.row("R278")
def test_nothing_to_merge_is_no_error(tmp_path: Path):
    merge(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_finalize_takes_in_what_was_written_into_a_finished_item(tmp_path: Path):
    handler = ocp.PyTreeCheckpointHandler()
    handler.save(tmp_path / "a", {"x": np.arange(3)})
    before = (tmp_path / "a" / "manifest.ocdbt").read_bytes()
    handler.finalize(tmp_path / "a")
    assert (tmp_path / "a" / "manifest.ocdbt").read_bytes() == before
    write(tmp_path / "a", "7", {"late": np.arange(2000)})
    handler.finalize(tmp_path / "a")
    handler.finalize(tmp_path / "a")
    assert read(tmp_path / "a", "late").tolist() == list(range(2000))
    assert read(tmp_path / "a", "x").tolist() == [0, 1, 2]
    assert handler.restore(tmp_path / "a")["x"].tolist() == [0, 1, 2]
    assert pertinax.verify(tmp_path / "a").ok
    (file,) = (tmp_path / "a" / "ocdbt.process_7" / "d").iterdir()
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    assert not pertinax.verify(tmp_path / "a", on_damage="report").ok


def test_finalize_without_an_item_merges_what_there_is(tmp_path: Path):
    handler = ocp.BasePyTreeCheckpointHandler()
    handler.finalize(tmp_path / "nothing")
    write(tmp_path, "0", {"x": np.arange(3)})
    handler.finalize(tmp_path)
    assert read(tmp_path, "x").tolist() == [0, 1, 2]


class HalfHandler(th.NumpyHandler):
    """Forgets the metadata of what it writes."""

    async def serialize(self, values: Any, infos: Any, args: Any = None) -> Any:
        import tensorstore as ts

        base = {"driver": "file", "path": f"{infos[0].parent_dir}/ocdbt.process_0"}
        store = ts.KvStore.open({"driver": "ocdbt", "base": base}).result()
        store.write(f"{infos[0].name}/0", b"x" * 4000).result()
        return []


def test_an_array_that_a_handler_left_unfinished_fails_the_save(tmp_path: Path):
    registry = with_stock(ocp, (np.ndarray, HalfHandler()))
    with pytest.raises(ValueError, match=r"without metadata \[x\]"):
        checkpointer(registry).save(tmp_path / "a", {"x": np.ones(3)})
    assert list(tmp_path.iterdir()) == []
    base = ocp.BasePyTreeCheckpointHandler(
        type_handler_registry=registry, enable_post_merge_validation=False
    )
    saver = ocp.Checkpointer(ocp.PyTreeCheckpointHandler(handler_impl=base))
    saver.save(tmp_path / "a", {"x": np.ones(3)})
    assert pertinax.verify(tmp_path / "a").ok


def test_two_leaves_cannot_write_one_key(tmp_path: Path):
    class Elsewhere(th.NumpyHandler):
        async def serialize(self, values: Any, infos: Any, args: Any = None) -> Any:
            import dataclasses

            infos = [dataclasses.replace(info, name="i") for info in infos]
            return await super().serialize(values, infos, args)

    registry = with_stock(ocp, (np.ndarray, Elsewhere()))
    with pytest.raises(ValueError, match="two leaves write the key"):
        checkpointer(registry).save(tmp_path / "a", {"x": np.ones(3), "i": 1})
    assert list(tmp_path.iterdir()) == []
