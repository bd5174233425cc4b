# SPDX-License-Identifier: Apache-2.0
"""Several items in one checkpoint: finding handlers, choosing items, and the mapping itself."""

import copy
import dataclasses
import pickle
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from pertinax import checkpoint as ocp
from tests.checkpoint.data.twins import agree, same

Composite = ocp.args.Composite
STATE = {"w": np.arange(3), "n": 1}


def both(**more: Any) -> Any:
    return Composite(state=ocp.args.StandardSave(STATE), meta=ocp.args.JsonSave({"a": 1}), **more)


def saved(place: Path, handler: Any = None) -> Any:
    checkpointer = ocp.Checkpointer(handler or ocp.CompositeCheckpointHandler())
    checkpointer.save(place, args=both())
    return checkpointer


def plain(found: Any) -> dict[str, Any]:
    return dict(found.items())


@pytest.mark.row("R131", "R297")
def test_all_items_come_back(tmp_path: Path):
    same(plain(saved(tmp_path / "it").restore(tmp_path / "it")), {"state": STATE, "meta": {"a": 1}})


@pytest.mark.row("R131")
def test_chosen_items_come_back(tmp_path: Path):
    saved(tmp_path / "it")
    fresh = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
    found = fresh.restore(tmp_path / "it", args=Composite(state=ocp.args.StandardRestore(STATE)))
    same(plain(found), {"state": STATE})
    assert "meta" not in found


@pytest.mark.interop
def test_orbax_and_the_door_read_each_others_items(tmp_path: Path):
    def program(ocp: Any, root: Path) -> Any:
        args = ocp.args
        tree = {"w": jnp.arange(3.0), "n": 1}
        items = args.Composite(state=args.StandardSave(tree), meta=args.JsonSave({"a": [1]}))
        ocp.Checkpointer(ocp.CompositeCheckpointHandler()).save(root / "it", args=items)
        wanted = args.Composite(state=args.StandardRestore(tree), meta=args.JsonRestore())
        found = []
        for place in (root / "it", root.parent / "theirs" / "it", root.parent / "mine" / "it"):
            if place.exists():
                reader = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
                found.append(dict(reader.restore(place, args=wanted).items()))
        return found[0], found[-1]

    agree(program, tmp_path)
    agree_again = tmp_path / "again"
    agree_again.mkdir()
    import orbax.checkpoint as orbax

    args = orbax.args
    reader = orbax.Checkpointer(orbax.CompositeCheckpointHandler())
    found = reader.restore(tmp_path / "mine" / "it")
    same(dict(found.items()), {"state": {"w": jnp.arange(3.0), "n": 1}, "meta": {"a": [1]}})
    wanted = args.Composite(state=args.PyTreeRestore())
    reader = orbax.Checkpointer(orbax.CompositeCheckpointHandler())
    assert list(reader.restore(tmp_path / "mine" / "it", args=wanted)) == ["state"]


@pytest.mark.row("R296")
def test_an_item_that_is_not_there(tmp_path: Path):
    checkpointer = saved(tmp_path / "it")
    with pytest.raises(KeyError, match=r"not found.*meta.*state"):
        checkpointer.restore(tmp_path / "it", args=Composite(other=ocp.args.JsonRestore()))


@pytest.mark.row("R295")
def test_an_item_that_nobody_knows(tmp_path: Path):
    saved(tmp_path / "it")
    fresh = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
    with pytest.raises(KeyError, match="could not be restored"):
        fresh.restore(tmp_path / "it")
    assert plain(fresh.metadata(tmp_path / "it")) == {"meta": None, "state": None}


@pytest.mark.row("R295")
def test_the_metadata_of_items(tmp_path: Path):
    found = saved(tmp_path / "it").metadata(tmp_path / "it")
    assert found.state["w"].shape == (3,)
    assert found.meta is None


def test_names_given_beforehand_are_all_that_there_is(tmp_path: Path):
    handler = ocp.CompositeCheckpointHandler("state", meta=ocp.JsonCheckpointHandler())
    checkpointer = saved(tmp_path / "it", handler)
    with pytest.raises(ValueError, match="does not match with any registered handler"):
        checkpointer.save(tmp_path / "more", args=both(more=ocp.args.JsonSave(1)))
    fresh = ocp.CompositeCheckpointHandler("state", "meta")
    with pytest.raises(ValueError, match="undetermined `CheckpointHandler` when restoring"):
        ocp.Checkpointer(fresh).restore(tmp_path / "it")


def test_an_item_stays_with_its_handler(tmp_path: Path):
    checkpointer = saved(tmp_path / "it")
    with pytest.raises(ValueError, match="does not match with any registered handler"):
        checkpointer.restore(tmp_path / "it", args=Composite(state=ocp.args.PyTreeRestore()))


def test_none_stands_for_an_item_that_is_configured(tmp_path: Path):
    checkpointer = saved(tmp_path / "it")
    same(plain(checkpointer.restore(tmp_path / "it", args=Composite(state=None))), {"state": STATE})
    fresh = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
    with pytest.raises((ValueError, KeyError)):
        fresh.restore(tmp_path / "it", args=Composite(state=None))


def test_values_must_be_args(tmp_path: Path):
    checkpointer = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
    with pytest.raises(TypeError, match="must be CheckpointArgs"):
        checkpointer.save(tmp_path / "it", args=Composite(state=STATE))
    with pytest.raises(ValueError, match="nothing to save"):
        checkpointer.save(tmp_path / "it", args=Composite())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.wd("WD-19")
def test_leftovers_are_no_items(tmp_path: Path):
    checkpointer = saved(tmp_path / "it")
    (tmp_path / "it" / "more.orbax-checkpoint-tmp-7").mkdir()
    assert set(checkpointer.restore(tmp_path / "it")) == {"meta", "state"}
    assert set(checkpointer.metadata(tmp_path / "it")) == {"meta", "state"}


# --- registries


@pytest.mark.row("R270")
def test_a_registry_decides(tmp_path: Path):
    registry = ocp.DefaultCheckpointHandlerRegistry()
    special = ocp.JsonCheckpointHandler(filename="special")
    registry.add("meta", ocp.args.JsonSave, special)
    registry.add("meta", ocp.args.JsonRestore, special)
    handler = ocp.CompositeCheckpointHandler(handler_registry=registry)
    checkpointer = saved(tmp_path / "it", handler)
    assert (tmp_path / "it" / "meta" / "special").exists()
    assert checkpointer.restore(tmp_path / "it").meta == {"a": 1}
    assert len(registry.get_all_entries()) == 2  # what it learned on the way is its own


@pytest.mark.row("R298")
def test_an_entry_for_saving_alone_serves_restoring_too(tmp_path: Path):
    registry = ocp.DefaultCheckpointHandlerRegistry()
    registry.add("state", ocp.args.StandardSave)
    handler = ocp.CompositeCheckpointHandler(handler_registry=registry)
    checkpointer = saved(tmp_path / "it", handler)
    wanted = Composite(state=ocp.args.StandardRestore(STATE))
    same(plain(checkpointer.restore(tmp_path / "it", args=wanted)), {"state": STATE})


def test_an_entry_for_any_item(tmp_path: Path):
    registry = ocp.DefaultCheckpointHandlerRegistry()
    special = ocp.JsonCheckpointHandler(filename="special")
    registry.add(None, ocp.args.JsonSave, special)
    registry.add(None, ocp.args.JsonRestore, special)
    saved(tmp_path / "it", ocp.CompositeCheckpointHandler(handler_registry=registry))
    assert (tmp_path / "it" / "meta" / "special").exists()


@pytest.mark.row("R269", "R270", "R298")
def test_errors_of_a_registry():
    registry = ocp.DefaultCheckpointHandlerRegistry()
    registry.add("a", ocp.args.JsonSave)
    with pytest.raises(ValueError, match=r"Entry for item=a and args_type=.*already exists in the"):
        registry.add("a", ocp.args.JsonSave)
    with pytest.raises(KeyError, match=r"No entry for item=b and args_ty=.* in the registry"):
        registry.get("b", ocp.args.JsonSave)
    with pytest.raises(ValueError, match="Provided a `None` `CheckpointHandler`"):
        registry.add("c", ocp.args.CheckpointArgs)
    with pytest.raises(ValueError, match="not default-constructible"):
        registry.add("d", ocp.args.JsonSave, NeedsArguments)
    with pytest.raises(ValueError, match="item_names"):
        ocp.CompositeCheckpointHandler("a", handler_registry=registry)
    copied = ocp.DefaultCheckpointHandlerRegistry(registry)
    assert copied.get("a", ocp.args.JsonSave(1)) is registry.get("a", ocp.args.JsonSave)


class NeedsArguments(ocp.JsonCheckpointHandler):
    def __init__(self, needed: str) -> None:
        super().__init__(needed)


# --- args


@pytest.mark.row("R104")
def test_registering_args():
    with pytest.raises(ValueError, match="for_save"):
        ocp.args.register_with_handler(NeedsArguments)
    with pytest.raises(TypeError, match="must subclass"):
        ocp.args.register_with_handler(NeedsArguments, for_save=True)(int)
    assert not ocp.args.has_registered_args(NeedsArguments)
    with pytest.raises(ValueError, match="no args registered"):
        ocp.args.get_registered_args_cls(NeedsArguments)
    names = ocp.args.get_registered_args_cls(ocp.StandardCheckpointHandler())
    assert names == (ocp.args.StandardSave, ocp.args.StandardRestore)
    assert ocp.args.get_registered_handler_cls(ocp.args.JsonSave(1)) is ocp.JsonCheckpointHandler
    with pytest.raises(TypeError, match="must subclass"):
        ocp.args.get_registered_handler_cls(3)

    @dataclasses.dataclass
    class Child(ocp.args.JsonSave):
        pass

    with pytest.raises(ValueError, match="no handler is registered"):
        ocp.args.get_registered_handler_cls(Child)


# --- the mapping


@pytest.mark.wd("WD-19")
@pytest.mark.row("R316")
def test_composites_are_mappings():
    one = Composite(a=1, b=2, keys=3)
    assert (one.a, one["keys"], list(one.keys()), len(one)) == (1, 3, ["a", "b", "keys"], 3)
    assert one == {"a": 1, "b": 2, "keys": 3}
    assert (one.get("x"), one.get("x", 5)) == (None, 5)
    assert dict((one & {"a": 0}).items()) == {"a": 1}
    assert dict((one | {"a": 9}).items()) == {"a": 9, "b": 2, "keys": 3}
    assert copy.deepcopy(one) == pickle.loads(pickle.dumps(one)) == one
    assert not hasattr(one, "x")
    assert {name for name in dir(one) if not name.startswith("_")} == {
        "get",
        "items",
        "keys",
        "values",
    }
    for error in (KeyError, AttributeError):
        with pytest.raises(error, match="a, b, keys"):
            _ = one.x
    with pytest.raises(KeyError, match="a, b, keys"):
        _ = one["x"]
    with pytest.raises(ValueError, match="immutable"):
        one.a = 2
    with pytest.raises(ValueError, match="cannot start with"):
        Composite(__a=1)
