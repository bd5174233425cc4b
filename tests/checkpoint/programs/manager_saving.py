# SPDX-License-Identifier: Apache-2.0
import sys

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_manager as cm
from saying import attempt, case, common, say

root = epath.Path(sys.argv[1])  # of each case its own
A, C, Options, J, _, mgr = common(ocp, lambda: root)


def names(p=None):
    p = p or root
    return sorted(x.name for x in p.iterdir())


@case
def returns():
    m = mgr(save_interval_steps=3)
    say("saves", [m.save(s, args=J({"s": s})) for s in range(8)])
    say("all", m.all_steps())
    say("latest", m.latest_step())
    say("best", m.best_step())
    m.wait_until_finished()
    say("names", names())
    m.close()


@case
def interval_offset_first():
    m = mgr(save_interval_steps=4)
    say("s", [m.save(s, args=J(s)) for s in range(3, 14)])
    m.close()
    say("n", names())


@case
def should_save_calls():
    calls = []

    def f(step, latest=None):
        calls.append((step, latest))
        return step % 3 == 1

    m = mgr(should_save_fn=f, save_interval_steps=2, save_on_steps=[2])
    say("s", [m.save(s, args=J(s)) for s in range(8)])
    say("f", m.save(8, args=J(8), force=True))
    say("calls", calls)
    say("should", [m.should_save(s) for s in (3, 8, 9, 10)])
    m.close()


@case
def should_save_fn_truthy():
    m = mgr(should_save_fn=lambda s, latest: 1)
    say("s", m.save(0, args=J(0)))
    say("ss", m.should_save(2))
    say("bool", bool(m.should_save(1)))
    m.close()


@case
def should_save_fn_raises():
    def f(s, latest):
        raise KeyError("boo")

    m = mgr(should_save_fn=f)
    attempt("save", lambda: m.save(0, args=J(0)), "boo")
    say("n", names())
    attempt("force", lambda: m.save(0, args=J(0), force=True))
    m.close()
    say("n", names())


@case
def older_step():
    m = mgr()
    say("s", [m.save(s, args=J(s)) for s in (5, 3, 5, 6)])
    say("f", m.save(3, args=J(3), force=True))
    m.wait_until_finished()
    m.reload()
    say("all", m.all_steps())
    say("latest", m.latest_step())
    m.close()


@case
def exists_error():
    m = mgr()
    m.save(1, args=J(1))
    attempt("again", lambda: m.save(1, args=J(1)))
    attempt("force", lambda: m.save(1, args=J(1), force=True))
    try:
        m.save(1, args=J(2), force=True)
    except Exception as e:
        say("kind", isinstance(e, cm.StepAlreadyExistsError))
        say("v", isinstance(e, ValueError))
    m.close()
    say("value", ocp.CheckpointManager(root).restore(1, args=A.JsonRestore()))


@case
def exists_on_disk_only():
    m, n = mgr(), mgr()
    m.save(1, args=J(1))
    m.wait_until_finished()
    attempt("other", lambda: n.save(1, args=J(1)), "already exists")
    say("all", n.all_steps())
    n.reload()
    say("all", n.all_steps())
    attempt("other", lambda: n.save(1, args=J(1)))
    m.close()
    n.close()


@case
def wrong_arguments():
    m = mgr()
    attempt("nothing", lambda: m.save(0))
    attempt("items", lambda: m.save(0, A.StandardSave({"a": 1})), "args")
    attempt("restore items", lambda: m.restore(0, A.StandardRestore()))
    attempt("dict", lambda: m.save(0, args={"a": 1}))
    attempt("restore dict", lambda: m.restore(0, args={"a": 1}))
    say("n", names())
    m.close()


@case
def single_then_composite():
    m = mgr()
    m.save(0, args=J(0))
    say("d", m._default_item)
    attempt(
        "comp",
        lambda: m.save(1, args=A.Composite(a=J(0))),
        "Cannot provide `args` of type `Composite`",
    )
    attempt(
        "rcomp",
        lambda: m.restore(0, args=A.Composite(a=A.JsonRestore())),
        "Cannot provide `args` of type `Composite`",
    )
    say("all", m.all_steps())
    m.close()


@case
def composite_then_single():
    m = mgr()
    m.save(0, args=A.Composite(a=J(0)))
    say("d", m._default_item)
    attempt("single", lambda: m.save(1, args=J(0)), "Must provide `args` of type `Composite`")
    attempt(
        "rsingle",
        lambda: m.restore(0, args=A.JsonRestore()),
        "Must provide `args` of type `Composite`",
    )
    m.close()


@case
def reserved():
    m = mgr()
    attempt("metrics", lambda: m.save(0, args=A.Composite(metrics=J(1))))
    attempt("descriptor", lambda: m.save(0, args=A.Composite(descriptor=J(1))))
    attempt("metadata", lambda: m.save(0, args=A.Composite(metadata=J({"a": 1}))))
    m.close()
    say("n", names())


@case
def steps_of_kinds():
    m = mgr()
    say(
        "s",
        [
            m.save(k(i), args=J(i))
            for i, k in enumerate([int, np.int32, np.int64, jnp.int32, np.uint16])
        ],
    )
    say("all", [int(x) for x in m.all_steps()])
    say("latest", int(m.latest_step()))
    say("r", m.restore(np.int64(2)))
    say("r", m.restore(jnp.int32(3)))
    m.delete(np.int64(1))
    say("all", [int(x) for x in m.all_steps()])
    attempt("str", lambda: m.save("7", args=J(1)))
    m.close()
    say("n", names())


@case
def sync_manager():
    m = mgr(enable_async_checkpointing=False)
    say("s", m.save(0, args=J(1)))
    say("n", names())
    say("p", m.is_saving_in_progress())
    m.check_for_errors()
    m.wait_until_finished()
    m.close()
    m.close()


@case
def context():
    with mgr() as m:
        say("isself", isinstance(m, ocp.CheckpointManager))
        m.save(3, args=J(1))
    say("n", names())
    attempt("save after", lambda: m.save(4, args=J(1)))
    attempt("restore after", lambda: m.restore(3))
    say("all", m.all_steps())
    say("latest", m.latest_step())
    attempt("wait", m.wait_until_finished)
    attempt("reload", m.reload)
    attempt("meta", lambda: m.metadata())
    attempt("delete", lambda: m.delete(3))


@case
def raise_in_body():
    def f():
        with mgr() as m:
            m.save(0, args=J(0))
            raise OSError("body")

    attempt("body", f, "body")
    say("n", names())


@case
def no_args_json_values():
    m = mgr()
    for s, v in enumerate([1, "x", None, [1, 2], {"a": None}, True, 1.5]):
        attempt("save", lambda: m.save(s, args=J(v)))
    say("all", m.all_steps())
    for s in range(7):
        attempt("r", lambda: m.restore(s))
    m.close()


@case
def file_permission():
    import os

    old = os.umask(0)
    m = ocp.CheckpointManager(
        root,
        options=Options(file_options=cm.FileOptions(path_permission_mode=0o700)),
        item_names=("a",),
    )
    m.save(0, args=A.Composite(a=J(1)))
    m.close()
    os.umask(old)
    say("m", [oct((root / p).stat().mode & 0o777) for p in ("0", "0/a")])


@case
def non_root_relative():
    import os

    here = os.getcwd()
    os.chdir(str(root.parent))
    try:
        m = ocp.CheckpointManager("rel", options=Options())
        attempt("s", lambda: (m.save(0, args=J(1)), m.wait_until_finished())[0])
        say("dir", str(m.directory))
        m.close()
    finally:
        os.chdir(here)


@case
def none_in_composite():
    m = mgr()
    m.save(1, args=A.Composite(a=J({"x": 1})), force=True)
    attempt("n", lambda: m.save(2, args=A.Composite(a=None)))
    attempt("w", m.wait_until_finished)
    attempt("r", lambda: m.restore(2))
    attempt("r", lambda: m.restore(1, args=A.Composite(a=None)))
    attempt("r", lambda: m.restore(1, args=A.Composite()))
    m.close()


@case
def options_fields():
    import dataclasses

    say("f", [f.name for f in dataclasses.fields(Options)])
    o = Options()
    for f in dataclasses.fields(Options):
        say(f.name, repr(getattr(o, f.name)))
    say("pos", Options(5, 3).max_to_keep)
    say("frozen", attempt("set", lambda: setattr(o, "max_to_keep", 3)))
    say("eq", Options() == Options(max_to_keep=None))
    attempt("neg", lambda: Options(max_to_keep=-1))
    attempt("mode", lambda: Options(best_mode="x"), "best_mode")
    say("sos", Options(save_on_steps=[3, 3, 4]).save_on_steps == frozenset([3, 4]))
    say("sos", Options(save_on_steps=range(3)).save_on_steps == frozenset([0, 1, 2]))
    say("sosn", Options().save_on_steps == frozenset())
    say(
        "ro",
        dataclasses.asdict(
            dataclasses.replace(
                Options(read_only=True, save_interval_steps=5, max_to_keep=3), best_fn=None
            )
        )["save_interval_steps"],
    )
    attempt("unknown", lambda: Options(foo=1))
    for n, c in (("A", ocp.AsyncOptions), ("M", cm.MultiprocessingOptions), ("F", cm.FileOptions)):
        say(n, [(f.name) for f in dataclasses.fields(c)])
        say(n, repr(c()))
    attempt("frozen", lambda: setattr(cm.FileOptions(), "path_permission_mode", 1))
    say(
        "id",
        [
            cm.AsyncOptions is ocp.AsyncOptions,
            cm.AsyncOptions is ocp.options.AsyncOptions,
            cm.FileOptions is ocp.options.FileOptions,
        ],
    )


@case
def signatures():
    import inspect

    def sig(f):
        return [
            (p.name, str(p.kind), "-" if p.default is inspect._empty else repr(p.default))
            for p in inspect.signature(f).parameters.values()
        ]

    C = ocp.CheckpointManager
    for n in (
        "__init__",
        "save",
        "restore",
        "item_metadata",
        "metadata",
        "metrics",
        "delete",
        "all_steps",
        "latest_step",
        "best_step",
        "reload",
        "reached_preemption",
        "should_save",
        "wait_until_finished",
        "check_for_errors",
        "close",
        "is_saving_in_progress",
    ):
        say(n, sig(getattr(C, n)))
    say("public", sorted(n for n in dir(C) if not n.startswith("_")))
    say("abs", sorted(n for n in dir(ocp.AbstractCheckpointManager) if not n.startswith("_")))
    for n in ("checkpoints_iterator", "wait_for_new_checkpoint", "construct_restore_args"):
        say(n, sig(getattr(ocp.checkpoint_utils, n)))
    say(
        "cm",
        sorted(
            n
            for n in (
                "PyTree",
                "SaveParams",
                "RestoreParams",
                "CheckpointDirs",
                "CheckpointersDict",
                "CheckpointHandlersDict",
                "DEFAULT_ITEM_NAME",
                "DESCRIPTOR_ITEM_NAME",
                "METRIC_ITEM_NAME",
                "METADATA_ITEM_NAME",
                "RESERVED_ITEM_NAMES",
                "is_async_checkpointer",
            )
            if hasattr(cm, n)
        ),
    )
    say(
        "c",
        [
            cm.DEFAULT_ITEM_NAME,
            cm.DESCRIPTOR_ITEM_NAME,
            cm.METRIC_ITEM_NAME,
            cm.METADATA_ITEM_NAME,
            cm.RESERVED_ITEM_NAMES,
        ],
    )
