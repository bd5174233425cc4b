# SPDX-License-Identifier: Apache-2.0
"""`ocp.path.format_utils`: what is taken for a checkpoint, by the names of its files."""

from pathlib import Path

import numpy as np
import pytest

from pertinax import checkpoint as ocp

is_checkpoint = ocp.path.format_utils.is_orbax_checkpoint


@pytest.mark.row("R261", "R266")
def test_steps_and_items_are_checkpoints_and_roots_are_not(tmp_path: Path):
    with ocp.CheckpointManager(tmp_path / "root") as manager:
        args = ocp.args.Composite(
            state=ocp.args.StandardSave({"a": np.arange(3)}), config=ocp.args.JsonSave({"b": 1})
        )
        manager.save(3, args=args)
    step = tmp_path / "root" / "3"
    assert is_checkpoint(step)
    assert is_checkpoint(str(step / "state"))
    assert not is_checkpoint(step / "config")
    assert not is_checkpoint(tmp_path / "root")
    (step / "_CHECKPOINT_METADATA").write_text("{torn")
    assert is_checkpoint(step)  # by its items
    with pytest.raises(FileNotFoundError):
        is_checkpoint(tmp_path / "nothing")
    with pytest.raises(NotADirectoryError):
        is_checkpoint(step / "_CHECKPOINT_METADATA")


@pytest.mark.row("R266")
@pytest.mark.wd("WD-21")
@pytest.mark.parametrize("use_zarr3", [False, True])
@pytest.mark.parametrize("use_ocdbt", [False, True])
def test_items_of_every_layout_are_checkpoints(use_ocdbt: bool, use_zarr3: bool, tmp_path: Path):
    checkpointer = ocp.PyTreeCheckpointer(use_ocdbt=use_ocdbt, use_zarr3=use_zarr3)
    checkpointer.save(tmp_path / "it", {"a": np.arange(3)})
    (tmp_path / "it" / "_CHECKPOINT_METADATA").unlink()
    assert is_checkpoint(tmp_path / "it")
    assert is_checkpoint(tmp_path)  # a directory of such items
    assert ocp.path.format_utils.is_ocdbt_checkpoint(tmp_path / "it") is use_ocdbt


def test_an_old_aggregate_file_alone_is_a_checkpoint(tmp_path: Path):
    (tmp_path / "checkpoint").write_bytes(b"\x80")
    assert is_checkpoint(tmp_path)
    (tmp_path / "checkpoint").unlink()
    (tmp_path / "_METADATA").write_text("{}")
    assert not is_checkpoint(tmp_path)


def test_a_ported_program_finds_the_function_under_the_new_word():
    assert ocp.path.format_utils.is_pertinax_checkpoint is is_checkpoint
