# SPDX-License-Identifier: Apache-2.0
"""One run, two doors: what the front door's manager keeps, this one goes on with, and back."""

import pertinax
from tests.checkpoint.manager.sides import same, tree


def test_a_run_may_change_its_door(ours, root):
    with pertinax.Manager(root, keep=2) as manager:
        for step in range(3):
            manager.save(step, tree(step), metrics={"loss": 3.0 - step})
    options = ours.CheckpointManagerOptions(
        max_to_keep=2, best_fn=lambda metrics: metrics["loss"], best_mode="min"
    )
    with ours.CheckpointManager(root, options=options) as manager:
        assert (manager.all_steps(), manager.best_step()) == ([1, 2], 2)
        assert manager.metrics(1) == {"loss": 2.0}
        assert same(manager.restore(2), tree(2))
        assert manager.save(3, args=ours.args.StandardSave(tree(3)), metrics={"loss": 0.5})
        manager.wait_until_finished()
        assert manager.all_steps() == [2, 3]
    with pertinax.Manager(root, keep=2) as manager:
        assert manager.steps() == [2, 3]
        assert manager.best("loss") == 3
        assert same(manager.load(3), tree(3))
        assert manager.metrics(3) == {"loss": 0.5}
