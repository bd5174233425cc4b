# SPDX-License-Identifier: Apache-2.0
"""What a manager finds after a death, and what it does about it."""

import os
import signal
import subprocess
import sys

import pytest

from tests.checkpoint.manager.sides import names, same, tree

pytestmark = pytest.mark.crash

PROGRAM = """
import os, signal, sys
import jax.numpy as jnp
from pertinax import checkpoint as ocp
from pertinax._store import draft, leftovers

root, where = sys.argv[1:]
options = ocp.CheckpointManagerOptions(max_to_keep=1)
manager = ocp.CheckpointManager(root, options=options)
manager.save(0, args=ocp.args.StandardSave({"w": jnp.zeros(3)}))
manager.wait_until_finished()
def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)
if where == "before the step is visible":
    draft.Draft.commit = die
else:
    leftovers.remove_tree = die
manager.save(1, args=ocp.args.StandardSave({"w": jnp.ones(3)}))
manager.wait_until_finished()
"""


@pytest.mark.wd("W-28", "W-36")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "steps"),
    [("before the step is visible", [0]), ("while the old step is removed", [1])],
)
def test_a_killed_run_is_found_whole_and_its_litter_goes(ours, root, where, steps):
    done = subprocess.run([sys.executable, "-c", PROGRAM, root, where], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert len(names(root)) == 2
    with ours.CheckpointManager(root) as manager:
        assert names(root) == [str(step) for step in steps]
        assert manager.all_steps() == steps
        assert manager.restore(None)["w"].tolist() == [float(steps[0])] * 3
        assert manager.save(5, args=ours.args.StandardSave(tree()))


@pytest.mark.wd("W-19")
def test_a_living_process_keeps_its_unfinished_step(ours, root):
    from pertinax._store.leftovers import hidden_name

    mine = root / os.path.basename(hidden_name(f"{root}/3"))
    mine.mkdir(parents=True)
    options = ours.CheckpointManagerOptions(cleanup_tmp_directories=True)
    with ours.CheckpointManager(root, options=options) as manager:
        assert manager.all_steps() == []
        assert manager.save(3, args=ours.args.StandardSave(tree(3)))
        assert same(manager.restore(3), tree(3))
    assert mine.exists()


def test_read_only_does_not_tidy(ours, root):
    (root / "0.orbax-checkpoint-tmp-1").mkdir(parents=True)
    options = ours.CheckpointManagerOptions(read_only=True, cleanup_tmp_directories=True)
    with ours.CheckpointManager(root, options=options) as manager:
        assert manager.all_steps() == []
    assert names(root) == ["0.orbax-checkpoint-tmp-1"]


@pytest.mark.row("R153")
def test_two_managers_see_each_other_after_a_reload(ours, root):
    with ours.CheckpointManager(root) as first, ours.CheckpointManager(root) as second:
        first.save(0, args=ours.args.StandardSave(tree()))
        first.wait_until_finished()
        assert second.all_steps() == []
        second.reload()
        assert second.all_steps() == [0]
        second.delete(0)
        assert first.all_steps() == [0]
        with pytest.raises(FileNotFoundError):
            first.restore(0)
        assert first.all_steps(read=True) == []


@pytest.mark.wd("W-16")
def test_a_failing_constructor_gives_everything_back(ours, root):
    import threading

    before = threading.active_count()
    options = ours.CheckpointManagerOptions(create=False)
    for _ in range(5):
        with pytest.raises(ValueError, match="does not exist"):
            ours.CheckpointManager(root, options=options)
    assert threading.active_count() == before


@pytest.mark.row("R004", "R122")
def test_where_names_cannot_change_a_marker_says_what_is_whole(ours, root, monkeypatch):
    monkeypatch.setattr(ours.step, "is_gcs_path", lambda _path: True)
    (root / "0").mkdir(parents=True)
    (root / "0" / "stale").touch()
    with ours.CheckpointManager(root) as manager:
        assert manager.all_steps() == []
        with pytest.raises(ValueError, match="Found incomplete checkpoint"):
            manager.restore(0)
        assert manager.save(0, args=ours.args.StandardSave(tree(1)))
        assert same(manager.restore(0), tree(1))
        manager.reload()
        assert manager.all_steps() == [0]
        assert not (root / "0" / "stale").exists()
        marker = root / "0" / ours.step._COMMIT_SUCCESS_FILE
        assert ours.step.is_checkpoint_finalized(marker.parent)
        marker.unlink()
        with pytest.raises(ValueError, match="Found incomplete checkpoint"):
            manager.restore(0)


def test_what_is_in_the_way_is_named(ours, root):
    root.mkdir()
    (root / "5").write_text("a file")
    with (
        ours.CheckpointManager(root) as manager,
        pytest.raises(ValueError, match="is not a directory"),
    ):
        manager.restore(5)
    with pytest.raises(NotADirectoryError):
        ours.CheckpointManager(root / "5")


def test_a_step_that_no_one_can_have_saved_is_not_found(ours, root):
    options = ours.CheckpointManagerOptions(best_fn=lambda metrics: 0)
    with ours.CheckpointManager(root, options=options) as manager:
        for ask in (manager.restore, manager.item_metadata):
            with pytest.raises(FileNotFoundError):
                ask(-1)  # what waiting gives when nothing came
        assert manager.metrics(-1) is None
