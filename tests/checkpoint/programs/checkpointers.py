# SPDX-License-Identifier: Apache-2.0
import sys

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from saying import attempt, say

root = epath.Path(sys.argv[1])
log = []


class Recorder(ocp.CheckpointHandler):
    """Notes what it is called with."""

    def save(self, directory, *args, **kwargs):
        log.append(["save", ".orbax-checkpoint-tmp" in directory.name, len(args), sorted(kwargs)])
        (directory / "it").write_text("x")

    def restore(self, directory, *args, **kwargs):
        log.append(["restore", directory.name, len(args), sorted(kwargs)])
        return (directory / "it").read_text()

    def finalize(self, directory):
        log.append(["finalize", (directory / "it").exists()])

    def metadata(self, directory):
        return {"path": directory.name}

    def close(self):
        log.append(["close"])


with ocp.Checkpointer(Recorder()) as checkpointer:
    attempt("save", lambda: checkpointer.save(root / "a", 1, 2, three=3))
    attempt("save none", lambda: checkpointer.save(root / "n", args=None))
    attempt("restore", lambda: checkpointer.restore(root / "a", 4, five=5))
    attempt("metadata", lambda: checkpointer.metadata(root / "a"))
    attempt("metadata of nothing", lambda: checkpointer.metadata(root / "nothing"))
    attempt("structure", lambda: checkpointer.structure(root / "a"))
    attempt("again", lambda: checkpointer.save(root / "a", 1), "already exists")
    attempt("force", lambda: checkpointer.save(root / "a", 1, force=True))
    attempt("args", lambda: checkpointer.save(root / "b", args=ocp.args.JsonSave(1)))
    attempt("positional args", lambda: checkpointer.save(root / "b", ocp.args.JsonSave(1)))
say("log", log)
say("there", sorted(p.name for p in root.iterdir() if "tmp" not in p.name))

pytree = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
tree = {"a": np.arange(3), "b": [1, 2.5, "x"], "c": {"d": jnp.ones(2)}, "e": None, "f": {}}
for name, call in {
    "position": lambda p: pytree.save(p, tree),
    "keyword": lambda p: pytree.save(p, item=tree),
    "args": lambda p: pytree.save(p, args=ocp.args.PyTreeSave(tree)),
    "odd keyword": lambda p: pytree.save(p, whatever=ocp.args.PyTreeSave(tree)),
    "save_args": lambda p: pytree.save(p, tree, save_args=None),
    "misspelt": lambda p: pytree.save(p, tree, saev_args=None),
    "nothing": lambda p: pytree.save(p),
}.items():
    attempt(name, lambda call=call, name=name: call(root / "t" / name))
    attempt(name + " back", lambda name=name: pytree.restore(root / "t" / name))
place = root / "t" / "args"
attempt("item", lambda: pytree.restore(place, item=tree))
attempt("position", lambda: pytree.restore(place, tree))
attempt("restore args", lambda: pytree.restore(place, args=ocp.args.PyTreeRestore(item=tree)))
attempt("wrong restore keyword", lambda: pytree.restore(place, target=tree))
attempt(
    "save args to restore", lambda: ocp.Checkpointer(ocp.JsonCheckpointHandler()).restore(place)
)
attempt("missing", lambda: pytree.restore(root / "missing"), "not found")
(root / "file").write_text("x")
attempt("file", lambda: pytree.restore(root / "file"), "is not a directory")
(root / "x.orbax-checkpoint-tmp-7").mkdir()
attempt(
    "unfinished", lambda: pytree.restore(root / "x.orbax-checkpoint-tmp-7"), "incomplete checkpoint"
)

standard = ocp.StandardCheckpointer()
attempt("standard", lambda: standard.save(root / "s", {"a": np.arange(2), "n": 1}))
attempt("standard back", lambda: standard.restore(root / "s"))
attempt("standard target", lambda: standard.restore(root / "s", {"a": np.zeros(2), "n": 0}))
attempt("standard args", lambda: standard.save(root / "s2", args=ocp.args.StandardSave({"a": 1})))
attempt("standard nothing", lambda: standard.save(root / "s3"))
attempt("standard empty", lambda: standard.save(root / "s4", {}), "Found empty item")
attempt("standard taken", lambda: standard.save(root / "s", {"a": 1}), "already exists")
attempt("standard force", lambda: standard.save(root / "s", {"a": 2}, force=True))
attempt("standard forced", lambda: standard.restore(root / "s"))
standard.close()

shorthand = ocp.PyTreeCheckpointer(use_ocdbt=False)
shorthand.save(root / "p", {"a": {"b": np.arange(2)}})
say("one file for each", (root / "p" / "a.b" / ".zarray").exists())
say("shorthand", shorthand.restore(root / "p"))


class Subclass(ocp.PyTreeCheckpointHandler):
    """Has no args of its own, so it is called as before there were any."""

    def save(self, directory, item, *args, **kwargs):
        super().save(directory, {"wrapped": item}, *args, **kwargs)

    def restore(self, directory, item=None, *args, **kwargs):
        return super().restore(directory, *args, **kwargs)["wrapped"]


subclass = ocp.Checkpointer(Subclass())
attempt("subclass", lambda: subclass.save(root / "u", 5))
attempt("subclass back", lambda: subclass.restore(root / "u"))
