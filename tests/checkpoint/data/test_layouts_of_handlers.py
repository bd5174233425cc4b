# SPDX-License-Identifier: Apache-2.0
"""What the door's handlers do with their settings: layouts, sizes of files, limits."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from pertinax import checkpoint as door
from tests.checkpoint.data.twins import same

TREE = {"a": jnp.arange(6.0).reshape(2, 3), "b": [np.arange(4), 3], "s": "text"}


def layout_of(path):
    notes = json.loads((path / "_METADATA").read_text())
    return notes["use_ocdbt"], notes["use_zarr3"]


@pytest.mark.parametrize(("use_ocdbt", "use_zarr3"), [(a, b) for a in (0, 1) for b in (0, 1)])
def test_the_checkpointer_in_one_word_takes_the_layout(tmp_path, use_ocdbt, use_zarr3):
    checkpointer = door.PyTreeCheckpointer(use_ocdbt=bool(use_ocdbt), use_zarr3=bool(use_zarr3))
    checkpointer.save(tmp_path / "c", TREE)
    same(checkpointer.restore(tmp_path / "c"), door.PyTreeCheckpointer().restore(tmp_path / "c"))
    assert layout_of(tmp_path / "c") == (bool(use_ocdbt), bool(use_zarr3))
    assert (tmp_path / "c" / "manifest.ocdbt").exists() == bool(use_ocdbt)
    assert (tmp_path / "c" / "a").exists() != bool(use_ocdbt)


@pytest.mark.row("R132")
def test_two_settings_side_by_side_do_not_mix(tmp_path):
    pairs = [
        (door.AsyncCheckpointer(door.PyTreeCheckpointHandler(use_ocdbt=ocdbt)), ocdbt)
        for ocdbt in (True, False)
    ]
    for step in range(3):
        for checkpointer, ocdbt in pairs:
            checkpointer.save(tmp_path / f"{ocdbt}{step}", args=door.args.PyTreeSave(TREE))
    for checkpointer, _ in pairs:
        checkpointer.wait_until_finished()
    for step in range(3):
        for checkpointer, ocdbt in pairs:
            assert layout_of(tmp_path / f"{ocdbt}{step}") == (ocdbt, False)
            same(checkpointer.restore(tmp_path / f"{not ocdbt}{step}"), TREE)
    for checkpointer, _ in pairs:
        checkpointer.close()


@pytest.mark.parametrize("limit", [1e-9, 0.5, None])
def test_a_limit_however_small_refuses_no_leaf(tmp_path, limit):
    handler = door.PyTreeCheckpointHandler(save_concurrent_gb=limit, restore_concurrent_gb=limit)
    tree = {"large": np.arange(200_000), "small": jnp.arange(3)}
    with door.Checkpointer(handler) as checkpointer:
        checkpointer.save(tmp_path / "c", args=door.args.PyTreeSave(tree))
        same(checkpointer.restore(tmp_path / "c"), tree)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_that_lets_nothing_through_is_refused(tmp_path, limit):
    saving = door.BasePyTreeCheckpointHandler(save_concurrent_bytes=limit)
    with pytest.raises(ValueError, match="positive"):
        door.Checkpointer(saving).save(tmp_path / "c", args=door.handlers.BasePyTreeSaveArgs(TREE))
    door.PyTreeCheckpointer().save(tmp_path / "d", TREE)
    restoring = door.BasePyTreeCheckpointHandler(restore_concurrent_bytes=limit)
    with pytest.raises(ValueError, match="positive"):
        restoring.restore(tmp_path / "d")


@pytest.mark.parametrize("use_zarr3", [False, True])
def test_a_handler_by_itself_may_write_twice_into_one_directory(tmp_path, use_zarr3):
    first = door.PyTreeCheckpointHandler(use_ocdbt=False, use_zarr3=use_zarr3)
    second = door.PyTreeCheckpointHandler()
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "mine").mkdir()
    for handler, tree in ((first, TREE), (first, {"x/y": 1, "a": 2}), (second, TREE)):
        handler.save(tmp_path / "c", args=door.args.PyTreeSave(tree))
        handler.finalize(tmp_path / "c")
        same(handler.restore(tmp_path / "c"), tree)
    assert sorted(p.name for p in (tmp_path / "c").iterdir() if p.is_dir()) == ["d", "mine"]


@pytest.mark.parametrize("use_ocdbt", [False, True])
def test_small_chunks_are_warned_of_in_the_log(tmp_path, caplog, use_ocdbt):
    handler = door.PyTreeCheckpointHandler(use_ocdbt=use_ocdbt)
    args = door.args.PyTreeSave({"a": np.arange(10)}, {"a": door.SaveArgs(chunk_byte_size=16)})
    with door.Checkpointer(handler) as checkpointer:
        checkpointer.save(tmp_path / "c", args=args)
    assert "chunk_byte_size=16" in caplog.text
