"""Composite: what a failed call teaches, half a registration, leftovers, which handler finishes."""

import asyncio
import copy
import dataclasses
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pertinax import checkpoint as ocp
from tests.checkpoint.data.twins import same

Composite = ocp.args.Composite
TREE = {"w": np.arange(3)}


class Lines(ocp.CheckpointHandler):
    """A text; notes which of its instances finishes an item."""

    def __init__(self, file: str = "lines.txt") -> None:
        self.file = file
        self.finished: list[str] = []

    def save(self, directory: Any, args: Any) -> None:
        if args.text == "fail":
            raise OSError("no ink")
        (directory / self.file).write_text(args.text)

    def restore(self, directory: Any, args: Any = None) -> Any:
        return (directory / self.file).read_text()[: args.length]

    def finalize(self, directory: Any) -> None:
        self.finished.append(self.file)


@ocp.args.register_with_handler(Lines, for_save=True)
@dataclasses.dataclass
class LinesSave(ocp.args.CheckpointArgs):
    text: str = ""


@ocp.args.register_with_handler(Lines, for_restore=True)
@dataclasses.dataclass
class LinesRestore(ocp.args.CheckpointArgs):
    length: int | None = None


@ocp.args.register_with_handler(Lines, for_save=True, for_restore=True)
@dataclasses.dataclass
class FirstOnly(ocp.args.CheckpointArgs):
    """Registered after the other two, so it is not what the handler is found by."""

    text: str = ""
    length: int | None = 1


class Plain(Lines):
    """No args are registered with it."""


@dataclasses.dataclass
class Unregistered(ocp.args.CheckpointArgs):
    text: str = ""
    length: int | None = 2


@pytest.mark.wd("WD-19")
def test_a_call_that_fails_leaves_an_item_free(tmp_path: Path):
    checkpointer = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
    with pytest.raises(OSError, match="no ink"):
        checkpointer.save(tmp_path / "it", args=Composite(a=LinesSave("fail")))
    checkpointer.save(tmp_path / "it", args=Composite(a=ocp.args.StandardSave(TREE)))
    same(checkpointer.restore(tmp_path / "it").a, TREE)
    other = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
    with pytest.raises((ValueError, OSError)):
        other.restore(tmp_path / "it", args=Composite(a=LinesRestore()))
    same(other.restore(tmp_path / "it", args=Composite(a=ocp.args.StandardRestore())).a, TREE)


@pytest.mark.wd("WD-19")
@pytest.mark.parametrize("item", ["a", None])
def test_args_that_only_a_registry_knows_serve_without_being_named(item: Any, tmp_path: Path):
    registry = ocp.DefaultCheckpointHandlerRegistry()
    registry.add(item, Unregistered, Plain())
    handler = ocp.CompositeCheckpointHandler(handler_registry=registry)
    checkpointer = ocp.Checkpointer(handler)
    checkpointer.save(tmp_path / "it", args=Composite(a=Unregistered("words")))
    assert checkpointer.restore(tmp_path / "it").a == "wo"
    assert checkpointer.restore(tmp_path / "it", args=Composite(a=Unregistered())).a == "wo"


@pytest.mark.wd("WD-19")
def test_later_registered_args_work_more_than_once(tmp_path: Path):
    checkpointer = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
    for i in range(3):
        checkpointer.save(tmp_path / str(i), args=Composite(a=FirstOnly("words")))
        assert checkpointer.restore(tmp_path / str(i), args=Composite(a=FirstOnly())).a == "w"
        assert checkpointer.restore(tmp_path / str(i), args=Composite(a=LinesRestore(2))).a == "wo"


@pytest.mark.wd("WD-19")
def test_leftovers_are_no_items(tmp_path: Path):
    checkpointer = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
    checkpointer.save(tmp_path / "it", args=Composite(a=LinesSave("words")))
    (tmp_path / "it" / "b.orbax-checkpoint-tmp-7").mkdir()
    assert dict(checkpointer.restore(tmp_path / "it").items()) == {"a": "words"}
    assert set(checkpointer.metadata(tmp_path / "it")) == {"a"}


@pytest.mark.wd("WD-19")
def test_composites_can_be_asked_copied_and_pickled():
    one = Composite(a=1)
    assert not hasattr(one, "b")
    assert copy.copy(one) == copy.deepcopy(one) == pickle.loads(pickle.dumps(one)) == one
    with pytest.raises(ValueError, match="nothing to save"):
        ocp.CompositeCheckpointHandler().save(Path("never"), args=Composite())


@pytest.mark.wd("WD-30")
def test_the_handler_that_saved_an_item_finishes_it(tmp_path: Path):
    reader, writer = Lines("lines.txt"), Lines("lines.txt")
    registry = ocp.DefaultCheckpointHandlerRegistry()
    registry.add("a", LinesRestore, reader)
    registry.add("a", LinesSave, writer)
    handler = ocp.CompositeCheckpointHandler(handler_registry=registry)
    ocp.Checkpointer(handler).save(tmp_path / "it", args=Composite(a=LinesSave("words")))
    assert (writer.finished, reader.finished) == (["lines.txt"], [])


class Quick(ocp.AsyncCheckpointHandler):
    """Has no args of its own, and goes on in the background."""

    async def async_save(self, directory: Any, item: Any) -> Any:
        await asyncio.sleep(0)
        (directory / "text").write_text(f"async {item}")

    def save(self, directory: Any, item: Any) -> None:
        (directory / "text").write_text(f"sync {item}")

    def restore(self, directory: Any, item: Any = None) -> Any:
        return (directory / "text").read_text()


@pytest.mark.wd("WD-20")
def test_a_handler_without_args_saves_in_the_background_if_it_can(tmp_path: Path):
    handler = ocp.CompositeCheckpointHandler(text=Quick())
    entries = handler._handler_registry.get_all_entries()
    args_cls = next(args for name, args in entries if name == "text")
    with ocp.AsyncCheckpointer(handler) as checkpointer:
        checkpointer.save(tmp_path / "it", args=Composite(text=args_cls("words")))
        assert checkpointer.restore(tmp_path / "it").text == "async words"
    assert ocp.args.get_registered_handler_cls(args_cls) is type(entries["text", args_cls])
