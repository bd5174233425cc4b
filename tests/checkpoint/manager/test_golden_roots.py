# SPDX-License-Identifier: Apache-2.0
"""Roots that old managers wrote can be gone on with, for ever after."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from tests.checkpoint.manager.sides import same, tree

GOLDEN = pathlib.Path(__file__).parents[2] / "golden"


@pytest.mark.parametrize("version", ["0.8.0", "0.12.8"])
def test_a_golden_root_is_read_and_gone_on_with(ours, root, version):
    shutil.copytree(GOLDEN / f"orbax-{version}" / "managed", root)
    options = ours.CheckpointManagerOptions(
        best_fn=lambda metrics: metrics["loss"], best_mode="max", max_to_keep=2
    )
    with ours.CheckpointManager(root, options=options) as manager:
        assert manager.metadata() == {"run": "golden"}
        assert (manager.all_steps(), manager.best_step()) == ([1, 2], 1)
        assert manager.metrics(2) == {"loss": 0.5}
        restored = manager.restore(None)
        assert restored.config == {"lr": 0.5, "step": 2}
        assert restored.metrics == {"loss": 0.5}
        check(restored.state, GOLDEN / f"orbax-{version}" / "managed")
        args = ours.args.Composite(state=ours.args.StandardSave(tree(9)))
        assert manager.save(9, args=args, metrics={"loss": 0.75})
        manager.wait_until_finished()
        assert manager.all_steps() == [1, 9]
        assert same(manager.restore(9).state, tree(9))


def check(state, case):
    rows = json.loads(case.with_suffix(".json").read_text())
    arrays = np.load(case.with_suffix(".npz"))
    assert rows
    for i, row in enumerate(rows):
        leaf = state
        for _, key in row["path"]:
            leaf = leaf[key]
        if row["kind"] == "str":
            assert leaf == row["text"]
        else:
            raw = arrays[str(i)].tobytes()
            if isinstance(leaf, complex | float | int):
                leaf = np.asarray(leaf, row["dtype"])
            assert np.asarray(leaf).tobytes() == raw
