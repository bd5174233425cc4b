# SPDX-License-Identifier: Apache-2.0
"""Write golden checkpoints with whichever Orbax the interpreter has, and what must be read from them.

    python tests/golden/make_orbax.py            # writes tests/golden/orbax-<version>/
    python tests/golden/make_orbax.py DIRECTORY  # ... DIRECTORY/orbax-<version>/

Checkpoints that are there already are never written again: they are the promise that old files stay readable. Beside
each `<case>/` stand `<case>.json` (path, kind, dtype, shape of every leaf; text of strings) and `<case>.npz` (bytes).
Runs with Orbax 0.8.0 (jax 0.4.35) as well as 0.12.8 (jax 0.10.2), so it keeps to what both have.
"""

import json
import os
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

NEW = tuple(int(part) for part in ocp.__version__.split(".")[:2]) >= (0, 12)
DTYPES = [
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32",
    "float64", "complex64", "complex128", "bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e4m3b11fnuz",
    "float8_e5m2", "float8_e5m2fnuz", "int4",
]  # fmt: skip
if NEW:
    DTYPES += ["int2", "float4_e2m1fn", "float8_e3m4", "float8_e8m0fnu"]


def dtype_named(name):
    return np.dtype(getattr(ml_dtypes, name)) if hasattr(ml_dtypes, name) else np.dtype(name)


def values(shape, dtype, seed):
    """Deterministic elements: a linear congruence, cut to what the dtype can hold without a doubt."""
    dtype = dtype_named(dtype)
    count = int(np.prod(shape))
    state = (np.arange(count, dtype=np.uint64) + np.uint64(seed)) * np.uint64(6364136223846793005)
    small = ((state >> np.uint64(33)) % np.uint64(2 if dtype.itemsize == 1 else 200)).astype(np.int64)
    if dtype == bool:
        return (small % 2 == 1).reshape(shape)
    if dtype == dtype_named("float8_e8m0fnu"):
        small = small + 1
    if dtype.kind in "iu" and dtype.itemsize >= 4:
        return (state >> np.uint64(65 - 8 * dtype.itemsize)).astype(dtype).reshape(shape)
    if dtype.kind == "c":
        return (small + 1j * (small - 7.5)).astype(dtype).reshape(shape)
    return small.astype(dtype).reshape(shape)


def sharded(shape, dtype, seed, *spec):
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("x", "y"))
    return jax.device_put(values(shape, dtype, seed), NamedSharding(mesh, PartitionSpec(*spec)))


def dtypes_tree():
    tree = {"jax": {}, "numpy": {}}
    for i, name in enumerate(DTYPES):
        tree["numpy"][name] = values((3, 5), name, i)
        if name not in ("int64", "uint64", "float64", "complex128"):  # x64 is off
            tree["jax"][name] = jnp.asarray(values((6,), name, 50 + i))
    return tree


def layouts_tree():
    return {
        "both": sharded((16, 3), "float32", 1, ("x", "y")),
        "columns": sharded((6, 8), "bfloat16", 2, None, "y"),
        "grid": sharded((8, 8), "float32", 3, "x", "y"),
        "large": sharded((64, 48), "uint32", 4, "x", "y"),  # too random to be stored inline
        "replicated": sharded((5,), "int32", 5),
        "rows": sharded((8, 4), "int32", 6, "x"),
        "single": jnp.asarray(values((7, 3), "float32", 7)),
        "scalar": jnp.float32(2.5),
        "zeros": jnp.zeros((4, 4), jnp.float32),
        "numpy": values((21, 9), "float64", 8),
    }


def plain_tree():
    return {
        "empties": {"dict": {}, "list": [], "none": None, "tuple": ()},
        "it's": values((2,), "int32", 9),
        "keys": {"with.dot": values((2, 2), "float32", 10), "with/slash": {"k.w": jnp.arange(3)}},
        "list": [values((1,), "int32", i) for i in range(12)],
        "nested": [[1, [2.5, {"a": True}]], "deep", {"b": np.float32(0.5), "c": np.complex64(1 - 2j)}],
        "scalars": {"big": 2**62, "negative": -7, "npint": np.int16(-3)},
        "strings": {"plain": "hello", "s/q": "below a slash", "ü": "ünïcödé \n \"q\" ~/ €", "empty": ""},
    }


def keys_tree():
    return {
        "one": jax.random.key(7),
        "many": jax.random.split(jax.random.key(8), (2, 3)),
        "rbg": jax.random.key(9, impl="rbg"),
        "old": jax.random.PRNGKey(10),
    }


# ------------------------------------------------------------------------------------------------------------ expected


def describe(tree, path=()):
    """Leaves as (path, kind, value), in the order in which JAX and Orbax have them."""
    if isinstance(tree, dict):
        for key in sorted(tree):
            yield from describe(tree[key], (*path, ["key", key]))
    elif isinstance(tree, (list, tuple)):
        for i, child in enumerate(tree):
            yield from describe(child, (*path, ["index", i]))
    elif isinstance(tree, str):
        yield path, "str", tree
    elif isinstance(tree, jax.Array):
        typed = jnp.issubdtype(tree.dtype, jax.dtypes.prng_key)
        data = np.asarray(jax.random.key_data(tree) if typed else tree)
        yield path, "key" if typed else "jax", data
    elif isinstance(tree, np.ndarray):
        yield path, "numpy", tree
    elif tree is not None:
        data = np.asarray(tree)
        is_float = data.dtype.kind in "fV"
        kind = {"b": "bool", "i": "int", "u": "int", "c": "complex"}.get(data.dtype.kind)
        yield path, "float" if is_float else kind, data


def write_expected(stem, tree):
    rows, arrays = [], {}
    for i, (path, kind, value) in enumerate(describe(tree)):
        row = {"path": list(path), "kind": kind}
        if kind == "str":
            row["text"] = value
        else:
            row |= {"dtype": value.dtype.name, "shape": list(value.shape)}
            arrays[str(i)] = np.frombuffer(np.ascontiguousarray(value).tobytes(), np.uint8)
        rows.append(row)
    with open(stem + ".json", "w") as file:
        json.dump(rows, file, indent=0, ensure_ascii=True)
    np.savez_compressed(stem + ".npz", **arrays)


# --------------------------------------------------------------------------------------------------------------- cases


def save(directory, tree, *, use_ocdbt=True, use_zarr3=False, save_args=None, target_size=None):
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=use_ocdbt, use_zarr3=use_zarr3)
    args = ocp.args.PyTreeSave(tree, save_args=save_args, ocdbt_target_data_file_size=target_size)
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(directory, args=args)


def save_managed(directory, tree):
    options = ocp.CheckpointManagerOptions(best_fn=lambda metrics: metrics["loss"], max_to_keep=2)
    with ocp.CheckpointManager(directory, options=options, metadata={"run": "golden"}) as manager:
        for step in (1, 2, 3):
            items = {
                "state": ocp.args.PyTreeSave(tree),
                "config": ocp.args.JsonSave({"lr": 0.5, "step": step}),
            }
            manager.save(step, args=ocp.args.Composite(**items), metrics={"loss": 1.0 / step})
        manager.wait_until_finished()


def cases():
    for use_ocdbt in (True, False):
        for use_zarr3 in (False, True):
            tag = ("ocdbt" if use_ocdbt else "directory") + ("-zarr3" if use_zarr3 else "-zarr2")
            how = {"use_ocdbt": use_ocdbt, "use_zarr3": use_zarr3}
            yield f"dtypes-{tag}", dtypes_tree, how
            yield f"layouts-{tag}", layouts_tree, how
            yield f"plain-{tag}", plain_tree, how
            if NEW and use_ocdbt:
                yield f"keys-{tag}", keys_tree, how
    yield "subchunks-ocdbt-zarr2", layouts_tree, {"chunk": 96}
    yield "subchunks-ocdbt-zarr3", layouts_tree, {"chunk": 96, "use_zarr3": True}
    yield "files-ocdbt-zarr2", layouts_tree, {"target_size": 2048}
    yield "strings-ocdbt-zarr2", lambda: {"a": "only", "b": ["strings"], "c": {}}, {}
    if NEW:
        root = values((3, 4), "float32", 30)  # 0.8.0 cannot save it
        yield "root-directory-zarr2", lambda: root, {"use_ocdbt": False}
    else:
        zero = {"z": np.zeros((0, 3), "f4")}  # 0.12.8 refuses to
        yield "zero-directory-zarr2", lambda: zero, {"use_ocdbt": False}
    yield "managed", plain_tree, None


def main(root):
    top = os.path.join(os.path.abspath(root), f"orbax-{ocp.__version__}")
    os.makedirs(top, exist_ok=True)
    for name, make, how in cases():
        stem = os.path.join(top, name)
        if os.path.exists(stem):
            continue
        tree = make()
        if how is None:
            save_managed(stem, tree)
        else:
            chunk = how.pop("chunk", None)
            if chunk is not None:
                how["save_args"] = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=chunk), tree)
            save(stem, tree, **how)
        write_expected(stem, tree)
        print("wrote", stem)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__)))
