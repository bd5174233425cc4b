# SPDX-License-Identifier: Apache-2.0
"""The Orbax door in buckets: what its managers and checkpointers promise there."""

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from pertinax import checkpoint as ocp
from pertinax.checkpoint.path import atomicity, step
from tests.objects.faults import FaultProxy
from tests.objects.servers import ROOT
from tests.objects.test_front_door import MARKER

STATE: dict[str, Any] = {"w": jnp.arange(6.0), "n": 3}


def manager(root: str, **options: Any) -> ocp.CheckpointManager:
    return ocp.CheckpointManager(root, options=ocp.CheckpointManagerOptions(**options))


def save(kept: ocp.CheckpointManager, number: int, state: Any = STATE, **given: Any) -> bool:
    return kept.save(number, args=ocp.args.StandardSave(state), **given)


def test_a_manager_keeps_steps_in_a_bucket(cloud):
    root = f"{cloud.new_root()}/run"
    with manager(root, max_to_keep=2, best_fn=lambda m: m["loss"], best_mode="min") as kept:
        for number, loss in enumerate([1.0, 3.0, 2.0]):
            assert save(kept, number, {**STATE, "n": number}, metrics={"loss": loss})
        kept.wait_until_finished()
        assert (list(kept.all_steps()), kept.best_step()) == ([0, 2], 0)
    with manager(root, read_only=True) as reader:
        assert list(reader.all_steps()) == [0, 2]
        back = reader.restore(2, args=ocp.args.StandardRestore({"w": jnp.zeros(6), "n": 0}))
        np.testing.assert_array_equal(back["w"], STATE["w"])
        assert back["n"] == 2
        assert reader.item_metadata(2)["w"].shape == (6,)
    for name in ("0/", "2/"):
        there = cloud.keys(f"{root}/{name.strip('/')}")
        assert {MARKER, f"default/{MARKER}", f"metrics/{MARKER}"} <= set(there)
        assert not [key for key in there if "attempt" in key or "orbax-checkpoint-tmp" in key]


@pytest.mark.row("R115")
def test_removed_steps_are_deleted_whatever_todelete_subdir_says(cloud):
    root = f"{cloud.new_root()}/run"
    with manager(root, max_to_keep=1, todelete_subdir="gone") as kept:
        save(kept, 1)
        save(kept, 2)
    assert {key.partition("/")[0] for key in cloud.keys(root)} <= {"2", ".pertinax"}


@pytest.mark.row("R063", "R122")
@pytest.mark.parametrize("cleanup", [False, True])
def test_what_another_program_left_of_a_step_gives_way(cloud, cleanup):
    root = f"{cloud.new_root()}/run"
    cloud.put(f"{root}/7/default/manifest.ocdbt", b"stale")
    cloud.put(f"{root}/7/default/d/0123456789abcdef0123456789abcdef", b"stale")
    cloud.put(f"{root}/7/other/file", b"stale")
    with manager(root, cleanup_tmp_directories=cleanup) as kept:
        assert list(kept.all_steps()) == []
        save(kept, 7)
        kept.wait_until_finished()
        assert list(kept.all_steps()) == [7]
        assert kept.restore(7)["n"] == 3
    there = cloud.keys(f"{root}/7")
    assert "other/file" not in there
    assert "default/d/0123456789abcdef0123456789abcdef" not in there


@pytest.mark.slow
@pytest.mark.crash
@pytest.mark.row("R093")
def test_a_step_is_saved_again_after_its_writer_was_killed(cloud):
    root = f"{cloud.new_root()}/run"
    program = f"""
        import os, numpy as np
        from pertinax import checkpoint as ocp
        def die(): os._exit(9)
        options = ocp.CheckpointManagerOptions(
            async_options=ocp.options.AsyncOptions(post_finalization_callback=die))
        manager = ocp.CheckpointManager({root!r}, options=options)
        manager.save(3, args=ocp.args.StandardSave({{"w": np.ones(5)}}))
        manager.wait_until_finished()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT / "src")
    assert done.returncode == 9
    assert any("attempt" in key for key in cloud.keys(f"{root}/3"))
    with manager(root) as kept:
        assert list(kept.all_steps()) == []
        save(kept, 3)
        kept.wait_until_finished()
        assert kept.restore(3)["n"] == 3
    assert not any("attempt" in key for key in cloud.keys(f"{root}/3"))


@pytest.mark.row("R004")
def test_only_the_marker_makes_a_checkpoint(cloud):
    url = f"{cloud.new_root()}/run"
    checkpointer = ocp.Checkpointer(ocp.StandardCheckpointHandler())
    checkpointer.save(url, args=ocp.args.StandardSave(STATE))
    assert step.is_checkpoint_finalized(url)
    assert not step.is_tmp_checkpoint(url)
    assert checkpointer.restore(url)["n"] == 3
    cloud.remove(f"{url}/{MARKER}")
    assert not step.is_checkpoint_finalized(url)
    assert step.is_tmp_checkpoint(url)
    with pytest.raises(ValueError, match="Found incomplete checkpoint"):
        checkpointer.restore(url)


def test_force_puts_another_checkpoint_in_the_place(cloud):
    url = f"{cloud.new_root()}/run"
    checkpointer = ocp.Checkpointer(ocp.StandardCheckpointHandler())
    checkpointer.save(url, args=ocp.args.StandardSave(STATE))
    with pytest.raises(ValueError, match="already exists"):
        checkpointer.save(url, args=ocp.args.StandardSave({"a": 1}))
    checkpointer.save(url, args=ocp.args.StandardSave({"a": 1}), force=True)
    assert checkpointer.restore(url) == {"a": 1}


def test_a_failed_save_leaves_nothing(cloud):
    class Failing(ocp.JsonCheckpointHandler):
        def finalize(self, directory):
            raise RuntimeError("no")

    root = cloud.new_root()
    checkpointer = ocp.Checkpointer(Failing())
    with pytest.raises(RuntimeError, match="no"):
        checkpointer.save(f"{root}/run", {"a": 1})
    assert cloud.keys(f"{root}/run") == []


def test_items_are_committed_before_their_step(cloud):
    root = f"{cloud.new_root()}/run"
    with FaultProxy(cloud.port) as proxy, cloud.behind(proxy.port).in_environment():
        with manager(root, enable_async_checkpointing=False, best_fn=lambda m: m["loss"]) as kept:
            save(kept, 1, metrics={"loss": 1.0})
        marked = [one.path for one in proxy.seen if one.writes and one.path.endswith(MARKER)]
    assert [path.split("/run/")[1] for path in marked[-1:]] == [f"1/{MARKER}"]
    assert {path.split("/run/")[1] for path in marked[:-1]} == {
        f"1/default/{MARKER}",
        f"1/metrics/{MARKER}",
    }


def test_paths_choose_how_to_commit(tmp_path: Path):
    chosen = atomicity.get_default_temporary_path_class
    assert chosen(epath.Path("gs://bucket/run")) is atomicity.CommitFileTemporaryPath
    assert chosen(epath.Path("s3://bucket/run")) is atomicity.CommitFileTemporaryPath
    assert chosen(epath.Path(tmp_path)) is atomicity.AtomicRenameTemporaryPath
    assert step.is_gcs_path(epath.Path("gs://bucket/run"))
    assert not step.is_gcs_path(epath.Path("s3://bucket/run"))


@pytest.mark.interop
def test_orbax_restores_the_steps_of_our_managers(gcs):
    import orbax.checkpoint as theirs

    root = f"{gcs.new_root()}/run"
    with manager(root) as kept:
        save(kept, 4, metrics=None)
    with theirs.CheckpointManager(root) as reader:
        assert list(reader.all_steps()) == [4]
        back = reader.restore(4, args=theirs.args.StandardRestore({"w": jnp.zeros(6), "n": 0}))
    np.testing.assert_array_equal(back["w"], STATE["w"])


@pytest.mark.interop
def test_our_managers_restore_the_steps_of_orbax(gcs):
    import orbax.checkpoint as theirs

    root = f"{gcs.new_root()}/run"
    with theirs.CheckpointManager(root) as writer:
        writer.save(4, args=theirs.args.StandardSave(STATE))
        writer.wait_until_finished()
    with manager(root) as kept:
        assert list(kept.all_steps()) == [4]
        np.testing.assert_array_equal(kept.restore(4)["w"], STATE["w"])
        save(kept, 5)
        kept.delete(4)
    assert {key.partition("/")[0] for key in gcs.keys(root)} <= {"5", ".pertinax"}


def test_looking_at_a_root_costs_few_requests(cloud):
    root = f"{cloud.new_root()}/run"
    with manager(root, enable_async_checkpointing=False) as kept:
        for number in range(12):
            save(kept, number, {"n": number})
    with FaultProxy(cloud.port) as proxy, cloud.behind(proxy.port).in_environment():
        assert len(step.checkpoint_steps(root)) == 12
        assert len(proxy.seen) <= 4
        proxy.forget()
        names = step.standard_name_format()
        assert step.latest_step_metadata(root, names).step == 11
        assert len(proxy.seen) <= 2
