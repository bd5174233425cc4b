# SPDX-License-Identifier: Apache-2.0
import contextlib
import json
import sys

import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from saying import attempt, case, common, say

root = epath.Path(sys.argv[1])  # of each case its own
A, C, Options, J, names, _ = common(ocp, lambda: root)


def mgr(*a, metadata=None, **o):
    return ocp.CheckpointManager(root, *a, options=Options(**o), metadata=metadata)


loss = lambda m: m["loss"]


def run(vals, **o):
    m = mgr(**o)
    r = []
    for s, v in enumerate(vals):
        r.append(m.save(s, args=J(s), metrics=v))
    say("saved", r)
    say("all", m.all_steps())
    say("best", m.best_step())
    say("latest", m.latest_step())
    m.close()
    say("names", names())
    n = mgr(**o)
    say("again", n.all_steps())
    say("best again", n.best_step())
    say("metrics", [n.metrics(s) for s in n.all_steps()])
    n.close()


L = lambda *v: [{"loss": x} if x is not None else None for x in v]


@case
def best_max():
    run(L(1.0, 5.0, 3.0, 2.0, 4.0), best_fn=loss, max_to_keep=2)


@case
def best_min():
    run(L(1.0, 5.0, 3.0, 2.0, 4.0), best_fn=loss, best_mode="min", max_to_keep=2)


@case
def ties_max():
    run(L(1, 2, 2, 2, 1), best_fn=loss, max_to_keep=2)


@case
def ties_min():
    run(L(1, 2, 2, 1, 1), best_fn=loss, best_mode="min", max_to_keep=2)


@case
def ties_keep1():
    run(L(2, 2, 2), best_fn=loss, max_to_keep=1)


@case
def no_metrics():
    run([None] * 4, best_fn=loss, max_to_keep=2)


@case
def no_metrics_drop():
    run([None] * 4, best_fn=loss, max_to_keep=2, keep_checkpoints_without_metrics=False)


@case
def some_metrics():
    run(L(1, None, 3, None, 2, None, 0), best_fn=loss, max_to_keep=2)


@case
def some_metrics_drop():
    run(
        L(1, None, 3, None, 2, None, 0),
        best_fn=loss,
        max_to_keep=2,
        keep_checkpoints_without_metrics=False,
    )


@case
def drop_period():
    run(
        L(1, None, 3, None, 2, None, 0),
        best_fn=loss,
        max_to_keep=1,
        keep_checkpoints_without_metrics=False,
        keep_period=3,
    )


@case
def best_period():
    run(L(9, 1, 3, 7, 2, 8, 0), best_fn=loss, max_to_keep=1, keep_period=2)


@case
def keep0_best():
    run(L(9, 1, 3), best_fn=loss, max_to_keep=0)


@case
def keep0_best_none():
    run(L(9, None, 3), best_fn=loss, max_to_keep=0)


@case
def no_max():
    run(L(3, 1, 2), best_fn=loss)


@case
def worst_last():
    run(L(5, 4, 3, 2, 1), best_fn=loss, max_to_keep=1)


@case
def no_best_fn():
    run(L(5, 4, 3), max_to_keep=2)


@case
def inf_metrics():
    run(L(float("inf"), 1.0, float("-inf")), best_fn=loss, max_to_keep=2)


@case
def infmin_metrics():
    run(L(float("inf"), 1.0, float("-inf")), best_fn=loss, best_mode="min", max_to_keep=2)


@case
def bool_and_int():
    run(L(True, 3, False), best_fn=loss, max_to_keep=2)


@case
def scalar_metrics():
    run([1.0, 3.0, 2.0], best_fn=lambda m: m, max_to_keep=1)


@case
def list_metrics():
    run([[1, 2], [3, 0], [2, 9]], best_fn=lambda m: m[1], max_to_keep=1)


@case
def tuple_fn():
    run(
        [{"a": 1, "b": 2}, {"a": 1, "b": 3}, {"a": 0, "b": 9}],
        best_fn=lambda m: (m["a"], m["b"]),
        max_to_keep=1,
    )


@case
def str_fn():
    run([{"a": "x"}, {"a": "z"}, {"a": "y"}], best_fn=lambda m: m["a"], max_to_keep=1)


@case
def np_float64():
    run(L(np.float64(1), np.float64(3), np.float64(2)), best_fn=loss, max_to_keep=1)


@case
def empty_dict_metrics():
    run([{}, {}, {}], best_fn=lambda m: m.get("x", 0), max_to_keep=1)


@case
def metrics_in_step():
    m = mgr(best_fn=loss)
    m.save(0, args=J(1), metrics={"loss": 1.5, "acc": [1, 2], "n": {"a": None, "b": "x"}})
    m.save(1, args=J(1))
    m.wait_until_finished()
    say("n", [names(root / "0"), names(root / "1"), names(root / "0/metrics")])
    say("f", json.loads((root / "0/metrics/metrics").read_text()))
    say("m", m.metrics(0))
    say("m", m.metrics(1))
    attempt("m", lambda: m.metrics(77))
    say("r", m.restore(0))
    m.close()
    m = mgr()
    say("no best_fn", m.metrics(0))
    m.close()


@case
def metrics_with_composite():
    m = mgr(best_fn=loss)
    m.save(0, args=C(a=J(1)), metrics={"loss": 1})
    m.save(1, args=C(a=J(2)))
    m.wait_until_finished()
    attempt("r", lambda: m.restore(0))
    attempt("r1", lambda: m.restore(1))
    attempt("md", lambda: dict(m.item_metadata(0).items()))
    attempt("rm", lambda: m.restore(0, args=C(metrics=A.JsonRestore())))
    attempt("rm", lambda: m.restore(0, args=C(a=A.JsonRestore())))
    m.close()


@case
def metrics_without_best_fn():
    m = mgr()
    attempt("s", lambda: m.save(0, args=J(1), metrics={"loss": 1}))
    m.close()
    say("n", names(root / "0"))
    say("b", m.best_step())
    say("m", m.metrics(0))


@case
def best_fn_missing_key():
    m = mgr(best_fn=loss, max_to_keep=1)
    m.save(0, args=J(0), metrics={"loss": 1})
    attempt("s", lambda: m.save(1, args=J(1), metrics={"other": 1}))
    with contextlib.suppress(Exception):
        m.close()


@case
def restart_continues():
    for a, b in ((0, 3), (3, 6), (6, 9)):
        m = mgr(best_fn=loss, best_mode="min", max_to_keep=2)
        for s in range(a, b):
            m.save(s, args=J(s), metrics={"loss": (s * 7) % 5})
        m.wait_until_finished()
        say("all", m.all_steps())
        say("b", m.best_step())
        m.close()
        say("n", names())


@case
def root_metadata():
    m = mgr(metadata={"a": 1, "b": [1, {"c": None}]})
    say("m", m.metadata())
    say("n", names())
    say("n", names(root / "metadata"))
    say("f", json.loads((root / "metadata/metadata").read_text()))
    m.close()
    m = mgr()
    say("m", m.metadata())
    m.close()
    m = mgr(metadata={"a": 2})
    say("m", m.metadata())
    m.close()
    m = mgr(read_only=True, metadata={"a": 3})
    say("m", m.metadata())
    m.close()
    say("p", m._metadata_path().name)


@case
def root_metadata_empty():
    m = mgr()
    say("m", m.metadata())
    say("n", names())
    m.close()
    m = mgr(metadata={})
    say("m", m.metadata())
    say("n", names())
    m.close()
    m = mgr(metadata={"a": 2})
    say("m", m.metadata())
    m.close()


@case
def root_metadata_bad():
    attempt("bad", lambda: mgr(metadata={"a": object()}))


@case
def root_metadata_steps():
    m = mgr(metadata={"a": 1})
    m.save(0, args=J(1))
    m.wait_until_finished()
    say("all", m.all_steps())
    m.reload()
    say("all", m.all_steps())
    m.close()


@case
def nan_read_back():
    m = mgr(best_fn=loss)
    m.save(0, args=J(0), metrics={"loss": float("nan")})
    m.wait_until_finished()
    say("t", (root / "0/metrics/metrics").read_text())
    say("b", m.best_step())
    m.reload()
    say("b", m.best_step())
    m.close()
