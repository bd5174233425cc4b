# SPDX-License-Identifier: Apache-2.0
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_manager as cm
from saying import attempt, case, common, say

root = epath.Path(sys.argv[1])  # of each case its own
A, _, Options, _, names, _ = common(ocp, lambda: root)


def T(i=0):
    return {"a": np.arange(4) + i, "b": {"c": np.ones((2,)) * i}}


PT = lambda: ocp.PyTreeCheckpointHandler()


@case
def single():
    for kind in (ocp.Checkpointer, ocp.AsyncCheckpointer):
        r = root / kind.__name__
        m = ocp.CheckpointManager(r, kind(PT()))
        say("d", m._default_item)
        say("s", [m.save(s, T(s)) for s in range(2)])
        m.wait_until_finished()
        say("n", names(r))
        say("n0", names(r / "0"))
        attempt("r", lambda: m.restore(0))
        attempt("ri", lambda: m.restore(1, items=T(0)))
        attempt(
            "rk",
            lambda: m.restore(
                1,
                restore_kwargs={
                    "restore_args": jax.tree_util.tree_map(
                        lambda _: ocp.RestoreArgs(restore_type=np.ndarray), T()
                    )
                },
            ),
        )
        attempt("new", lambda: m.save(2, args=A.PyTreeSave(T(2))))
        attempt("newr", lambda: m.restore(2, args=A.PyTreeRestore()))
        attempt("none", lambda: m.restore(None))
        attempt("both none", lambda: m.save(3))
        attempt("m", lambda: m.item_metadata(0) is not None)
        m.close()


@case
def several():
    m = ocp.CheckpointManager(
        root,
        {
            "params": ocp.Checkpointer(PT()),
            "meta": ocp.Checkpointer(ocp.JsonCheckpointHandler()),
            "arr": ocp.AsyncCheckpointer(ocp.ArrayCheckpointHandler()),
        },
        Options(max_to_keep=2),
    )
    say("d", m._default_item)
    say("async", cm.is_async_checkpointer(m._checkpointer))
    attempt("s", lambda: m.save(0, {"params": T(0), "meta": {"x": 1}, "arr": np.arange(3)}))
    attempt("s", lambda: m.save(1, {"params": T(1), "meta": {"x": 2}}))
    attempt("unknown", lambda: m.save(2, {"zz": 1}), "Unknown key")
    attempt("kw unknown", lambda: m.save(3, {"meta": 1}, save_kwargs={"nope": {"a": 1}}))
    m.wait_until_finished()
    say("a", m.all_steps())
    attempt("r", lambda: m.restore(1))
    attempt("ri", lambda: m.restore(1, items={"meta": None}))
    attempt("runk", lambda: m.restore(1, items={"zz": None}), "Unknown key")
    attempt("absent", lambda: m.restore(1, items={"arr": None}))
    attempt(
        "kw",
        lambda: m.restore(
            1,
            restore_kwargs={
                "params": {
                    "restore_args": jax.tree_util.tree_map(
                        lambda _: ocp.RestoreArgs(restore_type=np.ndarray), T()
                    )
                }
            },
        ),
    )
    attempt("kwnone", lambda: m.restore(1, restore_kwargs={"params": None}))
    attempt("mixed", lambda: m.restore(1, items={"meta": None}, restore_kwargs={"params": {}}))
    attempt("md", lambda: {k: v is None for k, v in m.item_metadata(1).items()})
    m.close()


@case
def save_kwargs():
    m = ocp.CheckpointManager(root, ocp.PyTreeCheckpointer())
    sa = jax.tree_util.tree_map(lambda _: ocp.SaveArgs(dtype=np.dtype("float16")), T())
    attempt("s", lambda: m.save(0, T(1), save_kwargs={"save_args": sa}))
    attempt("r", lambda: m.restore(0))
    attempt("bad", lambda: m.save(1, T(1), save_kwargs={"nope": sa}))
    m.close()


@case
def save_kwargs_multi():
    m = ocp.CheckpointManager(root, {"p": ocp.PyTreeCheckpointer(), "q": ocp.PyTreeCheckpointer()})
    sa = jax.tree_util.tree_map(lambda _: ocp.SaveArgs(dtype=np.dtype("float16")), T())
    attempt(
        "s",
        lambda: m.save(0, {"p": T(1), "q": T(2)}, save_kwargs={"p": {"save_args": sa}, "q": None}),
    )
    attempt("r", lambda: m.restore(0))
    m.close()


class Old(ocp.CheckpointHandler):
    def save(self, directory, item, extra=None):
        (directory / "f").write_text(f"{item} {extra}")

    def restore(self, directory, item=None, extra=None):
        return (directory / "f").read_text() + f" {item} {extra}"

    def structure(self, directory):
        return None


@case
def custom_old_handler():
    m = ocp.CheckpointManager(root, ocp.Checkpointer(Old()))
    attempt("s", lambda: m.save(0, "hello"))
    attempt("s", lambda: m.save(1, "hello", save_kwargs={"extra": 3}))
    attempt("r", lambda: m.restore(0))
    attempt("r", lambda: m.restore(1, items="i", restore_kwargs={"extra": 5}))
    m.close()


class Sub(ocp.PyTreeCheckpointHandler):
    def save(self, directory, item, save_args=None, args=None):
        return super().save(
            directory,
            jax.tree_util.tree_map(lambda x: x * 2, item if item is not None else args.item),
            save_args,
        )


@case
def lazily_default_legacy():
    m = ocp.CheckpointManager(root)
    attempt("s", lambda: m.save(0, T(0)), "Unknown key")
    m.close()


@case
def items_none():
    m = ocp.CheckpointManager(
        root, {"item": ocp.PyTreeCheckpointer(), "j": ocp.Checkpointer(ocp.JsonCheckpointHandler())}
    )
    m.save(0, {"item": T(1), "j": None})
    attempt("r", lambda: m.restore(0, items={"item": None}))
    attempt("rj", lambda: m.restore(0))
    m.close()


@case
def standard_legacy():
    m = ocp.CheckpointManager(root, ocp.StandardCheckpointer())
    attempt("s", lambda: m.save(0, T(1)))
    attempt("r", lambda: m.restore(0))
    attempt("ri", lambda: m.restore(0, items=T(0)))
    say("a", cm.is_async_checkpointer(m._checkpointer))
    m.close()


@case
def metrics_legacy():
    m = ocp.CheckpointManager(
        root, {"p": ocp.PyTreeCheckpointer()}, Options(best_fn=lambda x: x["l"], max_to_keep=1)
    )
    for s, loss in enumerate((3, 9, 1)):
        m.save(s, {"p": T(s)}, metrics={"l": loss})
    say("a", m.all_steps())
    attempt("r", lambda: m.restore(1))
    attempt("md", lambda: sorted(m.item_metadata(1).keys()))
    m.close()
    m = ocp.CheckpointManager(root, ocp.PyTreeCheckpointer(), Options(best_fn=lambda x: x["l"]))
    say("a", m.all_steps())
    m.close()


@case
def is_async():
    say(
        "x",
        [
            cm.is_async_checkpointer(c)
            for c in (
                ocp.Checkpointer(PT()),
                ocp.AsyncCheckpointer(PT()),
                ocp.StandardCheckpointer(),
                ocp.PyTreeCheckpointer(),
            )
        ],
    )
