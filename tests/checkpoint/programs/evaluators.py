# SPDX-License-Identifier: Apache-2.0
import sys
import threading
import time

import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from saying import attempt, case, common, say

root = epath.Path(sys.argv[1])  # of each case its own
A, _, Options, J, names, _ = common(ocp, lambda: root)

cu = ocp.checkpoint_utils


def save(*steps, **o):
    with ocp.CheckpointManager(root, options=Options(**o)) as m:
        for s in steps:
            m.save(s, args=J(s), force=True)


def wait(**k):
    with cu.wait_for_new_checkpoint(root, **k) as s:
        return s


@case
def wait_existing():
    save(0, 1, 2, 3)
    for u in (None, 0, 1, 3, 4, 100):
        attempt(str(u), lambda: wait(until_step=u, timeout=0))
    attempt("t", lambda: wait(until_step=4, timeout=0.3, seconds_to_sleep=0.1))
    attempt("fn", lambda: wait(until_step=1, timeout=0, timeout_fn=lambda: True))
    say("snap", (root / "_SNAPSHOTS").exists() and names(root / "_SNAPSHOTS"))


@case
def wait_missing_dir():
    attempt("t", lambda: wait(timeout=0))
    attempt("t", lambda: wait(timeout=0.2, seconds_to_sleep=0.05))


@case
def wait_fn_count():
    n = []

    def f():
        n.append(1)
        return len(n) >= 4

    attempt("w", lambda: wait(timeout=0, seconds_to_sleep=0.01, timeout_fn=f))
    say("n", len(n))


@case
def wait_comes():
    root.mkdir(parents=True)
    t = threading.Timer(0.3, lambda: save(7))
    t.start()
    attempt("w", lambda: wait(seconds_to_sleep=0.05, timeout=30))
    t.join()


@case
def iterate():
    save(0, 1, 2)
    say("l", list(cu.checkpoints_iterator(root, timeout=0)))


@case
def iterate_more():
    save(0)
    seen = []
    for s in cu.checkpoints_iterator(root, timeout=0):
        seen.append(s)
        if s < 4:
            save(s + 1, s + 2)
    say("l", seen)


@case
def iterate_fn():
    save(3)
    n = []

    def f():
        n.append(1)
        return len(n) >= 4

    say("l", list(cu.checkpoints_iterator(root, timeout=0, seconds_to_sleep=0.01, timeout_fn=f)))
    say("n", len(n) in (4, 5))


@case
def iterate_empty():
    root.mkdir(parents=True)
    say("l", list(cu.checkpoints_iterator(root, timeout=0)))


@case
def iterate_missing():
    say("l", list(cu.checkpoints_iterator(root, timeout=0, seconds_to_sleep=0.01)))


@case
def prefixes():
    save(1, 2, step_prefix="ck", step_format_fixed_length=4)
    say(
        "l",
        list(
            cu.checkpoints_iterator(root, timeout=0, step_prefix="ck", step_format_fixed_length=4)
        ),
    )
    say(
        "f",
        list(
            cu.checkpoints_iterator(
                root, timeout=0, step_name_format=ocp.step.standard_name_format("ck", 4)
            )
        ),
    )
    attempt("wrong", lambda: wait(timeout=0))


@case
def snapshot_during():
    save(0, 1)
    for s in cu.checkpoints_iterator(root, timeout=0):
        say("n", names(root / "_SNAPSHOTS"))
        d = cu.get_snapshot_dir_from_step_dir(root / str(s))
        say("d", d.name)
        with ocp.CheckpointManager(root) as m:
            m.delete(s)
        attempt(
            "read",
            lambda: ocp.Checkpointer(ocp.CompositeCheckpointHandler("default")).restore(
                d, args=A.Composite(default=A.JsonRestore())
            ),
        )
    say("after", names(root / "_SNAPSHOTS"))
    say("n", names())


@case
def snapshot_elsewhere():
    save(0)
    other = root.parent / "snaps"
    with cu.wait_for_new_checkpoint(root, snapshot_dir=other, timeout=0):
        say("n", names(other))
        say("g", cu.get_snapshot_dir_from_step_dir(root / "0", other) == other / "0")


@case
def leftovers():
    save(0)
    (root / "_SNAPSHOTS/5").mkdir(parents=True)
    say("l", list(cu.checkpoints_iterator(root, timeout=0)))
    say("n", names(root / "_SNAPSHOTS"))


@case
def reader_error():
    save(0)

    def f():
        with cu.wait_for_new_checkpoint(root, timeout=0):
            raise KeyError("x")

    attempt("e", f)
    say("n", names(root / "_SNAPSHOTS"))


@case
def hooks():
    save(0)
    f = ocp.step.standard_name_format()
    say("c", cu._SNAPSHOTS)
    attempt("s", lambda: cu._snapshot_checkpoint(root, 0, f))
    say("n", names(root / "_SNAPSHOTS"))
    attempt("again", lambda: cu._snapshot_checkpoint(root, 0, f))
    attempt("r", lambda: cu._release_snapshot(root, 0, f))
    say("n", names(root / "_SNAPSHOTS"))
    attempt("r2", lambda: cu._release_snapshot(root, 0, f))
    attempt("miss", lambda: cu._snapshot_checkpoint(root, 9, f))


@case
def tmp_ignored():
    save(0)
    (root / "5.orbax-checkpoint-tmp-3").mkdir()
    (root / "6").write_text("file")
    say("l", list(cu.checkpoints_iterator(root, timeout=0)))


@case
def min_interval():
    save(0)
    t = time.time()
    seen = []
    for s in cu.checkpoints_iterator(root, timeout=0, min_interval_secs=0.4):
        seen.append(s)
        if s == 0:
            save(1)
    say("l", seen)
    say("t", time.time() - t >= 0.4)


@case
def crargs():
    import jax
    import jax.numpy as jnp

    mesh = jax.sharding.Mesh(np.asarray(jax.devices()), ("x",))
    sh = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))

    def show(a):
        return [
            type(a).__name__,
            getattr(a.restore_type, "__name__", str(a.restore_type)).rpartition(".")[2],
            str(getattr(a, "dtype", None) and np.dtype(a.dtype)),
            getattr(a, "global_shape", "-")
            if not isinstance(getattr(a, "global_shape", "-"), tuple)
            else list(a.global_shape),
            getattr(a, "sharding", None) is not None,
        ]

    f = cu.construct_restore_args
    for n, v in {
        "int": 1,
        "float": 1.5,
        "bool": True,
        "np": np.arange(3, dtype=np.int16),
        "jax": jnp.ones((8,)),
        "sds": jax.ShapeDtypeStruct((2,), np.float32),
        "sdss": jax.ShapeDtypeStruct((8,), np.float32, sharding=sh),
        "str": "x",
        "bytes": b"x",
        "f32": np.float32(1),
        "f64": np.float64(1),
        "none": None,
    }.items():
        attempt(n, lambda: show(f({"k": v})["k"]) if v is not None else f({"k": v}))
    attempt("sh", lambda: show(f({"k": jnp.ones((8,))}, {"k": sh})["k"]))
    attempt("nogs", lambda: show(f({"k": jnp.ones((8,))}, {"k": sh}, set_global_shape=False)["k"]))
    attempt("list", lambda: type(f([1, (2.0, "x")])).__name__)
