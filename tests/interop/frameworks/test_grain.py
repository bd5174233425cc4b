# SPDX-License-Identifier: Apache-2.0
"""Iterators of Grain, and anything else with a state to get and set, as items of a checkpoint."""

import json
from pathlib import Path
from typing import Any

import grain
import jax.numpy as jnp
import numpy as np
import pytest

import pertinax
from pertinax import checkpoint as ocp
from tests.interop.frameworks.doors import assert_same

pytestmark = pytest.mark.interop

STATE = {"w": jnp.arange(4.0)}


def dataset() -> Any:
    numbers = grain.MapDataset.source(np.arange(40)).shuffle(seed=3).map(lambda x: 2 * x)
    return iter(numbers.batch(3).to_iter_dataset())


def loader() -> Any:
    sampler = grain.samplers.IndexSampler(
        40, shuffle=True, seed=1, shard_options=grain.sharding.NoSharding()
    )
    return iter(grain.DataLoader(data_source=np.arange(40), sampler=sampler, worker_count=0))


ITERATORS = [dataset, loader]


def after(iterator: Any, count: int) -> Any:
    for _ in range(count):
        next(iterator)
    return iterator


def assert_both_go_on(one: Any, other: Any) -> None:
    for _ in range(3):
        assert np.array_equal(next(one), next(other))


@pytest.mark.parametrize("make", ITERATORS)
def test_the_handler_that_grain_ships_works_in_a_manager(make: Any, tmp_path: Path):
    args, used = ocp.args, after(make(), 4)
    with ocp.CheckpointManager(tmp_path) as manager:
        items = args.Composite(
            state=args.StandardSave(STATE), data=grain.checkpoint.CheckpointSave(used)
        )
        assert manager.save(4, args=items)
        next(used)  # what was saved is where it was at the call
    fresh = make()
    with ocp.CheckpointManager(tmp_path) as manager:
        wanted = args.Composite(
            state=args.StandardRestore(STATE), data=grain.checkpoint.CheckpointRestore(fresh)
        )
        found = manager.restore(4, args=wanted)
    assert_same(found.state, STATE)
    assert found.data is fresh
    next(fresh)
    assert_both_go_on(fresh, used)
    assert pertinax.verify(tmp_path / "4").ok


@pytest.mark.parametrize("make", ITERATORS)
def test_the_handler_that_grain_ships_works_alone(make: Any, tmp_path: Path):
    used, fresh = after(make(), 2), make()
    with ocp.Checkpointer(grain.checkpoint.CheckpointHandler()) as checkpointer:
        checkpointer.save(tmp_path / "it", args=grain.checkpoint.CheckpointSave(used))
        checkpointer.restore(tmp_path / "it", args=grain.checkpoint.CheckpointRestore(fresh))
    assert_both_go_on(fresh, used)


@pytest.mark.parametrize("named", ["item_handlers", "handler_registry"])
def test_the_handler_that_grain_ships_may_be_given_beforehand(named: str, tmp_path: Path):
    handler, save, restore = (
        grain.checkpoint.CheckpointHandler(),
        grain.checkpoint.CheckpointSave,
        grain.checkpoint.CheckpointRestore,
    )
    registry = ocp.DefaultCheckpointHandlerRegistry()
    registry.add("data", save, handler)
    registry.add("data", restore, handler)
    given = {"item_handlers": {"data": handler}, "handler_registry": registry}[named]
    used, fresh = after(dataset(), 2), dataset()
    with ocp.CheckpointManager(tmp_path, **{named: given}) as manager:
        manager.save(2, args=ocp.args.Composite(data=save(used)))
        manager.restore(2, args=ocp.args.Composite(data=restore(fresh)))
    assert_both_go_on(fresh, used)


def test_orbax_goes_on_with_an_iterator_that_we_saved(tmp_path: Path):
    import orbax.checkpoint as orbax

    used, fresh = after(dataset(), 5), dataset()
    with ocp.CheckpointManager(tmp_path) as manager:
        items = {"state": ocp.args.StandardSave(STATE), "data": ocp.args.JsonSave({"a": 1})}
        items["data"] = grain.checkpoint.CheckpointSave(used)
        manager.save(5, args=ocp.args.Composite(**items))
    with orbax.CheckpointManager(tmp_path) as manager:
        wanted = orbax.args.Composite(data=grain.checkpoint.CheckpointRestore(fresh))
        manager.restore(5, args=wanted)
    assert_both_go_on(fresh, used)


def test_args_of_orbax_itself_are_refused_with_the_way_out(tmp_path: Path):
    import orbax.checkpoint as orbax

    with ocp.CheckpointManager(tmp_path) as manager:
        with pytest.raises(ValueError, match=r"pertinax\.checkpoint\.args"):
            manager.save(0, args=orbax.args.StandardSave(STATE))
        with pytest.raises(ValueError, match=r"pertinax\.checkpoint\.args"):
            manager.save(0, args=ocp.args.Composite(state=orbax.args.StandardSave(STATE)))
        assert manager.all_steps() == []


@pytest.mark.parametrize("make", ITERATORS)
def test_the_state_of_an_iterator_is_a_leaf_for_the_front_door(make: Any, tmp_path: Path):
    used, fresh = after(make(), 3), make()
    pertinax.save(tmp_path / "it", {"state": STATE, "data": used.get_state()})
    fresh.set_state(pertinax.load(tmp_path / "it")["data"])
    assert_both_go_on(fresh, used)


def test_the_state_of_an_iterator_is_json_for_the_orbax_door(tmp_path: Path):
    used, fresh = after(dataset(), 3), dataset()
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(3, args=ocp.args.Composite(data=ocp.args.JsonSave(used.get_state())))
        fresh.set_state(manager.restore(3).data)
    assert json.loads((tmp_path / "3" / "data" / "metadata").read_text()) == {"next_index": 3}
    assert_both_go_on(fresh, used)
