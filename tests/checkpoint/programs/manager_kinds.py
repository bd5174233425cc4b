# SPDX-License-Identifier: Apache-2.0
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from saying import attempt, case, common, say

root = epath.Path(sys.argv[1])  # of each case its own
A, C, _, J, _, mgr = common(ocp, lambda: root, anything=True)


@case
def fresh_wrong_mode():
    with mgr() as m:
        m.save(0, args=J(1))
    with ocp.CheckpointManager(root.parent / "b") as m:
        m.save(0, args=C(a=J(1), b=J(2)))
    m = mgr()
    attempt(
        "comp on single",
        lambda: m.restore(0, args=C(a=A.JsonRestore())),
        "Cannot provide `args` of type `Composite`",
    )
    m.close()
    m = ocp.CheckpointManager(root.parent / "b")
    attempt(
        "single on comp",
        lambda: m.restore(0, args=A.JsonRestore()),
        "Must provide `args` of type `Composite`",
    )
    m.close()
    m = ocp.CheckpointManager(root.parent / "b")
    attempt("ok", lambda: m.restore(0, args=C(a=A.JsonRestore())))
    attempt("other", lambda: m.restore(0, args=C(b=A.JsonRestore(), a=None)))
    attempt("none", lambda: m.restore(0, args=C(z=A.JsonRestore())))
    attempt("save single", lambda: m.save(1, args=J(1)), "Must provide `args` of type `Composite`")
    m.close()


@case
def none_json():
    m = mgr()
    m.save(1, args=C(a=J({"x": 1})))
    attempt("n", lambda: m.save(2, args=C(a=None)))
    m.wait_until_finished()
    attempt("r", lambda: m.restore(2))
    m.close()


@case
def none_standard():
    m = mgr()
    m.save(1, args=C(a=A.StandardSave({"x": 1})))
    attempt("n", lambda: m.save(2, args=C(a=None)))
    attempt("w", m.wait_until_finished)
    say("a", m.all_steps())
    m.close()


@case
def names_of_items():
    m = mgr()
    for i, n in enumerate(
        ["a.b", "a b", "-x", "ü", "LOCKED", "default", "metadata", "0", "a-b", "_private"]
    ):
        attempt(n, lambda: m.save(i, args=C(**{n: J(i)})))
        attempt("w", m.wait_until_finished)
        attempt("r" + n, lambda: m.restore(i))
    say("all", m.all_steps())
    m.close()


@case
def handler_kinds():
    for i, h in enumerate(
        (
            ocp.PyTreeCheckpointHandler(use_ocdbt=False),
            ocp.PyTreeCheckpointHandler(use_zarr3=True),
            ocp.ArrayCheckpointHandler(),
            ocp.JsonCheckpointHandler(filename="zz"),
        )
    ):
        r = root / str(i)
        m = ocp.CheckpointManager(r, item_handlers=h)
        a = [
            A.PyTreeSave({"a": np.arange(3)}),
            A.PyTreeSave({"a": np.arange(3)}),
            A.ArraySave(np.arange(3)),
            J(3),
        ][i]
        attempt("s", lambda: m.save(0, args=a))
        m.wait_until_finished()
        attempt("r", lambda: m.restore(0))
        m.close()


@case
def subclass_handler():
    class H(ocp.StandardCheckpointHandler):
        pass

    attempt("s", lambda: mgr(item_handlers=H()).save(0, args=A.StandardSave({"a": 1})))


@case
def random_keys():
    m = mgr()
    k = jax.random.key(0)
    attempt(
        "s",
        lambda: m.save(
            0,
            args=C(
                k=A.JaxRandomKeySave(k),
                n=A.NumpyRandomKeySave(np.random.RandomState(3).get_state()),
            ),
        ),
    )
    m.wait_until_finished()
    r = m.restore(0)
    say("k", str(r.k.dtype))
    say("eq", np.array_equal(jax.random.key_data(r.k), jax.random.key_data(k)))
    say("n", type(r.n).__name__)
    m.close()


@case
def numpy_scalars():
    m = mgr()
    t = {
        "i": 1,
        "f": 2.5,
        "b": True,
        "n": np.float32(3),
        "s": "x",
        "e": {},
        "l": [1, 2],
        "t": (1, 2),
        "none": None,
    }
    attempt("s", lambda: m.save(0, args=A.StandardSave(t)))
    attempt("w", m.wait_until_finished)
    attempt("r", lambda: m.restore(0))
    m.close()
    m = ocp.CheckpointManager(root.parent / "c")
    attempt("s", lambda: m.save(0, args=A.PyTreeSave(t)))
    attempt("w", m.wait_until_finished)
    attempt("r", lambda: m.restore(0))
    attempt("rt", lambda: m.restore(0, args=A.PyTreeRestore(item=t)))
    m.close()


@case
def item_metadata_values():
    m = mgr()
    m.save(0, args=A.PyTreeSave({"a": np.arange(6).reshape(2, 3), "i": 1, "s": "x"}))
    m.wait_until_finished()
    md = m.item_metadata(0)
    say("t", [type(md["a"]).__name__, type(md["i"]).__name__, type(md["s"]).__name__])
    say("a", [list(md["a"].shape), str(md["a"].dtype), md["a"].sharding])
    say("name", [md["a"].name, md["i"].name])
    m.close()


@case
def closed_handler_reuse():
    h = ocp.StandardCheckpointHandler()
    m = mgr(item_handlers=h)
    m.save(0, args=A.StandardSave({"a": np.arange(3)}))
    m.close()
    n = mgr(item_handlers=h)
    attempt("r", lambda: n.restore(0))
    n.close()
