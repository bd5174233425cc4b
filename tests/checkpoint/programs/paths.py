# SPDX-License-Identifier: Apache-2.0
import asyncio
import pickle
import sys
from unittest import mock

import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from saying import attempt, case, common, say

root = epath.Path(sys.argv[1])  # of each case its own
A, _, Options, J, _, mgr = common(ocp, lambda: root)

at = ocp.path.atomicity
step = ocp.path.step


def names(p=None):
    return sorted(x.name for x in (p or root).iterdir() if x.name != "pertinax.json")


def stamps(m):
    return m and [m.init_timestamp_nsecs, m.commit_timestamp_nsecs]


@case
def rename():
    root.mkdir(parents=True)
    t = at.AtomicRenameTemporaryPath.from_final(root / "a")
    say(
        "n",
        [
            t.get().name.startswith("a.orbax-checkpoint-tmp-"),
            t.get_final().name,
            t.get().parent == root,
        ],
    )
    say("e", names())
    asyncio.run(t.create())
    say("e", [t.get().exists(), t.get_final().exists()])
    attempt("f", lambda: t.finalize())
    say("e", [t.get().exists(), t.get_final().exists()])
    t2 = at.AtomicRenameTemporaryPath.from_final(root / "a")
    attempt("c", lambda: asyncio.run(t2.create()).name.startswith("a."))
    attempt("f", lambda: t2.finalize())
    say("r", "a" in repr(t2))
    M = at.AtomicRenameTemporaryPath.match
    say(
        "m",
        [
            M(root / x, root / "a")
            for x in (
                "a.orbax-checkpoint-tmp-1",
                "a.orbax-checkpoint-tmp-",
                "a",
                "b.orbax-checkpoint-tmp-1",
                "a.orbax-checkpoint-tmp-xyz",
            )
        ],
    )
    say("m", M(root / "x/a.orbax-checkpoint-tmp-1", root / "a"))


@case
def commitfile():
    root.mkdir(parents=True)
    t = at.CommitFileTemporaryPath.from_final(root / "a")
    say("n", [t.get() == t.get_final()])
    asyncio.run(t.create())
    say("e", names(root / "a"))
    t.finalize()
    say("e", names(root / "a"))
    M = at.CommitFileTemporaryPath.match
    say("m", [M(root / "a", root / "a"), M(root / "b", root / "a")])
    attempt(
        "again", lambda: asyncio.run(at.CommitFileTemporaryPath.from_final(root / "a").create())
    )


@case
def create_rules():
    root.mkdir(parents=True)
    t = at.AtomicRenameTemporaryPath.from_final(root / "x/y/a")
    attempt("parents", lambda: asyncio.run(t.create()).exists())
    (t.get() / "junk").write_text("")
    attempt("again", lambda: asyncio.run(t.create()).exists())
    say("j", (t.get() / "junk").exists())
    ts = [at.AtomicRenameTemporaryPath.from_final(root / n) for n in "bc"]
    attempt("all", lambda: asyncio.run(at.create_all(ts)))
    say("x", [t.get().exists() for t in ts])
    st = ocp.metadata.checkpoint_metadata_store(enable_write=True, blocking_write=True)
    t = at.AtomicRenameTemporaryPath.from_final(root / "d", checkpoint_metadata_store=st)
    asyncio.run(t.create())
    say(
        "md",
        [
            st.read(t.get()).init_timestamp_nsecs is not None,
            st.read(t.get()).commit_timestamp_nsecs,
        ],
    )
    t.finalize()
    say("md", st.read(root / "d").commit_timestamp_nsecs is not None)
    import os

    o = os.umask(0)
    t = at.AtomicRenameTemporaryPath.from_final(root / "m")
    asyncio.run(t.create(file_options=ocp.options.FileOptions(path_permission_mode=0o711)))
    say("mode", oct(t.get().stat().mode & 0o777))
    t = at.AtomicRenameTemporaryPath.from_final(
        root / "m2", file_options=ocp.options.FileOptions(path_permission_mode=0o733)
    )
    asyncio.run(t.create(file_options=ocp.options.FileOptions()))
    say("mode", oct(t.get().stat().mode & 0o777))
    t = at.AtomicRenameTemporaryPath.from_final(root / "m3")
    asyncio.run(t.create())
    say("mode", oct(t.get().stat().mode & 0o777))
    os.umask(o)
    t = at.AtomicRenameTemporaryPath.from_final(root / "e")
    asyncio.run(t.create())
    attempt("occ", lambda: at.on_commit_callback(t, checkpoint_start_time=1.0))
    say("e", (root / "e").exists())
    say(
        "default",
        [at.get_default_temporary_path_class(epath.Path(p)).__name__ for p in ("/a", "gs://a/b")],
    )
    say("gtd", "-checkpoint-tmp-" in at._get_tmp_directory(root / "e").name)


@case
def store():
    root.mkdir(parents=True)
    f = ocp.metadata.checkpoint_metadata_store
    SM = ocp.metadata.StepMetadata
    b, r, n = f(enable_write=True, blocking_write=True), f(enable_write=False), f(enable_write=True)
    say(
        "is",
        [
            b.is_blocking_writer(),
            r.is_blocking_writer(),
            n.is_blocking_writer(),
            f(enable_write=True, blocking_write=True) is b,
            f(enable_write=False) is r,
            f(enable_write=True) is n,
        ],
    )
    say("none", b.read(root))
    b.write(root, SM(init_timestamp_nsecs=1))
    say("r", [r.read(root).init_timestamp_nsecs, r.read(root).commit_timestamp_nsecs])
    b.update(root, commit_timestamp_nsecs=5)
    say("r", [b.read(root).init_timestamp_nsecs, b.read(root).commit_timestamp_nsecs])
    attempt("miss", lambda: b.write(root / "no", SM()), "Checkpoint path does not exist")
    attempt("unknown", lambda: b.update(root, blah=1), "got an unexpected keyword argument")
    r.write(root, SM(init_timestamp_nsecs=77))
    r.update(root, init_timestamp_nsecs=78)
    say("r", r.read(root).init_timestamp_nsecs)
    n.write(root, SM(init_timestamp_nsecs=2))
    n.update(root, commit_timestamp_nsecs=3)
    n.wait_until_finished()
    say("n", [n.read(root).init_timestamp_nsecs, n.read(root).commit_timestamp_nsecs])
    n.write(root / "no", SM())
    attempt("nmiss", n.wait_until_finished, "Checkpoint path does not exist")
    attempt("again", n.wait_until_finished)
    for x in (b, n):
        attempt("pickle", lambda: pickle.dumps(x), "cannot pickle")
    attempt("pickle r", lambda: pickle.loads(pickle.dumps(r)).is_blocking_writer())
    n.close()
    n.close()
    for t in ("", "{", '{"init_timestamp_nsecs": 4, "zz": 1}', "{}"):
        (root / "_CHECKPOINT_METADATA").write_text(t)
        attempt(
            "t" + t,
            lambda: stamps(r.read(root)),
        )
    say(
        "fd",
        [
            SM.from_dict({"init_timestamp_nsecs": 3, "q": 1}).init_timestamp_nsecs,
            SM() == SM(None, None),
        ],
    )
    attempt(
        "ckpt",
        lambda: ocp.Checkpointer(
            ocp.JsonCheckpointHandler(), checkpoint_metadata_store=f(enable_write=True)
        ),
    )
    say("kw", b.read(checkpoint_path=root).commit_timestamp_nsecs)


@case
def gcs():
    with mock.patch.object(step, "is_gcs_path", return_value=True):
        m = mgr()
        say("s", m.save(0, args=J({"a": 1})))
        m.wait_until_finished()
        say("n", names())
        say("n", names(root / "0"))
        say("i", names(root / "0/default"))
        say("r", m.restore(0))
        (root / "1").mkdir()
        m.reload()
        say("a", m.all_steps())
        attempt("unmarked", lambda: m.restore(1), "Found incomplete checkpoint")
        attempt("s", lambda: m.save(1, args=J(2)))
        m.wait_until_finished()
        say("r", m.restore(1))
        m.close()
        (root / "7").mkdir()
        m = mgr(cleanup_tmp_directories=True)
        say("n", [x for x in names() if x.isdigit()])
        m.close()


@case
def gcs_composite_metrics():
    with mock.patch.object(step, "is_gcs_path", return_value=True):
        m = mgr(best_fn=lambda x: x, max_to_keep=1, todelete_subdir="zz")
        for s in range(3):
            m.save(s, args=A.Composite(a=J(s)), metrics=-s)
        m.wait_until_finished()
        say("a", m.all_steps())
        say("n", names())
        m.close()
        m = mgr(best_fn=lambda x: x)
        say("m", m.metrics(0))
        say("b", m.best_step())
        m.close()


@case
def tpc():
    m = mgr(temporary_path_class=at.CommitFileTemporaryPath)
    m.save(0, args=J(1))
    m.wait_until_finished()
    say("n", "commit_success.txt" in names(root / "0"))
    say("a", m.all_steps())
    say("r", m.restore(0))
    m.close()
    m = mgr(temporary_path_class=at.AtomicRenameTemporaryPath)
    m.save(1, args=J(1))
    m.close()
    say("n", [n for n in names() if "tmp" not in n])


@case
def detect():
    f = ocp.path.format_utils
    m = mgr()
    m.save(0, args=A.PyTreeSave({"a": np.arange(3)}))
    m.close()
    (root / "file").write_text("")
    say("is", [f.is_orbax_checkpoint(root / x) for x in ("0", "0/default")])
    say("root", f.is_orbax_checkpoint(root))
    attempt("miss", lambda: f.is_orbax_checkpoint(root / "x"))
    attempt("file", lambda: f.is_orbax_checkpoint(root / "file"))
    say("oc", [f.is_ocdbt_checkpoint(root / x) for x in ("0", "0/default")])
    (root / "0/_CHECKPOINT_METADATA").unlink()
    say("is", f.is_orbax_checkpoint(root / "0"))
    say("c", f.PYTREE_METADATA_FILE)


@case
def deleter():
    d = ocp.path.deleter
    for bg in (False, True):
        for sub in (None, "trash"):
            r = root / f"{bg}{sub}"
            with ocp.CheckpointManager(r) as m:
                for s in range(4):
                    m.save(s, args=J(s))
            x = d.create_checkpoint_deleter(0, r, sub, step.standard_name_format(), bg)
            say("k", type(x).__name__)
            x.delete(0)
            x.delete_steps([1, 2])
            attempt("miss", lambda: x.delete(9))
            x.close()
            x.close()
            say("n", names(r))
            if sub:
                say("t", names(r / sub))
    attempt("std", lambda: d.StandardCheckpointDeleter(0, root, None, step.standard_name_format()))
    attempt(
        "thr",
        lambda: d.ThreadedCheckpointDeleter(0, root, None, step.standard_name_format()).close(),
    )


@case
def loggers():
    L = ocp.logging.abstract_logger
    got = []

    class My(L.AbstractLogger):
        def log_entry(self, msg, *a, **k):
            got.append(msg)

    m = ocp.CheckpointManager(
        root,
        logger=ocp.logging.composite_logger.CompositeLogger(My(), My()),
        options=Options(save_interval_steps=2),
    )
    for s in range(3):
        m.save(s, args=J(s))
    m.restore(0)
    m.close()
    say("n", len(got))
    say("k", [sorted(g) for g in got[::2]])
    say(
        "v",
        [
            [g["step"], g["event_type"], g.get("synchronous"), g["directory"] == str(root)]
            for g in got[::2]
        ],
    )
    say("none", [[k for k, v in sorted(g.items()) if v is None] for g in got[::2]])
    import dataclasses

    for n in ("SaveStepStatistics", "RestoreStepStatistics", "EmergencyRestoreStepStatistics"):
        c = getattr(ocp.logging.step_statistics, n)
        say(n, [(f.name, repr(getattr(c(), f.name))) for f in dataclasses.fields(c)])
    attempt("std", lambda: ocp.logging.standard_logger.StandardLogger().log_entry({"a": 1}))
    attempt(
        "strange",
        lambda: ocp.logging.composite_logger.CompositeLogger(
            My(), 3, ocp.logging.composite_logger.CompositeLogger()
        ).log_entry("x"),
    )
    say("n", len(got))
