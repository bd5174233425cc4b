# SPDX-License-Identifier: Apache-2.0
import contextlib
import dataclasses
import sys
import threading
import time
from unittest import mock

import orbax.checkpoint as ocp
from etils import epath
from saying import attempt, case, common, say

root = epath.Path(sys.argv[1])  # of each case its own
A, C, Options, J, names, mgr = common(ocp, lambda: root)


class Bad(ocp.AsyncCheckpointHandler):
    mode = "write"
    gate = None

    async def async_save(self, directory, args):
        (directory / "x").write_text(str(args.item))
        if self.mode == "sync":
            raise RuntimeError("sync failure")

        def w():
            if self.gate:
                self.gate.wait(20)
            if self.mode == "write":
                raise RuntimeError("write failure")

        class F:
            def __init__(self):
                self.thread = threading.Thread(target=self.run)
                self.error = None
                self.thread.start()

            def run(self):
                try:
                    w()
                except BaseException as e:
                    self.error = e

            def result(self, timeout=None):
                self.thread.join()
                if self.error:
                    raise self.error

        return [F()]

    def save(self, directory, args):
        (directory / "x").write_text(str(args.item))
        if self.mode in ("write", "sync"):
            raise RuntimeError(self.mode + " failure")

    def restore(self, directory, args):
        return (directory / "x").read_text()

    def finalize(self, directory):
        if self.mode == "finalize":
            raise RuntimeError("finalize failure")

    def metadata(self, directory):
        return {"hello": 1}

    closed = 0

    def close(self):
        self.closed += 1


@A.register_with_handler(Bad, for_save=True)
@dataclasses.dataclass
class BadSave(A.CheckpointArgs):
    item: object = None


@A.register_with_handler(Bad, for_restore=True)
@dataclasses.dataclass
class BadRestore(A.CheckpointArgs):
    item: object = None


def bm(h, **o):
    return ocp.CheckpointManager(root, options=Options(**o), item_handlers=h)


@case
def custom_ok():
    h = Bad()
    h.mode = "ok"
    m = bm(h)
    say("s", m.save(0, args=BadSave(5)))
    m.wait_until_finished()
    say("r", m.restore(0))
    say("m", m.item_metadata(0))
    m.close()
    say("c", h.closed)
    m.close()
    say("n", names(root / "0/default"))


for mode in ("write", "finalize"):

    def f(mode=mode):
        h = Bad()
        h.mode = "ok"
        m = bm(h)
        m.save(0, args=BadSave(5))
        m.wait_until_finished()
        h.mode = mode
        say("s", m.save(1, args=BadSave(6)))
        attempt("w", m.wait_until_finished, "failure")
        attempt("w2", m.wait_until_finished)
        say("a", m.all_steps())
        say("l", m.latest_step())
        say("p", m.is_saving_in_progress())
        attempt("check", m.check_for_errors)
        h.mode = "ok"
        say("s", m.save(1, args=BadSave(7)))
        attempt("w", m.wait_until_finished)
        say("a", m.all_steps())
        say("r", m.restore(1))
        m.close()

    f.__name__ = "async_" + mode
    case(f)
for mode in ("write", "finalize"):

    def f(mode=mode):
        h = Bad()
        h.mode = mode
        m = bm(h)
        say("s", m.save(0, args=BadSave(6)))
        attempt("next save", lambda: m.save(1, args=BadSave(1)), "failure")
        say("a", m.all_steps())
        h.mode = "ok"
        attempt("next save", lambda: m.save(1, args=BadSave(1)), "failure")
        m.close()
        say("a", m.all_steps())

    f.__name__ = "async_next_" + mode
    case(f)
for mode in ("write", "finalize", "sync"):

    def f(mode=mode):
        h = Bad()
        h.mode = mode
        m = bm(h, enable_async_checkpointing=False)
        attempt("s", lambda: m.save(0, args=BadSave(6)), "failure")
        say("a", m.all_steps())
        attempt("w", m.wait_until_finished)
        h.mode = "ok"
        attempt("s", lambda: m.save(0, args=BadSave(6)))
        say("a", m.all_steps())
        m.close()
        say("r", m.restore(0))

    f.__name__ = "sync_" + mode
    case(f)


@case
def async_sync_failure():
    h = Bad()
    h.mode = "sync"
    m = bm(h)
    attempt("s", lambda: m.save(0, args=BadSave(6)), "sync failure")
    say("a", m.all_steps())
    attempt("w", m.wait_until_finished)
    h.mode = "ok"
    attempt("s", lambda: m.save(0, args=BadSave(6)))
    attempt("c", m.close)
    say("a", m.all_steps())


@case
def close_raises():
    h = Bad()
    h.mode = "write"
    m = bm(h)
    m.save(0, args=BadSave(6))
    attempt("c", m.close, "write failure")
    attempt("c2", m.close)

    def f():
        h.mode = "write"
        with bm(h) as n:
            n.save(1, args=BadSave(6))

    attempt("with", f, "write failure")


@case
def in_progress():
    h = Bad()
    h.mode = "ok"
    h.gate = threading.Event()
    m = bm(h, save_interval_steps=2)
    m.save(0, args=BadSave(6))
    say("p", m.is_saving_in_progress())
    say("a", m.all_steps())
    say("l", m.latest_step())
    say("skip", m.save(1, args=BadSave(6)))
    say("should", [m.should_save(0), m.should_save(2)])
    n = names()
    say("tmp", [x.split("-tmp")[0] for x in n])
    attempt("metrics", lambda: m.metrics(0))
    h.gate.set()
    m.wait_until_finished()
    say("p", m.is_saving_in_progress())
    say("n", names())
    m.close()


@case
def retention_failed_save():
    h = Bad()
    h.mode = "ok"
    m = bm(h, max_to_keep=1)
    m.save(0, args=BadSave(0))
    m.wait_until_finished()
    h.mode = "write"
    m.save(1, args=BadSave(1))
    say("a", m.all_steps())
    attempt("w", m.wait_until_finished, "write failure")
    m.reload()
    say("a", m.all_steps())
    h.mode = "ok"
    m.save(2, args=BadSave(2))
    m.wait_until_finished()
    say("a", m.all_steps())
    m.close()
    say("n", [x for x in names() if "tmp" not in x])


@case
def waiters():
    h = Bad()
    h.mode = "write"
    h.gate = threading.Event()
    m = bm(h)
    m.save(0, args=BadSave(0))
    got = []

    def w():
        try:
            m.wait_until_finished()
            got.append("ok")
        except RuntimeError as e:
            got.append(str(e))

    ts = [threading.Thread(target=w) for _ in range(4)]
    [t.start() for t in ts]
    time.sleep(0.1)
    h.gate.set()
    [t.join() for t in ts]
    say("g", got)
    attempt("owner", m.wait_until_finished, "write failure")
    attempt("again", m.wait_until_finished)
    say("a", m.all_steps())
    m.close()


@case
def callback():
    seen = []
    m = mgr(
        async_options=ocp.AsyncOptions(
            post_finalization_callback=lambda: seen.append([x for x in names() if "tmp" not in x])
        )
    )
    for s in range(2):
        m.save(s, args=J(s))
        m.wait_until_finished()
    say("seen", seen)
    m.close()


@case
def callback_fails():
    def f():
        raise ValueError("cb")

    m = mgr(async_options=ocp.AsyncOptions(post_finalization_callback=f))
    m.save(0, args=J(0))
    attempt("w", m.wait_until_finished, "cb")
    say("a", m.all_steps())
    m.reload()
    say("a", m.all_steps())
    m.close()


@case
def thread_saves():
    m = mgr()
    got = []

    def w():
        got.extend(m.save(s, args=J(s)) for s in range(3))
        m.wait_until_finished()

    t = threading.Thread(target=w)
    t.start()
    t.join()
    say("g", got)
    say("a", m.all_steps())
    attempt("main", lambda: m.restore(2))
    m.close()
    say("n", names())


@case
def unserializable_json():
    m = mgr()
    attempt("s", lambda: m.save(0, args=J(object())))
    with contextlib.suppress(TypeError):
        m.close()
    m = mgr()
    say("a", m.all_steps())
    m.close()


@case
def timeouts():
    say("t", ocp.AsyncOptions().timeout_secs)
    m = mgr(async_options=ocp.AsyncOptions(timeout_secs=5))
    say("t", m._checkpointer._async_manager._timeout_secs)
    m.close()
    m = mgr()
    say("t", m._checkpointer._async_manager._timeout_secs)
    m.close()
    m = ocp.CheckpointManager(
        root, ocp.AsyncCheckpointer(ocp.JsonCheckpointHandler(), timeout_secs=100)
    )
    say("t", m._checkpointer._async_manager._timeout_secs)
    m.close()
    m = ocp.CheckpointManager(
        root,
        {
            "a": ocp.AsyncCheckpointer(ocp.JsonCheckpointHandler(), timeout_secs=100),
            "b": ocp.AsyncCheckpointer(ocp.JsonCheckpointHandler(), timeout_secs=200),
            "c": ocp.Checkpointer(ocp.JsonCheckpointHandler()),
        },
    )
    say("t", m._checkpointer._async_manager._timeout_secs)
    m.close()
    m = ocp.CheckpointManager(
        root,
        ocp.AsyncCheckpointer(ocp.JsonCheckpointHandler(), timeout_secs=600),
        options=Options(async_options=ocp.AsyncOptions(timeout_secs=500)),
    )
    say("t", m._checkpointer._async_manager._timeout_secs)
    m.close()


@case
def finalize_patched():
    at = ocp.path.atomicity
    m = mgr()
    with mock.patch.object(at.AtomicRenameTemporaryPath, "finalize", return_value=None):
        m.save(0, args=J(0))
        attempt("w", m.wait_until_finished)
        say("a", m.all_steps())
        m.reload()
        say("a", m.all_steps())
        tmp = [x for x in names() if "tmp" in x]
        say("tmp", len(tmp))
        st = ocp.metadata.checkpoint_metadata_store(enable_write=False)
        md = st.read(root / tmp[0])
        say("md", [md.init_timestamp_nsecs is not None, md.commit_timestamp_nsecs is None])
        attempt("r", lambda: m.restore(0))
    n = mgr()
    say("a", n.all_steps())
    attempt("s", lambda: n.save(0, args=J(1)))
    n.wait_until_finished()
    say("v", n.restore(0))
    n.close()
    m.close()


@case
def fake_tmp():
    tu = ocp.test_utils
    m = mgr()
    for s in range(3):
        m.save(s, args=J(s))
    m.wait_until_finished()
    tu.save_fake_tmp_dir(root, 5, "params")
    m.reload()
    say("a", m.all_steps())
    say("n", len(names()))
    m.close()
    m = mgr()
    say("a", m.all_steps())
    say("s", m.save(5, args=J(5)))
    m.close()
    say("tmps", len([x for x in names() if "tmp" in x]))
    m = mgr(cleanup_tmp_directories=True)
    say("n", names())
    m.close()


@case
def multi_items_one_fails():
    h = Bad()
    h.mode = "ok"
    m = ocp.CheckpointManager(
        root, item_handlers={"a": h, "b": ocp.JsonCheckpointHandler()}, options=Options()
    )
    m.save(0, args=C(a=BadSave(1), b=J(1)))
    m.wait_until_finished()
    h.mode = "write"
    m.save(1, args=C(a=BadSave(1), b=J(1)))
    attempt("w", m.wait_until_finished, "write failure")
    say("a", m.all_steps())
    attempt("r", lambda: m.restore(1))
    say("r", m.restore(0))
    m.close()
