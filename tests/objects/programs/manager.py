# SPDX-License-Identifier: Apache-2.0
import json
import sys

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from saying import attempt, say

root = epath.Path(sys.argv[1])


def state(step):
    return {"w": jnp.arange(8.0) * step, "n": step, "deep": {"b": np.ones(3) * step}}


def names(path):
    return sorted(child.name for child in path.iterdir())


options = ocp.CheckpointManagerOptions(
    max_to_keep=2,
    best_fn=lambda metrics: metrics["loss"],
    best_mode="min",
    enable_async_checkpointing=False,
    todelete_subdir="gone",
)
with ocp.CheckpointManager(root, options=options, metadata={"run": "first"}) as manager:
    for step in range(4):
        metrics = {"loss": [3.0, 1.0, 2.0, 0.5][step]}
        saved = manager.save(step, args=ocp.args.StandardSave(state(step)), metrics=metrics)
        say(f"save {step}", saved)
    say("steps", sorted(manager.all_steps()))
    say("latest", manager.latest_step())
    say("best", manager.best_step())
    say("metrics", manager.metrics(3))
    say("restored", manager.restore(3))
    target = {"w": jnp.zeros(8), "n": 0, "deep": {"b": np.zeros(3)}}
    say("as wished", manager.restore(1, args=ocp.args.StandardRestore(target)))
    attempt("taken", lambda: manager.save(3, args=ocp.args.StandardSave(state(3))))
    attempt("forced", lambda: manager.save(3, args=ocp.args.StandardSave(state(3)), force=True))
    attempt("missing", lambda: manager.restore(77))
    say("note", dict(manager.metadata()))
    say("the root", [name for name in names(root) if not name.startswith("pertinax")])
    say("a step", [name for name in names(root / "3") if name[:2] not in ("pe", "_C")])
    say("temporary", ocp.utils.tmp_checkpoints(root))
    manager.delete(1)
    say("deleted", [sorted(manager.all_steps()), (root / "1").exists()])

options = ocp.CheckpointManagerOptions(save_interval_steps=2, max_to_keep=3)
with ocp.CheckpointManager(root, options=options, item_names=("state", "extra")) as manager:
    say("found again", sorted(manager.all_steps()))
    for step in range(4, 11):
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state(step)), extra=ocp.args.JsonSave({"step": step})
        )
        manager.save(step, args=args)
    manager.wait_until_finished()
    say("kept", sorted(manager.all_steps()))
    back = manager.restore(10)
    say("both", [back["state"]["n"], back["extra"]])
    say("items", [name for name in names(root / "10") if name[:2] not in ("pe", "_C")])
    say("json", json.loads((root / "10" / "extra" / "metadata").read_text()))

(root / "10" / "commit_success.txt").unlink()
with ocp.CheckpointManager(root, item_names=("state", "extra")) as manager:
    say("without marker", sorted(manager.all_steps()))
    say("finalized", ocp.utils.is_checkpoint_finalized(root / "10"))
    say("unfinished", ocp.utils.tmp_checkpoints(root))
    attempt("refused", lambda: manager.restore(10))
    manager.save(10, args=ocp.args.Composite(extra=ocp.args.JsonSave({"step": -10})))
    manager.wait_until_finished()
    say("again", [sorted(manager.all_steps()), names(root / "10" / "extra")])
    say("nothing stale", (root / "10" / "state").exists())

(root / "12" / "extra").mkdir(parents=True)
(root / "12" / "extra" / "metadata").write_text("{}")
options = ocp.CheckpointManagerOptions(cleanup_tmp_directories=True, read_only=False)
with ocp.CheckpointManager(root, options=options, item_names=("state", "extra")) as manager:
    say("cleaned", [sorted(manager.all_steps()), (root / "12").exists()])
    say("reread", sorted(manager.all_steps(read=True)))
    manager.reload()
    say("reloaded", manager.latest_step())
