# SPDX-License-Identifier: Apache-2.0
import asyncio
import json
import sys
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from saying import attempt, say

root = epath.Path(sys.argv[1])
th = ocp.type_handlers
here = jnp.ones(1).sharding


class Point:
    def __init__(self, x, y):
        self.x, self.y = x, y


class PointHandler(th.TypeHandler):
    log: ClassVar[list] = []

    def typestr(self):
        return "Point"

    async def metadata(self, infos):
        return [ocp.metadata.Metadata(name=i.name, directory=i.parent_dir) for i in infos]

    async def serialize(self, values, infos, args=None):
        self.log.append(["serialize", sorted(i.name for i in infos), [a.dtype for a in args]])
        self.log.append([infos[0].value_typestr, infos[0].is_ocdbt_checkpoint, infos[0].use_zarr3])
        self.log.append([i.path.relative_to(i.parent_dir).as_posix() == i.name for i in infos])
        for value, info in zip(values, infos, strict=True):
            (info.parent_dir / f"{info.name}.point").write_text(json.dumps([value.x, value.y]))
        return []

    async def deserialize(self, infos, args=None):
        self.log.append(
            ["deserialize", sorted(i.name for i in infos), [a.restore_type for a in args]]
        )
        texts = [(i.parent_dir / f"{i.name}.point").read_text() for i in infos]
        return [json.loads(text) for text in texts]


class PlusOne(th.NumpyHandler):
    async def serialize(self, values, infos, args=None):
        return await super().serialize([value + 1 for value in values], infos, args)


# Registries.
attempt("unknown type", lambda: th.get_type_handler(Point), "Unknown type")
attempt("unknown name", lambda: th.get_type_handler("Point"), "Unknown type")
attempt("has", lambda: [th.has_type_handler(t) for t in (int, bool, Point, "scalar", "Point")])
kinds = (int, float, bool, np.float32, np.ndarray, type(jnp.ones(1)), str)
attempt("stock", lambda: [type(th.get_type_handler(k)).__name__ for k in kinds])
attempt("names", lambda: [th.get_type_handler(k).typestr() for k in kinds])
registry = th.create_type_handler_registry(
    (Point, PointHandler()), (int, th.ScalarHandler()), (float, th.ScalarHandler())
)
attempt("private", lambda: [registry.has(t) for t in (int, float, Point, str)])
attempt("twice", lambda: registry.add(int, th.ScalarHandler()), "already registered")
attempt("collides", lambda: registry.add(str, PointHandler()), "collides")
attempt("adds", lambda: registry.add(np.ndarray, th.NumpyHandler()))
attempt("by function", lambda: registry.add(list, PlusOne(), lambda t: t is list, override=True))
attempt("found", lambda: [type(registry.get(t)).__name__ for t in (list, np.ndarray)])
attempt("last name", lambda: type(registry.get("np.ndarray")).__name__)
values = (1, True, 1.5, np.int8(1), np.ones(1), jnp.ones(1), "s", {}, [], (), None, object())
attempt(
    "typestrs", lambda: [th.get_param_typestr(v, th.GLOBAL_TYPE_HANDLER_REGISTRY) for v in values]
)
attempt("supported", lambda: [th.is_supported_type(v) for v in values])
attempt("empties", lambda: [th.is_supported_empty_value(v) for v in values])
attempt("empty names", lambda: [th.get_empty_value_typestr(v) for v in ({}, [], (), None)])
attempt("no empty", lambda: th.get_empty_value_typestr(1))
attempt("of names", lambda: [th.get_empty_value_from_typestr(n) for n in ("Dict", "List", "None")])
attempt("no name", lambda: th.get_empty_value_from_typestr("scalar"))
attempt("args", lambda: th.check_input_arguments([1, 2], [3, 4]))
attempt("no args", lambda: th.check_input_arguments([], []))
attempt("uneven args", lambda: th.check_input_arguments([1], [3, 4]))
attempt("types", lambda: th.default_restore_type(ocp.ArrayRestoreArgs()) is jax.Array)
attempt("types", lambda: th.default_restore_type(ocp.RestoreArgs()) is np.ndarray)
attempt("no type", lambda: th.default_restore_type(1))
attempt("keywords", lambda: th.register_standard_handlers_with_options(metadata_key="k"))
attempt("subdir", lambda: th.get_process_index_for_subdir(True, "x"))
attempt("subdir", lambda: [th.get_process_index_for_subdir(o) for o in (True, False)])
info = th.ParamInfo(name="a.b", path=epath.Path("/x/y/a.b"), parent_dir=epath.Path("/x/y"))
say("info", [info.skip_deserialize, info.use_zarr3, info.enable_pinned_host_transfer])
attempt("read spec", lambda: th.get_json_tspec_read(info, True))
attempt("read spec", lambda: th.get_json_tspec_read(info, False, "key"))
attempt("nowhere", lambda: th.get_json_tspec_read(th.ParamInfo(name="a"), True))
shape, dtype = ((8, 4), (4, 4)), np.dtype("float32")
attempt("write spec", lambda: th.get_json_tspec_write(info, True, *shape, dtype, process_index=3))
narrow = th.SaveArgs(dtype=jnp.dtype("bfloat16"), chunk_byte_size=16)
attempt("write spec", lambda: th.get_json_tspec_write(info, False, *shape, dtype, arg=narrow))
attempt("cast", lambda: th.get_cast_tspec_serialize({"a": 1}, np.ones(2, "f4"), narrow))
attempt("cast", lambda: th.get_cast_tspec_deserialize({"a": 1}, ocp.RestoreArgs(dtype=dtype)))
attempt("no cast", lambda: th.get_cast_tspec_deserialize({"a": 1}, ocp.RestoreArgs()))
attempt("layout", lambda: th.get_sharding_tensorstore_spec("/x", "a/b"))


# Handlers, called by themselves.
def infos_in(directory, names, ocdbt=True, zarr3=False):
    context = th.get_ts_context(ocdbt)
    return [
        th.ParamInfo(
            name=n,
            path=directory / str(n),
            parent_dir=directory,
            is_ocdbt_checkpoint=ocdbt,
            use_zarr3=zarr3,
            ts_context=context,
        )
        for n in names
    ]


async def save_all(handler, values, infos, args=None):
    for future in await handler.serialize(values, infos, args):
        future.result()


def by_itself(name, handler, values, args, restore_args, ocdbt=True, zarr3=False):
    directory = root / f"{name}-{ocdbt}-{zarr3}".replace(" ", "_")
    directory.mkdir()
    names = [f"leaf{i}" for i in range(len(values))]

    async def work():
        infos = infos_in(directory, names, ocdbt, zarr3)
        await save_all(handler, values, infos, args)
        if ocdbt:
            context = th.get_ts_context(True)
            await th.merge_ocdbt_per_process_files(directory, context, zarr3)
        infos = infos_in(directory, names, ocdbt, zarr3)
        found = await handler.deserialize(infos, restore_args)
        known = await handler.metadata(infos)
        about = [
            [m.name, str(getattr(m, "dtype", None)), list(getattr(m, "shape", ()))] for m in known
        ]
        return [list(found), about, th.is_ocdbt_checkpoint(directory)]

    attempt(name, lambda: asyncio.run(work()))


half = [ocp.SaveArgs(dtype=jnp.dtype("bfloat16")), ocp.SaveArgs()]
back = [ocp.RestoreArgs(), ocp.RestoreArgs(dtype=np.dtype("float32"))]
placed = [ocp.ArrayRestoreArgs(sharding=here), ocp.ArrayRestoreArgs(sharding=here, dtype=dtype)]
for ocdbt in (True, False):
    for zarr3 in (False, True):
        by_itself("numpy", th.NumpyHandler(), [np.ones(3), np.arange(4)], half, back, ocdbt, zarr3)
        by_itself("scalar", th.ScalarHandler(), [1, 2.5], None, back, ocdbt, zarr3)
        by_itself(
            "jax", th.ArrayHandler(), [jnp.ones(3), jnp.arange(4)], half, placed, ocdbt, zarr3
        )
by_itself("text", th.StringHandler(), ["a", "ü"], None, back, False)
cut = [ocp.ArrayRestoreArgs(sharding=here, global_shape=(2,), strict=False)]
by_itself("cut", th.ArrayHandler(), [jnp.arange(4)], None, cut)
strict = [ocp.ArrayRestoreArgs(sharding=here, global_shape=(2,))]
attempt("sizes", lambda: th.NumpyHandler().memory_size([np.ones(3)]))
attempt("sizes", lambda: th.ScalarHandler().memory_size([1, 1.5]))
attempt("sizes", lambda: th.StringHandler().memory_size(["abc"]))
attempt("sizes", lambda: th.ArrayHandler().memory_size([jnp.ones(3)]))
attempt("no sizes", lambda: PointHandler().memory_size([Point(1, 2)]))


def reading(handler, names, args, ocdbt, where):
    return lambda: asyncio.run(handler.deserialize(infos_in(where, names, ocdbt), args))


one = root / "cut-True-False"
attempt("shape", reading(th.ArrayHandler(), ["leaf0"], strict, True, one), "not compatible")
attempt("no args", reading(th.ArrayHandler(), ["leaf0"], None, True, one))
attempt("absent", reading(th.StringHandler(), ["x"], None, False, one), "NOT_FOUND")
attempt("absent", reading(th.NumpyHandler(), ["x"], None, False, one))
attempt("absent", reading(th.ArrayHandler(), ["x"], placed[:1], False, one))
attempt("array", reading(th.ScalarHandler(), ["leaf0"], None, True, one), "not a scalar")
attempt("no name", reading(th.ArrayHandler(), [None], [ocp.RestoreArgs()], True, one))
single = th.SingleReplicaArrayHandler()
attempt("single", reading(single, ["leaf0"], None, True, one))
attempt("single", reading(single, ["leaf0"], placed[:1], True, one))
no_replica = [th.SingleReplicaArrayRestoreArgs(sharding=here)]
attempt("single", reading(single, ["leaf0"], no_replica, True, one))

# Trees.
mine = th.create_type_handler_registry(
    (Point, PointHandler()), (int, th.ScalarHandler()), (np.ndarray, PlusOne())
)
for options in ({}, {"use_ocdbt": False}, {"use_zarr3": True}):
    name = "tree" + "".join(options)
    checkpointer = ocp.Checkpointer(
        ocp.PyTreeCheckpointHandler(type_handler_registry=mine, **options)
    )
    tree = {"p": Point(1, 2), "l": [Point(3, 4), 5], "n": np.arange(3), "e": {}, "none": None}
    attempt(name, lambda: checkpointer.save(root / name, tree))
    attempt(name, lambda: checkpointer.restore(root / name))
    attempt(name, lambda: checkpointer.restore(root / name, item=tree))
    attempt("points", lambda: sorted(p.name for p in (root / name).glob("*.point")))
    say("log", PointHandler.log)
    PointHandler.log.clear()
attempt("text", lambda: checkpointer.save(root / "text", {"s": "x"}), "TypeHandler lookup failed")
plain = ocp.PyTreeCheckpointer()
attempt(
    "object", lambda: plain.save(root / "object", {"p": Point(1, 2)}), "TypeHandler lookup failed"
)
attempt("stranger", lambda: plain.restore(root / "tree"))
before = list(th.GLOBAL_TYPE_HANDLER_REGISTRY._type_registry)
th.register_type_handler(np.ndarray, PlusOne(), override=True)
attempt("global", lambda: plain.save(root / "global", {"n": np.arange(3), "i": 1}))
attempt("global", lambda: plain.restore(root / "global"))
th.GLOBAL_TYPE_HANDLER_REGISTRY._type_registry = before
attempt("put back", lambda: plain.restore(root / "global"))
as_type = {"n": ocp.RestoreArgs(restore_type=Point), "i": ocp.RestoreArgs()}
attempt("as", lambda: plain.restore(root / "global", restore_args=as_type))
