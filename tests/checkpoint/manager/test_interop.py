# SPDX-License-Identifier: Apache-2.0
"""Roots that go from one library to the other and back, in the middle of training."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.checkpoint.manager.sides import names, same, tree

pytestmark = pytest.mark.interop

OLD = pathlib.Path(__file__).parents[3] / ".venv-orbax-0.8" / "bin" / "python"


def opened(ocp, root, **options):
    chosen = ocp.CheckpointManagerOptions(**options)
    return ocp.CheckpointManager(root, options=chosen)


def sharded_tree(seed):
    mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(2, 4), ("x", "y"))
    spec = jax.sharding.PartitionSpec("x", "y")
    rows = jnp.arange(64.0).reshape(8, 8) + seed
    return {
        "sharded": jax.device_put(rows, jax.sharding.NamedSharding(mesh, spec)),
        "half": jnp.full((3,), seed, jnp.bfloat16),
        "count": seed,
        "list": [np.arange(3), jnp.float32(0.5)],
    }


@pytest.mark.parametrize("direction", ["ours to theirs", "theirs to ours"])
def test_a_run_goes_on_under_the_other_library(ours, theirs, root, direction):
    first, second = (ours, theirs) if direction == "ours to theirs" else (theirs, ours)
    options = {"max_to_keep": 2, "best_fn": lambda m: m["loss"], "best_mode": "min"}
    losses = [5, 2, 4, 3, 7, 1, 10, 9]
    for library, steps in ((first, range(4)), (second, range(4, 6)), (first, range(6, 8))):
        with opened(library, root, **options) as manager:
            for step in steps:
                args = library.args.StandardSave(sharded_tree(step))
                assert manager.save(step, args=args, metrics={"loss": losses[step]})
    for library in (ours, theirs):
        with opened(library, root, **options) as manager:
            assert list(manager.all_steps()) == [1, 5]
            assert manager.best_step() == 5
            assert manager.metrics(1) == {"loss": 2}
            assert same(manager.restore(5), sharded_tree(5))
            target = jax.tree.map(_spec, sharded_tree(0))
            restored = manager.restore(1, args=library.args.StandardRestore(target))
            assert same(restored, sharded_tree(1))
            assert restored["sharded"].sharding == target["sharded"].sharding


def _spec(leaf):
    if isinstance(leaf, jax.Array):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
    return leaf


@pytest.mark.parametrize("writer", ["ours", "theirs"])
def test_items_go_over(ours, theirs, root, writer):
    libraries = {"ours": ours, "theirs": theirs}
    ocp = libraries[writer]
    options = {"step_prefix": "run", "step_format_fixed_length": 5}
    with opened(ocp, root, **options) as manager:
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(tree(1)),
            params=ocp.args.PyTreeSave(tree(2)),
            config=ocp.args.JsonSave({"a": [1, None, "b"]}),
        )
        manager.save(7, args=args)
    for library in libraries.values():
        with opened(library, root, **options) as manager:
            everything = manager.restore(7)
            assert set(everything.keys()) == {"state", "params", "config"}
            assert same(everything.state, tree(1))
            assert same(everything.params, tree(2))
            assert everything.config == {"a": [1, None, "b"]}
            wanted = library.args.Composite(params=library.args.PyTreeRestore(tree()))
            assert same(manager.restore(7, args=wanted).params, tree(2))


def test_both_see_the_same_times_and_hide_the_same_leftovers(ours, theirs, root):
    with opened(ours, root) as manager:
        manager.save(0, args=ours.args.StandardSave(tree()))
    with opened(theirs, root) as manager:
        manager.save(1, args=theirs.args.StandardSave(tree()))
    for leftover in (
        "2.orbax-checkpoint-tmp",
        "2.orbax-checkpoint-tmp-12",
        "3.orbax-checkpoint-tmp-x",
    ):
        (root / leftover).mkdir()
    for ocp in (ours, theirs):
        with opened(ocp, root) as manager:
            assert list(manager.all_steps()) == [0, 1]
    times = [ours.path.step.Metadata(step, root / str(step)) for step in (0, 1)]
    assert times[0].commit_timestamp < times[1].commit_timestamp
    with opened(ours, root, cleanup_tmp_directories=True):
        assert names(root) == ["0", "1"]


OLD_PROGRAM = """
import json, sys
import jax.numpy as jnp, numpy as np
import orbax.checkpoint as ocp
root, todo = sys.argv[1:]
options = ocp.CheckpointManagerOptions(max_to_keep=2, best_fn=lambda m: m["loss"])
with ocp.CheckpointManager(root, options=options) as manager:
    if todo == "write":
        for step in range(3):
            tree = {"w": jnp.arange(6.0).reshape(2, 3) + step, "n": {"b": jnp.full((3,), step)}}
            manager.save(step, args=ocp.args.StandardSave(tree), metrics={"loss": step})
    else:
        target = {"w": jnp.zeros((2, 3)), "n": {"b": jnp.zeros((3,), jnp.int32)}}
        args = ocp.args.StandardRestore(target)
        got = {s: manager.restore(s, args=args) for s in manager.all_steps()}
        found = {s: [one["w"].tolist(), one["n"]["b"].tolist()] for s, one in got.items()}
        print(json.dumps([found, manager.best_step()]))
"""


def run_old(root, todo):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [OLD, "-c", OLD_PROGRAM, root, todo], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(
    not OLD.exists(), reason="Orbax 0.8.0 needs an environment of its own: `make golden` makes it"
)
@pytest.mark.skipif(sys.platform != "linux", reason="the old environment is for Linux")
def test_orbax_0_8_and_we_read_each_other(ours, tmp_path):
    options = {"max_to_keep": 2, "best_fn": lambda metrics: metrics["loss"]}
    run_old(tmp_path / "theirs", "write")
    with opened(ours, tmp_path / "theirs", **options) as manager:
        assert (manager.all_steps(), manager.best_step()) == ([1, 2], 2)
        assert same(manager.restore(2), tree(2))
        assert manager.metrics(1) == {"loss": 1}
    with opened(ours, tmp_path / "ours", **options) as manager:
        for step in range(3):
            manager.save(step, args=ours.args.StandardSave(tree(step)), metrics={"loss": step})
    found, best = json.loads(run_old(tmp_path / "ours", "read"))
    assert best == 2
    for step in (1, 2):
        assert found[str(step)] == [tree(step)["w"].tolist(), tree(step)["n"]["b"].tolist()]
