# SPDX-License-Identifier: Apache-2.0
import sys

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from saying import attempt, say

root = epath.Path(sys.argv[1])
tree = {"a": jnp.arange(6.0).reshape(2, 3), "b": [np.arange(4), 7], "text": "words"}


def names(path):
    return sorted(one.name for one in path.iterdir() if one.name[:2] not in ("pe", "_C"))


with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(root / "standard", {"a": tree["a"], "n": 3})
    checkpointer.wait_until_finished()
    say("standard", checkpointer.restore(root / "standard"))
    attempt("taken", lambda: checkpointer.save(root / "standard", {"a": np.ones(3)}), "exists")
    checkpointer.save(root / "standard", {"a": np.ones(3)}, force=True)
    checkpointer.wait_until_finished()
    say("forced", checkpointer.restore(root / "standard"))
    attempt("missing", lambda: checkpointer.restore(root / "nothing"))

for ocdbt in (True, False):
    name = "ocdbt" if ocdbt else "plain"
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=ocdbt)) as checkpointer:
        checkpointer.save(root / name, tree)
        say(name, checkpointer.restore(root / name))
        say(name + " marked", (root / name / "commit_success.txt").exists())
        say(name + " shapes", sorted(map(str, checkpointer.metadata(root / name)["a"].shape)))

with ocp.PyTreeCheckpointer() as checkpointer:
    checkpointer.save(root / "tree", tree)
    say("tree", checkpointer.restore(root / "tree"))

with ocp.AsyncCheckpointer(ocp.JsonCheckpointHandler()) as checkpointer:
    checkpointer.save(root / "json", args=ocp.args.JsonSave({"k": [1, 2]}))
    checkpointer.wait_until_finished()
    say("json", checkpointer.restore(root / "json"))
    (root / "json" / "commit_success.txt").unlink()
    attempt("json without marker", lambda: checkpointer.restore(root / "json"), "ncomplete")

with ocp.Checkpointer(
    ocp.CompositeCheckpointHandler(state=ocp.StandardCheckpointHandler())
) as checkpointer:
    args = ocp.args.Composite(state=ocp.args.StandardSave({"x": np.arange(3)}))
    checkpointer.save(root / "several", args)
    say("several", checkpointer.restore(root / "several")["state"])
    say("several names", names(root / "several"))
    say("several marked", (root / "several" / "state" / "commit_success.txt").exists())

say("is", [ocp.utils.is_gcs_path(root), ocp.utils.is_gcs_path(epath.Path("/tmp/x"))])
say("finalized", ocp.utils.is_checkpoint_finalized(root / "tree"))
attempt("no such", lambda: ocp.utils.is_checkpoint_finalized(root / "nothing"), "does not exist")
say("temporary", [ocp.utils.is_tmp_checkpoint(root / one) for one in ("tree", "json")])
say("all temporary", ocp.utils.tmp_checkpoints(root))
ocp.utils.cleanup_tmp_directories(root)
say("cleaned", names(root))
say("directory", str(ocp.utils.get_save_directory(3, root, "item", "pre")).rpartition("/run/")[2])
