# SPDX-License-Identifier: Apache-2.0
"""What the environment of Orbax 0.8.0 does: read what we wrote, write what we read.

    python tests/interop/layouts/old_side.py OURS THEIRS

Knows that Orbax only, and the tree that both sides make for themselves. Prints the differences that
it finds, one a line, and nothing when all is well. Leaf by leaf it compares with what its own save
of the same tree gives back.
"""

import os
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import forest
import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts


def save(path, tree, use_ocdbt, use_zarr3, limits):
    chunk_bytes, file_bytes = limits
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=use_ocdbt, use_zarr3=use_zarr3)
    save_args = None
    if chunk_bytes is not None:
        save_args = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=chunk_bytes), tree)
    ocp.Checkpointer(handler).save(path, args=ocp.args.PyTreeSave(tree, save_args, file_bytes))


def restore(path):
    handler = ocp.PyTreeCheckpointHandler()
    args = jax.tree.map(_args_of, forest.tree(), is_leaf=_is_leaf)
    return ocp.Checkpointer(handler).restore(path, args=ocp.args.PyTreeRestore(restore_args=args))


def _is_leaf(value):
    return value is None or value in ([], {}, ()) if not hasattr(value, "dtype") else True


def _args_of(leaf):
    # This jax has another name for the device, so a layout on a single one must be told.
    if isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) == 1:
        return ocp.ArrayRestoreArgs(sharding=leaf.sharding)
    return ocp.RestoreArgs()


def chunks_of(path, use_ocdbt, use_zarr3):
    found = {}
    base = {"driver": "file", "path": path + "/"}
    for below in ("sharded", "numpy"):
        for name in forest.tree()[below]:
            key = f"{below}.{name}/"
            store = {"driver": "ocdbt", "base": base, "path": key}
            spec = {
                "driver": "zarr3" if use_zarr3 else "zarr",
                "kvstore": store if use_ocdbt else {"driver": "file", "path": f"{path}/{key}"},
            }
            found[key] = tuple(ts.open(spec).result().chunk_layout.read_chunk.shape)
    return found


def differences(mine, theirs, at):
    if isinstance(mine, dict) and isinstance(theirs, dict) and mine.keys() == theirs.keys():
        for key in mine:
            yield from differences(mine[key], theirs[key], f"{at}/{key}")
    elif (
        isinstance(mine, (list, tuple)) and type(mine) is type(theirs) and len(mine) == len(theirs)
    ):
        for i, (one, other) in enumerate(zip(mine, theirs, strict=True)):
            yield from differences(one, other, f"{at}/{i}")
    elif hasattr(mine, "dtype") and hasattr(theirs, "dtype"):
        left, right = np.asarray(mine), np.asarray(theirs)
        same = (left.dtype, left.shape) == (right.dtype, right.shape)
        if not same or left.tobytes() != right.tobytes() or type(mine) is not type(theirs):
            yield f"{at}: {left.dtype}{left.shape} is not {right.dtype}{right.shape}, or has others"
        elif isinstance(mine, jax.Array) and mine.sharding != theirs.sharding:
            yield f"{at}: {mine.sharding} is not {theirs.sharding}"
    elif type(mine) is not type(theirs) or mine != theirs:
        yield f"{at}: {mine!r} is not {theirs!r}"


def main(ours, theirs):
    for name, use_ocdbt, use_zarr3, limits in forest.CASES:
        save(f"{theirs}/{name}", forest.tree(), use_ocdbt, use_zarr3, limits)
        expected = restore(f"{theirs}/{name}")
        for line in differences(restore(f"{ours}/{name}"), expected, name):
            print(line)
        chunks = [chunks_of(f"{side}/{name}", use_ocdbt, use_zarr3) for side in (ours, theirs)]
        for key, shape in chunks[1].items():
            if shape != chunks[0][key]:
                print(f"{name}/{key}: chunks of {chunks[0][key]} are not {shape}")


def singles(ours, theirs):
    """Arrays and states of random numbers, each an item of its own."""
    handlers = [
        (ocp.ArrayCheckpointHandler, ocp.args.ArraySave, ocp.args.ArrayRestore, forest.arrays()),
        (
            ocp.JaxRandomKeyCheckpointHandler,
            ocp.args.JaxRandomKeySave,
            ocp.args.JaxRandomKeyRestore,
            forest.jax_keys(),
        ),
        (
            ocp.NumpyRandomKeyCheckpointHandler,
            ocp.args.NumpyRandomKeySave,
            ocp.args.NumpyRandomKeyRestore,
            forest.numpy_keys(),
        ),
    ]
    for handler, saving, restoring, values in handlers:
        for name, value in values.items():
            with ocp.Checkpointer(handler()) as checkpointer:
                checkpointer.save(f"{theirs}/{name}", args=saving(value))
                found = [
                    checkpointer.restore(f"{side}/{name}", args=restoring())
                    for side in (ours, theirs)
                ]
            yield from differences(*map(_plain, found), name)


def _plain(value):
    typed = isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key)
    return {str(value.dtype): jax.random.key_data(value)} if typed else value


if __name__ == "__main__":
    main(*sys.argv[1:])
    for line in singles(*sys.argv[1:]):
        print(line)
