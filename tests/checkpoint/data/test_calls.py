# SPDX-License-Identifier: Apache-2.0
"""The ways to call a checkpointer, and what a call has done when it returns."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pertinax
from pertinax import checkpoint as ocp
from tests.checkpoint.data.twins import same

TREE = {"w": np.arange(6.0).reshape(2, 3), "n": {"b": 4}}


def content(place: Path) -> dict[str, Any]:
    """Every file that tells neither the time nor a name made up for it; of data, the size."""
    own = {"_CHECKPOINT_METADATA", "pertinax.json", "commit_success.txt", "manifest.ocdbt"}
    files = [path for path in place.rglob("*") if path.is_file() and path.name not in own]
    data = sorted(path.stat().st_size for path in files if path.parent.name == "d")
    plain = {path.name: path.read_bytes() for path in files if path.parent.name != "d"}
    return {**plain, "d": data}


STYLES = {
    "pytree": (ocp.PyTreeCheckpointHandler, ocp.args.PyTreeSave, ocp.args.PyTreeRestore),
    "standard": (ocp.StandardCheckpointHandler, ocp.args.StandardSave, ocp.args.StandardRestore),
    "json": (ocp.JsonCheckpointHandler, ocp.args.JsonSave, ocp.args.JsonRestore),
}


@pytest.mark.row("R120", "R125")
@pytest.mark.parametrize("kind", STYLES)
def test_args_and_plain_keywords_mean_the_same(kind: str, tmp_path: Path):
    handler, save, restore = STYLES[kind]
    tree: Any = {"a": 1, "b": [2]} if kind == "json" else TREE
    checkpointer = ocp.Checkpointer(handler())
    checkpointer.save(tmp_path / "args", args=save(tree))
    checkpointer.save(tmp_path / "position", tree)
    checkpointer.save(tmp_path / "keyword", item=tree)
    names = ("args", "position", "keyword")
    files = [content(tmp_path / name) for name in names]
    assert files[0] == files[1] == files[2]
    for name in names:
        same(checkpointer.restore(tmp_path / name), tree)
        same(checkpointer.restore(tmp_path / name, args=restore(tree)), tree)
        same(checkpointer.restore(tmp_path / name, item=tree), tree)


@pytest.mark.row("R113")
def test_the_tree_of_the_standard_handler_is_called_item(tmp_path: Path):
    handler = ocp.StandardCheckpointHandler()
    handler.save(tmp_path / "it", item=TREE)
    handler.finalize(tmp_path / "it")
    same(handler.restore(tmp_path / "it", item=TREE), TREE)
    for call in (handler.save, handler.restore):
        with pytest.raises(TypeError, match="state"):
            call(tmp_path / "it", state=TREE)


@pytest.mark.row("R254")
def test_the_standard_checkpointer_takes_the_state_itself(tmp_path: Path):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "it", TREE)
        same(checkpointer.restore(tmp_path / "it", TREE), TREE)
        with pytest.raises(TypeError, match="args"):
            checkpointer.save(tmp_path / "other", args=ocp.args.StandardSave(TREE))
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


class Recording(ocp.StandardCheckpointHandler):
    """Notes what is asked of it, and waits at a gate before a save is done."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()
        self.open.set()
        self.calls: list[tuple[str, str]] = []

    async def async_save(self, directory: Any, *args: Any, **kwargs: Any) -> Any:
        self.calls.append(("save", directory.name))
        futures = await super().async_save(directory, *args, **kwargs)
        return [*(futures or []), self]

    def result(self, timeout: float | None = None) -> None:
        assert self.open.wait(60)

    def finalize(self, directory: Any) -> None:
        self.calls.append(("finalize", directory.name))
        super().finalize(directory)

    def close(self) -> None:
        self.calls.append(("close", ""))
        super().close()


@pytest.mark.row("R076", "R182")
def test_a_checkpointer_closes_its_handler_at_the_end_of_the_block(tmp_path: Path):
    handler = Recording()
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(tmp_path / "it", TREE)
        assert ("close", "") not in handler.calls
    assert handler.calls[-1] == ("close", "")


@pytest.mark.row("R106")
@pytest.mark.parametrize("kind", [ocp.Checkpointer, ocp.AsyncCheckpointer])
def test_a_handler_finishes_once_while_the_directory_is_still_hidden(kind: Any, tmp_path: Path):
    handler = Recording()
    with kind(handler) as checkpointer:
        checkpointer.save(tmp_path / "it", TREE)
    assert [call for call, _ in handler.calls] == ["save", "finalize", "close"]
    hidden = handler.calls[1][1]
    assert hidden.startswith("it.orbax-checkpoint-tmp")
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


@pytest.mark.row("R030", "R253")
def test_a_save_in_the_background_ends_without_another_call(tmp_path: Path):
    handler, done = Recording(), threading.Event()
    handler.open.clear()
    options = ocp.AsyncOptions(post_finalization_callback=done.set)
    checkpointer = ocp.AsyncCheckpointer(handler, async_options=options)
    checkpointer.save(tmp_path / "it", TREE)
    assert not (tmp_path / "it").exists()
    handler.open.set()
    assert done.wait(60)
    while not (tmp_path / "it").exists():  # the rename is all that is left to do
        pass
    same(pertinax.load(tmp_path / "it")["n"], {"b": 4})
    checkpointer.close()


@pytest.mark.row("R253")
def test_the_standard_checkpointer_returns_before_its_save_is_whole(tmp_path: Path):
    release = threading.Event()
    options = ocp.AsyncOptions(post_finalization_callback=lambda: release.wait(60) and None)
    with ocp.StandardCheckpointer(async_options=options) as checkpointer:
        assert isinstance(checkpointer, ocp.AsyncCheckpointer)
        checkpointer.save(tmp_path / "it", TREE)
        assert not (tmp_path / "it").exists()
        release.set()
        checkpointer.wait_until_finished()
        assert (tmp_path / "it").exists()


@pytest.mark.row("R248")
@pytest.mark.parametrize("result", [None, [None], []], ids=str)
@pytest.mark.parametrize("kind", ["checkpointer", "async", "manager", "composite"])
def test_a_handler_may_have_nothing_to_wait_for(result: Any, kind: str, tmp_path: Path):
    class Quick(ocp.AsyncCheckpointHandler):
        async def async_save(self, directory: Any, item: Any) -> Any:
            await asyncio.sleep(0)
            (directory / "text").write_text(item)
            return result

        def save(self, directory: Any, item: Any) -> None:
            asyncio.run(self.async_save(directory, item))

        def restore(self, directory: Any, item: Any = None) -> Any:
            return (directory / "text").read_text()

    if kind == "manager":
        with ocp.CheckpointManager(tmp_path, ocp.AsyncCheckpointer(Quick())) as manager:
            manager.save(0, "words")
            assert manager.restore(0) == "words"
    elif kind == "composite":
        handlers = {"text": Quick()}
        checkpointer = {name: ocp.AsyncCheckpointer(one) for name, one in handlers.items()}
        with ocp.CheckpointManager(tmp_path, checkpointer) as manager:
            manager.save(0, {"text": "words"})
            assert manager.restore(0)["text"] == "words"
    else:
        cls = ocp.Checkpointer if kind == "checkpointer" else ocp.AsyncCheckpointer
        with cls(Quick()) as one:
            one.save(tmp_path / "it", "words")
            assert one.restore(tmp_path / "it") == "words"


@pytest.mark.row("R105")
def test_an_async_checkpointer_is_no_manager_of_jax():
    homes = {base.__module__.split(".")[0] for base in ocp.AsyncCheckpointer.__mro__}
    assert homes <= {"pertinax", "builtins", "abc", "typing", "contextlib"}


@pytest.mark.row("R310")
def test_waiting_ends_after_ten_minutes_unless_told_otherwise():
    assert ocp.AsyncOptions().timeout_secs == 600
    assert ocp.options.AsyncOptions is ocp.AsyncOptions


@pytest.mark.wd("WD-31")
@pytest.mark.row("R075")
def test_closing_gives_all_threads_back(tmp_path: Path):
    ocp.PyTreeCheckpointer().save(tmp_path / "warm", TREE)  # what lives as long as the program
    before = threading.active_count()
    for i in range(3):
        checkpointers: list[Any] = [
            ocp.StandardCheckpointer(),
            ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler()),
            ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler()),
            ocp.AsyncCheckpointer(ocp.JsonCheckpointHandler()),
        ]
        values: list[Any] = [
            TREE,
            ocp.args.PyTreeSave(TREE),
            ocp.args.Composite(a=ocp.args.StandardSave(TREE), b=ocp.args.JsonSave(1)),
            ocp.args.JsonSave({"a": 1}),
        ]
        for k, (one, value) in enumerate(zip(checkpointers, values, strict=True)):
            one.save(tmp_path / f"{i}-{k}", value)
        for one in checkpointers:
            one.close()
    assert threading.active_count() <= before
    assert len(list(tmp_path.iterdir())) == 13


@pytest.mark.wd("WD-23", "Kw-16")
@pytest.mark.row("R259")
def test_a_save_makes_no_loop_after_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made: list[Any] = []
    make = asyncio.new_event_loop

    def count() -> Any:
        made.append(1)
        return make()

    ocp.PyTreeCheckpointer().save(tmp_path / "warm", TREE)
    monkeypatch.setattr(asyncio, "new_event_loop", count)
    items = {f"item{i}": ocp.args.StandardSave({"w": jnp.ones(i + 1)}) for i in range(8)}
    with ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(tmp_path / "it", args=ocp.args.Composite(**items))
        found = checkpointer.restore(tmp_path / "it")
    assert len(found) == 8
    assert len(made) <= 1


@pytest.mark.row("R116")
@pytest.mark.parametrize("kind", ["pytree", "standard"])
def test_an_array_goes_back_to_the_device_it_was_on(kind: str, tmp_path: Path):
    array = jax.device_put(jnp.arange(4.0), jax.devices()[1])
    ocp.PyTreeCheckpointer().save(tmp_path / "it", {"x": array})
    reader: Any = ocp.PyTreeCheckpointer() if kind == "pytree" else ocp.StandardCheckpointer()
    with reader:
        found = reader.restore(tmp_path / "it")["x"]
        layout = ocp.PyTreeCheckpointHandler().metadata(tmp_path / "it")["x"].sharding
    assert found.sharding == array.sharding
    assert isinstance(layout, ocp.metadata.SingleDeviceShardingMetadata)
    assert layout.to_jax_sharding() == array.sharding
