# SPDX-License-Identifier: Apache-2.0
import contextlib
import dataclasses
import os
import pathlib
import pickle
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from saying import attempt, case, common, say

root = epath.Path(sys.argv[1])  # of each case its own
A, C, Options, J, names, mgr = common(ocp, lambda: root, anything=True)


class Words(ocp.CheckpointHandler):
    def __init__(self, name="w"):
        self.name = name
        self.log = []

    def save(self, directory, args):
        self.log.append("save")
        (directory / self.name).write_text(args.text)

    def restore(self, directory, args):
        self.log.append("restore")
        return (directory / self.name).read_text() + (args.more if args else "")

    def metadata(self, directory):
        return {"n": len((directory / self.name).read_text())}

    def finalize(self, directory):
        self.log.append("finalize " + directory.name.split(".")[0])

    def close(self):
        self.log.append("close")


@A.register_with_handler(Words, for_save=True)
@dataclasses.dataclass
class WSave(A.CheckpointArgs):
    text: str


@A.register_with_handler(Words, for_restore=True)
@dataclasses.dataclass
class WRestore(A.CheckpointArgs):
    more: str = ""


@case
def custom_global():
    m = mgr()
    attempt("s", lambda: m.save(0, args=WSave("abc")))
    m.wait_until_finished()
    attempt("r", lambda: m.restore(0))
    attempt("ra", lambda: m.restore(0, args=WRestore("!")))
    attempt("md", lambda: m.item_metadata(0))
    m.close()
    m = mgr()
    attempt("ra", lambda: m.restore(0, args=WRestore("!")))
    attempt("r", lambda: m.restore(0))
    attempt("md", lambda: m.item_metadata(0))
    m.close()
    m = mgr()
    attempt("fresh none", lambda: m.restore(0))
    m.close()


@case
def custom_fresh_composite():
    m = mgr()
    m.save(0, args=C(a=WSave("abc"), b=J(1)))
    m.close()
    m = mgr()
    attempt("r", lambda: m.restore(0))
    attempt("r2", lambda: m.restore(0, args=C(a=WRestore())))
    attempt("md", lambda: dict(m.item_metadata(0).items()))
    m.close()
    m = mgr()
    attempt("some", lambda: m.restore(0, args=C(a=WRestore(), b=A.JsonRestore())))
    attempt("again", lambda: m.restore(0))
    m.close()


@case
def custom_log():
    h = Words()
    for a in (True, False):
        m = ocp.CheckpointManager(
            root / str(a), options=Options(enable_async_checkpointing=a), item_handlers=h
        )
        m.save(0, args=WSave("x"))
        m.wait_until_finished()
        m.restore(0)
        m.close()
        say("log", h.log)
        h.log.clear()


@case
def registry_custom():
    r = ocp.DefaultCheckpointHandlerRegistry()
    h = Words("special")
    r.add("a", WSave, h)
    r.add("a", WRestore, h)
    m = mgr(handler_registry=r)
    m.save(0, args=C(a=WSave("q")))
    m.wait_until_finished()
    say("f", names(root / "0/a"))
    m.close()
    r2 = ocp.DefaultCheckpointHandlerRegistry()
    r2.add("a", WSave, Words("special"))
    r2.add("a", WRestore, Words("special"))
    m = mgr(handler_registry=r2)
    attempt("r", lambda: m.restore(0))
    attempt("r", lambda: m.restore(0, args=C(a=WRestore("?"))))
    attempt("md", lambda: m.item_metadata(0)["a"])
    m.close()


@case
def registry_none_item():
    r = ocp.DefaultCheckpointHandlerRegistry()
    h = Words("n")
    r.add(None, WSave, h)
    r.add(None, WRestore, h)
    m = mgr(handler_registry=r)
    m.save(0, args=WSave("q"))
    m.wait_until_finished()
    say("f", names(root / "0/default"))
    attempt("r", lambda: m.restore(0))
    attempt("ra", lambda: m.restore(0, args=WRestore("!")))
    attempt("md", lambda: m.item_metadata(0))
    m.close()
    m = mgr(handler_registry=r)
    attempt("ra", lambda: m.restore(0, args=WRestore("!")))
    m.close()
    m = mgr(handler_registry=r)
    attempt("mdfresh", lambda: m.item_metadata(0))
    m.close()


@case
def save_arg_types():
    m = mgr()
    for n, a in {
        "class": A.JsonSave,
        "int": 1,
        "str": "x",
        "list": [J(1)],
        "restore args": A.JsonRestore(),
        "plain CheckpointArgs": A.CheckpointArgs(),
    }.items():
        attempt(n, lambda: m.save(0, args=a))
    m.close()


@case
def restore_with_save_args():
    m = mgr()
    m.save(0, args=J(1))
    attempt("x", lambda: m.restore(0, args=J(1)))
    m.close()


@case
def bad_composite_values():
    m = mgr()
    attempt("x", lambda: m.save(0, args=C(a=1)))
    attempt("y", lambda: m.save(0, args=C(a={"x": 1})))
    m.close()


@case
def deleted_step_resave():
    m = mgr()
    m.save(0, args=J(1))
    m.wait_until_finished()
    m.delete(0)
    attempt("s", lambda: m.save(0, args=J(2)))
    m.wait_until_finished()
    say("r", m.restore(0))
    m.close()


@case
def best_delete():
    m = mgr(o={"best_fn": lambda x: x["a"]})
    for s, v in enumerate((3, 9, 5)):
        m.save(s, args=J(s), metrics={"a": v})
    m.wait_until_finished()
    say("b", m.best_step())
    m.delete(1)
    say("b", m.best_step())
    m.delete(0)
    m.delete(2)
    say("b", m.best_step())
    say("l", m.latest_step())
    m.close()


@case
def metrics_changed_after():
    d = {"a": 1}
    m = mgr(o={"best_fn": lambda x: x["a"]})
    m.save(0, args=J(0), metrics=d)
    m.wait_until_finished()
    d["a"] = 5
    m.save(1, args=J(0), metrics={"a": 3})
    m.wait_until_finished()
    m.reload()
    say("m", [m.metrics(0), m.best_step()])
    m.close()


@case
def two_alternating():
    a, b = mgr(), ocp.CheckpointManager(root)
    for s in range(4):
        x = (a, b)[s % 2]
        x.reload()
        attempt("s", lambda: x.save(s, args=J(s)))
        x.wait_until_finished()
    a.reload()
    b.reload()
    say("a", [a.all_steps(), b.all_steps()])
    a.close()
    b.close()


@case
def many_managers_same_process():
    ms = [ocp.CheckpointManager(root / str(i)) for i in range(5)]
    for s in range(3):
        for m in ms:
            m.save(s, args=J(s))
    for m in ms:
        m.wait_until_finished()
    say("a", [m.all_steps() for m in ms])
    [m.close() for m in ms]


@case
def trees():
    class P(NamedTuple):
        x: Any
        y: Any

    @jax.tree_util.register_pytree_node_class
    class N:
        def __init__(self, a):
            self.a = a

        def tree_flatten(self):
            return (self.a,), None

        @classmethod
        def tree_unflatten(cls, aux, ch):
            return cls(*ch)

    t = {
        "p": P(np.arange(2), np.ones(2)),
        "l": [np.zeros(1), {"z": 3}],
        "e": [],
        "d": {},
        "tp": (np.ones(1),),
        "5": np.ones(1),
        "none": None,
    }
    m = mgr()
    attempt("std", lambda: m.save(0, args=A.StandardSave(t)))
    attempt("w", m.wait_until_finished)
    attempt("r", lambda: m.restore(0))
    attempt("rt", lambda: type(m.restore(0, args=A.StandardRestore(t))["p"]).__name__)
    m.close()
    m = ocp.CheckpointManager(root / "b")
    n = {"n": N(np.arange(3))}
    attempt("c", lambda: m.save(0, args=A.StandardSave(n)))
    attempt("w", m.wait_until_finished)
    attempt("r", lambda: m.restore(0))
    attempt("rt", lambda: m.restore(0, args=A.StandardRestore(n))["n"].a)
    m.close()


@case
def shardings():
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()), ("x",))
    sh = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    rep = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    t = {"a": jax.device_put(np.arange(16.0), sh), "b": jax.device_put(np.arange(4.0), rep)}
    m = mgr()
    m.save(0, args=A.StandardSave(t))
    m.wait_until_finished()
    r = m.restore(0)
    say(
        "same",
        [
            list(r["a"].sharding.spec),
            len(r["a"].sharding.device_set) == len(jax.devices()),
            np.asarray(r["a"]).tolist(),
        ],
    )
    tgt = {
        "a": jax.ShapeDtypeStruct((16,), jnp.float32, sharding=rep),
        "b": jax.ShapeDtypeStruct((4,), jnp.bfloat16, sharding=rep),
    }
    r = m.restore(0, args=A.StandardRestore(tgt))
    say("t", [r["a"].sharding == rep, str(r["b"].dtype)])
    ra = {
        "a": ocp.ArrayRestoreArgs(sharding=rep),
        "b": ocp.RestoreArgs(restore_type=np.ndarray, dtype=np.dtype("int32")),
    }
    n = ocp.CheckpointManager(root)
    attempt("py", lambda: n.restore(0, args=A.PyTreeRestore(restore_args=ra)))
    md = n.item_metadata(0)
    say("md", md is not None)
    m.close()
    n.close()
    k = ocp.CheckpointManager(root)
    k.restore(0, args=A.PyTreeRestore(restore_args=ra))
    md = k.item_metadata(0)
    say("md", [list(md["a"].shape), str(md["a"].dtype), md["a"].sharding is not None])
    k.close()


@case
def strict_false():
    m = mgr()
    m.save(0, args=A.StandardSave({"a": np.arange(4.0)}))
    m.wait_until_finished()
    for n in (2, 6):
        attempt(
            "s",
            lambda: m.restore(
                0, args=A.StandardRestore({"a": jax.ShapeDtypeStruct((n,), np.float32)})
            ),
        )
        attempt(
            "ns",
            lambda: m.restore(
                0,
                args=A.StandardRestore({"a": jax.ShapeDtypeStruct((n,), np.float32)}, strict=False),
            ),
        )
    m.close()


@case
def save_args_cast():
    m = mgr()
    t = {"a": np.arange(4.0), "b": np.arange(3)}
    sa = jax.tree_util.tree_map(lambda _: ocp.SaveArgs(dtype=np.dtype("float32")), t)
    m.save(0, args=A.StandardSave(t, save_args=sa))
    m.wait_until_finished()
    attempt("r", lambda: m.restore(0))
    m.save(
        1,
        args=A.StandardSave(
            {"a": np.arange(4.0)}, save_args={"a": ocp.SaveArgs(dtype=np.dtype("int8"))}
        ),
    )
    m.wait_until_finished()
    attempt("r", lambda: m.restore(1))
    m.close()


@case
def donate_after_save():
    m = mgr()
    x = {"a": jnp.arange(1000.0)}
    for s in range(3):
        m.save(s, args=A.StandardSave(x))
        f = jax.jit(lambda y: jax.tree_util.tree_map(lambda z: z + 1, y), donate_argnums=0)
        x = f(x)
    m.wait_until_finished()
    say("v", [float(m.restore(s)["a"][0]) for s in range(3)])
    m.close()


@case
def numpy_mutate_after_save():
    m = mgr()
    x = np.zeros(1000)
    m.save(0, args=A.StandardSave({"a": x}))
    x += 1
    m.wait_until_finished()
    say("v", float(m.restore(0)["a"].sum()))
    m.close()


@case
def path_kinds():
    for p in (str(root), root, pathlib.Path(root)):
        m = ocp.CheckpointManager(p)
        say(
            "d",
            [
                type(m.directory).__name__ in ("PosixPath", "PosixGPath"),
                str(m.directory) == str(root),
            ],
        )
        m.close()


@case
def trailing_slash():
    m = ocp.CheckpointManager(str(root) + "/")
    m.save(0, args=J(1))
    m.close()
    say("n", names())


@case
def root_is_file():
    root.write_text("x")
    attempt("f", lambda: ocp.CheckpointManager(root))


@case
def step_is_file():
    root.mkdir(parents=True)
    (root / "5").write_text("a file")
    m = mgr()
    attempt("s", lambda: m.save(5, args=J(1)))
    attempt("w", m.wait_until_finished)
    attempt("r", lambda: m.restore(5))
    with contextlib.suppress(Exception):
        m.close()


@case
def empty_step_dir():
    (root / "5").mkdir(parents=True)
    m = mgr()
    say("a", m.all_steps())
    attempt("r", lambda: m.restore(5))
    attempt("ra", lambda: m.restore(5, args=C()))
    attempt("md", lambda: m.item_metadata(5))
    attempt("s", lambda: m.save(5, args=J(1), force=True))
    attempt("del", lambda: m.delete(5))
    say("n", names())
    m.close()


@case
def symlink_step():
    with ocp.CheckpointManager(root.parent / "other") as m:
        m.save(3, args=J("linked"))
    root.mkdir(parents=True)
    os.symlink(root.parent / "other" / "3", root / "3")
    m = mgr()
    say("a", m.all_steps())
    attempt("r", lambda: m.restore(3, args=A.JsonRestore()))
    m.close()


@case
def moved_root():
    with mgr() as m:
        m.save(3, args=J("moved"))
    os.rename(root, root.parent / "new")
    m = ocp.CheckpointManager(root.parent / "new")
    say("a", m.all_steps())
    say("r", m.restore(3, args=A.JsonRestore()))
    m.close()


@case
def copied_step():
    import shutil

    with mgr() as m:
        m.save(3, args=J("x"))
    shutil.copytree(root / "3", root / "4")
    m = mgr()
    say("a", m.all_steps())
    say("r", m.restore(4, args=A.JsonRestore()))
    m.save(5, args=J(1))
    m.close()
    say("n", names())


@case
def big_steps():
    m = mgr(o={"max_to_keep": 2})
    for s in (1, 2**31, 2**40):
        attempt("s", lambda: m.save(s, args=J(s)))
    m.wait_until_finished()
    say("a", m.all_steps())
    m.close()
    say("n", names())


@case
def pickling():
    attempt("o", lambda: pickle.loads(pickle.dumps(Options(max_to_keep=3))).max_to_keep)
    attempt("m", lambda: bool(pickle.dumps(mgr())))
