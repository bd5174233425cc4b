# SPDX-License-Identifier: Apache-2.0
"""Handlers that a program brings along, alone and as items of a composite."""

import asyncio
import concurrent.futures
import dataclasses
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pertinax
from pertinax import checkpoint as ocp
from pertinax import errors


class LinesHandler(ocp.CheckpointHandler):
    """Keeps a list of lines in a text file."""

    def save(self, directory: Any, args: "LinesSave") -> None:
        (directory / "lines.txt").write_text("\n".join(args.lines))

    def restore(self, directory: Any, args: "LinesRestore | None" = None) -> Any:
        lines = (directory / "lines.txt").read_text().split("\n")
        return lines[: args.limit] if args is not None else lines

    def metadata(self, directory: Any) -> Any:
        return {"lines": len(self.restore(directory))}


@ocp.args.register_with_handler(LinesHandler, for_save=True)
@dataclasses.dataclass
class LinesSave(ocp.args.CheckpointArgs):
    lines: list[str]


@ocp.args.register_with_handler(LinesHandler, for_restore=True)
@dataclasses.dataclass
class LinesRestore(ocp.args.CheckpointArgs):
    limit: int | None = None


class BackgroundHandler(ocp.AsyncCheckpointHandler):
    """Keeps an array in numpy's own file; writes it on a thread of its own."""

    def __init__(self) -> None:
        self.pool = concurrent.futures.ThreadPoolExecutor(1)
        self.thread: str | None = None
        self.closed = False

    async def async_save(self, directory: Any, args: "BackgroundSave") -> Any:
        await asyncio.sleep(0)  # needs a running loop
        self.thread = threading.current_thread().name
        value = args.value.copy()
        return [self.pool.submit(self._write, directory, value)]

    def _write(self, directory: Any, value: Any) -> None:
        if value.size == 0:
            raise OSError("an empty array is beneath me")
        np.save(Path(directory) / "value.npy", value)

    def save(self, directory: Any, args: "BackgroundSave") -> None:
        for future in asyncio.run(self.async_save(directory, args)):
            future.result()

    def restore(self, directory: Any, args: Any = None) -> Any:
        return np.load(Path(directory) / "value.npy")

    def finalize(self, directory: Any) -> None:
        (directory / "finished").touch()

    def close(self) -> None:
        self.pool.shutdown()
        self.closed = True


@ocp.args.register_with_handler(BackgroundHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class BackgroundSave(ocp.args.CheckpointArgs):
    value: Any = None


class OldHandler(ocp.CheckpointHandler):
    """Knows nothing of args."""

    def save(self, directory: Any, item: Any, suffix: str = "") -> None:
        (directory / "old.txt").write_text(f"{item}{suffix}")

    def restore(self, directory: Any, item: Any = None) -> Any:
        return (directory / "old.txt").read_text()

    def structure(self, directory: Any) -> Any:
        return "old"


def test_a_handler_that_waits(tmp_path: Path):
    with ocp.Checkpointer(LinesHandler()) as checkpointer:
        checkpointer.save(tmp_path / "it", args=LinesSave(["a", "b"]))
        assert checkpointer.restore(tmp_path / "it") == ["a", "b"]
        assert checkpointer.restore(tmp_path / "it", args=LinesRestore(1)) == ["a"]
        assert checkpointer.metadata(tmp_path / "it") == {"lines": 2}


def test_the_fields_of_the_args_may_be_passed_alone(tmp_path: Path):
    checkpointer = ocp.Checkpointer(LinesHandler())
    checkpointer.save(tmp_path / "a", ["x", "y"])
    checkpointer.save(tmp_path / "b", lines=["x", "y"])
    for name in "ab":
        assert checkpointer.restore(tmp_path / name, limit=1) == ["x"]


@pytest.mark.wd("WD-18")
def test_what_stands_beside_args_is_not_lost_silently(tmp_path: Path):
    with pytest.raises(TypeError, match="oops"):
        ocp.Checkpointer(LinesHandler()).save(tmp_path / "it", args=LinesSave([]), oops=1)
    assert list(tmp_path.iterdir()) == []


def test_a_handler_that_goes_on(tmp_path: Path):
    handler = BackgroundHandler()
    with ocp.AsyncCheckpointer(handler) as checkpointer:
        checkpointer.save(tmp_path / "it", args=BackgroundSave(np.arange(3)))
        assert handler.thread == threading.current_thread().name
        assert checkpointer.restore(tmp_path / "it").tolist() == [0, 1, 2]
        checkpointer.save(tmp_path / "bad", args=BackgroundSave(np.zeros(0)))
        with pytest.raises(OSError, match="beneath me"):
            checkpointer.wait_until_finished()
    assert handler.closed
    assert [path.name for path in tmp_path.iterdir()] == ["it"]
    assert (tmp_path / "it" / "finished").exists()


def test_what_a_handler_wrote_is_sealed(tmp_path: Path):
    ocp.Checkpointer(LinesHandler()).save(tmp_path / "it", args=LinesSave(["good"]))
    assert pertinax.verify(tmp_path / "it").ok
    (tmp_path / "it" / "lines.txt").write_text("evil")
    assert not pertinax.verify(tmp_path / "it", on_damage="report").ok
    with pytest.raises(errors.CorruptCheckpoint, match=r"lines\.txt"):
        ocp.Checkpointer(LinesHandler()).restore(tmp_path / "it")


@pytest.mark.row("R142")
def test_a_handler_without_args(tmp_path: Path):
    checkpointer = ocp.Checkpointer(OldHandler())
    checkpointer.save(tmp_path / "it", 5, suffix="!")
    assert checkpointer.restore(tmp_path / "it") == "5!"
    assert checkpointer.handler.structure(tmp_path) == "old"


@pytest.mark.row("R103")
def test_users_handlers_beside_ours_in_one_checkpoint(tmp_path: Path):
    items = ocp.args.Composite(
        lines=LinesSave(["a", "b"]),
        value=BackgroundSave(np.arange(4)),
        state=ocp.args.StandardSave({"w": np.ones(3)}),
        config=ocp.args.JsonSave({"lr": 0.1}),
    )
    with ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(tmp_path / "it", args=items)
        found = checkpointer.restore(tmp_path / "it")
    assert found.lines == ["a", "b"]
    assert found["value"].tolist() == [0, 1, 2, 3]
    assert found.config == {"lr": 0.1}
    assert pertinax.load(tmp_path / "it")["w"].tolist() == [1, 1, 1]
    assert pertinax.verify(tmp_path / "it").ok


@pytest.mark.parametrize("item", ["lines/lines.txt", "config/metadata"])
def test_a_changed_file_of_an_item_is_noticed(item: str, tmp_path: Path):
    handler = ocp.CompositeCheckpointHandler()
    checkpointer = ocp.Checkpointer(handler)
    args = ocp.args.Composite(lines=LinesSave(["a"]), config=ocp.args.JsonSave({"lr": 1}))
    checkpointer.save(tmp_path / "it", args=args)
    file = tmp_path / "it" / item
    file.write_bytes(file.read_bytes().replace(b"1", b"2").replace(b"a", b"b"))
    with pytest.raises(errors.CorruptCheckpoint, match=file.name):
        checkpointer.restore(tmp_path / "it")


def test_a_handler_may_use_others_inside(tmp_path: Path):
    class Wrapper(ocp.CheckpointHandler):
        inner = ocp.PyTreeCheckpointHandler()

        def save(self, directory: Any, item: Any) -> None:
            self.inner.save(directory / "below", item)
            (directory / "beside.txt").write_text("x")

        def restore(self, directory: Any) -> Any:
            return self.inner.restore(directory / "below")

    handler = ocp.CompositeCheckpointHandler(one=Wrapper(), two=ocp.PyTreeCheckpointHandler())
    with ocp.AsyncCheckpointer(handler) as checkpointer:
        args = ocp.args.Composite(
            one=handler_args(handler, "one")({"a": 1}), two=ocp.args.PyTreeSave({"b": 2})
        )
        checkpointer.save(tmp_path / "it", args=args)
        assert checkpointer.restore(tmp_path / "it").one == {"a": 1}


def handler_args(handler: Any, item: str) -> Any:
    entries = handler._handler_registry.get_all_entries()
    return next(args for name, args in entries if name == item)


def test_a_subclass_of_a_handler_of_ours(tmp_path: Path):
    class Halved(ocp.PyTreeCheckpointHandler):
        async def async_save(self, directory: Any, *args: Any, **kwargs: Any) -> Any:
            return await super().async_save(directory, {"half": args[0] / 2})

    checkpointer = ocp.Checkpointer(Halved())
    checkpointer.save(tmp_path / "it", 8)
    assert checkpointer.restore(tmp_path / "it") == {"half": 4.0}


@pytest.mark.parametrize("twice", [False, True])
def test_a_handler_without_a_checkpointer(twice: bool, tmp_path: Path):
    handler = ocp.PyTreeCheckpointHandler()
    (tmp_path / "mine.txt").write_text("keep me")
    handler.save(tmp_path, {"a": np.arange(3), "s": "text"})
    if twice:
        handler.save(tmp_path, {"b": np.arange(4)})
    handler.finalize(tmp_path)
    found = handler.restore(tmp_path)
    assert list(found) == (["b"] if twice else ["a", "s"])
    assert (tmp_path / "mine.txt").read_text() == "keep me"


class BrokenHandler(LinesHandler):
    """Cannot save."""

    def save(self, directory: Any, args: Any) -> None:
        (directory / "half").touch()
        raise OSError("no ink")


@pytest.mark.wd("WD-24")
@pytest.mark.row("R103")
@pytest.mark.parametrize("kind", [ocp.Checkpointer, ocp.AsyncCheckpointer])
def test_one_item_that_cannot_be_saved_leaves_nothing_of_the_others(kind: Any, tmp_path: Path):
    registry = ocp.DefaultCheckpointHandlerRegistry()
    registry.add("broken", LinesSave, BrokenHandler())
    composite = ocp.CompositeCheckpointHandler(handler_registry=registry)
    state = {"w": np.ones(1 << 20)}
    args = ocp.args.Composite(broken=LinesSave([]), state=ocp.args.StandardSave(state))
    with kind(composite) as checkpointer:
        with pytest.raises(OSError, match="no ink"):
            checkpointer.save(tmp_path / "it", args=args)
        assert list(tmp_path.iterdir()) == []


class PlainHandler(LinesHandler):
    """Saves in the background without saying so by its base class."""

    async def async_save(self, directory: Any, args: "PlainArgs") -> None:
        (directory / "lines.txt").write_text(args.line)


@ocp.args.register_with_handler(PlainHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class PlainArgs(ocp.args.CheckpointArgs):
    line: str = ""
    limit: int | None = None


def test_a_handler_with_async_save_is_asynchronous_whatever_its_base(tmp_path: Path):
    with ocp.AsyncCheckpointer(PlainHandler()) as checkpointer:
        checkpointer.save(tmp_path / "it", args=PlainArgs("one"))
        checkpointer.wait_until_finished()
        assert checkpointer.restore(tmp_path / "it") == ["one"]
