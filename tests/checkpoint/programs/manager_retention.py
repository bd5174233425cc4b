# SPDX-License-Identifier: Apache-2.0
import datetime as dt
import sys
from unittest import mock

import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath
from saying import attempt, case, common, say

root = epath.Path(sys.argv[1])  # of each case its own
A, _, Options, J, names, mgr = common(ocp, lambda: root)


real = dt.datetime


class FakeDT(dt.datetime):
    t = real(2024, 1, 1, tzinfo=dt.UTC)

    @classmethod
    def now(cls, tz=None):
        return cls.t if tz is not None else cls.t.replace(tzinfo=None)


def run(steps, hours=0, **o):
    FakeDT.t = real(2024, 1, 1, tzinfo=dt.UTC)
    with mock.patch.object(dt, "datetime", FakeDT):
        m = mgr(**o)
        for s in steps:
            m.save(s, args=J(s))
            FakeDT.t += dt.timedelta(hours=hours)
            say("all", m.all_steps())
        m.wait_until_finished()
    m.close()
    say("names", names())


@case
def k2():
    run(range(5), max_to_keep=2)


@case
def k1():
    run(range(3), max_to_keep=1)


@case
def k0():
    run(range(5), max_to_keep=0)


@case
def k0_period_interval():
    run(range(9), 1, max_to_keep=0, keep_period=3, keep_time_interval=dt.timedelta(hours=5))


@case
def k0_period():
    run(range(7), max_to_keep=0, keep_period=3)


@case
def k2_period():
    run(range(0, 12, 2), max_to_keep=2, keep_period=4)


@case
def k2_interval():
    run(range(10), 1, max_to_keep=2, keep_time_interval=dt.timedelta(hours=3))


@case
def k2_interval_30():
    run(range(10), 0.5, max_to_keep=1, keep_time_interval=dt.timedelta(hours=1))


@case
def k1_interval_all():
    run(range(5), 5, max_to_keep=1, keep_time_interval=dt.timedelta(hours=1))


@case
def period_no_max():
    run(range(5), keep_period=2)


@case
def interval_no_max():
    run(range(3), 1, keep_time_interval=dt.timedelta(hours=3))


@case
def bigger():
    run(range(3), max_to_keep=10)


@case
def period_first_not():
    run(range(1, 8), max_to_keep=1, keep_period=3)


@case
def save_int_and_keep():
    run(range(10), max_to_keep=2, save_interval_steps=3)


@case
def sync_k2():
    run(range(5), max_to_keep=2, enable_async_checkpointing=False)


@case
def bg_k2():
    run(range(5), max_to_keep=2, enable_background_delete=True)


@case
def todelete():
    run(range(5), max_to_keep=2, todelete_subdir="gone")
    say("g", names(root / "gone"))


@case
def todelete_prefix():
    run(
        range(5),
        max_to_keep=2,
        todelete_subdir="gone",
        step_prefix="ck",
        step_format_fixed_length=3,
    )
    say("g", names(root / "gone"))
    m = mgr(max_to_keep=2, todelete_subdir="gone", step_prefix="ck", step_format_fixed_length=3)
    say("all", m.all_steps())
    m.delete(3)
    say("g", names(root / "gone"))
    say("n", names())
    m.close()


@case
def delete_cases():
    m = mgr()
    attempt("none", lambda: m.delete(0), "non-existent step")
    for s in range(3):
        m.save(s, args=J(s))
    m.wait_until_finished()
    m.delete(1)
    say("all", m.all_steps())
    say("n", names())
    attempt("again", lambda: m.delete(1), "non-existent step")
    m.delete(2)
    say("latest", m.latest_step())
    attempt("save again", lambda: m.save(1, args=J(10)))
    m.wait_until_finished()
    say("v", m.restore(1))
    m.delete(0)
    m.delete(1)
    say("all", m.all_steps())
    say("latest", m.latest_step())
    say("n", names())
    attempt("s", lambda: m.save(5, args=J(5)))
    m.close()


@case
def delete_by_hand():
    m = mgr()
    for s in range(3):
        m.save(s, args=J(s))
    m.wait_until_finished()
    (root / "1").rmtree()
    say("all", m.all_steps())
    attempt("r", lambda: m.restore(1))
    attempt("d", lambda: m.delete(1))
    say("all", m.all_steps())
    m.reload()
    say("all", m.all_steps())
    m.close()


@case
def gone_before_retention():
    m = mgr(max_to_keep=2)
    for s in range(2):
        m.save(s, args=J(s))
    m.wait_until_finished()
    (root / "0").rmtree()
    attempt("s", lambda: m.save(2, args=J(2)))
    attempt("w", m.wait_until_finished)
    say("all", m.all_steps())
    say("n", names())
    m.close()


@case
def reload_cases():
    m = mgr()
    n = mgr(max_to_keep=2)
    for s in range(4):
        m.save(s, args=J(s))
    m.wait_until_finished()
    say("n", n.all_steps())
    say("nl", n.latest_step())
    n.reload()
    say("n", n.all_steps())
    say("read", sorted(n.all_steps(read=True)))
    n.save(4, args=J(4))
    n.wait_until_finished()
    say("n", n.all_steps())
    say("m", m.all_steps())
    m.reload()
    say("m", m.all_steps())
    m.close()
    n.close()


@case
def restart_retention():
    for a, b in ((0, 3), (3, 6)):
        m = mgr(max_to_keep=2)
        say("all", m.all_steps())
        for s in range(a, b):
            m.save(s, args=J(s))
        m.close()
        say("n", names())
    m = mgr(max_to_keep=1)
    say("all", m.all_steps())
    m.save(6, args=J(6))
    m.close()
    say("n", names())


@case
def read_only():
    with mgr() as m:
        for s in range(3):
            m.save(s, args=J(s))
    o = Options(
        read_only=True,
        max_to_keep=1,
        save_interval_steps=2,
        keep_period=3,
        keep_time_interval=dt.timedelta(1),
        todelete_subdir="x",
        should_save_fn=lambda a, b: True,
        create=True,
        cleanup_tmp_directories=True,
        save_on_steps=[1],
        enable_background_delete=True,
        step_prefix=None,
    )
    say(
        "o",
        [
            o.max_to_keep,
            o.save_interval_steps,
            o.keep_period,
            o.keep_time_interval,
            o.todelete_subdir,
            o.should_save_fn,
            o.create,
            o.cleanup_tmp_directories,
            sorted(o.save_on_steps),
            o.enable_background_delete,
        ],
    )
    m = ocp.CheckpointManager(root, options=o)
    say("s", [m.save(5, args=J(5)), m.should_save(9)])
    m.delete(0)
    m.delete(99)
    say("all", m.all_steps())
    say("r", m.restore(1, args=A.JsonRestore()))
    say("n", names())
    m.close()
    attempt(
        "missing",
        lambda: ocp.CheckpointManager(root / "none", options=Options(read_only=True)),
        "does not exist",
    )
    attempt(
        "missing",
        lambda: ocp.CheckpointManager(root / "none", options=Options(create=False)),
        "does not exist",
    )


@case
def infos():
    m = mgr(best_fn=lambda x: x)
    m.save(1, args=J(1), metrics=3.0)
    i = m._checkpoints[0]
    say("f", [int(i.step), type(i.time).__name__ in ("datetime", "FakeDT"), i.metrics, i.is_locked])
    say("tz", i.time.tzinfo is not None)
    from orbax.checkpoint.checkpoint_manager import CheckpointInfo as I

    t = real(2024, 1, 1)
    say(
        "eq",
        [
            I(1, t, None) == I(1, t, {"a": 1}),
            I(1, t, None) == I(2, t, None),
            I(jnp.int32(3), t, None).step,
            hash(I(1, t, None)) == hash(I(1, t, 5)),
            I(step=1, time=t, metrics=None, is_locked=True).is_locked,
        ],
    )
    say("s", "step=1" in str(I(1, t, None)))
    m.close()
