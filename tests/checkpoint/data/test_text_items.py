# SPDX-License-Identifier: Apache-2.0
"""Items that are one text file: values that JSON can say, and messages of protocol buffers."""

import concurrent.futures
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

import pertinax
from pertinax import checkpoint as ocp
from pertinax import errors
from pertinax.checkpoint.handlers.async_checkpoint_handler import AsyncCheckpointHandler
from tests.checkpoint.data.twins import agree


def message_class() -> Any:
    """A class for `message Config { int32 layers = 1; repeated string names = 2; }`."""
    file = descriptor_pb2.FileDescriptorProto(name="c.proto", package="test", syntax="proto3")
    message = file.message_type.add(name="Config")
    field = descriptor_pb2.FieldDescriptorProto
    message.field.add(name="layers", number=1, type=field.TYPE_INT32, label=field.LABEL_OPTIONAL)
    message.field.add(name="names", number=2, type=field.TYPE_STRING, label=field.LABEL_REPEATED)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("test.Config"))


Config = message_class()


# --- JSON


@pytest.mark.interop
@pytest.mark.parametrize(
    "value",
    [{"a": [1, 2.5, None, True, "ö"]}, [1, (2, 3)], {1: {2.5: "x"}}, "text", 0, None, [], {}],
    ids=str,
)
def test_a_value_comes_back_as_with_orbax(value: Any, tmp_path: Path):
    def program(ocp: Any, root: Path) -> Any:
        checkpointer = ocp.Checkpointer(ocp.JsonCheckpointHandler())
        checkpointer.save(root / "it", args=ocp.args.JsonSave(value))
        return checkpointer.restore(root / "it", args=ocp.args.JsonRestore())

    agree(program, tmp_path)


@pytest.mark.row("R216")
def test_the_file_appears_after_the_future(tmp_path: Path):
    handler = ocp.JsonCheckpointHandler()
    held = threading.Event()
    handler._executor.submit(held.wait)
    value = {"a": [1]}
    (future,) = run(handler.async_save(tmp_path, args=ocp.args.JsonSave(value)))
    assert not (tmp_path / "metadata").exists()
    value["a"].append(2)
    held.set()
    future.result()
    assert (tmp_path / "metadata").read_text() == '{"a": [1]}'
    handler.close()


def run(coroutine: Any) -> Any:
    return ocp.asyncio_utils.run_sync(coroutine)


def test_what_json_cannot_say_fails_in_the_background(tmp_path: Path):
    handler = ocp.JsonCheckpointHandler()
    (future,) = run(handler.async_save(tmp_path, {"a": object()}))
    with pytest.raises(TypeError, match="not JSON serializable"):
        future.result()
    with ocp.AsyncCheckpointer(handler) as checkpointer:
        checkpointer.save(tmp_path / "it", args=ocp.args.JsonSave({"a": {1, 2}}))
        with pytest.raises(TypeError, match="not JSON serializable"):
            checkpointer.wait_until_finished()
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_not_null(tmp_path: Path):
    handler = ocp.JsonCheckpointHandler()
    with pytest.raises(ValueError, match="nothing to save"):
        handler.save(tmp_path)
    handler.save(tmp_path, args=ocp.args.JsonSave(None))
    assert (tmp_path / "metadata").read_text() == "null"
    handler.save(tmp_path, args=ocp.args.JsonSave([1]))
    assert handler.restore(tmp_path) == [1]
    handler.close()


@pytest.mark.row("R075")
def test_a_closed_handler_reads_but_does_not_save(tmp_path: Path):
    handlers: list[tuple[Any, Any, Any]] = [
        (ocp.JsonCheckpointHandler(), {"a": 1}, None),
        (ocp.ProtoCheckpointHandler(), Config(layers=1), Config),
    ]
    for handler, value, wanted in handlers:
        handler.save(tmp_path, value)
        handler.close()
        with pytest.raises(RuntimeError, match="after shutdown"):
            handler.save(tmp_path, value)
        assert handler.restore(tmp_path, wanted) == value


@pytest.mark.parametrize("name", ["Json", "Proto"])
def test_args_belong_behind_their_keyword(name: str, tmp_path: Path):
    handler = getattr(ocp, f"{name}CheckpointHandler")()
    args = getattr(ocp.args, f"{name}Save")(Config())
    with pytest.raises(ValueError, match="Make sure to specify kwarg name `args=`"):
        handler.save(tmp_path, args)
    assert list(tmp_path.iterdir()) == []


def test_a_subclass_may_write_json_its_own_way(tmp_path: Path):
    class Slow(ocp.JsonCheckpointHandler):
        async def async_save(self, directory: Any, item: Any = None, args: Any = None) -> Any:
            return [self._executor.submit(self._save_fn, {"mine": args.item}, directory)]

    handler = Slow("other")
    assert handler._filename == "other"
    handler.save(tmp_path, args=ocp.args.JsonSave(1))
    assert (tmp_path / "other").read_text() == '{"mine": 1}'
    assert handler.restore(tmp_path) == {"mine": 1}
    assert handler.metadata(tmp_path) is None
    handler.close()


def test_a_missing_file_is_not_found(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        ocp.JsonCheckpointHandler().restore(tmp_path)
    with pytest.raises(FileNotFoundError):
        ocp.ProtoCheckpointHandler().restore(tmp_path, Config)


# --- messages


@pytest.mark.row("R070")
@pytest.mark.parametrize("kind", [ocp.Checkpointer, ocp.AsyncCheckpointer])
def test_a_message_comes_back_given_its_class(kind: Any, tmp_path: Path):
    message = Config(layers=3, names=["q", "é", ""])
    with kind(ocp.ProtoCheckpointHandler()) as checkpointer:
        checkpointer.save(tmp_path / "it", args=ocp.args.ProtoSave(message))
        saved = Config()
        saved.CopyFrom(message)
        message.layers = 9  # the program may go on with it
        for call in ({"args": ocp.args.ProtoRestore(Config)}, {"item": Config}):
            assert checkpointer.restore(tmp_path / "it", **call) == saved
        with pytest.raises(TypeError):  # the class is a required field of the args
            checkpointer.restore(tmp_path / "it")
    text = (tmp_path / "it" / "proto.pbtxt").read_text("utf-8")
    assert text_format.Parse(text, Config()) == saved


def test_without_the_class_a_message_cannot_be_read(tmp_path: Path):
    handler = ocp.ProtoCheckpointHandler("my.pbtxt")
    handler.save(tmp_path, Config(layers=1))
    assert (tmp_path / "my.pbtxt").exists()
    with pytest.raises(ValueError, match="Must provide `item`"):
        handler.restore(tmp_path)
    assert handler.restore(tmp_path, item=Config) == Config(layers=1)
    with pytest.raises(TypeError, match="class of the message"):
        handler.restore(tmp_path, Config())
    handler.close()


def test_only_messages_are_saved_as_messages(tmp_path: Path):
    handler = ocp.ProtoCheckpointHandler()
    for value in (None, 5, Config):
        for error in (TypeError, AttributeError):
            with pytest.raises(error, match="not a message"):
                handler.save(tmp_path, value)
    assert list(tmp_path.iterdir()) == []
    handler.close()


def test_a_message_is_an_item_among_others(tmp_path: Path):
    checkpointer = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
    items = ocp.args.Composite(
        config=ocp.args.ProtoSave(Config(layers=2)), meta=ocp.args.JsonSave({"a": 1})
    )
    checkpointer.save(tmp_path / "it", args=items)
    with pytest.raises(ValueError, match="default-constructible"):
        checkpointer.restore(tmp_path / "it")
    wanted = ocp.args.Composite(config=ocp.args.ProtoRestore(Config))
    assert checkpointer.restore(tmp_path / "it", args=wanted).config == Config(layers=2)
    assert pertinax.verify(tmp_path / "it").ok
    file = tmp_path / "it" / "config" / "proto.pbtxt"
    file.write_text(file.read_text().replace("2", "3"))
    with pytest.raises(errors.CorruptCheckpoint, match="pbtxt"):
        checkpointer.restore(tmp_path / "it", args=wanted)


@pytest.mark.parametrize(
    ("make", "value"),
    [(ocp.JsonCheckpointHandler, {"a": 1}), (ocp.ProtoCheckpointHandler, Config(layers=1))],
)
def test_only_the_primary_process_writes(
    make: Callable[..., AsyncCheckpointHandler],
    value: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(ocp.multihost, "should_skip_process_sync", lambda: False)
    for primary, writes in ((1, False), (0, True), (None, True)):
        options = ocp.options.MultiprocessingOptions(primary_host=primary)
        handler = make(multiprocessing_options=options)
        place = tmp_path / str(primary)
        place.mkdir()
        handler.save(place, value)
        assert bool(list(place.iterdir())) == writes
        handler.close()
    assert isinstance(handler._executor, concurrent.futures.Executor)
