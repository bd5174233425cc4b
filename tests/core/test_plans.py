# SPDX-License-Identifier: Apache-2.0
"""A plan that was made before is used again, and never for a tree that it does not fit."""

import collections
import dataclasses
import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import pertinax
from pertinax import checkpoint as ocp
from pertinax._core.options import SaveOptions
from pertinax._core.plans import Plans
from pertinax._core.prepare import prepare
from pertinax._plan.topology import ALONE, Topology
from pertinax._tree.flatten import flatten
from pertinax._tree.follow import leaves_along
from pertinax._tree.skeleton import encode
from pertinax.testing import trees as forest

OPTIONS = SaveOptions()
Point = collections.namedtuple("Point", "x y")  # noqa: PYI024 - users have such
Other = collections.namedtuple("Other", "x y")  # noqa: PYI024


def facts(content):
    """All that a save is told, bytes included."""
    snapshot = content.snapshot
    return (
        repr(encode(content.root)),
        list(content.leaves),
        {i: (type(value), value) for i, value in content.values.items()},
        list(content.names),
        list(content.write_shapes),
        content.plan.pieces,
        content.plan.offsets.tolist(),
        bytes(snapshot.packed),
        [(a.dtype, a.shape, np.ascontiguousarray(a).tobytes()) for a in snapshot.large],
        content.layout,
    )


def save_both_ways(tree, plans, options=OPTIONS):
    """With plans and without: the same. Returns whether a plan was used again."""
    before = {id(one.plan) for one in plans._plans}
    content = prepare(tree, options, "hold", ALONE, plans)
    assert facts(content) == facts(prepare(tree, options, "hold", ALONE))
    return id(content.plan) in before


def layout(*spec):
    return NamedSharding(Mesh(np.array(jax.devices()).reshape(2, 4), ("x", "y")), spec_of(spec))


def spec_of(spec):
    return PartitionSpec(*spec)


def state(step=0):
    return {
        "params": [
            {"w": jax.device_put(jnp.full((16, 8), step + i, jnp.float32), layout("x", "y"))}
            for i in range(3)
        ],
        "replicated": jax.device_put(jnp.arange(step, step + 5), layout()),
        "large": jnp.full((64, 1024), step),
        "opt": Point(np.full(3, step), (np.int8(step), None, ())),
        "keys": jax.random.split(jax.random.key(step), 2),
        "step": step,
        "name": f"run {step}",
        "huge": 1 << (80 + step),
        "raw": bytes([step, 1]),
        "truth": bool(step % 2),
        "rate": 0.5 / (step + 1),
        "empty": np.zeros((0, 3)),
        7: collections.OrderedDict(a=1.5j * step),
    }


def test_the_second_save_of_a_state_needs_no_plan():
    plans = Plans()
    assert [save_both_ways(state(step), plans) for step in range(4)] == [False, True, True, True]


def change(**items):
    return lambda tree: {**tree, **items}


@pytest.mark.parametrize(
    "other",
    [
        change(large=jnp.zeros((64, 1024), jnp.bfloat16)),
        change(large=jnp.zeros((64, 1023))),
        change(large=np.zeros((64, 1024), np.int32)),
        change(large=jax.device_put(jnp.zeros((64, 1024), jnp.int32), jax.devices()[1])),
        change(replicated=jax.device_put(jnp.arange(5), jax.devices()[0])),
        change(params=[{"w": jnp.zeros((16, 8))}] * 3),
        change(params=({"w": jnp.zeros((16, 8))},) * 3),
        change(step=True),
        change(step=np.int64(3)),
        change(step=1 << 70),
        change(huge=5),
        change(name=3),
        change(raw=b"123"),
        change(rate=1),
        change(truth=np.bool_(1)),
        change(opt=Other(np.zeros(3, int), (np.int8(0), None, ()))),
        change(opt=Point(np.zeros(3, ">i8"), (np.int8(0), None, ()))),
        change(opt=Point(np.zeros(3, int), (np.int8(0), (), None))),
        change(opt=Point(np.zeros(3, int), (np.int8(0), None, []))),
        change(opt=None),
        change(keys=jax.random.split(jax.random.key(0, impl="rbg"), 2)),
        change(empty=np.zeros((0, 4))),
        change(more=1),
        lambda tree: dict(reversed(tree.items())),
        lambda tree: {k: v for k, v in tree.items() if k != 7} | {7.0: tree[7]},
        lambda tree: {k: v for k, v in tree.items() if k != 7} | {np.int64(7): tree[7]},
        lambda tree: change(**{"7": 1})({k: v for k, v in tree.items() if k != 7}),
        collections.OrderedDict,
        lambda tree: collections.defaultdict(list, tree),
        lambda tree: change(params=jax.device_put(tree["params"], layout("y")))(tree),
    ],
)
def test_whatever_differs_is_planned_anew(other):
    plans = Plans()
    tree = state()
    save_both_ways(tree, plans)
    assert not save_both_ways(other(tree), plans)
    assert save_both_ways(state(5), plans)


@settings(deadline=None, max_examples=20)
@given(st.lists(forest.trees(), min_size=2, max_size=4))
def test_any_trees_one_after_the_other(trees):
    plans = Plans()
    for tree in (*trees, *trees):
        save_both_ways(tree, plans)


@settings(deadline=None, max_examples=50)
@given(forest.trees(), forest.trees())
def test_a_tree_has_a_skeleton_or_has_not(tree, other):
    flat, another = flatten(tree), flatten(other)
    found = leaves_along(tree, flat.root)
    assert found is not None
    assert all(a is b for a, b in zip(found, flat.leaves, strict=True))
    same = repr(encode(flat.root)) == repr(encode(another.root))
    assert (leaves_along(other, flat.root) is not None) == same


def test_keys_that_only_python_takes_for_equal():
    one, other = {True: 1, 0.0: 2}, {1: 1, -0.0: 2}
    assert one == other
    assert leaves_along(other, flatten(one).root) is None
    assert leaves_along({True: 1, -0.0: 2}, flatten(one).root) is None


def test_other_options_and_other_processes_are_other_plans():
    plans = Plans()
    tree = {"w": np.zeros((4, 4))}
    save_both_ways(tree, plans)
    limits = [32]
    small = SaveOptions(chunk_bytes=limits)
    assert not save_both_ways(tree, plans, small)
    limits[0] = 64  # the options have not changed by that
    assert save_both_ways(tree, plans, small)
    assert not save_both_ways(tree, plans, SaveOptions(chunk_bytes=[64]))
    content = prepare(tree, OPTIONS, "hold", Topology(1, (0, 1), 0), plans)
    assert content.plan.pieces == ()


def test_a_deleted_array_is_still_found_out():
    plans = Plans()
    tree = {"w": jnp.ones(3)}
    save_both_ways(tree, plans)
    tree["w"].delete()
    with pytest.raises(pertinax.errors.UnsupportedLeaf, match="deleted"):
        prepare(tree, OPTIONS, "hold", ALONE, plans)


def test_no_array_is_kept_and_few_plans():
    plans = Plans()
    array = np.zeros(100_000)
    gone = weakref.ref(array)
    save_both_ways({"w": array, "text": "x" * 1000}, plans)
    del array
    gc.collect()
    assert gone() is None
    for n in range(10):
        save_both_ways({"w": np.zeros(n)}, plans)
    assert len(plans._plans) == 2


@dataclasses.dataclass
class Counting:
    """Counts how often a function is called."""

    inner: object
    calls: int = 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        return self.inner(*args, **kwargs)


@pytest.fixture
def planning(monkeypatch):
    from pertinax._core import prepare as module

    counting = Counting(module.plan_write)
    monkeypatch.setattr(module, "plan_write", counting)
    return counting


def test_a_manager_plans_once(tmp_path, planning):
    with pertinax.Manager(tmp_path / "run") as manager:
        for step in range(3):
            manager.save(step, state(step))
    assert planning.calls == 1
    for step in range(3):
        found = pertinax.load(tmp_path / "run" / str(step))
        assert found["name"] == f"run {step}"
        assert found["huge"] == 1 << (80 + step)
        assert np.array_equal(found["large"], state(step)["large"])
        assert pertinax.verify(tmp_path / "run" / str(step)).ok


@pytest.mark.parametrize("handler", [ocp.PyTreeCheckpointHandler, ocp.StandardCheckpointHandler])
def test_a_handler_plans_once(tmp_path, planning, handler):
    with ocp.AsyncCheckpointer(handler()) as checkpointer:
        for step in range(3):
            tree = {"w": jnp.full(5, step), "n": {"step": step}}
            checkpointer.save(tmp_path / str(step), tree)
    assert planning.calls == 1
    assert [pertinax.load(tmp_path / str(step))["n"]["step"] for step in range(3)] == [0, 1, 2]
