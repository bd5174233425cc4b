# SPDX-License-Identifier: Apache-2.0
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_manager as cm
from orbax.checkpoint import test_utils, utils
from saying import attempt, case, common, say

root = epath.Path(sys.argv[1])  # of each case its own
_, _, Options, J, names, mgr = common(ocp, lambda: root, anything=True)


@case
def root_is_file():
    root.write_text("x")
    attempt("f", lambda: ocp.CheckpointManager(root))


@case
def step_is_file():
    root.mkdir(parents=True)
    (root / "5").write_text("a file")
    m = mgr()
    attempt("r", lambda: m.restore(5))
    m.close()


@case
def subclassed():
    class M(ocp.CheckpointManager):
        def should_save(self, step):
            return step == 2 or super().should_save(step)

        def save(self, step, *a, **k):
            seen.append(step)
            return super().save(step, *a, **k)

        def latest_step(self):
            return super().latest_step()

    seen = []
    m = M(root, options=Options(save_interval_steps=3))
    say("s", [m.save(s, args=J(s)) for s in range(5)])
    say("seen", seen)
    m.close()
    say("n", names())


@case
def subclass_latest():
    class M(ocp.CheckpointManager):
        def latest_step(self):
            return 100

    m = M(root)
    say("s", m.should_save(5))
    m.close()


@case
def barrier_fn():
    calls = []
    m = mgr(
        o={
            "async_options": ocp.AsyncOptions(
                barrier_sync_fn=lambda *, key, timeout_ms: calls.append(key)
            ),
            "multiprocessing_options": cm.MultiprocessingOptions(barrier_sync_key_prefix="pre"),
        }
    )
    m.save(0, args=J(1))
    m.wait_until_finished()
    say("r", m.restore(0))
    m.close()


@case
def primary_none_single():
    mo = cm.MultiprocessingOptions(primary_host=None)
    m = mgr(
        o={"multiprocessing_options": mo},
        item_handlers=ocp.JsonCheckpointHandler(multiprocessing_options=mo),
    )
    m.save(0, args=J(1))
    m.wait_until_finished()
    say("r", m.restore(0))
    m.close()
    m = mgr(o={"multiprocessing_options": mo})
    attempt("s", lambda: m.save(1, args=J(2)))
    attempt("w", m.wait_until_finished)
    say("a", m.all_steps())
    m.close()


@case
def active_ok():
    root.mkdir(parents=True)
    m = mgr(
        o={
            "create": False,
            "multiprocessing_options": cm.MultiprocessingOptions(active_processes={0}),
        }
    )
    attempt("s", lambda: m.save(0, args=J(1)))
    m.wait_until_finished()
    say("r", m.restore(0))
    m.close()


@case
def restore_bad_step():
    m = mgr()
    m.save(0, args=J(1))
    m.wait_until_finished()
    for s in (-1, 99):
        attempt(str(s), lambda: m.restore(s))
    m.close()


@case
def should_save_kinds():
    m = mgr(o={"save_interval_steps": 2})
    m.save(0, args=J(1))
    say("s", [bool(m.should_save(k)) for k in (np.int64(2), np.int32(3), jnp.int32(4))])
    m.close()


@case
def fixed_counts():
    m = mgr(o={"max_to_keep": 3, "save_interval_steps": 2, "save_on_steps": [5, 7]})
    say("s", [s for s in range(12) if m.save(s, args=J(s))])
    m.wait_until_finished()
    say("a", m.all_steps())
    m.close()


@case
def save_on_steps_kinds():
    for k in (
        [1, 2],
        (1, 2),
        {1, 2},
        frozenset([1, 2]),
        range(1, 3),
        {1: 0, 2: 0},
        np.array([1, 2]),
    ):
        attempt(
            type(k).__name__,
            lambda: [s in Options(save_on_steps=k).save_on_steps for s in range(4)],
        )


@case
def utils_trees():
    t = {"a": {"b": 1, "c": [2, 3]}, "d": (4,), "e": {}, "f": None}
    attempt("flat", lambda: {"/".join(map(str, k)): v for k, v in utils.to_flat_dict(t).items()})
    attempt("flatsep", lambda: utils.to_flat_dict(t, sep="/"))
    attempt("keep", lambda: utils.to_flat_dict(t, sep=".", keep_empty_nodes=True))
    attempt("from", lambda: utils.from_flat_dict(utils.to_flat_dict(t, sep="/"), sep="/"))
    attempt(
        "fromt",
        lambda: utils.from_flat_dict(utils.to_flat_dict(t, keep_empty_nodes=True), target=t),
    )
    attempt("ser", lambda: utils.serialize_tree(t))
    attempt("serk", lambda: utils.serialize_tree(t, keep_empty_nodes=True))
    attempt(
        "des",
        lambda: (
            utils.deserialize_tree(
                utils.serialize_tree(t, keep_empty_nodes=True), t, keep_empty_nodes=True
            )
            == t
        ),
    )
    attempt(
        "kp",
        lambda: [
            utils.tuple_path_from_keypath(k) for k, _ in jax.tree_util.tree_flatten_with_path(t)[0]
        ],
    )
    attempt(
        "fk",
        lambda: utils.from_flattened_with_keypath(
            jax.tree_util.tree_flatten_with_path({"a": {"b": 1}, "c": {"d": 2}})[0]
        ),
    )
    attempt("empty", lambda: [utils.is_empty_node(x) for x in ({}, [], (), None, 0, "", {"a": 1})])
    attempt("eol", lambda: [utils.is_empty_or_leaf(x) for x in ({}, [], (), None, 0, "", {"a": 1})])
    attempt(
        "sds",
        lambda: list(utils.to_shape_dtype_struct(np.zeros((2, 3), np.float32)).shape),
    )
    attempt("sdsd", lambda: str(utils.to_shape_dtype_struct(np.zeros(2), dtype=np.int32).dtype))
    attempt("sdssc", lambda: utils.to_shape_dtype_struct(5))
    attempt("sdsstr", lambda: utils.to_shape_dtype_struct("x"))
    attempt("bad", lambda: utils.to_shape_dtype_struct(object()))
    k = jax.tree_util
    attempt(
        "keys",
        lambda: [
            utils.get_key_name(x)
            for x in (k.DictKey("a"), k.SequenceKey(3), k.GetAttrKey("z"), k.FlattenedIndexKey(2))
        ],
    )
    attempt(
        "isd",
        lambda: [
            utils.is_dict_key(x)
            for x in (k.DictKey("a"), k.SequenceKey(3), k.GetAttrKey("z"), k.FlattenedIndexKey(2))
        ],
    )
    attempt(
        "iss",
        lambda: [
            utils.is_sequence_key(x)
            for x in (k.DictKey("a"), k.SequenceKey(3), k.GetAttrKey("z"), k.FlattenedIndexKey(2))
        ],
    )


@case
def tools():
    root.mkdir(parents=True)
    (root / "a").mkdir()
    (root / "a/x").write_text("1")
    attempt("e", lambda: test_utils.erase_and_create_empty(root / "a").name)
    say("n", names(root / "a"))
    attempt(
        "tmp",
        lambda: test_utils.save_fake_tmp_dir(root, 3, "params", subdirs=["s"]).name.startswith(
            "3."
        ),
    )
    attempt(
        "pre",
        lambda: test_utils.save_fake_tmp_dir(root, 4, "params", step_prefix="p").name.startswith(
            "p_4."
        ),
    )
    attempt(
        "fx",
        lambda: test_utils.save_fake_tmp_dir(
            root, 5, "params", step_prefix="p", step_format_fixed_length=3, subdirs=["z"]
        ).name.startswith("p_005."),
    )
    say("tmps", len(utils.tmp_checkpoints(root)))
    say(
        "names",
        sorted(
            n
            for n in (
                "save_fake_tmp_dir",
                "create_tmp_directory",
                "ensure_atomic_save",
                "erase_and_create_empty",
                "ErrorCheckpointHandler",
                "setup_pytree",
                "setup_sharded_pytree",
                "assert_tree_equal",
                "print_directory",
                "apply_function",
                "create_empty",
                "get_fake_global_mesh_for_slices",
                "PyTreeCheckpointHandler",
            )
            if hasattr(test_utils, n)
        ),
    )


@case
def deletion_of_unfinished():
    d = ocp.path.deleter
    (root / "3.orbax-checkpoint-tmp-1").mkdir(parents=True)
    x = d.create_checkpoint_deleter(0, root, None, ocp.step.standard_name_format(), False)
    attempt("d", lambda: x.delete(3))
    say("n", names())
    x.close()


@case
def wait_strings():
    save = mgr()
    save.save(1, args=J(1))
    save.close()
    attempt(
        "it",
        lambda: list(ocp.checkpoint_utils.checkpoints_iterator(root, timeout=0, step_prefix=None)),
    )


@case
def record_duration():
    attempt("r", lambda: ocp.utils.record_saved_duration(time.time()))


@case
def step_metadata_build():
    root.mkdir(parents=True)
    [(root / str(i)).mkdir() for i in range(3)]
    attempt(
        "b",
        lambda: sorted(
            m.step
            for m in ocp.step.build_step_metadatas(
                iter(root.iterdir()),
                lambda p: ocp.step.Metadata(int(p.name), p) if p.name != "1" else None,
            )
        ),
    )

    def boom(p):
        raise KeyError("x")

    attempt("x", lambda: list(ocp.step.build_step_metadatas(iter(root.iterdir()), boom)))


@case
def commit_times():
    m = mgr()
    t0 = time.time_ns()
    m.save(0, args=J(1))
    m.wait_until_finished()
    t1 = time.time_ns()
    md = ocp.step.standard_name_format().find_step(root, 0)
    say("o", t0 <= md.init_timestamp_nsecs <= md.commit_timestamp_nsecs <= t1)
    say("tz", md.commit_timestamp.utcoffset().total_seconds())
    m.close()


@case
def reserved_legacy():
    c = ocp.Checkpointer(ocp.JsonCheckpointHandler())
    m = ocp.CheckpointManager(root, {"a": c})
    attempt("m", lambda: m.save(0, {"metrics": 1}))
    attempt("m", lambda: m.restore(0, {"metrics": 1}))
    m.close()


@case
def enter_twice():
    m = mgr()
    with m:
        m.save(0, args=J(0))

    def f():
        with m:
            m.save(1, args=J(1))

    attempt("again", f)


@case
def nested_dirs():
    m = ocp.CheckpointManager(root / "a/b/c")
    m.save(0, args=J(1))
    m.close()
    say("n", names(root / "a/b/c"))


@case
def gc_without_close():
    import gc

    m = mgr()
    m.save(0, args=J(1))
    m.wait_until_finished()
    del m
    gc.collect()
    say("n", names())


@case
def metrics_wrong_type_async():
    m = mgr(o={"best_fn": lambda x: 1})
    attempt("s", lambda: m.save(0, args=J(0), metrics=[1, {"a": (1, 2)}]))
    m.wait_until_finished()
    say("m", m.metrics(0))
    attempt("k", lambda: m.save(1, args=J(0), metrics={1: 2}))
    m.wait_until_finished()
    say("m", m.metrics(1))
    m.close()
