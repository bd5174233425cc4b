# SPDX-License-Identifier: Apache-2.0
"""Roots are shared with the real Orbax: its manager opens ours, and ours opens its."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from pertinax import Manager
from pertinax.policies import Best, Latest
from tests.steps.trees import same

pytestmark = pytest.mark.interop


def arrays(step: int) -> dict[str, Any]:
    return {"w": jnp.arange(6.0).reshape(2, 3) + step, "opt": {"count": jnp.int32(step)}}


def shapes(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def loss(metrics: Any) -> float:
    return metrics["loss"]


@pytest.mark.parametrize(("prefix", "width"), [(None, None), ("run", 6)])
def test_orbax_opens_our_root(tmp_path: Path, prefix: str | None, width: int | None) -> None:
    with Manager(tmp_path, keep=3, prefix=prefix, width=width) as ours:
        for step in range(5):
            ours.save(step, arrays(step), metrics={"loss": jnp.float32(abs(step - 3))})
    options = ocp.CheckpointManagerOptions(
        best_fn=loss, best_mode="min", step_prefix=prefix, step_format_fixed_length=width
    )
    with ocp.CheckpointManager(tmp_path, options=options) as theirs:
        assert sorted(theirs.all_steps()) == [2, 3, 4]
        assert theirs.latest_step() == 4
        assert theirs.best_step() == 3
        assert theirs.metrics(4) == {"loss": 1.0}
        wanted = shapes(arrays(0))
        assert same(theirs.restore(3, args=ocp.args.StandardRestore(wanted)), arrays(3))
        bare = theirs.restore(4, args=ocp.args.StandardRestore())
        assert same(jax.tree.map(np.asarray, bare), jax.tree.map(np.asarray, arrays(4)))
    with ocp.CheckpointManager(tmp_path, options=options) as theirs:
        tree = theirs.restore(2, args=ocp.args.PyTreeRestore(arrays(0)))
        assert same(jax.tree.map(np.asarray, tree), jax.tree.map(np.asarray, arrays(2)))


def test_orbax_does_not_mind_what_we_keep_beside_the_steps(tmp_path: Path) -> None:
    with Manager(tmp_path) as ours:
        for step in range(66):
            ours.save(step, {"step": step}, metrics={"loss": float(step)})
        ours.wait()
        ours.pin(5, "paper")
        assert ours.best("loss") == 0
    assert {"steps", "pins"} == {path.name for path in (tmp_path / ".pertinax").iterdir()}
    options = ocp.CheckpointManagerOptions(
        best_fn=loss, best_mode="min", max_to_keep=2, cleanup_tmp_directories=True
    )
    with ocp.CheckpointManager(tmp_path, options=options) as theirs:
        assert sorted(theirs.all_steps()) == list(range(66))
        assert sorted(ocp.utils.checkpoint_steps(tmp_path)) == list(range(66))
        theirs.save(70, args=ocp.args.StandardSave(arrays(70)), metrics={"loss": -1.0})
        theirs.wait_until_finished()
    assert Manager(tmp_path).steps() == [0, 70]
    assert (tmp_path / ".pertinax" / "pins" / "5-paper").exists()


def test_orbax_goes_on_in_our_root_and_we_in_its(tmp_path: Path) -> None:
    with Manager(tmp_path) as ours:
        ours.save(1, arrays(1), metrics={"loss": 3.0})
    options = ocp.CheckpointManagerOptions(best_fn=loss, best_mode="min")
    with ocp.CheckpointManager(tmp_path, options=options) as theirs:
        for step in (2, 3):
            theirs.save(
                step, args=ocp.args.StandardSave(arrays(step)), metrics={"loss": 1.0 * step}
            )
        theirs.wait_until_finished()
    with Manager(tmp_path, keep=Latest(1) | Best(1, "loss")) as ours:
        assert ours.steps() == [1, 2, 3]
        assert [record.metrics for record in ours.history()] == [{"loss": x} for x in (3, 2, 3)]
        assert all(record.time_ns > 1e18 for record in ours.history())
        assert ours.best("loss") == 2
        assert same(ours.load(2), arrays(2))
        step, tree = ours.resume(arrays(0))
        assert step == 3
        assert same(tree, arrays(3))
        ours.save(4, arrays(4), metrics={"loss": 9})
    assert ours.steps() == [2, 4]
    with ocp.CheckpointManager(tmp_path, options=options) as theirs:
        assert sorted(theirs.all_steps()) == [2, 4]
        assert theirs.best_step() == 2


def test_what_orbax_left_unfinished_is_no_step_and_not_ours_to_remove(tmp_path: Path) -> None:
    for name in ("7.orbax-checkpoint-tmp-12", "8.orbax-checkpoint-tmp"):
        (tmp_path / name).mkdir()
    with Manager(tmp_path) as ours:
        assert ours.steps() == []
    assert len(list(tmp_path.iterdir())) == 2


def test_steps_of_several_items_are_read_by_name(tmp_path: Path) -> None:
    with ocp.CheckpointManager(tmp_path) as theirs:
        args = ocp.args.Composite(
            model=ocp.args.StandardSave(arrays(1)),
            ema=ocp.args.StandardSave(arrays(2)),
            notes=ocp.args.JsonSave({"a": 1}),
        )
        theirs.save(1, args=args)
        theirs.wait_until_finished()
    ours = Manager(tmp_path)
    assert same(ours.load(1, item="ema"), arrays(2))
    assert same(ours.load(1, arrays(0), item="model"), arrays(1))
    assert ours.metrics(1) is None
