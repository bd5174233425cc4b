# SPDX-License-Identifier: Apache-2.0
import threading

from orbax.checkpoint import future
from saying import attempt, say

seen = []


class Told:
    def __init__(self, error=None):
        self.error = error

    def result(self, timeout=None):
        seen.append(timeout is None)
        if self.error:
            raise self.error


attempt("noop", lambda: future.NoopFuture().result(timeout=3))
calls = []
attempt("chain", lambda: future.ChainedFuture([Told(), Told()], lambda: calls.append(1)).result())
attempt(
    "chain in time",
    lambda: future.ChainedFuture([Told()], lambda: calls.append(1)).result(timeout=10),
)
attempt(
    "chain failed",
    lambda: future.ChainedFuture([Told(OSError("no")), Told()], lambda: calls.append(1)).result(),
    "no",
)
say("calls", [calls, seen])


class Sleeps:
    def result(self, timeout=None):
        threading.Event().wait(0.05)


late = future.ChainedFuture([Sleeps(), Told()], lambda: calls.append(2))
attempt("chain late", lambda: late.result(timeout=0.01))
say("not called", calls)
thread = future.ThreadRaisingException(target=lambda: 1 / 0)
thread.start()
attempt("thread", thread.join)
attempt("thread again", thread.join)
go = threading.Event()
thread = future.ThreadRaisingException(name="named", target=go.wait)
thread.start()
attempt("late thread", lambda: thread.join(timeout=0.01))
say("alive", [thread.is_alive(), thread.name])
go.set()
attempt("done thread", thread.join)
