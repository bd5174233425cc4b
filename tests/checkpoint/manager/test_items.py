# SPDX-License-Identifier: Apache-2.0
"""One item or several: how a manager is told, what it settles on, and what comes back."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.checkpoint.manager.sides import names, same, tree


def composite(ocp, **items):
    save = {name: ocp.args.StandardSave(item) for name, item in items.items()}
    return ocp.args.Composite(**save)


# -------------------------------------------------------------------------------- not told anything


def test_one_object_comes_back_as_itself(ocp, root):
    with ocp.CheckpointManager(root) as manager:
        manager.save(0, args=ocp.args.StandardSave(tree(3)))
        assert same(manager.restore(0, args=ocp.args.StandardRestore(tree())), tree(3))
        assert same(manager.restore(0), tree(3))
        assert same(manager.restore(None), tree(3))
        for wrong in (manager.save, manager.restore):
            with pytest.raises(ValueError, match="Cannot provide `args` of type `Composite`"):
                wrong(1, args=composite(ocp, state=tree()))
    assert "default" in names(root / "0")


@pytest.mark.row("R306")
def test_the_mode_is_settled_by_the_first_call_or_by_what_was_told(ours, root):
    def mode(place, call=None, **told):
        with ours.CheckpointManager(root / place, **told) as manager:
            if call is not None:
                call(manager)
            return manager._default_item

    assert mode("a") is None
    assert mode("a", lambda m: m.save(0, args=ours.args.StandardSave(tree()))) is True
    assert mode("a", lambda m: m.restore(0)) is True
    assert mode("a", lambda m: m.item_metadata(0)) is True
    assert mode("b", lambda m: m.save(0, args=composite(ours, a=tree()))) is False
    assert mode("b", lambda m: m.restore(0)) is False
    assert mode("b", item_names=("a",)) is False
    assert mode("a", item_handlers=ours.StandardCheckpointHandler()) is True
    assert mode("b", item_handlers={"a": ours.StandardCheckpointHandler()}) is False
    assert mode("a", checkpointers=checkpointer(ours)) is True
    assert mode("b", checkpointers={"a": checkpointer(ours)}) is False
    assert mode("a", handler_registry=ours.DefaultCheckpointHandlerRegistry()) is None


@pytest.mark.row("R139")
def test_several_objects_come_back_by_name(ocp, root):
    with ocp.CheckpointManager(root) as manager:
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(tree(3)), config=ocp.args.JsonSave({"a": [1, "b"]})
        )
        manager.save(0, args=args)
        everything = manager.restore(0)
        assert set(everything.keys()) == {"state", "config"}
        assert everything.config == {"a": [1, "b"]}
        assert same(everything["state"], tree(3))
        one = manager.restore(0, args=ocp.args.Composite(state=ocp.args.StandardRestore(tree())))
        assert list(one.keys()) == ["state"]
        assert "config" not in one
        with pytest.raises(ValueError, match="Must provide `args` of type `Composite`"):
            manager.save(1, args=ocp.args.StandardSave(tree()))
        with pytest.raises(KeyError):
            manager.restore(0, args=ocp.args.Composite(other=ocp.args.StandardRestore(tree())))


@pytest.mark.wd("W-03")
@pytest.mark.row("R292")
@pytest.mark.parametrize("single", [True, False])
def test_a_fresh_manager_restores_without_being_told(ocp, root, single):
    args = ocp.args.StandardSave(tree(1)) if single else composite(ocp, a=tree(1), b=tree(2))
    with ocp.CheckpointManager(root) as manager:
        manager.save(0, args=args)
    with ocp.CheckpointManager(root) as manager:
        restored = manager.restore(0)
        if single:
            assert same(restored, tree(1))
        else:
            assert same(restored.a, tree(1))
            assert same(restored.b, tree(2))


def test_to_look_is_not_to_decide_how_an_item_is_saved(ours, root):
    with ours.CheckpointManager(root) as manager:
        manager.save(0, args=ours.args.StandardSave(tree(1)))
    with ours.CheckpointManager(root) as manager:
        manager.restore(0)
        assert manager.save(1, args=ours.args.PyTreeSave(tree(2)))
        assert same(manager.restore(1), tree(2))


def test_items_may_differ_from_step_to_step(ocp, root):
    plan = [("state", "embeddings"), ("state",), ("state", "embeddings", "extra")]
    with ocp.CheckpointManager(root) as manager:
        for step, items in enumerate(plan):
            manager.save(step, args=composite(ocp, **{name: tree(step) for name in items}))
        for step, items in enumerate(plan):
            restored = manager.restore(step)
            assert set(restored.keys()) == set(items)
            assert all(same(restored[name], tree(step)) for name in items)


def test_metrics_come_back_with_everything_and_not_with_the_one_object(ours, root):
    options = ours.CheckpointManagerOptions(best_fn=lambda metrics: metrics["loss"])
    with ours.CheckpointManager(root / "a", options=options) as manager:
        manager.save(0, args=composite(ours, state=tree()), metrics={"loss": 1})
        assert set(manager.restore(0)) == {"state", "metrics"}
    with ours.CheckpointManager(root / "a", options=options) as manager:
        assert manager.restore(0).metrics == {"loss": 1}
    with ours.CheckpointManager(root / "b", options=options) as manager:
        manager.save(0, args=ours.args.StandardSave(tree(4)), metrics={"loss": 1})
        assert same(manager.restore(0), tree(4))


@pytest.mark.wd("W-01")
@pytest.mark.parametrize(
    "fail",
    [
        lambda ocp, manager: manager.restore(7),
        lambda ocp, manager: manager.restore(None),
        lambda ocp, manager: manager.item_metadata(7),
        lambda ocp, manager: manager.save(7, tree()),
        lambda ocp, manager: manager.restore(7, args=ocp.args.Composite(a=None)),
    ],
)
def test_a_call_that_fails_settles_nothing(ours, root, fail):
    with ours.CheckpointManager(root) as manager:
        with pytest.raises((FileNotFoundError, ValueError)):
            fail(ours, manager)
        assert manager._default_item is None
        assert manager.save(0, args=ours.args.StandardSave(tree()))


@pytest.mark.wd("W-02")
def test_the_latest_of_another_root_is_meant_when_it_is_named(ours, root):
    for place, step in (("a", 3), ("b", 5)):
        with ours.CheckpointManager(root / place) as manager:
            manager.save(step, args=ours.args.StandardSave(tree(step)))
    with ours.CheckpointManager(root / "a") as manager:
        with pytest.raises(FileNotFoundError):
            manager.restore(5)
        assert same(manager.restore(5, directory=root / "b"), tree(5))
        assert same(manager.restore(None, directory=root / "b"), tree(5))
        assert same(manager.restore(None), tree(3))
        with pytest.raises(FileNotFoundError, match="No steps found"):
            manager.restore(None, directory=root / "a" / "3")


@pytest.mark.row("R090")
def test_restore_to_another_sharding_and_dtype(ours, root):
    import jax

    mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(8), ("x",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    with ours.CheckpointManager(root) as manager:
        manager.save(0, args=ours.args.StandardSave({"w": jnp.arange(16.0)}))
        target = {"w": jax.ShapeDtypeStruct((16,), jnp.bfloat16, sharding=sharding)}
        restored = manager.restore(0, args=ours.args.StandardRestore(target))["w"]
    assert restored.sharding == sharding
    assert restored.dtype == jnp.bfloat16
    assert np.array_equal(np.asarray(restored, np.float32), np.arange(16.0))


@pytest.mark.wd("W-01")
def test_args_by_name_do_not_fit_a_step_of_one_object(ocp, root):
    with ocp.CheckpointManager(root) as manager:
        manager.save(0, args=ocp.args.JsonSave(1))
    wanted = ocp.args.Composite(a=ocp.args.JsonRestore())
    with (
        ocp.CheckpointManager(root) as manager,
        pytest.raises(ValueError, match="Cannot provide `args` of type `Composite`"),
    ):
        manager.restore(0, args=wanted)


def test_none_for_an_item_of_json_is_saved_as_null(ocp, root):
    with ocp.CheckpointManager(root) as manager:
        manager.save(0, args=ocp.args.Composite(a=ocp.args.JsonSave([1])))
        manager.save(1, args=ocp.args.Composite(a=None))
        assert dict(manager.restore(1).items()) == {"a": None}


# ------------------------------------------------------------------------ names, handlers, registry


def test_names_close_the_set(ocp, root):
    with ocp.CheckpointManager(root, item_names=("params", "opt")) as manager:
        assert manager.save(0, args=composite(ocp, params=tree(1), opt=tree(2)))
        assert same(manager.restore(0).params, tree(1))
        with pytest.raises(ValueError, match="does not match with any registered handler"):
            manager.save(1, args=composite(ocp, other=tree()))


def test_one_handler_serves_one_object(ocp, root):
    with ocp.CheckpointManager(root, item_handlers=ocp.StandardCheckpointHandler()) as manager:
        manager.save(0, args=ocp.args.StandardSave(tree(1)))
    with ocp.CheckpointManager(root, item_handlers=ocp.StandardCheckpointHandler()) as manager:
        assert same(manager.restore(0), tree(1))
        assert manager.item_metadata(0)["w"].shape == (2, 3)


@pytest.mark.parametrize("single", [True, False])
def test_other_args_than_those_of_the_handler_are_refused(ocp, root, single):
    handler = ocp.PyTreeCheckpointHandler()
    handlers = handler if single else {"a": handler}
    args = ocp.args.StandardSave(tree())
    manager = ocp.CheckpointManager(root, item_handlers=handlers)
    with manager, pytest.raises(ValueError, match="does not match with any registered handler"):
        manager.save(0, args=args if single else ocp.args.Composite(a=args))


def test_handlers_and_names_are_united_and_describe_what_they_can(ours, root):
    handlers = {
        "params": ours.StandardCheckpointHandler(),
        "notes": ours.JsonCheckpointHandler(),
    }
    with ours.CheckpointManager(root, item_names=("metadata",), item_handlers=handlers) as manager:
        args = ours.args.Composite(
            params=ours.args.StandardSave(tree()),
            notes=ours.args.JsonSave([1]),
            metadata=ours.args.JsonSave({"a": 1}),
        )
        manager.save(0, args=args)
        assert manager.restore(0).metadata == {"a": 1}
    with ours.CheckpointManager(root, item_names=("metadata",), item_handlers=handlers) as manager:
        found = manager.item_metadata(0)
        assert set(found) == {"params", "notes", "metadata"}
        assert found.params["w"].shape == (2, 3)
        assert found.metadata is None
        assert found.notes is None


@pytest.mark.wd("W-15")
@pytest.mark.row("R271")
def test_a_registry_is_read_and_never_changed(ours, root):
    registry = ours.DefaultCheckpointHandlerRegistry()
    registry.add("state", ours.args.StandardSave)
    registry.add("state", ours.args.StandardRestore)
    before = dict(registry.get_all_entries())
    for step in range(2):
        with ours.CheckpointManager(root, handler_registry=registry) as manager:
            assert manager._default_item is None
            args = ours.args.Composite(
                state=ours.args.StandardSave(tree(step)), more=ours.args.JsonSave(step)
            )
            assert manager.save(step, args=args)
            assert manager.item_metadata(step).state["w"].shape == (2, 3)
    assert registry.get_all_entries() == before
    with ours.CheckpointManager(root, handler_registry=registry) as manager:
        assert same(manager.restore(1).state, tree(1))
        assert manager.restore(1).more == 1


def test_metadata_of_items_before_anything_is_known_of_them(ours, root):
    with ours.CheckpointManager(root) as manager:
        manager.save(0, args=ours.args.StandardSave(tree()))
        assert manager.item_metadata(0)["n"]["b"].dtype == jnp.int32  # waits for the save
    with ours.CheckpointManager(root) as manager:
        assert manager.item_metadata(0) is None
        with pytest.raises(FileNotFoundError):
            manager.item_metadata(1)


CONFLICTS = {
    "checkpointers and names": lambda o: {"checkpointers": checkpointer(o), "item_names": ("a",)},
    "checkpointers and handlers": lambda o: {"checkpointers": checkpointer(o), "item_handlers": {}},
    "checkpointers and registry": lambda o: {
        "checkpointers": checkpointer(o),
        "handler_registry": o.DefaultCheckpointHandlerRegistry(),
    },
    "registry and names": lambda o: {
        "handler_registry": o.DefaultCheckpointHandlerRegistry(),
        "item_names": (),
    },
    "registry and handlers": lambda o: {
        "handler_registry": o.DefaultCheckpointHandlerRegistry(),
        "item_handlers": {},
    },
    "names and one handler": lambda o: {
        "item_names": ("a",),
        "item_handlers": o.StandardCheckpointHandler(),
    },
    "no checkpointer": lambda o: {"checkpointers": 3},
    "no checkpointer in the dict": lambda o: {"checkpointers": {"a": 3}},
    "a reserved name": lambda o: {"item_names": ("metrics", "a")},
    "a reserved handler": lambda o: {"item_handlers": {"descriptor": o.JsonCheckpointHandler()}},
    "a reserved checkpointer": lambda o: {"checkpointers": {"metrics": checkpointer(o)}},
    "a callback without background": lambda o: {
        "options": o.CheckpointManagerOptions(
            enable_async_checkpointing=False,
            async_options=o.AsyncOptions(post_finalization_callback=lambda: None),
        )
    },
    "checkpointers of every host": lambda o: {
        "checkpointers": checkpointer(o),
        "options": every_host(o),
    },
    "names of every host": lambda o: {"item_names": ("a",), "options": every_host(o)},
}


COMPLAINTS = {
    "checkpointers and names": "`checkpointers` and `item_names` exclude",
    "checkpointers and handlers": "`checkpointers` and `item_handlers` exclude",
    "checkpointers and registry": "`checkpointers` and `handler_registry` exclude",
    "registry and names": "`handler_registry` and `item_names` exclude",
    "registry and handlers": "`handler_registry` and `item_handlers` exclude",
    "names and one handler": "`item_names` name several",
    "no checkpointer": "not 3",
    "no checkpointer in the dict": "not {'a': 3}",
    "a reserved name": r"\['metrics'\] are reserved",
    "a reserved handler": r"\['descriptor'\] are reserved",
    "a reserved checkpointer": r"\['metrics'\] are reserved",
    "a callback without background": "post_finalization_callback is for asynchronous",
    "checkpointers of every host": "`checkpointers` work with primary_host=0 only",
    "names of every host": "primary_host=None",
}


def checkpointer(ocp):
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler())


def every_host(ocp):
    alone = ocp.options.MultiprocessingOptions(primary_host=None)
    return ocp.CheckpointManagerOptions(multiprocessing_options=alone)


@pytest.mark.row("R271", "R272")
@pytest.mark.parametrize("case", CONFLICTS)
def test_contradictions_are_refused(ours, root, case):
    with pytest.raises(ValueError, match=COMPLAINTS[case]):
        ours.CheckpointManager(root, **CONFLICTS[case](ours))
    assert not root.exists()


def test_making_a_root_for_some_processes_is_not_done(ours, root):
    some = ours.options.MultiprocessingOptions(active_processes={0})
    options = ours.CheckpointManagerOptions(multiprocessing_options=some)
    with pytest.raises(NotImplementedError):
        ours.CheckpointManager(root, options=options)


# ----------------------------------------------------------------------------------------- old ways


@pytest.mark.row("R140")
@pytest.mark.parametrize("asynchronous", [True, False])
def test_one_old_checkpointer(ocp, root, asynchronous):
    kind = ocp.AsyncCheckpointer if asynchronous else ocp.Checkpointer
    with ocp.CheckpointManager(root, kind(ocp.PyTreeCheckpointHandler())) as manager:
        assert manager.save(0, tree(1))
        assert same(manager.restore(0), tree(1))
        restore_args = {
            "w": ocp.RestoreArgs(restore_type=np.ndarray),
            "n": {"b": ocp.RestoreArgs()},
        }
        restored = manager.restore(0, restore_kwargs={"restore_args": restore_args})
        assert isinstance(restored["w"], np.ndarray)
        # and new args work as well
        assert manager.save(1, args=ocp.args.PyTreeSave(tree(2)))
        assert same(manager.restore(1, items=tree()), tree(2))
    assert "default" in names(root / "0")


@pytest.mark.row("R140")
def test_several_old_checkpointers(ocp, root):
    both = {
        "params": ocp.Checkpointer(ocp.PyTreeCheckpointHandler()),
        "config": ocp.Checkpointer(ocp.JsonCheckpointHandler()),
    }
    with ocp.CheckpointManager(root, both) as manager:
        assert manager.save(0, {"params": tree(1), "config": {"a": 1}})
        restored = manager.restore(0)
        assert same(restored["params"], tree(1))
        assert restored["config"] == {"a": 1}
        assert list(manager.restore(0, items={"config": None}).keys()) == ["config"]
        with pytest.raises(ValueError, match="Unknown key"):
            manager.save(1, {"other": tree()})


def test_there_may_be_no_old_checkpointer_at_all(ours, root):
    with ours.CheckpointManager(root, {}) as manager:
        assert manager._default_item is False


def test_old_calls_reach_an_item_that_args_have_named(ocp, root):
    with ocp.CheckpointManager(root / "one") as manager:
        with pytest.raises(ValueError, match="Unknown key"):
            manager.save(0, tree())
        assert manager.save(0, args=ocp.args.StandardSave(tree(1)))
        assert manager.save(1, tree(2))
        assert same(manager.restore(1, items=tree()), tree(2))
    with ocp.CheckpointManager(root / "several") as manager:
        assert manager.save(0, args=composite(ocp, state=tree(1)))
        assert manager.save(1, {"state": tree(2)})
        assert same(manager.restore(1, items={"state": tree()})["state"], tree(2))
    with ocp.CheckpointManager(root / "one") as manager:
        manager.restore(1, args=ocp.args.StandardRestore(tree()))
        assert same(manager.restore(0, items=tree()), tree(1))


@pytest.mark.wd("W-15")
@pytest.mark.row("R148")
def test_the_timeout_of_old_checkpointers_is_kept(ours, root):
    def timeout(options=None, **seconds):
        both = {
            name: ours.AsyncCheckpointer(ours.PyTreeCheckpointHandler(), timeout_secs=value)
            for name, value in seconds.items()
        }
        with ours.CheckpointManager(root, both, options) as manager:
            return manager._checkpointer._timeout_secs

    assert timeout(a=30, b=70) == 70
    explicit = ours.CheckpointManagerOptions(async_options=ours.AsyncOptions(timeout_secs=500))
    assert timeout(explicit, a=600) == 500
    untouched = ours.CheckpointManagerOptions()
    timeout(untouched, a=30)
    assert untouched.async_options is None


@pytest.mark.row("R142")
def test_a_handler_without_args_of_its_own(ours, root):
    class Text(ours.CheckpointHandler):
        def save(self, directory, item, shout=False):
            (directory / "text").write_text(item.upper() if shout else item)

        def restore(self, directory, item=None, shout=False):
            text = (directory / "text").read_text()
            return text.upper() if shout else text

    with ours.CheckpointManager(root, {"text": ours.Checkpointer(Text())}) as manager:
        manager.save(0, {"text": "one"}, save_kwargs={"text": {"shout": True}})
        manager.save(1, {"text": "two"})
        assert manager.restore(0)["text"] == "ONE"
        assert manager.restore(1)["text"] == "two"
        assert manager.restore(1, restore_kwargs={"text": {"shout": True}})["text"] == "TWO"


def test_what_saves_in_the_background(ours):
    from jax.experimental.array_serialization import serialization

    is_async = ours.checkpoint_manager.is_async_checkpointer
    assert is_async(ours.AsyncCheckpointer(ours.PyTreeCheckpointHandler()))
    assert is_async(serialization.GlobalAsyncCheckpointManager())
    assert not is_async(checkpointer(ours))
