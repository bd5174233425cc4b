# SPDX-License-Identifier: Apache-2.0
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_manager as cm
from saying import attempt, case, common, say

root = epath.Path(sys.argv[1])  # of each case its own
A, C, _, J, names, mgr = common(ocp, lambda: root, anything=True)


def T(i=0):
    return {"a": np.arange(4) + i, "b": {"c": jnp.ones((2,)) * i}}


def S(i=0):
    return A.StandardSave(T(i))


abstract = jax.tree_util.tree_map(ocp.utils.to_shape_dtype_struct, T())


@case
def lazy_default():
    m = mgr()
    say("d", m._default_item)
    m.save(0, args=S(0))
    say("d", m._default_item)
    attempt("r", lambda: m.restore(0))
    attempt("r", lambda: m.restore(0, args=A.StandardRestore()))
    attempt("r", lambda: m.restore(0, args=A.StandardRestore(abstract)))
    attempt("pt", lambda: m.restore(0, args=A.PyTreeRestore()))
    attempt(
        "json",
        lambda: m.restore(0, args=A.JsonRestore()),
        "does not match with any registered handler",
    )
    attempt("jsave", lambda: m.save(1, args=J(1)), "does not match with any registered handler")
    m.close()


@case
def fresh_restores():
    with mgr() as m:
        m.save(0, args=S(3))
        m.save(1, args=S(4))
    for k, f in {
        "bare": lambda m: m.restore(0),
        "std": lambda m: m.restore(0, args=A.StandardRestore()),
        "abs": lambda m: m.restore(1, args=A.StandardRestore(abstract)),
        "py": lambda m: m.restore(1, args=A.PyTreeRestore()),
        "none": lambda m: m.restore(None, args=A.StandardRestore()),
        "meta": lambda m: m.item_metadata(0),
        "missing2": lambda m: m.restore(7),
        "mm": lambda m: m.item_metadata(7),
    }.items():
        m = mgr()
        if k not in ("bare", "meta"):
            attempt(k, lambda: f(m))
        m.close()


@case
def composite_basic():
    m = mgr()
    m.save(
        0,
        args=C(
            state=S(1),
            extra=J({"x": 1}),
            arr=A.ArraySave(np.arange(3)),
            key=A.JaxRandomKeySave(jax.random.PRNGKey(3)),
            np=A.NumpyRandomKeySave(np.random.RandomState(0).get_state()),
        ),
    )
    m.wait_until_finished()
    say("n", names(root / "0"))
    r = m.restore(0)
    say("t", type(r).__name__ in ("CompositeArgs", "Composite"))
    say("k", sorted(r.keys()))
    say("state", r.state)
    say("extra", r["extra"])
    say("arr", r.arr)
    say("np", r.np[0])
    say("npt", type(r.np).__name__)
    r = m.restore(0, args=C(extra=A.JsonRestore()))
    say("r", r)
    attempt("missing", lambda: m.restore(0, args=C(nope=A.JsonRestore())))
    attempt("get", lambda: r.get("nope", 5))
    attempt("attr", lambda: r.nope)
    attempt("item", lambda: r["nope"])
    attempt("in", lambda: "extra" in r)
    attempt("len", lambda: len(r))
    attempt("items", lambda: dict(r.items()))
    attempt("setattr", lambda: setattr(r, "x", 1))
    attempt("setitem", lambda: r.__setitem__("x", 1))
    attempt("or", lambda: sorted((r | C(z=1)).keys()))
    attempt("empty", lambda: sorted(m.restore(0, args=C()).keys()))
    md = m.item_metadata(0)
    say("mk", sorted(md.keys()))
    say("extra", md.extra)
    say("arr", md.arr)
    say(
        "state",
        jax.tree_util.tree_map(
            lambda x: (list(x.shape), str(x.dtype)), md.state, is_leaf=lambda x: hasattr(x, "shape")
        ),
    )
    m.close()


@case
def items_vary():
    m = mgr()
    m.save(0, args=C(state=S(0), emb=A.PyTreeSave(T(1))))
    m.save(1, args=C(state=S(1)))
    m.save(2, args=C(state=S(2), emb=A.PyTreeSave(T(3)), extra=J([1])))
    m.wait_until_finished()
    for s in range(3):
        attempt("k", lambda: sorted(m.restore(s).keys()))
        attempt("m", lambda: sorted(m.item_metadata(s).keys()))
    attempt("missing", lambda: m.restore(1, args=C(emb=A.PyTreeRestore())))
    attempt(
        "two",
        lambda: sorted(m.restore(2, args=C(emb=A.PyTreeRestore(), extra=A.JsonRestore())).keys()),
    )
    m.close()
    m = mgr()
    attempt("meta fresh", lambda: sorted(m.item_metadata(2).keys()))
    attempt("some", lambda: m.restore(1, args=C(state=A.StandardRestore(abstract))))
    attempt("miss", lambda: m.restore(1, args=C(emb=A.PyTreeRestore())))
    m.close()


@case
def item_names_only():
    m = mgr(item_names=("params", "extra"))
    say("d", m._default_item)
    attempt(
        "unknown", lambda: m.save(0, args=C(zzz=J(1))), "does not match with any registered handler"
    )
    attempt("w", m.wait_until_finished)
    attempt("s", lambda: m.save(1, args=C(params=S(1))))
    attempt("s", lambda: m.save(2, args=C(params=S(1), extra=J(3))))
    attempt("single", lambda: m.save(3, args=J(3)), "Must provide `args` of type `Composite`")
    attempt("r", lambda: m.restore(2))
    attempt("r", lambda: m.restore(1))
    attempt("m", lambda: sorted(m.item_metadata(2).keys()))
    attempt(
        "other", lambda: m.save(4, args=C(extra=S(3))), "does not match with any registered handler"
    )
    m.close()
    m = mgr(item_names=("params", "extra"))
    attempt("r", lambda: m.restore(2, args=C(extra=A.JsonRestore())))
    attempt("r", lambda: m.restore(2, args=C(params=A.PyTreeRestore())))
    m.close()


@case
def item_handlers_single():
    m = mgr(item_handlers=ocp.StandardCheckpointHandler())
    say("d", m._default_item)
    m.save(0, args=S(1))
    attempt("r", lambda: m.restore(0))
    attempt("m", lambda: m.item_metadata(0) is not None)
    attempt("mism", lambda: m.save(1, args=J(1)), "does not match with any registered handler")
    attempt("comp", lambda: m.save(1, args=C(a=J(1))), "Cannot provide `args` of type `Composite`")
    m.close()
    m = mgr(item_handlers=ocp.StandardCheckpointHandler())
    attempt("r", lambda: m.restore(0))
    attempt("m", lambda: sorted(m.item_metadata(0).keys()))
    attempt(
        "py",
        lambda: m.restore(0, args=A.PyTreeRestore()),
        "does not match with any registered handler",
    )
    m.close()


@case
def item_handlers_pytree_mismatch():
    m = mgr(item_handlers=ocp.PyTreeCheckpointHandler())
    attempt("mism", lambda: m.save(0, args=S(1)), "does not match with any registered handler")
    attempt("ok", lambda: m.save(1, args=A.PyTreeSave(T(1))))
    attempt("r", lambda: m.restore(1))
    m.close()


@case
def item_handlers_mapping():
    m = mgr(
        item_handlers={
            "params": ocp.PyTreeCheckpointHandler(),
            "extra": ocp.JsonCheckpointHandler(),
        }
    )
    attempt(
        "mism", lambda: m.save(0, args=C(params=S(1))), "does not match with any registered handler"
    )
    attempt(
        "unknown", lambda: m.save(0, args=C(zz=S(1))), "does not match with any registered handler"
    )
    attempt("ok", lambda: m.save(1, args=C(params=A.PyTreeSave(T(1)), extra=J(2))))
    attempt("r", lambda: m.restore(1))
    m.close()
    m = mgr(
        item_handlers={
            "params": ocp.PyTreeCheckpointHandler(),
            "extra": ocp.JsonCheckpointHandler(),
        }
    )
    attempt("r", lambda: m.restore(1))
    attempt("r", lambda: m.restore(1, args=C(extra=None)))
    attempt("miss", lambda: m.restore(1, args=C(zz=A.JsonRestore())))
    m.close()
    m = mgr(item_handlers={"extra": ocp.JsonCheckpointHandler()})
    attempt("partial known", lambda: m.restore(1))
    attempt("m", lambda: {k: v is not None for k, v in m.item_metadata(1).items()})
    m.close()
    m = mgr(item_handlers={"extra": ocp.JsonCheckpointHandler()}, item_names=("params",))
    attempt("r", lambda: m.restore(1, args=C(params=A.PyTreeRestore())))
    attempt("later", lambda: m.restore(1))
    m.close()


@case
def handlers_and_names():
    m = mgr(
        item_names=("params", "arr", "metadata"),
        item_handlers={
            "params": ocp.PyTreeCheckpointHandler(),
            "arr": ocp.ArrayCheckpointHandler(),
        },
    )
    m.save(
        0, args=C(params=A.PyTreeSave(T(1)), arr=A.ArraySave(np.arange(2)), metadata=J({"a": 1}))
    )
    m.wait_until_finished()
    m2 = mgr(
        item_names=("params", "arr", "metadata"),
        item_handlers={
            "params": ocp.PyTreeCheckpointHandler(),
            "arr": ocp.ArrayCheckpointHandler(),
        },
    )
    say("k", {k: v is None for k, v in m2.item_metadata(0).items()})
    m.close()
    m2.close()


@case
def registry_basic():
    r = (
        ocp.handlers.DefaultCheckpointHandlerRegistry()
        if hasattr(ocp.handlers, "DefaultCheckpointHandlerRegistry")
        else ocp.DefaultCheckpointHandlerRegistry()
    )
    h = ocp.StandardCheckpointHandler()
    r.add("state", A.StandardSave, h)
    r.add("state", A.StandardRestore, h)
    r.add("dataset", A.JsonSave)
    r.add("dataset", A.JsonRestore)
    m = mgr(handler_registry=r)
    say("d", m._default_item)
    attempt(
        "s", lambda: m.save(0, args=C(state=S(2), dataset=J({"p": 1}), free=A.PyTreeSave(T(0))))
    )
    attempt("r", lambda: m.restore(0))
    attempt("m", lambda: sorted(m.item_metadata(0).keys()))
    attempt(
        "mism",
        lambda: m.save(1, args=C(state=A.PyTreeSave(T()))),
        "does not match with any registered handler",
    )
    m.close()
    m = mgr(handler_registry=r)
    attempt(
        "r",
        lambda: m.restore(0, args=C(state=A.StandardRestore(abstract), dataset=A.JsonRestore())),
    )
    attempt("mode", lambda: m.save(1, args=S(1)), "Must provide `args` of type `Composite`")
    m.close()


@case
def registry_default_item():
    r = ocp.DefaultCheckpointHandlerRegistry()
    r.add(None, A.StandardSave, ocp.StandardCheckpointHandler())
    r.add(None, A.StandardRestore, ocp.StandardCheckpointHandler())
    m = mgr(handler_registry=r)
    attempt("s", lambda: m.save(0, args=S(2)))
    attempt("r", lambda: m.restore(0))
    attempt("r", lambda: m.restore(0, args=A.StandardRestore(abstract)))
    attempt("m", lambda: sorted(m.item_metadata(0).keys()))
    m.close()


@case
def registry_only_save():
    r = ocp.DefaultCheckpointHandlerRegistry()
    r.add("a", A.JsonSave)
    m = mgr(handler_registry=r)
    attempt("s", lambda: m.save(0, args=C(a=J(1))))
    m.wait_until_finished()
    m.close()
    m = mgr(handler_registry=ocp.DefaultCheckpointHandlerRegistry())
    attempt("r", lambda: m.restore(0, args=C(a=A.JsonRestore())))
    attempt("r", lambda: m.restore(0))
    m.close()


@case
def conflicts():
    h = ocp.JsonCheckpointHandler()
    r = ocp.DefaultCheckpointHandlerRegistry()
    c = ocp.Checkpointer(h)
    for n, k in {
        "c+names": {"checkpointers": c, "item_names": ("a",)},
        "c+h": {"checkpointers": c, "item_handlers": h},
        "c+r": {"checkpointers": c, "handler_registry": r},
        "r+h": {"handler_registry": r, "item_handlers": h},
        "r+n": {"handler_registry": r, "item_names": ("a",)},
        "r+n0": {"handler_registry": r, "item_names": ()},
        "r+h0": {"handler_registry": r, "item_handlers": {}},
        "n+h": {"item_names": ("a",), "item_handlers": h},
        "bad c": {"checkpointers": h},
        "bad c2": {"checkpointers": {"a": h}},
        "bad c3": {"checkpointers": [c]},
        "reserved c": {"checkpointers": {"metrics": c}},
        "reserved n": {"item_names": ("metrics",)},
        "reserved d": {"item_names": ("descriptor",)},
        "reserved h": {"item_handlers": {"metrics": h}},
        "ok": {"item_names": ("default",)},
        "empty names": {"item_names": ()},
        "empty handlers": {"item_handlers": {}},
        "empty ckpt": {"checkpointers": {}},
    }.items():
        attempt(n, lambda: mgr(**k)._default_item)
    for n, o in {
        "primary": {"multiprocessing_options": cm.MultiprocessingOptions(primary_host=None)},
        "primary1": {"multiprocessing_options": cm.MultiprocessingOptions(primary_host=1)},
    }.items():
        attempt(n, lambda: mgr(c, o=o)._default_item)
        attempt(n + " names", lambda: mgr(item_names=("a",), o=o)._default_item)
    attempt(
        "active",
        lambda: mgr(o={"multiprocessing_options": cm.MultiprocessingOptions(active_processes={0})}),
    )
    attempt(
        "callback sync",
        lambda: mgr(
            o={
                "enable_async_checkpointing": False,
                "async_options": ocp.AsyncOptions(post_finalization_callback=lambda: None),
            }
        ),
    )
    attempt(
        "callback sync c",
        lambda: mgr(
            c, o={"async_options": ocp.AsyncOptions(post_finalization_callback=lambda: None)}
        ),
    )


@case
def pytree_restore_args():
    m = mgr()
    m.save(0, args=A.PyTreeSave(T(5)))
    ra = ocp.checkpoint_utils.construct_restore_args(T(0))
    attempt("r", lambda: m.restore(0, args=A.PyTreeRestore(restore_args=ra)))
    attempt("r", lambda: m.restore(0, args=A.PyTreeRestore(item=T(0), restore_args=ra)))
    attempt(
        "np",
        lambda: m.restore(
            0,
            args=A.PyTreeRestore(
                restore_args=jax.tree_util.tree_map(
                    lambda _: ocp.RestoreArgs(restore_type=np.ndarray), T(0)
                )
            ),
        ),
    )
    attempt("tr", lambda: m.restore(0, args=A.PyTreeRestore(item={"a": 0}, transforms={})))
    attempt("mis", lambda: m.restore(0, args=A.PyTreeRestore(item={"zz": 0})))
    m.close()


@case
def standard_mismatch():
    m = mgr()
    m.save(0, args=S(1))
    attempt("extra", lambda: m.restore(0, args=A.StandardRestore({**abstract, "z": abstract["a"]})))
    attempt("less", lambda: m.restore(0, args=A.StandardRestore({"a": abstract["a"]})))
    attempt(
        "shape",
        lambda: m.restore(
            0,
            args=A.StandardRestore({"a": jax.ShapeDtypeStruct((5,), np.int64), "b": abstract["b"]}),
        ),
    )
    attempt("kind", lambda: m.restore(0, args=A.StandardRestore([1, 2])))
    m.close()
