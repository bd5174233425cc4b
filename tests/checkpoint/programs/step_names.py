# SPDX-License-Identifier: Apache-2.0
import asyncio
import sys

import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from saying import attempt, case, common, say

root = epath.Path(sys.argv[1])  # of each case its own
A, _, _, J, names, mgr = common(ocp, lambda: root)

step = ocp.path.step


def mk(*n):
    for x in n:
        (root / x).mkdir(parents=True, exist_ok=True)


def steps(it):
    return sorted((m.step, m.path.name) for m in it)


@case
def build():
    for a in (
        (None, None),
        ("p", None),
        (None, 4),
        ("p", 4),
        ("", None),
        ("a_b", 2),
        (None, 1),
        (None, 0),
    ):
        attempt(
            str(a), lambda: [step.standard_name_format(*a).build_name(s) for s in (0, 7, 23, 12345)]
        )
    attempt(
        "kw",
        lambda: step.standard_name_format(step_prefix="x", step_format_fixed_length=3).build_name(
            5
        ),
    )
    say("eq", step.standard_name_format("a", 3) == step.standard_name_format("a", 3))
    say("neq", step.standard_name_format("a", 3) == step.standard_name_format("a", 4))
    say(
        "str",
        "a" in str(step.standard_name_format("a", 3))
        and "3" in str(step.standard_name_format("a", 3)),
    )
    attempt(
        "hash",
        lambda: hash(step.standard_name_format("a", 3)) == hash(step.standard_name_format("a", 3)),
    )
    attempt("set", lambda: setattr(step.standard_name_format("a", 3), "step_prefix", 3))


@case
def find_all():
    mk(
        "0",
        "00",
        "1",
        "01",
        "10",
        "100",
        "007",
        "abc",
        "p_1",
        "p_01",
        "p_10",
        "-1",
        "1.0",
        "1a",
        "p_",
        "_5",
        "pp_3",
        "3.orbax-checkpoint-tmp-1",
        "p_4.orbax-checkpoint-tmp-2",
        "a.b_3",
        "aXb_3",
        "metadata",
        "p_q_2",
    )
    (root / "55").write_text("file")
    for a in (
        (None, None),
        (None, 1),
        (None, 2),
        (None, 3),
        ("p", None),
        ("p", 2),
        ("", None),
        ("a.b", None),
        ("p_q", None),
    ):
        say(str(a), steps(step.standard_name_format(*a).find_all(root)))
    attempt("missing", lambda: list(step.standard_name_format().find_all(root / "no")))


@case
def find_step():
    mk("0", "p_0007", "3.orbax-checkpoint-tmp-1")
    f = step.standard_name_format()
    m = f.find_step(root, 0)
    say(
        "m",
        [
            m.step,
            m.path.name,
            m.init_timestamp_nsecs,
            m.commit_timestamp_nsecs,
            m.commit_timestamp.tzinfo is not None,
        ],
    )
    attempt("3", lambda: f.find_step(root, 3), "3")
    attempt("4", lambda: f.find_step(root, 4), "4")
    g = step.standard_name_format("p", 4)
    say("7", g.find_step(root, 7).path.name)
    attempt("8", lambda: g.find_step(root, 8), "p_0008")
    attempt("str dir", lambda: f.find_step(str(root), 0).path.name)
    attempt("fsp", lambda: step.find_step_path(root, f, step=3))
    attempt("fsp", lambda: step.find_step_path(root, f, step=3, include_uncommitted=True).name)
    attempt("fsp", lambda: step.find_step_path(root, f, step=0, include_uncommitted=True).name)
    attempt("fsp", lambda: step.find_step_path(root, f, step=9, include_uncommitted=True))
    attempt("fsp", lambda: step.find_step_path(root, f, step=0).name)
    mk("0.orbax-checkpoint-tmp-7")
    attempt("fsp pref", lambda: step.find_step_path(root, f, step=0, include_uncommitted=True).name)
    m2 = step.Metadata(step=1, path=root / "0")
    attempt("cmp", lambda: m2 == step.Metadata(1, root / "0"))
    attempt("hash", lambda: hash(m2) == hash(step.Metadata(1, root / "0")))
    attempt("frozen", lambda: setattr(m2, "step", 3))


@case
def composite():
    mk("1", "p_2", "p_3", "2")
    a, b = step.standard_name_format(), step.standard_name_format("p")
    attempt("notin", lambda: step.composite_name_format(a, [b]))
    c = step.composite_name_format(b, [b, a])
    say("all", steps(c.find_all(root)))
    say("name", c.build_name(9))
    say("2", c.find_step(root, 2).path.name)
    say("1", c.find_step(root, 1).path.name)
    attempt("7", lambda: c.find_step(root, 7), "p_7")
    say("latest", step.latest_step_metadata(root, c).path.name)
    c2 = step.composite_name_format(a, [a, b])
    say("2", c2.find_step(root, 2).path.name)
    say("eq", c == step.composite_name_format(b, [b, a]))
    m = mgr(step_name_format=c)
    say("l", m.latest_step())
    m.save(10, args=J(1))
    m.close()
    say("n", names())


@case
def latest_and_path():
    mk("1", "5", "10")
    f = step.standard_name_format()
    say("l", step.latest_step_metadata(root, f).step)
    attempt("p", lambda: step.step_metadata_of_checkpoint_path(root / "5", f).step)
    attempt(
        "np",
        lambda: step.step_metadata_of_checkpoint_path(root / "7", f),
        "Failed to resolve step metadata of checkpoint path",
    )
    attempt(
        "np",
        lambda: step.step_metadata_of_checkpoint_path(root / "x", f),
        "Failed to resolve step metadata of checkpoint path",
    )
    (root / "e").mkdir()
    say("none", step.latest_step_metadata(root / "e", f))
    attempt("miss", lambda: step.latest_step_metadata(root / "zz", f))


@case
def from_name():
    for n in (
        "0",
        "0000",
        "12",
        "checkpoint_003400",
        "foobar_000505.orbax-checkpoint-tmp-13124",
        "12.orbax-checkpoint-tmp-1",
        "abc",
        "checkpoint_",
        "checkpoint_1010_",
        "_191",
        "a_b_3",
        ".orbax-checkpoint-tmp-1",
        "0.orbax-checkpoint-tmp-",
        "-1",
        "1.5",
        "",
        " 1",
        "p_1x",
        "p-1",
    ):
        attempt(n, lambda: step.step_from_checkpoint_name(n))
    say("u", ocp.utils.step_from_checkpoint_name("a_7"))


@case
def finality():
    mk("0", "1.orbax-checkpoint-tmp-3", "0/x.orbax-checkpoint-tmp-3")
    (root / "f").write_text("")
    for f in (step.is_checkpoint_finalized, step.is_tmp_checkpoint):
        for n in ("0", "1.orbax-checkpoint-tmp-3", "f", "none", "0/x.orbax-checkpoint-tmp-3"):
            attempt(f.__name__ + n, lambda: f(root / n))
            attempt(f.__name__ + n, lambda: f(str(root / n)))
    say("tmp", step.tmp_checkpoints(root))
    attempt("tmp miss", lambda: step.tmp_checkpoints(root / "no"))
    step.cleanup_tmp_directories(root)
    say("n", names())
    attempt("cl miss", lambda: step.cleanup_tmp_directories(root / "no"))


@case
def list_steps():
    mk("0", "2", "p_3", "q_4", "5.orbax-checkpoint-tmp-1", "x")
    attempt("ck", lambda: sorted(ocp.utils.checkpoint_steps(root)))
    attempt(
        "ck1",
        lambda: sorted(
            map(int, ocp.utils.checkpoint_steps(root, single_host_load_and_broadcast=True))
        ),
    )
    attempt("paths", lambda: sorted(p.name for p in ocp.utils.checkpoint_steps_paths(root)))
    attempt("any", lambda: ocp.utils.any_checkpoint_step(root) in (0, 2, 3, 4))
    attempt("miss", lambda: ocp.utils.checkpoint_steps(root / "no"), "does not exist")
    attempt("missany", lambda: ocp.utils.any_checkpoint_step(root / "no"))
    (root / "e").mkdir()
    attempt("e", lambda: ocp.utils.checkpoint_steps(root / "e"))
    attempt("eany", lambda: ocp.utils.any_checkpoint_step(root / "e"))
    attempt("strs", lambda: sorted(ocp.utils.checkpoint_steps(str(root))))


@case
def save_directory():
    g = step.get_save_directory
    for k in (
        {"step": 1, "directory": "d"},
        {"step": 1, "directory": "d", "name": "n"},
        {
            "step": 555,
            "directory": "dir",
            "name": "params",
            "step_prefix": "foo",
            "step_format_fixed_length": 8,
        },
        {"step": 1, "directory": "d", "name": "n", "override_directory": "o"},
        {"step": 1, "directory": "d", "override_directory": "o"},
        {"step": 1, "directory": None},
        {"step": 1, "directory": None, "override_directory": "o"},
        {
            "step": 3,
            "directory": "d",
            "step_name_format": step.standard_name_format("z"),
            "step_prefix": "y",
        },
    ):
        attempt(str(sorted(k)), lambda: str(g(**k)))
    attempt("pos", lambda: str(g(1, "d", "n", "p")))
    say("bsp", str(step.build_step_path("d", step.standard_name_format("z"), 4)))
    say(
        "u",
        [
            step.step_prefix_with_underscore(None),
            step.step_prefix_with_underscore("x"),
            step.step_prefix_with_underscore(""),
        ],
    )


@case
def custom_format():

    class F:
        def build_name(self, s):
            return f"it-{s:05d}-x"

        def find_all(self, base):
            for p in epath.Path(base).iterdir():
                if p.name.startswith("it-") and p.name.endswith("-x"):
                    yield step.Metadata(int(p.name[3:8]), p)

        def find_step(self, base, s):
            p = epath.Path(base) / self.build_name(s)
            if not p.exists():
                raise ValueError(f"no {p.name}")
            return step.Metadata(s, p)

        def __repr__(self):
            return "F"

    f = F()
    m = mgr(step_name_format=f, max_to_keep=2)
    for s in range(4):
        m.save(s, args=J({"s": s}))
    m.wait_until_finished()
    say("n", names())
    say("a", m.all_steps())
    say("r", m.restore(3))
    attempt("r", lambda: m.restore(1), "no it-00001-x")
    m.delete(3)
    say("n", names())
    m.close()
    m = mgr(step_name_format=f)
    attempt("r", lambda: m.restore(2, args=A.JsonRestore()))
    attempt("i", lambda: m.item_metadata(9), "no it-00009-x")
    m.close()


@case
def consts():
    say(
        "c",
        [
            step.TMP_DIR_SUFFIX,
            step.WORLD_READABLE_MODE,
            ocp.utils.TMP_DIR_SUFFIX,
            step._COMMIT_SUCCESS_FILE,
            ocp.step is step,
        ],
    )
    import re

    say(
        "p",
        [
            bool(re.match(step.TMP_DIR_STEP_PATTERN, n))
            for n in (
                "1.orbax-checkpoint-tmp-1",
                "a_1.orbax-checkpoint-tmp-1",
                "1",
                "x.orbax-checkpoint-tmp-1",
            )
        ],
    )
    say("gcs", [step.is_gcs_path(epath.Path("/a")), step.is_gcs_path(epath.Path("gs://a"))])
    for mod in ("step", "atomicity", "deleter", "format_utils", "utils", "async_utils"):
        say(mod, hasattr(ocp.path, mod))
    names = (
        "checkpoint_steps any_checkpoint_step checkpoint_steps_paths "
        "cleanup_tmp_directories get_save_directory is_checkpoint_finalized "
        "is_gcs_path is_tmp_checkpoint record_saved_duration "
        "step_from_checkpoint_name tmp_checkpoints TMP_DIR_SUFFIX "
        "lockdir is_locked async_makedirs "
        "async_exists async_write_bytes sync_global_processes "
        "sync_global_devices broadcast_one_to_all reached_preemption "
        "is_primary_host serialize_tree deserialize_tree "
        "to_flat_dict from_flat_dict from_flattened_with_keypath "
        "tuple_path_from_keypath get_key_name is_dict_key "
        "is_sequence_key is_empty_node is_empty_or_leaf "
        "to_shape_dtype_struct leaf_placeholder leaf_is_placeholder "
        "name_from_leaf_placeholder all_leaves_are_placeholders pytree_structure "
        "is_scalar fully_replicated_host_local_array_to_global_array "
    )
    for n in names.split():
        say(n, hasattr(ocp.utils, n))


@case
def locks():
    mk("0", "1", "1/LOCKED", "p_02", "p_02/LOCKED")
    u = ocp.path.utils
    say("l", u.lockdir(root / "0").name)
    say("is", [u.is_locked(root / "0"), u.is_locked(root / "1")])
    attempt("m", lambda: u.is_locked(root / "9"))
    attempt("are", lambda: u.are_locked(root, (0, 1)))
    attempt("arep", lambda: u.are_locked(root, [2], step_prefix="p", step_format_fixed_length=2))
    attempt("arem", lambda: u.are_locked(root, [7]))
    attempt(
        "fmt", lambda: u.are_locked(root, [2], step_name_format=step.standard_name_format("p", 2))
    )


@case
def placeholders():
    u = ocp.utils
    say("p", u.leaf_placeholder("a.b"))
    say(
        "is",
        [u.leaf_is_placeholder(x) for x in ("PLACEHOLDER://x", "AGGREGATED://x", "x", 1, None)],
    )
    attempt(
        "n",
        lambda: [u.name_from_leaf_placeholder(x) for x in ("PLACEHOLDER://x", "AGGREGATED://y")],
    )
    attempt("bad", lambda: u.name_from_leaf_placeholder("x"))
    attempt(
        "all",
        lambda: [
            u.all_leaves_are_placeholders(x) for x in ({"a": "PLACEHOLDER://x"}, {"a": 1}, {})
        ],
    )
    mk("t/a.b", "t/c", "t/d.0", "t/_sharding")
    (root / "t/_METADATA").write_text("{}")
    attempt("s", lambda: u.pytree_structure(root / "t"))
    attempt("miss", lambda: u.pytree_structure(root / "zz"))
    import jax.numpy as jnp

    say(
        "sc",
        [
            u.is_scalar(x)
            for x in (
                1,
                1.5,
                True,
                np.float32(1),
                np.int8(1),
                np.array(1),
                jnp.ones(()),
                "a",
                None,
                1j,
                np.bool_(True),
            )
        ],
    )


@case
def async_utils():
    au = ocp.path.async_utils

    async def f():
        await au.async_makedirs(root / "a/b", parents=True)
        await au.async_makedirs(root / "a/b")
        say("e", [await au.async_exists(root / "a/b"), await au.async_exists(root / "zz")])
        await au.async_write_bytes(root / "a/f", b"xyz")
        say("r", (root / "a/f").read_text())
        say("st", (await au.async_stat(root / "a/f")).length)
        say("tmp", await au.async_is_tmp_checkpoint(root / "a"))
        await au.async_rmtree(root / "a")
        say("n", names())

    asyncio.run(f())

    async def g():
        await au.async_makedirs(root / "q/r/s")

    attempt("noparents", lambda: asyncio.run(g()))

    async def h():
        await au.async_makedirs(root / "e")
        await au.async_makedirs(root / "e", exist_ok=False)

    attempt("exist", lambda: asyncio.run(h()))
