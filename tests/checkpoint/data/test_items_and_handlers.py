# SPDX-License-Identifier: Apache-2.0
"""Which handler serves an item, what a composite learns of that, and what it forgets."""

import dataclasses
import pickle
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

import pertinax
from pertinax import checkpoint as ocp
from pertinax.checkpoint.path.atomicity import AtomicRenameTemporaryPath, CommitFileTemporaryPath

Composite = ocp.args.Composite
Json, Standard = ocp.args.JsonSave, ocp.args.StandardSave


class Words(ocp.CheckpointHandler):
    """Keeps a text; two kinds of args are registered with it, a third one is not."""

    def __init__(self) -> None:
        self.finalized: list[str] = []
        self.closed = 0

    def save(self, directory: Any, args: Any) -> None:
        (directory / "words").write_text(args.text)

    def restore(self, directory: Any, args: Any) -> str:
        return type(args).__name__ + " " + (directory / "words").read_text()

    def finalize(self, directory: Any) -> None:
        self.finalized.append(directory.name)

    def metadata(self, directory: Any) -> Any:
        return len((directory / "words").read_text())

    def close(self) -> None:
        self.closed += 1


@ocp.args.register_with_handler(Words, for_save=True)
@dataclasses.dataclass
class WordsSave(ocp.args.CheckpointArgs):
    text: str


@ocp.args.register_with_handler(Words, for_save=True)
@dataclasses.dataclass
class OtherSave(ocp.args.CheckpointArgs):
    text: str


@ocp.args.register_with_handler(Words, for_restore=True)
@dataclasses.dataclass
class WordsRestore(ocp.args.CheckpointArgs):
    pass


@dataclasses.dataclass
class Unregistered(ocp.args.CheckpointArgs):
    text: str = ""


# --- finding a handler


def test_an_entry_for_the_item_comes_before_one_for_any_item(tmp_path: Path):
    registry = ocp.DefaultCheckpointHandlerRegistry()
    special, general = Words(), Words()
    registry.add("a", WordsSave, special)
    registry.add(None, WordsSave, general)
    handler = ocp.CompositeCheckpointHandler(handler_registry=registry)
    assert handler._get_or_set_handler("a", WordsSave("")) is special
    assert handler._get_or_set_handler("b", WordsSave("")) is general
    learned = handler._handler_registry
    assert learned.get("b", WordsSave) is general
    assert not registry.has("b", WordsSave)
    assert handler._get_or_set_handler("b", None) is general


@pytest.mark.row("R298")
def test_a_registry_may_name_args_that_are_registered_nowhere(tmp_path: Path):
    registry = ocp.DefaultCheckpointHandlerRegistry()
    words = Words()
    registry.add("a", Unregistered, words)
    checkpointer = ocp.Checkpointer(ocp.CompositeCheckpointHandler(handler_registry=registry))
    checkpointer.save(tmp_path / "it", args=Composite(a=Unregistered("x")))
    wanted = Composite(a=Unregistered())
    assert checkpointer.restore(tmp_path / "it", args=wanted).a == "Unregistered x"
    with pytest.raises(ValueError, match="Provided a `None` `CheckpointHandler`"):
        registry.add("b", Unregistered)


@pytest.mark.wd("WD-19")
def test_default_args_are_those_of_the_entry(tmp_path: Path):
    registry = ocp.DefaultCheckpointHandlerRegistry()

    @dataclasses.dataclass
    class Mine(ocp.args.CheckpointArgs):
        pass

    words = Words()
    registry.add("a", WordsSave, words)
    registry.add("b", Unregistered, Plain())
    registry.add("b", Mine, Plain())
    handler = ocp.CompositeCheckpointHandler(handler_registry=registry)
    checkpointer = ocp.Checkpointer(handler)
    args = Composite(a=WordsSave("x"), b=Unregistered("y"))
    checkpointer.save(tmp_path / "it", args=args)
    found = checkpointer.restore(tmp_path / "it")
    assert found == {"a": "WordsRestore x", "b": "y"}


class Plain(ocp.CheckpointHandler):
    """Has no registered args at all."""

    def save(self, directory: Any, args: Any) -> None:
        (directory / "words").write_text(args.text)

    def restore(self, directory: Any, args: Any) -> str:
        return (directory / "words").read_text()


@pytest.mark.wd("WD-19")
def test_an_item_may_be_saved_with_any_args_of_its_handler_and_again(tmp_path: Path):
    checkpointer = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
    for i, args in enumerate((OtherSave("x"), WordsSave("y"), OtherSave("z"))):
        checkpointer.save(tmp_path / str(i), args=Composite(a=args))
        found = checkpointer.restore(tmp_path / str(i), args=Composite(a=WordsRestore()))
        assert found.a == f"WordsRestore {args.text}"
    assert len({id(one) for one in checkpointer.handler._handler_registry._entries.values()}) == 1


@pytest.mark.wd("WD-19")
def test_a_general_entry_for_saving_serves_restoring_too(tmp_path: Path):
    registry = ocp.DefaultCheckpointHandlerRegistry()
    special = ocp.JsonCheckpointHandler(filename="special")
    registry.add(None, Json, special)
    checkpointer = ocp.Checkpointer(ocp.CompositeCheckpointHandler(handler_registry=registry))
    checkpointer.save(tmp_path / "it", args=Composite(a=Json([1])))
    assert (tmp_path / "it" / "a" / "special").exists()
    assert checkpointer.restore(tmp_path / "it").a == [1]
    wanted = Composite(a=ocp.args.JsonRestore())
    assert checkpointer.restore(tmp_path / "it", args=wanted).a == [1]


@pytest.mark.wd("WD-19")
def test_a_call_that_fails_teaches_nothing(tmp_path: Path):
    made: list[Any] = []

    class Breaks(ocp.CheckpointHandler):
        def __init__(self) -> None:
            self.closed = False
            made.append(self)

        def save(self, directory: Any, args: Any) -> None:
            raise OSError("no ink")

        def restore(self, directory: Any, args: Any) -> Any:
            raise OSError("no light")

        def close(self) -> None:
            self.closed = True

    @ocp.args.register_with_handler(Breaks, for_save=True, for_restore=True)
    @dataclasses.dataclass
    class BreaksArgs(ocp.args.CheckpointArgs):
        pass

    checkpointer = ocp.Checkpointer(ocp.CompositeCheckpointHandler("a"))
    with pytest.raises(OSError, match="no ink"):
        checkpointer.save(tmp_path / "it", args=Composite(a=BreaksArgs()))
    assert checkpointer.handler._item_names_without_registered_handlers == {"a"}
    assert [one.closed for one in made] == [True]
    checkpointer.save(tmp_path / "it", args=Composite(a=Json(1)))
    fresh = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
    with pytest.raises(OSError, match="no light"):
        fresh.restore(tmp_path / "it", args=Composite(a=BreaksArgs()))
    assert fresh.restore(tmp_path / "it", args=Composite(a=ocp.args.JsonRestore())).a == 1
    with pytest.raises(ValueError, match="does not match with any registered handler"):
        fresh.restore(tmp_path / "it", args=Composite(a=BreaksArgs()))  # now it is settled


def test_an_item_that_was_saved_keeps_its_handler(tmp_path: Path):
    checkpointer = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
    checkpointer.save(tmp_path / "it", args=Composite(a=Json(1)))
    phrase = "does not match with any registered handler"
    with pytest.raises(ValueError, match=phrase):
        checkpointer.save(tmp_path / "other", args=Composite(a=Standard({"x": 1})))
    closed = ocp.Checkpointer(ocp.CompositeCheckpointHandler("b", c=Words()))
    with pytest.raises(ValueError, match=phrase):
        closed.save(tmp_path / "other", args=Composite(a=Json(1)))
    with pytest.raises(ValueError, match=phrase):
        closed.save(tmp_path / "other", args=Composite(c=Json(1)))
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


@pytest.mark.wd("WD-30")
def test_the_handler_that_saved_an_item_finishes_it(tmp_path: Path):
    registry = ocp.DefaultCheckpointHandlerRegistry()
    reader, writer = Words(), Words()
    registry.add("a", WordsRestore, reader)
    registry.add("a", WordsSave, writer)
    handler = ocp.CompositeCheckpointHandler(handler_registry=registry)
    checkpointer = ocp.Checkpointer(handler)
    checkpointer.save(tmp_path / "it", args=Composite(a=WordsSave("x")))
    assert reader.finalized == []
    assert len(writer.finalized) == 1
    assert writer.finalized[0].startswith("a.orbax-checkpoint-tmp-")
    assert checkpointer.restore(tmp_path / "it").a == "WordsRestore x"
    checkpointer.close()
    assert (reader.closed, writer.closed) == (1, 1)


# --- the three modes, and None


def test_what_a_composite_knows_at_first():
    nothing = ocp.CompositeCheckpointHandler()
    assert nothing._item_names_without_registered_handlers is None
    assert nothing._handler_registry.get_all_entries() == {}
    named = ocp.CompositeCheckpointHandler("x", s=ocp.StandardCheckpointHandler(), n=None)
    assert named._item_names_without_registered_handlers == {"x", "n"}
    entries = named._handler_registry.get_all_entries()
    assert list(entries) == [("s", Standard), ("s", ocp.args.StandardRestore)]
    assert named._current_temporary_paths == {}


@pytest.mark.parametrize("given", [{"a": Words()}, {"a": None}])
def test_a_registry_stands_alone(given: Any):
    registry = ocp.DefaultCheckpointHandlerRegistry()
    with pytest.raises(ValueError, match="items_and_handlers"):
        ocp.CompositeCheckpointHandler(handler_registry=registry, **given)
    with pytest.raises(ValueError, match="item_names"):
        ocp.CompositeCheckpointHandler("a", handler_registry=registry)


def test_none_for_an_item(tmp_path: Path):
    checkpointer = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
    with pytest.raises(ValueError, match="Provided `None` for `CheckpointArgs`"):
        checkpointer.save(tmp_path / "it", args=Composite(a=None))
    checkpointer.save(tmp_path / "it", args=Composite(a=Json(5)))
    assert checkpointer.restore(tmp_path / "it", args=Composite(a=None)).a == 5
    with pytest.raises(ValueError, match="nothing to save"):  # and not null
        checkpointer.save(tmp_path / "other", args=Composite(a=None))
    fresh = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
    with pytest.raises(ValueError, match="Provided `None` for `CheckpointArgs`"):
        fresh.restore(tmp_path / "it", args=Composite(a=None))


@pytest.mark.row("R290", "R291", "R296", "R297")
def test_what_can_be_restored_is_what_is_there(tmp_path: Path):
    writer = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
    writer.save(tmp_path / "it", args=Composite(a=Json(1), b=Json(2)))
    (tmp_path / "it" / "LOCKED").mkdir()
    (tmp_path / "it" / "c.orbax-checkpoint-tmp-3").mkdir()
    for args in (None, Composite()):
        call = {} if args is None else {"args": args}
        assert writer.restore(tmp_path / "it", **call) == {"a": 1, "b": 2}
    with pytest.raises(KeyError, match=r"Available items: .*a.*b"):
        writer.restore(tmp_path / "it", args=Composite(c=ocp.args.JsonRestore()))
    part = writer.restore(tmp_path / "it", args=Composite(b=ocp.args.JsonRestore()))
    assert part == {"b": 2}
    assert "a" not in part
    stranger = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
    with pytest.raises(KeyError, match="could not be restored"):
        stranger.restore(tmp_path / "it")
    undecided = ocp.Checkpointer(ocp.CompositeCheckpointHandler("a", "b"))
    with pytest.raises(ValueError, match="undetermined `CheckpointHandler` when restoring"):
        undecided.restore(tmp_path / "it")


@pytest.mark.row("R289", "R295")
def test_metadata_has_an_entry_for_each_item_that_is_there(tmp_path: Path):
    ocp.Checkpointer(ocp.CompositeCheckpointHandler()).save(
        tmp_path / "it", args=Composite(a=WordsSave("xyz"), b=Json(2))
    )
    handler = ocp.CompositeCheckpointHandler(a=Words(), unsaved=Words())
    found = ocp.Checkpointer(handler).metadata(tmp_path / "it")
    assert isinstance(found, ocp.handlers.CompositeResults)
    assert found == {"a": 3, "b": None}


# --- a composite by itself


def test_items_appear_when_they_are_finished(tmp_path: Path):
    handler = ocp.CompositeCheckpointHandler()
    with pytest.raises(ValueError, match="before any items were saved"):
        handler.finalize(tmp_path)
    handler.save(tmp_path, Composite(a=Json(1), b=Json(2)))
    assert handler._items_exist(tmp_path, ["a", "b", "c"]) == {"a": False, "b": False, "c": False}
    assert set(handler._current_temporary_paths) == {"a", "b"}
    for name, path in handler._current_temporary_paths.items():
        assert path.get_final() == path.get().parent / name
        assert path.get().exists()
    handler.finalize(tmp_path)
    assert handler._items_exist(tmp_path, ["a", "b", "c"]) == {"a": True, "b": True, "c": False}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    with pytest.raises(ValueError, match="before any items were saved"):
        handler.finalize(tmp_path)
    handler.save(tmp_path, Composite(a=Json(3)))
    handler.finalize(tmp_path)
    restore = ocp.args.JsonRestore()
    assert handler.restore(tmp_path, Composite(a=restore, b=restore)) == {"a": 3, "b": 2}
    handler.close()


def test_items_may_be_committed_another_way(tmp_path: Path):
    options = ocp.handlers.CompositeOptions(
        temporary_path_class=CommitFileTemporaryPath,
        file_options=ocp.options.FileOptions(path_permission_mode=0o750),
    )
    handler = ocp.CompositeCheckpointHandler(composite_options=options)
    ocp.Checkpointer(handler).save(tmp_path / "it", args=Composite(a=Json(1)))
    assert (tmp_path / "it" / "a" / "commit_success.txt").exists()
    assert (tmp_path / "it" / "a").stat().st_mode & 0o777 == 0o750
    assert pertinax.verify(tmp_path / "it").ok


@pytest.mark.row("R103", "R131")
def test_all_items_or_none(tmp_path: Path):
    class Stops(Words):
        def finalize(self, directory: Any) -> None:
            raise OSError("stop")

    items = Composite(
        a=Json(1),
        b=Standard({"w": np.ones(3)}),
        c=WordsSave("x"),
        d=ocp.args.PyTreeSave({"s": "t"}),
    )
    registry = ocp.DefaultCheckpointHandlerRegistry()
    registry.add("c", WordsSave, Stops())
    stopped = ocp.Checkpointer(ocp.CompositeCheckpointHandler(handler_registry=registry))
    with pytest.raises(OSError, match="stop"):
        stopped.save(tmp_path / "it", args=items)
    assert list(tmp_path.iterdir()) == []
    checkpointer = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
    checkpointer.save(tmp_path / "it", args=items)
    found = checkpointer.restore(tmp_path / "it")
    assert (found.a, found.c, found.d) == (1, "WordsRestore x", {"s": "t"})
    assert found.b["w"].tolist() == [1, 1, 1]
    assert sorted(path.name for path in (tmp_path / "it").iterdir() if path.is_dir()) == [*"abcd"]


# --- handlers without args, and stand-ins for handlers


class Old(ocp.CheckpointHandler):
    def save(self, directory: Any, *args: Any, **kwargs: Any) -> None:
        (directory / "call").write_text(repr((args, kwargs)))

    def restore(self, directory: Any, *args: Any, **kwargs: Any) -> Any:
        return (directory / "call").read_text(), args, kwargs


class OldAsync(Old, ocp.AsyncCheckpointHandler):
    went_on = False

    async def async_save(self, directory: Any, *args: Any, **kwargs: Any) -> None:
        self.went_on = True
        self.save(directory, *args, **kwargs)


@pytest.mark.row("R142")
@pytest.mark.parametrize("handler", [Old(), OldAsync()])
def test_arguments_reach_a_handler_without_args_as_they_are(handler: Any, tmp_path: Path):
    checkpointer = ocp.Checkpointer(handler)
    checkpointer.save(tmp_path / "it", 1, "b", c=3, args=None)
    found = checkpointer.restore(tmp_path / "it", 4, d=5)
    assert found == ("((1, 'b'), {'c': 3, 'args': None})", (4,), {"d": 5})
    assert checkpointer.metadata(tmp_path / "it") is None
    for error in (AttributeError, TypeError):
        with pytest.raises(error, match="no registered args"):
            checkpointer.save(tmp_path / "other", args=Json(1))
    with pytest.raises(AttributeError):
        checkpointer.handler.structure(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


@pytest.mark.wd("WD-20")
@pytest.mark.row("R142")
@pytest.mark.parametrize("cls", [Old, OldAsync])
def test_items_of_handlers_without_args(cls: Any, tmp_path: Path):
    inner = cls()
    handler = ocp.CompositeCheckpointHandler(a=inner)
    (save_args,) = {args for name, args in handler._handler_registry.get_all_entries()}
    checkpointer = ocp.AsyncCheckpointer(handler)
    checkpointer.save(tmp_path / "it", args=Composite(a=save_args(1, b=2)))
    assert checkpointer.restore(tmp_path / "it").a == ("((1,), {'b': 2})", (), {})
    found = checkpointer.restore(tmp_path / "it", args=Composite(a=save_args(3)))
    assert found.a == ("((1,), {'b': 2})", (3,), {})
    checkpointer.close()
    assert getattr(inner, "went_on", True)  # not through its `save`, if it has better
    with ocp.CheckpointManager(tmp_path / "root", item_handlers={"a": cls()}) as manager:
        manager.save(0, {"a": 1}, save_kwargs={"a": {"b": 2}})
        assert manager.restore(0, {"a": 3})["a"] == ("((1,), {'b': 2})", (3,), {})


@pytest.mark.parametrize(
    "cls", [ocp.StandardCheckpointHandler, ocp.PyTreeCheckpointHandler, ocp.JsonCheckpointHandler]
)
def test_a_mock_stands_in_for_a_handler(cls: Any, tmp_path: Path):
    alone = mock.create_autospec(cls)
    with ocp.Checkpointer(alone) as checkpointer:
        checkpointer.save(tmp_path / "a", 1)
    assert [call[0] for call in alone.mock_calls] == ["save", "finalize", "close"]
    background = mock.create_autospec(cls)
    background.async_save.return_value = None
    with ocp.AsyncCheckpointer(background) as checkpointer:
        checkpointer.save(tmp_path / "b", 1)
    names = [call[0] for call in background.mock_calls]
    assert names == ["async_save", "finalize", "close"]
    item = mock.create_autospec(cls)
    handler = ocp.CompositeCheckpointHandler(state=item)
    handler._current_temporary_paths = {
        "state": AtomicRenameTemporaryPath.from_final(ocp_path(tmp_path / "state"))
    }
    ocp.asyncio_utils.run_sync(handler._current_temporary_paths["state"].create())
    handler.finalize(tmp_path)
    handler.close()
    item.finalize.assert_called_once()
    item.close.assert_called_once()
    managed = mock.create_autospec(cls)
    managed.async_save.return_value = None
    with ocp.CheckpointManager(tmp_path / "root", item_handlers=managed) as manager:
        assert manager.save(0, 1)
    managed.finalize.assert_called_once()
    managed.close.assert_called_once()


def ocp_path(path: Path) -> Any:
    from etils import epath

    return epath.Path(path)


# --- the mapping


def test_set_operations_keep_the_kind():
    args, plain = Composite(a=1, b=2), ocp.composite.Composite(a=1, b=2)
    for one in (args, plain):
        assert type(one & {"a": 0}) is type(one)
        assert type(one | {"c": 3}) is type(one)
        assert (one & ["b"], one | plain) == ({"b": 2}, {"a": 1, "b": 2})
    assert isinstance(args, ocp.args.CheckpointArgs)
    assert not isinstance(plain, ocp.args.CheckpointArgs)
    assert ocp.handlers.CompositeResults is ocp.handlers.CompositeArgs is Composite
    assert args == plain
    assert type(pickle.loads(pickle.dumps(plain))) is ocp.composite.Composite


@pytest.mark.parametrize("name", ["with space", "1", "ünï", "a.b", "items", "x__"])
def test_any_text_is_a_name(name: str):
    one = Composite(**{name: 1})
    assert one[name] == 1
    assert name in one
    assert list(one) == [name]
    with pytest.raises(ValueError, match="immutable"):
        setattr(one, name, 2)
