# SPDX-License-Identifier: Apache-2.0
import datetime as dt
import sys
from unittest import mock

import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from saying import case, common, say

root = epath.Path(sys.argv[1])  # of each case its own
_, _, _, J, _, mgr = common(ocp, lambda: root)


def names(p=None):
    return sorted(x.name for x in (p or root).iterdir())


def at(*steps):
    return mock.patch.object(multihost_utils, "reached_preemption_sync_point", lambda s: s in steps)


@case
def grid():
    with at(2):
        m = mgr(save_interval_steps=4)
        say("s", [m.save(s, args=J(s)) for s in range(10)])
        say("p", [m.reached_preemption(s) for s in (1, 2, 3)])
        m.close()
        say("n", names())


@case
def none():
    m = mgr()
    say("p", m.reached_preemption(3))
    m.close()


@case
def older():
    with at(1):
        m = mgr(save_interval_steps=4)
        m.save(0, args=J(0))
        m.save(4, args=J(4))
        say("s", m.save(1, args=J(1)))
        m.wait_until_finished()
        m.reload()
        say("a", m.all_steps())
        m.close()


@case
def read_only():
    with mgr() as m:
        m.save(0, args=J(0))
    with at(1):
        m = mgr(read_only=True)
        say("s", m.should_save(1))
        say("s", m.save(1, args=J(1)))
        m.close()


@case
def should_fn():
    with at(3):
        m = mgr(should_save_fn=lambda s, latest: False)
        say("s", [m.save(s, args=J(s)) for s in range(5)])
        m.close()


@case
def surplus():
    real = dt.datetime

    class F(dt.datetime):
        t = real(2024, 1, 1, tzinfo=dt.UTC)

        @classmethod
        def now(cls, tz=None):
            return cls.t

    with at(3), mock.patch.object(dt, "datetime", F):
        m = mgr(save_interval_steps=2, max_to_keep=1, keep_time_interval=dt.timedelta(hours=4))
        for s in range(10):
            m.save(s, args=J(s))
            F.t += dt.timedelta(hours=1)
        m.wait_until_finished()
        say("a", m.all_steps())
        m.close()
        say("n", names())
