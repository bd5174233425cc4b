# SPDX-License-Identifier: Apache-2.0
"""Trees with leaves whose type handlers a program has registered, saved and restored."""

import asyncio
import dataclasses
import json
import threading
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import pertinax
from pertinax import checkpoint as ocp
from pertinax import errors
from pertinax.checkpoint import type_handlers as th
from tests.checkpoint.data.twins import sharded
from tests.checkpoint.type_handlers.leaves import (
    Name,
    Point,
    checkpointer,
    file_of,
    negating,
    point_handler,
    with_stock,
)

LAYOUTS = [
    {},
    {"use_zarr3": True},
    {"use_ocdbt": False},
    {"use_ocdbt": False, "use_zarr3": True},
]
layouts = pytest.mark.parametrize("layout", LAYOUTS, ids=str)


def tree() -> Any:
    return {
        "p": Point(1, 2),
        "l": [Point(3, 4), {"deep": Point(5, 6)}],
        "n": np.arange(3),
        "j": sharded(PartitionSpec("a", "b")),
        "i": 7,
        "s": "text",
        "empty": {},
        "none": None,
    }


@layouts
def test_any_object_can_be_a_leaf(tmp_path: Path, layout: Any):
    with checkpointer(with_stock(ocp, (Point, point_handler())), **layout) as saver:
        saver.save(tmp_path / "a", tree())
        found = saver.restore(tmp_path / "a")
        into = saver.restore(tmp_path / "a", item=jax.tree.map(lambda _: 0, tree()))
    for one in (found, into):
        assert one["p"] == Point(1, 2)
        assert one["l"] == [Point(3, 4), {"deep": Point(5, 6)}]
        assert one["n"].tolist() == [0, 1, 2]
        assert one["j"].sharding.spec == PartitionSpec("a", "b")
        assert (one["i"], one["s"], one["empty"], one["none"]) == (7, "text", {}, None)
    assert pertinax.verify(tmp_path / "a").ok
    entries = json.loads((tmp_path / "a" / "_METADATA").read_text())["tree_metadata"]
    assert entries["('p',)"]["value_metadata"] == {"value_type": "Point", "skip_deserialize": False}
    kinds = {leaf.path: leaf.text for leaf in pertinax.describe(tmp_path / "a").leaves}
    assert kinds["l/1/deep"] == "foreign Point"


@pytest.mark.row("R081")
@pytest.mark.row("R109")
@layouts
def test_a_handler_gets_all_its_leaves_in_one_call_with_all_that_it_must_know(
    tmp_path: Path, layout: Any
):
    handler = point_handler()
    options = {"save_concurrent_gb": 1e-3, "restore_concurrent_gb": 2e-3, **layout}
    args = jax.tree.map(lambda _: ocp.SaveArgs(), tree())
    args["p"] = ocp.SaveArgs(dtype=np.float16)
    settings = {"ocdbt_target_data_file_size": 10**6, "enable_pinned_host_transfer": False}
    with checkpointer(with_stock(ocp, (Point, handler)), **options) as saver:
        saver.save(tmp_path / "a", args=ocp.args.PyTreeSave(tree(), args, **settings))
        saver.restore(tmp_path / "a")
        saver.metadata(tmp_path / "a")
    (save, restore, metadata) = handler.calls
    assert [call[0] for call in handler.calls] == ["serialize", "deserialize", "metadata"]
    for _, infos, _ in handler.calls:
        assert [info.name for info in infos] == ["p", "l.0", "l.1.deep"]
        assert all(info.path == info.parent_dir / info.name for info in infos)
        assert all(info.is_ocdbt_checkpoint == layout.get("use_ocdbt", True) for info in infos)
        assert all(info.use_zarr3 == layout.get("use_zarr3", False) for info in infos)
        assert all(info.skip_deserialize is False for info in infos)
        assert len({id(info.ts_context) for info in infos}) == 1
        assert len({id(info.byte_limiter) for info in infos}) == 1
    (one, *_), (other, *_) = save[1], restore[1]
    assert one.parent_dir.parent == tmp_path
    assert other.parent_dir == tmp_path / "a"
    assert (one.byte_limiter.max_bytes, other.byte_limiter.max_bytes) == (10**6, 2 * 10**6)
    assert (one.ocdbt_target_data_file_size, one.enable_pinned_host_transfer) == (10**6, False)
    assert one.value_typestr == "Point"
    assert save[2][0].dtype == np.float16
    assert metadata[1][0].parent_dir == tmp_path / "a"


@pytest.mark.row("R087")
@layouts
@pytest.mark.parametrize(
    ("base", "ty", "value"),
    [
        (th.NumpyHandler, np.ndarray, np.arange(4.0)),
        (th.ScalarHandler, int, 5),
        (th.ArrayHandler, jax.Array, jnp.arange(4.0)),
    ],
)
def test_a_handler_that_builds_on_a_stock_one(
    tmp_path: Path, layout: Any, base: type, ty: Any, value: Any
):
    own, stock = with_stock(ocp, (ty, negating(base))), with_stock(ocp)
    with checkpointer(own, **layout) as mine, checkpointer(stock, **layout) as plain:
        for other, name in ((None, "mine"), (plain, "stock")):
            (other or mine).save(tmp_path / name, {"x": value, "s": "beside"})
        for name, reader, sign in (
            ("mine", mine, 1),
            ("mine", plain, -1),  # what it stores is an array like any other
            ("stock", mine, -1),  # and the handler of the recorded name is the one that reads
            ("stock", plain, 1),
        ):
            found = reader.restore(tmp_path / name)
            assert np.array_equal(found["x"], sign * value), (name, sign)
            assert found["s"] == "beside"
            assert reader.metadata(tmp_path / name)["x"].dtype == np.asarray(value).dtype
    assert pertinax.verify(tmp_path / "mine").ok


@pytest.mark.row("R003")
@pytest.mark.parametrize("use_ocdbt", [True, False])
def test_standard_handlers_with_another_metadata_key(tmp_path: Path, use_ocdbt: bool):
    th.register_standard_handlers_with_options(
        metadata_key=".renamed", use_ocdbt=use_ocdbt, ts_context=None
    )
    saver = ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=use_ocdbt))
    saver.save(tmp_path / "a", tree() | {"p": 0.5, "l": [True]})
    found = saver.restore(tmp_path / "a")
    assert (found["p"], found["l"], found["i"], found["s"]) == (0.5, [True], 7, "text")
    assert found["n"].tolist() == [0, 1, 2]
    assert np.array_equal(found["j"], tree()["j"])
    if not use_ocdbt:
        assert (tmp_path / "a" / "n" / ".renamed").exists()


def test_a_leaf_can_be_restored_as_another_type(tmp_path: Path):
    handler = negating(th.ScalarHandler)
    registry = with_stock(ocp, (float, handler))
    with checkpointer(registry) as saver:
        saver.save(tmp_path / "a", {"x": np.ones(()), "y": 2.0})
        args = {"x": ocp.RestoreArgs(restore_type="scalar"), "y": ocp.RestoreArgs(np.ndarray)}
        found = saver.restore(tmp_path / "a", restore_args=args)
    assert found["x"] == -1.0, "the handler of that name"
    assert found["y"].tolist() == -2.0, "read by numpy's, which knows nothing of signs"


def test_without_its_handler_a_leaf_is_left_where_it_is(tmp_path: Path):
    with checkpointer(with_stock(ocp, (Point, point_handler()))) as saver:
        saver.save(tmp_path / "a", tree())
    plain = ocp.PyTreeCheckpointHandler()
    with pytest.raises(ValueError, match=r"Unknown type: 'Point' of leaf 'p'"):
        plain.restore(tmp_path / "a")
    assert type(plain.metadata(tmp_path / "a")["p"]) is ocp.metadata.Metadata
    assert plain.metadata(tmp_path / "a")["p"].name == "p"
    with pytest.raises(errors.UnsupportedLeaf, match=r"'p'.*'Point'"):
        pertinax.load(tmp_path / "a")
    assert pertinax.load(tmp_path / "a", select=["n", "s"])["s"] == "text"


def test_damage_in_the_file_of_a_handler_is_found_before_it_reads(tmp_path: Path):
    handler = point_handler()
    registry = with_stock(ocp, (Point, handler))
    with checkpointer(registry) as saver:
        saver.save(tmp_path / "a", tree())
        file = tmp_path / "a" / "l.0.point"
        file.write_text("[3, 5]")
        before = len(handler.calls)
        with pytest.raises(errors.CorruptCheckpoint, match=r"l\.0\.point"):
            saver.restore(tmp_path / "a")
        assert len(handler.calls) == before
        report = pertinax.verify(tmp_path / "a", on_damage="report")
        assert [problem.file for problem in report.problems] == ["l.0.point"]
        file.unlink()
        with pytest.raises(errors.CorruptCheckpoint, match="missing"):
            saver.restore(tmp_path / "a")


def data_files(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("**/d/*") if path.is_file())


def test_damage_in_the_databases_is_found_before_a_handler_reads(tmp_path: Path):
    registry = with_stock(ocp, (np.ndarray, negating(th.NumpyHandler)))
    with checkpointer(registry) as saver:
        saver.save(tmp_path / "a", {"x": np.arange(5000.0), "i": 1, "j": jnp.ones(3)})
        for file in [*data_files(tmp_path / "a"), *(tmp_path / "a").glob("**/manifest.ocdbt")]:
            good = file.read_bytes()
            middle = len(good) - 5
            file.write_bytes(good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :])
            with pytest.raises(errors.CorruptCheckpoint):
                saver.restore(tmp_path / "a")
            file.write_bytes(good)
        saver.restore(tmp_path / "a")


def test_handlers_of_all_kinds_share_one_database(tmp_path: Path):
    registry = with_stock(
        ocp,
        (np.ndarray, negating(th.NumpyHandler)),
        (int, negating(th.ScalarHandler)),
        (jax.Array, negating(th.ArrayHandler)),
    )
    value = {
        "n": [np.arange(3), np.arange(3000)],
        "i": [1, 2],
        "j": [jnp.arange(3.0), jnp.arange(3000.0)],
        "s": "of the engine",
    }
    with checkpointer(registry) as saver:
        saver.save(tmp_path / "a", value)
        found = saver.restore(tmp_path / "a")
    assert found.pop("s") == value.pop("s")
    jax.tree.map(np.testing.assert_array_equal, found, value)
    plain = ocp.PyTreeCheckpointHandler().restore(tmp_path / "a")
    jax.tree.map(np.testing.assert_array_equal, plain["j"], [-one for one in value["j"]])
    assert plain["s"] == "of the engine"
    assert pertinax.verify(tmp_path / "a").ok


class Loud(str):
    __slots__ = ()


class LoudHandler(th.StringHandler):
    async def serialize(self, values: Any, infos: Any, args: Any = None) -> Any:
        return await super().serialize([value.upper() for value in values], infos, args)


def test_strings_of_a_handler_and_of_the_engine_share_their_file(tmp_path: Path):
    registry = with_stock(ocp, (Loud, LoudHandler()))
    with checkpointer(registry) as saver:
        saver.save(tmp_path / "a", {"loud": Loud("hey"), "quiet": "well", "d": {"x/y": Loud("z")}})
    texts = json.loads((tmp_path / "a" / "_strings.json").read_text())
    assert texts == {"loud": "HEY", "quiet": "well", "d.x": {"y": "Z"}}
    found = ocp.PyTreeCheckpointHandler().restore(tmp_path / "a")
    assert found == {"loud": "HEY", "quiet": "well", "d": {"x/y": "Z"}}
    assert pertinax.verify(tmp_path / "a").ok


def test_layouts_of_a_handler_and_of_the_engine_share_their_file(tmp_path: Path):
    class Keys:  # only arrays of this type go to a handler of the program
        pass

    handler = negating(th.ArrayHandler)
    registry = with_stock(ocp)
    registry.add(Keys, handler, func=lambda ty: ty is Keys, override=True)

    class Wrapped(th.TypeHandler):
        def typestr(self) -> str:
            return "wrapped"

        async def metadata(self, infos: Any) -> Any:
            return await handler.metadata(infos)

        async def serialize(self, values: Any, infos: Any, args: Any = None) -> Any:
            return await handler.serialize([jnp.ones(3)] * len(values), infos, args)

        async def deserialize(self, infos: Any, args: Any = None) -> Any:
            return await handler.deserialize(infos, args)

    registry = with_stock(ocp)
    registry.add(Name, Wrapped())
    with checkpointer(registry) as saver:
        saver.save(tmp_path / "a", {"own": Name("x"), "j": sharded(PartitionSpec("a"))})
        found = saver.restore(tmp_path / "a")
        assert saver.metadata(tmp_path / "a")["own"].sharding is not None
    assert found["own"].tolist() == [1, 1, 1]
    assert found["j"].sharding.spec == PartitionSpec("a")
    assert len(json.loads((tmp_path / "a" / "_sharding").read_text())) == 2


def test_a_handler_that_fails_leaves_nothing_and_nobody_goes_on_writing(tmp_path: Path):
    slow = threading.Event()

    class Failing(th.TypeHandler):
        def typestr(self) -> str:
            return "failing"

        async def metadata(self, infos: Any) -> Any:
            return []

        async def serialize(self, values: Any, infos: Any, args: Any = None) -> Any:
            raise OSError("no")

        async def deserialize(self, infos: Any, args: Any = None) -> Any:
            return []

    class Future:
        def result(self, timeout: Any = None) -> None:
            slow.set()

    class Slow(Failing):
        async def serialize(self, values: Any, infos: Any, args: Any = None) -> Any:
            await asyncio.sleep(0)
            return [Future()]

    registry = with_stock(ocp, (Name, Failing()))
    registry.add(Point, Slow(), override=True)
    with checkpointer(registry) as saver, pytest.raises(OSError, match="no"):
        saver.save(tmp_path / "a", {"n": Name("x"), "p": Point(1, 2), "x": np.ones(3)})
    assert slow.is_set(), "what had begun was waited for"
    assert list(tmp_path.iterdir()) == []


def test_a_future_that_fails_is_the_failure_of_the_save(tmp_path: Path):
    handler = point_handler()
    handler.pool.shutdown()
    registry = with_stock(ocp, (Point, handler))
    with pytest.raises(RuntimeError, match="shutdown"):
        checkpointer(registry).save(tmp_path / "a", {"p": Point(1, 2)})

    class Broken(type(point_handler())):
        async def serialize(self, values: Any, infos: Any, args: Any = None) -> Any:
            def fail() -> None:
                raise OSError("broken disk")

            return [self.pool.submit(fail)]

    registry = with_stock(ocp, (Point, Broken()))
    with ocp.AsyncCheckpointer(
        ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    ) as saver:
        saver.save(tmp_path / "b", args=ocp.args.PyTreeSave({"p": Point(1, 2), "x": np.ones(9)}))
        with pytest.raises(OSError, match="broken disk"):
            saver.wait_until_finished()
    assert list(tmp_path.iterdir()) == []


def test_handlers_are_asked_on_the_callers_side_and_waited_for_in_the_background(tmp_path: Path):
    released, seen = threading.Event(), []

    class Waiting(type(point_handler())):
        async def serialize(self, values: Any, infos: Any, args: Any = None) -> Any:
            seen.append(threading.current_thread())
            futures = await super().serialize(values, infos, args)
            return [*futures, self.pool.submit(released.wait)]

        def finalize(self, directory: Any) -> None:
            seen.append([path.name for path in Path(directory).glob("*.point")])
            (Path(directory) / "points.index").write_text("p")

    registry = with_stock(ocp, (Point, Waiting()))
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    with ocp.AsyncCheckpointer(handler) as saver:
        saver.save(tmp_path / "a", args=ocp.args.PyTreeSave({"p": Point(1, 2)}))
        assert seen == [threading.main_thread()]
        assert not (tmp_path / "a").exists()
        released.set()
        saver.wait_until_finished()
    assert seen[1] == ["p.point"], "finalize comes when all is written"
    assert pertinax.verify(tmp_path / "a").ok
    (tmp_path / "a" / "points.index").write_text("q")
    assert not pertinax.verify(tmp_path / "a", on_damage="report").ok


def test_names_of_ones_own(tmp_path: Path):
    class Shouting(ocp.PyTreeCheckpointHandler):
        def get_param_names(self, item: Any) -> Any:
            return jax.tree.map(str.upper, super().get_param_names(item))

    class Base(ocp.BasePyTreeCheckpointHandler):
        def get_param_names(self, item: Any) -> Any:
            return jax.tree.map(str.upper, super().get_param_names(item))

    handler = point_handler()
    registry = with_stock(ocp, (Point, handler))
    whole = {"p": Point(1, 2), "d": {"x": np.arange(3), "s": "text"}, "e": {}}
    Shouting(type_handler_registry=registry).save(tmp_path / "a", whole)
    args = ocp.handlers.BasePyTreeSaveArgs(whole)
    Base(type_handler_registry=registry).save(tmp_path / "b", args)
    for name in "ab":
        assert (tmp_path / name / "P.point").exists()
        assert json.loads((tmp_path / name / "_strings.json").read_text()) == {"D.S": "text"}
        reader = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
        found = reader.restore(tmp_path / name)
        assert found["p"] == Point(1, 2)
        assert found["d"]["x"].tolist() == [0, 1, 2]
        assert reader.metadata(tmp_path / name)["d"]["x"].name == "D.X"

    class Blind(ocp.PyTreeCheckpointHandler):
        def get_param_names(self, item: Any) -> Any:
            return jax.tree.map(lambda _: "same", item)

    with pytest.raises(ValueError, match="1 distinct names for 3 leaves"):
        Blind(type_handler_registry=registry).save(tmp_path / "c", whole)


def test_a_directory_that_is_used_twice_holds_the_second_tree_only(tmp_path: Path):
    handler = ocp.PyTreeCheckpointHandler(
        type_handler_registry=with_stock(
            ocp, (Point, point_handler()), (np.ndarray, negating(th.NumpyHandler))
        )
    )
    handler.save(tmp_path / "a", {"p": Point(1, 2), "x": np.ones(3), "y": np.ones(3)})
    handler.save(tmp_path / "a", {"q": Point(3, 4), "x": np.zeros(3)})
    found = handler.restore(tmp_path / "a")
    assert found["q"] == Point(3, 4)
    assert found["x"].tolist() == [0, 0, 0]
    assert [path.name for path in (tmp_path / "a").glob("*.point")] == ["q.point"]


def test_a_manager_and_a_composite_know_handlers_of_the_program(tmp_path: Path):
    th.register_type_handler(Point, point_handler())
    with ocp.CheckpointManager(tmp_path / "m", item_names=("state", "more")) as manager:
        manager.save(
            1,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeSave({"p": Point(1, 2), "x": np.ones(3)}),
                more=ocp.args.JsonSave({"a": 1}),
            ),
        )
        manager.wait_until_finished()
        found = manager.restore(
            1, args=ocp.args.Composite(state=ocp.args.PyTreeRestore(), more=ocp.args.JsonRestore())
        )
    assert found["state"]["p"] == Point(1, 2)
    assert pertinax.verify(tmp_path / "m" / "1").ok
    file = tmp_path / "m" / "1" / "state" / "p.point"
    file.write_text("[9, 9]")
    assert not pertinax.verify(tmp_path / "m" / "1", on_damage="report").ok


def test_the_standard_handler_uses_the_registry_of_the_program(tmp_path: Path):
    th.register_type_handler(np.ndarray, negating(th.NumpyHandler), override=True)
    with ocp.StandardCheckpointer() as saver:
        saver.save(tmp_path / "a", {"x": np.arange(4), "i": 1})
        saver.wait_until_finished()
        assert saver.restore(tmp_path / "a")["x"].tolist() == [0, 1, 2, 3]
        target = {"x": np.zeros(4, int), "i": 0}
        assert saver.restore(tmp_path / "a", target)["x"].tolist() == [0, 1, 2, 3]
    assert pertinax.load(tmp_path / "a", select="i") == {"i": 1}
    th.register_type_handler(Point, point_handler())
    with ocp.StandardCheckpointer() as saver, pytest.raises(ValueError, match="Unsupported type"):
        saver.save(tmp_path / "b", {"p": Point(1, 2)})


@pytest.mark.row("R132")
def test_two_checkpointers_with_different_layouts_save_at_once_through_one_registry(tmp_path: Path):
    registry = with_stock(ocp, (Point, point_handler()), (np.ndarray, negating(th.NumpyHandler)))
    savers = {
        name: ocp.AsyncCheckpointer(
            ocp.PyTreeCheckpointHandler(type_handler_registry=registry, use_ocdbt=name == "ocdbt")
        )
        for name in ("ocdbt", "files")
    }
    for step in range(3):
        for name, saver in savers.items():
            value = {"p": Point(step, 0), "x": np.full(1000, step), "j": jnp.full(9, step)}
            saver.save(tmp_path / f"{name}{step}", args=ocp.args.PyTreeSave(value))
    for saver in savers.values():
        saver.wait_until_finished()
    for name, other in (("ocdbt", "files"), ("files", "ocdbt")):
        for step in range(3):
            path = tmp_path / f"{name}{step}"
            found = savers[other].restore(path)
            assert found["p"] == Point(step, 0)
            assert found["x"].tolist() == [step] * 1000
            assert found["j"].tolist() == [step] * 9
            assert (path / "manifest.ocdbt").exists() == (name == "ocdbt")
            assert (path / "x" / ".zarray").exists() == (name == "files")
    for saver in savers.values():
        saver.close()


@pytest.mark.row("R051")
def test_one_handler_object_serves_threads_in_turn(tmp_path: Path):
    registry = with_stock(ocp, (Point, point_handler()), (np.ndarray, negating(th.NumpyHandler)))
    handler = ocp.PyTreeCheckpointHandler(
        type_handler_registry=registry, restore_concurrent_gb=1e-3, save_concurrent_gb=1e-3
    )
    found: list[Any] = []

    def work(name: str) -> None:
        handler.save(tmp_path / name, {"p": Point(1, 2), "x": np.arange(3)})
        found.append(handler.restore(tmp_path / name))

    for name in ("one", "two"):
        thread = threading.Thread(target=work, args=(name,))
        thread.start()
        thread.join()
    assert [one["x"].tolist() for one in found] == [[0, 1, 2]] * 2


def test_a_handler_may_call_the_library_from_inside_a_running_loop(tmp_path: Path):
    async def main() -> Any:
        with checkpointer(with_stock(ocp, (Point, point_handler()))) as saver:
            saver.save(tmp_path / "a", {"p": Point(1, 2)})
            return saver.restore(tmp_path / "a")

    assert asyncio.run(main()) == {"p": Point(1, 2)}


def test_a_handler_that_gives_too_little_is_told_so(tmp_path: Path):
    handler = point_handler()
    registry = with_stock(ocp, (Point, handler))
    with checkpointer(registry) as saver:
        saver.save(tmp_path / "a", tree())

        async def nothing(infos: Any, args: Any = None) -> Any:
            return []

        handler.deserialize = nothing
        with pytest.raises(ValueError, match="asked for 3 leaves and gave 0"):
            saver.restore(tmp_path / "a")


def test_a_handler_must_not_take_the_name_of_an_empty_container(tmp_path: Path):
    handler = point_handler(typestr=lambda: "Dict")
    registry = with_stock(ocp, (Point, handler))
    with pytest.raises(ValueError, match="empty container"):
        checkpointer(registry).save(tmp_path / "a", tree())


def test_sizes_of_a_handler_are_guessed_if_it_does_not_say(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    class Silent(type(point_handler())):
        def memory_size(self, values: Any) -> Any:
            raise NotImplementedError

    registry = with_stock(ocp, (Point, Silent()))
    checkpointer(registry).save(tmp_path / "a", {"p": Point(1, 2)})
    assert "handler=Silent" in caplog.text


def test_what_a_subclass_writes_later_is_vouched_for_as_well(tmp_path: Path):
    class Noting(ocp.PyTreeCheckpointHandler):
        def save(self, directory: Any, *args: Any, **kwargs: Any) -> None:
            super().save(directory, *args, **kwargs)
            (directory / "notes.txt").write_text("good")

    ocp.Checkpointer(Noting()).save(tmp_path / "a", {"x": np.ones(3)})
    assert pertinax.verify(tmp_path / "a").ok
    (tmp_path / "a" / "notes.txt").write_text("evil")
    assert not pertinax.verify(tmp_path / "a", on_damage="report").ok


@layouts
def test_what_is_stored_in_the_stock_way_is_read_through_the_front_door_as_well(
    tmp_path: Path, layout: Any
):
    registry = with_stock(
        ocp,
        (np.ndarray, negating(th.NumpyHandler)),
        (int, negating(th.ScalarHandler)),
        (jax.Array, negating(th.ArrayHandler)),
        (str, LoudHandler()),
        (Point, point_handler()),
    )
    value = {"n": np.arange(5000.0), "i": 3, "j": sharded(PartitionSpec("a")), "s": "hey"}
    with checkpointer(registry, **layout) as saver:
        saver.save(tmp_path / "a", {**value, "p": Point(1, 2)})
    about = {leaf.path: leaf.text for leaf in pertinax.describe(tmp_path / "a").leaves}
    assert about == {
        "n": "f64[5000]",
        "i": "int (i64)",
        "j": "f32[8,4]",
        "s": "str",
        "p": "foreign Point",
    }
    found = pertinax.load(tmp_path / "a", select=list(value), sharding="stored")
    assert found["n"].tolist() == (-value["n"]).tolist()
    assert (found["i"], found["s"]) == (-3, "HEY")
    assert np.array_equal(found["j"], -value["j"])
    assert found["j"].sharding.spec == PartitionSpec("a")
    target = {"n": np.zeros(5000), "i": 0, "j": jnp.zeros((8, 4)), "s": "", "p": Point(0, 0)}
    del target["p"]
    into = pertinax.load(tmp_path / "a", target, extra="ignore")
    assert into["n"].tolist() == (-value["n"]).tolist()
    files = [*(tmp_path / "a").glob("ocdbt.process_0/d/*"), *(tmp_path / "a").glob("n/**/*")]
    for file in (path for path in files if path.is_file()):
        good = file.read_bytes()
        file.write_bytes(good[:20] + bytes([good[20] ^ 1]) + good[21:])
        with pytest.raises(errors.CorruptCheckpoint):
            pertinax.load(tmp_path / "a", select="n")
        file.write_bytes(good)


def test_arrays_under_another_key_stay_with_their_handler(tmp_path: Path):
    registry = with_stock(ocp, (np.ndarray, th.NumpyHandler(".own")))
    with checkpointer(registry) as saver:
        saver.save(tmp_path / "a", {"n": np.arange(3), "i": 1})
        assert saver.restore(tmp_path / "a")["n"].tolist() == [0, 1, 2]
    assert pertinax.describe(tmp_path / "a").leaves[0].text == "foreign np.ndarray"
    assert pertinax.load(tmp_path / "a", select="i") == {"i": 1}
    with pytest.raises(errors.UnsupportedLeaf, match=r"np\.ndarray"):
        pertinax.load(tmp_path / "a")


def test_a_plain_tree_is_untouched_by_all_this(tmp_path: Path):
    """One fast path: neither TensorStore nor a second look at files for leaves of the engine."""
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=with_stock(ocp))
    handler.save(tmp_path / "a", {"x": np.ones(3), "j": jnp.ones(3), "i": 1, "s": "t"})
    assert not list((tmp_path / "a").glob("ocdbt.process_*"))
    assert {leaf.kind for leaf in pertinax.describe(tmp_path / "a").leaves} == {
        "numpy",
        "jax",
        "int",
        "str",
    }


def test_infos_are_plain_data():
    info = th.ParamInfo("n", None, None)
    assert dataclasses.replace(info, name="m").name == "m"
    assert (info.use_zarr3, info.enable_pinned_host_transfer) == (False, True)
    assert file_of(th.ParamInfo("n", parent_dir=Path("/x"))) == Path("/x/n.point")
