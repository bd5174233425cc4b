# SPDX-License-Identifier: Apache-2.0
"""Stock handlers that a program calls itself: they do the real thing, through TensorStore."""

import asyncio
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec

from pertinax import checkpoint as ocp
from pertinax._formats.ocdbt.reader import open_database
from pertinax.checkpoint import type_handlers as th
from pertinax.checkpoint.metadata.sharding import from_jax_sharding
from tests.checkpoint.data.twins import mesh, sharded

LAYOUTS = [(True, False), (True, True), (False, False), (False, True)]
layouts = pytest.mark.parametrize(("use_ocdbt", "use_zarr3"), LAYOUTS)


class Item:
    """A directory that handlers write into."""

    def __init__(self, directory: Path, use_ocdbt: bool = True, use_zarr3: bool = False) -> None:
        self.directory = epath.Path(directory)
        self.use_ocdbt = use_ocdbt
        self.use_zarr3 = use_zarr3

    def infos(self, count: int, **more: Any) -> list[th.ParamInfo]:
        context = ocp.serialization.tensorstore_utils.get_ts_context(use_ocdbt=self.use_ocdbt)
        return [
            th.ParamInfo(
                name=f"leaf.{i}",
                path=self.directory / f"leaf.{i}",
                parent_dir=self.directory,
                is_ocdbt_checkpoint=self.use_ocdbt,
                use_zarr3=self.use_zarr3,
                ts_context=context,
                **more,
            )
            for i in range(count)
        ]

    def save(
        self, handler: th.TypeHandler, values: Sequence[Any], args: Any = None, **more: Any
    ) -> None:
        async def save() -> None:
            for future in await handler.serialize(values, self.infos(len(values), **more), args):
                future.result(timeout=60)
            await th.merge_ocdbt_per_process_files(self.directory, None, self.use_zarr3)

        asyncio.run(save())

    def read(self, handler: th.TypeHandler, count: int, args: Any = None, **more: Any) -> Any:
        return asyncio.run(handler.deserialize(self.infos(count, **more), args))

    def metadata(self, handler: th.TypeHandler, count: int) -> Any:
        return asyncio.run(handler.metadata(self.infos(count)))


NUMPY = [
    np.arange(6, dtype=np.int16).reshape(2, 3),
    np.ones((), np.float64),
    np.array([1 + 2j], np.complex64),
    np.arange(5).astype(ml_dtypes.bfloat16),
    np.zeros((0, 3), np.float32),
    np.arange(5000.0),
]


@layouts
def test_arrays_of_numpy(tmp_path: Path, use_ocdbt: bool, use_zarr3: bool):
    item, handler = Item(tmp_path, use_ocdbt, use_zarr3), th.NumpyHandler()
    item.save(handler, NUMPY)
    for found, value in zip(item.read(handler, len(NUMPY)), NUMPY, strict=True):
        assert found.dtype == value.dtype
        assert found.shape == value.shape
        assert found.tobytes() == value.tobytes()
    for found, value in zip(item.metadata(handler, len(NUMPY)), NUMPY, strict=True):
        assert (found.shape, found.dtype, found.sharding) == (value.shape, value.dtype, None)
        assert found.storage.chunk_shape == tuple(max(1, n) for n in value.shape)
    assert th.is_ocdbt_checkpoint(tmp_path) == use_ocdbt
    assert (tmp_path / "leaf.0" / ("zarr.json" if use_zarr3 else ".zarray")).exists() != use_ocdbt


@layouts
def test_numbers(tmp_path: Path, use_ocdbt: bool, use_zarr3: bool):
    item, handler = Item(tmp_path, use_ocdbt, use_zarr3), th.ScalarHandler()
    values = [3, 2.5, True, np.float32(0.5), np.int8(-1)]
    item.save(handler, values)
    found = item.read(handler, 5)
    assert found == [3, 2.5, True, 0.5, -1]
    assert [type(value) for value in found] == [int, float, bool, float, int]
    dtypes = [meta.dtype for meta in item.metadata(handler, 5)]
    assert dtypes == ["int64", "float64", "bool", "float32", "int8"]
    as_float = item.read(handler, 1, [th.RestoreArgs(dtype=np.float32)])
    assert type(as_float[0]) is float


def test_an_array_is_no_number(tmp_path: Path):
    item = Item(tmp_path)
    item.save(th.NumpyHandler(), [np.ones(3)])
    with pytest.raises(ValueError, match="not a scalar"):
        item.read(th.ScalarHandler(), 1)


@pytest.mark.row("R099")
@pytest.mark.parametrize("filename", [None, "texts.json"])
def test_texts_share_a_file(tmp_path: Path, filename: str | None):
    item, handler = Item(tmp_path), th.StringHandler(filename)
    item.save(handler, ["one", "zwei ü", ""])
    assert item.read(handler, 3) == ["one", "zwei ü", ""]
    (file,) = tmp_path.iterdir()
    assert file.name == (filename or "_strings.json")
    assert json.loads(file.read_text()) == {"leaf.0": "one", "leaf.1": "zwei ü", "leaf.2": ""}
    assert item.metadata(handler, 1) == [ocp.metadata.StringMetadata("leaf.0", None)]
    with pytest.raises(ValueError, match="NOT_FOUND"):
        item.read(handler, 4)
    file.unlink()
    with pytest.raises(ValueError, match="NOT_FOUND"):
        item.read(handler, 1)


@layouts
def test_arrays_of_jax_with_their_layouts(
    tmp_path: Path, use_ocdbt: bool, use_zarr3: bool, caplog: pytest.LogCaptureFixture
):
    item, handler = Item(tmp_path, use_ocdbt, use_zarr3), th.ArrayHandler()
    values = [
        sharded(PartitionSpec("a", "b")),
        sharded(PartitionSpec(None, "a"), (3, 4), jnp.bfloat16),
        sharded(PartitionSpec()),
        jnp.arange(7),
    ]
    item.save(handler, values)
    found = item.read(handler, 4, [th.RestoreArgs()] * 4)
    assert "depends on having the same devices" in caplog.text
    for value, expected in zip(found, values, strict=True):
        assert value.sharding.is_equivalent_to(expected.sharding, value.ndim)
        assert value.dtype == expected.dtype
        assert np.array_equal(value, expected)
    for meta, value in zip(item.metadata(handler, 4), values, strict=True):
        assert meta.sharding.to_jax_sharding().is_equivalent_to(value.sharding, value.ndim)
        assert meta.storage.chunk_shape == value.sharding.shard_shape(value.shape)


def test_arrays_of_jax_as_their_args_ask(tmp_path: Path):
    item, handler = Item(tmp_path), th.ArrayHandler()
    item.save(handler, [sharded(PartitionSpec("a"))] * 4)
    columns = NamedSharding(mesh(), PartitionSpec(None, "b"))
    args = [
        th.ArrayRestoreArgs(sharding=columns, dtype=jnp.bfloat16),
        th.ArrayRestoreArgs(mesh=mesh(), mesh_axes=PartitionSpec("b"), sharding=columns),
        th.ArrayRestoreArgs(sharding=from_jax_sharding(columns)),
        th.ArrayRestoreArgs(sharding=columns, global_shape=[10, 2], strict=False),
    ]
    found = item.read(handler, 4, args)
    assert found[0].dtype == jnp.bfloat16
    assert found[0].sharding == columns
    assert found[1].sharding.spec == PartitionSpec("b"), "mesh and axes win"
    assert found[2].sharding == columns
    expected = np.zeros((10, 2), np.float32)
    expected[:8] = np.arange(32).reshape(8, 4)[:, :2]
    assert np.array_equal(found[3], expected)
    with pytest.raises(ValueError, match="not compatible with the stored shape"):
        item.read(handler, 1, [th.ArrayRestoreArgs(sharding=columns, global_shape=(10, 2))])


def test_without_any_layout_the_error_says_what_to_pass(tmp_path: Path):
    item, handler = Item(tmp_path), th.ArrayHandler(enable_write_sharding_file=False)
    item.save(handler, [jnp.ones(3)])
    assert not (tmp_path / "_sharding").exists()
    assert item.metadata(handler, 1)[0].sharding is None
    with pytest.raises(ValueError, match=r"cannot be None.*ArrayRestoreArgs"):
        item.read(handler, 1, [th.RestoreArgs()])
    with pytest.raises(ValueError, match="need args"):
        item.read(handler, 1)


def test_a_layout_that_cannot_be_rebuilt_is_an_error_with_its_cause(tmp_path: Path):
    """WD-10: Orbax logs the cause, and then complains of something else."""
    item, handler = Item(tmp_path), th.ArrayHandler()
    item.save(handler, [jnp.ones(3), jnp.ones(2)])
    stored = (tmp_path / "_sharding").read_text()
    (tmp_path / "_sharding").write_text(
        stored.replace("cpu:0", "cpu:77").replace("CPU_0", "CPU_77")
    )
    with pytest.raises(ValueError, match=r"77.*pass ArrayRestoreArgs"):
        item.read(handler, 2, [th.RestoreArgs()] * 2)
    assert [meta.shape for meta in item.metadata(handler, 2)] == [(3,), (2,)]


def test_a_leaf_without_a_name_has_no_layout(tmp_path: Path):
    Item(tmp_path, use_ocdbt=False).save(th.ArrayHandler(), [jnp.ones(3)])
    path = epath.Path(tmp_path) / "leaf.0"
    with pytest.raises(ValueError, match="Unable to deserialize sharding"):
        asyncio.run(th.ArrayHandler().deserialize([th.ParamInfo(path=path)], [th.RestoreArgs()]))


@layouts
def test_values_are_cast_on_both_ways(tmp_path: Path, use_ocdbt: bool, use_zarr3: bool):
    item = Item(tmp_path, use_ocdbt, use_zarr3)
    values = [np.array([1.5, -2.25]), np.array([3.9])]
    args = [th.SaveArgs(dtype=np.float32), th.SaveArgs(dtype=jnp.dtype("int32"))]
    item.save(th.NumpyHandler(), values, args)
    assert [meta.dtype for meta in item.metadata(th.NumpyHandler(), 2)] == ["float32", "int32"]
    found = item.read(th.NumpyHandler(), 2, [th.RestoreArgs(dtype=jnp.bfloat16), th.RestoreArgs()])
    assert found[0].dtype == jnp.bfloat16
    assert found[0].tolist() == [1.5, -2.25]
    assert found[1].tolist() == [3]


@layouts
def test_chunks_stay_below_the_limit(tmp_path: Path, use_ocdbt: bool, use_zarr3: bool):
    item = Item(tmp_path, use_ocdbt, use_zarr3)
    value = sharded(PartitionSpec("a"), (16, 8))
    item.save(th.ArrayHandler(), [value], [th.SaveArgs(chunk_byte_size=32)])
    (meta,) = item.metadata(th.ArrayHandler(), 1)
    assert np.prod(meta.storage.chunk_shape) * 4 <= 32
    assert np.array_equal(item.read(th.ArrayHandler(), 1, [th.RestoreArgs()])[0], value)


@pytest.mark.row("R003")
@pytest.mark.parametrize("use_ocdbt", [True, False])
@pytest.mark.parametrize(
    ("handler", "value", "args"),
    [
        (th.NumpyHandler, np.arange(4), None),
        (th.ScalarHandler, 5, None),
        (th.ArrayHandler, jnp.arange(4), [th.RestoreArgs()]),
    ],
)
def test_the_metadata_of_arrays_may_have_another_name(
    tmp_path: Path, handler: Any, value: Any, args: Any, use_ocdbt: bool
):
    item, own = Item(tmp_path, use_ocdbt), handler(metadata_key=".mine")
    item.save(own, [value])
    assert np.array_equal(item.read(own, 1, args)[0], value)
    if not use_ocdbt:
        assert {path.name for path in (tmp_path / "leaf.0").iterdir()} == {".mine", "0"}


def test_missing_files_of_a_leaf_are_named(tmp_path: Path):
    item = Item(tmp_path, use_ocdbt=False)
    with pytest.raises(FileNotFoundError, match=r"leaf\.0"):
        item.read(th.NumpyHandler(), 1)
    item.save(th.NumpyHandler(), [np.ones(2)])
    (tmp_path / "leaf.0" / ".zarray").unlink()
    placed = [th.ArrayRestoreArgs(sharding=jnp.ones(1).sharding)]
    for handler, args in ((th.NumpyHandler(), None), (th.ArrayHandler(), placed)):
        with pytest.raises(FileNotFoundError, match="cp -a"):
            item.read(handler, 1, args)


def test_values_may_change_as_soon_as_serialize_has_returned(tmp_path: Path):
    item = Item(tmp_path)
    value, big = np.zeros(3), np.zeros(1_000_000)

    async def save() -> None:
        futures = await th.NumpyHandler().serialize([value, big], item.infos(2))
        value[:] = 7
        big[:] = 7
        for future in futures:
            future.result()
        await th.merge_ocdbt_per_process_files(item.directory, None, False)

    asyncio.run(save())
    found = item.read(th.NumpyHandler(), 2)
    assert found[0].tolist() == [0, 0, 0]
    assert not found[1].any()


@pytest.mark.row("R235")
@pytest.mark.parametrize("value", [np.zeros(1000), jnp.zeros(1000)])
def test_a_batch_leaves_one_version_and_one_data_file(tmp_path: Path, value: Any):
    """WD-01: Orbax's databases have as many versions as it was interrupted."""
    handler = th.ArrayHandler() if isinstance(value, jax.Array) else th.NumpyHandler()
    Item(tmp_path).save(handler, [value + i for i in range(12)])
    place = tmp_path / "ocdbt.process_0"
    assert len(list((place / "d").iterdir())) == 1

    def read(file: str, offset: int, length: int | None) -> bytes:
        end = None if length is None else offset + length
        return (place / file).read_bytes()[offset:end]

    assert open_database(read).version.generation == 1


def test_a_limit_of_bytes_is_kept_by_all_handlers(tmp_path: Path):
    """WD-08, WD-14: numpy ignores it in Orbax, and an array as large as the limit is refused."""
    limiter = Watching(80)
    item = Item(tmp_path)
    item.save(th.NumpyHandler(), [np.arange(5.0) + i for i in range(6)], byte_limiter=limiter)
    assert limiter.highest <= 80
    assert limiter.asked >= 6
    found = item.read(th.NumpyHandler(), 6, byte_limiter=limiter)
    assert [value[0] for value in found] == [0, 1, 2, 3, 4, 5]
    assert limiter.asked >= 12
    item = Item(tmp_path / "b")
    item.save(th.ArrayHandler(), [jnp.arange(20)], byte_limiter=Watching(80))


class Watching(th.LimitInFlightBytes):
    def __init__(self, num_bytes: int) -> None:
        super().__init__(num_bytes)
        self.asked = self.now = self.highest = 0

    async def wait_for_bytes(self, requested_bytes: int) -> None:
        await super().wait_for_bytes(requested_bytes)
        self.asked += 1
        self.now += requested_bytes
        self.highest = max(self.highest, self.now)

    async def release_bytes(self, requested_bytes: int) -> None:
        self.now -= requested_bytes
        await super().release_bytes(requested_bytes)


def test_sizes_are_bytes_written_and_read():
    value = sharded(PartitionSpec("a"))  # 8x4 float32, two copies
    assert th.ArrayHandler().memory_size([value, jnp.ones(3)]) == [(128, 256), (12, 12)]
    assert th.NumpyHandler().memory_size([np.ones(3)]) == [(24, 24)]
    assert th.StringHandler().memory_size(["üx"]) == [(3, 3)]
    ((written, read),) = th.ScalarHandler().memory_size([1])
    assert written == read > 0


def test_settings_of_one_batch_must_agree(tmp_path: Path):
    one, other = Item(tmp_path).infos(2)
    other.enable_pinned_host_transfer = False
    with pytest.raises(AssertionError, match="enable_pinned_host_transfer"):
        asyncio.run(th.ArrayHandler().serialize([jnp.ones(1)] * 2, [one, other]))


def test_random_keys_are_refused_with_a_way_out(tmp_path: Path):
    with pytest.raises(ValueError, match=r"key_data"):
        Item(tmp_path).save(th.ArrayHandler(), [jax.random.key(0)])


@pytest.mark.parametrize("handler", [th.NumpyHandler(), th.ArrayHandler()])
def test_a_failed_write_is_told_by_the_future(tmp_path: Path, handler: Any):
    (tmp_path / "file").write_text("in the way")
    value = jnp.ones(2) if isinstance(handler, th.ArrayHandler) else np.ones(2)

    async def save() -> Any:
        return await handler.serialize([value], Item(tmp_path / "file").infos(1))

    (future,) = asyncio.run(save())
    with pytest.raises(ValueError, match="file"):
        future.result()


@pytest.mark.row("R205", "R311")
def test_specs_of_all_handlers_come_from_one_place(tmp_path: Path, caplog: Any):
    info = Item(tmp_path).infos(1)[0]
    read = th.get_json_tspec_read(info, True)
    assert th.NumpyHandler()._get_json_tspec_read(info, True) == read
    assert read["kvstore"]["path"] == "leaf.0"
    write = th.get_json_tspec_write(info, True, (4,), (4,), np.dtype("f4"), process_index=0)
    own = th.NumpyHandler()._get_json_tspec_write(info, np.zeros(4, "f4"), True, process_index=0)
    assert {**write, "dtype": "float32"} == own
    assert own == th.ArrayHandler()._spec(jnp.zeros(4), info, th.SaveArgs())
    assert th.get_sharding_tensorstore_spec("/x", "a.b")["json_pointer"] == "/YS5i"
    with caplog.at_level(logging.ERROR):
        context = th.get_ts_context(True)
    assert "deprecated" in caplog.text
    new = ocp.serialization.tensorstore_utils.get_ts_context()
    assert context.spec.to_json() == new.spec.to_json()
    with pytest.raises(ValueError, match="where a leaf lies"):
        th.get_json_tspec_read(th.ParamInfo(name="x"), True)


def test_specs_with_a_cast():
    spec, value = {"driver": "zarr"}, np.zeros(2, np.float32)
    assert th.get_cast_tspec_serialize(spec, value, th.SaveArgs(dtype=jnp.bfloat16)) == {
        "driver": "cast",
        "dtype": "float32",
        "base": {"driver": "zarr", "dtype": "bfloat16"},
    }
    assert th.get_cast_tspec_deserialize(spec, th.RestoreArgs()) == spec
    cast = th.get_cast_tspec_deserialize(spec, th.RestoreArgs(dtype=np.int8))
    assert cast == {"driver": "cast", "dtype": "int8", "base": spec}


def test_whose_database_a_process_writes():
    assert th.get_process_index_for_subdir(True) == 0
    assert th.get_process_index_for_subdir(False) is None
    assert th.get_process_index_for_subdir(True, "other") == "other"


@pytest.mark.parametrize(
    ("handler", "value", "args"),
    [
        (th.NumpyHandler("k"), np.ones(2), None),
        (th.ScalarHandler("k"), 1, None),
        (th.ArrayHandler("k"), jnp.ones(2), [th.RestoreArgs()]),
    ],
)
def test_tensorstores_counts_are_told_at_debug_level_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, handler: Any, value: Any, args: Any
):
    item = Item(tmp_path)
    for level, times in ((logging.INFO, 0), (logging.DEBUG, 1)):
        for step in (lambda: item.save(handler, [value]), lambda: item.read(handler, 1, args)):
            caplog.clear()
            with caplog.at_level(level):
                step()
            lines = [record.getMessage() for record in caplog.records]
            assert lines.count("metadata_key: k") == times
            assert lines.count("parameters: ['leaf.0']") == times
            assert bool([line for line in lines if line.startswith("ts_metric:")]) == bool(times)


def test_there_is_nothing_to_merge_where_there_is_no_directory(tmp_path: Path):
    asyncio.run(th.merge_ocdbt_per_process_files(epath.Path(tmp_path / "no"), None, False))
    assert not (tmp_path / "no").exists()
