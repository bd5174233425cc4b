# SPDX-License-Identifier: Apache-2.0
"""Write golden checkpoints with this version of Pertinax, and what must be read from them.

    python -m tests.golden.make_pertinax

Each format version has its directory, `pertinax-<version>/`. What is there already is never written
again: it is the promise that every version ever shipped stays readable. The values are made by
`golden_tree`, which must not change either.
"""

import os
from collections import OrderedDict, namedtuple
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + (
        " --xla_force_host_platform_device_count=8"
    )

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

HERE = Path(__file__).parent
Point = namedtuple("Point", "x y")
CASES = {
    "plain": {},
    "zstd": {"compression": "zstd", "chunk_bytes": 256},
    "zarr3": {"layout": "ocdbt+zarr3"},
    "directory": {"layout": "directory+zarr2", "chunk_bytes": 1024},
}


def golden_tree():
    """Every kind of leaf and container that format version 1 can hold, with fixed values."""
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(4, 2), ("x", "y"))
    spread = jnp.arange(64 * 12, dtype=jnp.float32).reshape(64, 12)
    numbers = np.arange(24).reshape(2, 3, 4)
    return {
        "spread": jax.device_put(spread, NamedSharding(mesh, PartitionSpec("x", "y"))),
        "replicated": jax.device_put(spread * 2, NamedSharding(mesh, PartitionSpec())),
        "dtypes": {
            name: jnp.asarray(numbers % 2, dtype=name)
            for name in ("bool", "int8", "uint16", "int32", "bfloat16", "float16", "float8_e4m3fn")
        },
        "narrow": jnp.asarray(numbers % 4, dtype="uint4"),
        "numpy": [numbers.astype("float64"), numbers.astype(">i4"), np.zeros((0, 3)), np.array(7)],
        "generic": np.float32(1.5),
        "times": np.array(["2026-11-21", "1970-01-01"], "datetime64[s]"),
        "keys": (jax.random.key(7), jax.random.split(jax.random.key(8, impl="rbg"), 3)),
        "plain": {True: 1, 2: 2.5, "2": 1 + 2j, (3, "a"): b"bytes", None: "text", b"k": 2**80},
        "empty": [None, {}, (), [], OrderedDict(), Point({}, None)],
        "ordered": OrderedDict(z=1, a=[2, (3, Point(4, "y"))]),
        "a": {"b": 1},
        "a.b": 2,
        "h": "s",
        "h/k": "t",
    }


def main():
    import pertinax
    from tests.golden.make_pertinax import golden_tree  # not of __main__: files name the classes

    root = HERE / "pertinax-1"  # the version of ledgers over whole items
    for name, options in CASES.items():
        if not (root / name).exists():
            pertinax.save(root / name, golden_tree(), **options)
            print("wrote", root / name)
    if not (root / "managed").exists():
        with pertinax.Manager(root / "managed") as manager:
            manager.save(3, golden_tree(), metrics={"loss": 0.25})
        print("wrote", root / "managed")


def part_tree() -> dict:
    """Inside a job of two processes: an array over both, and what each has for itself."""
    mesh = Mesh(np.array(jax.devices()), ("x",))
    rows = NamedSharding(mesh, PartitionSpec("x"))
    host = np.arange(12, dtype=np.float32).reshape(4, 3)
    array = jax.make_array_from_callback(host.shape, rows, lambda index: host[index])
    return {"rows": array, "host": np.arange(3), "name": "part"}


def save_part(root: str) -> None:
    """The part of one process of two, as `MultiprocessingOptions(primary_host=None)` writes it."""
    from pertinax import checkpoint as ocp

    alone = ocp.options.MultiprocessingOptions(primary_host=None)
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
        path = f"{root}/{jax.process_index()}/part"
        checkpointer.save(path, args=ocp.args.PyTreeSave(part_tree()))


def write_parts() -> None:
    """Version 2: items that hold a part of their arrays."""
    import tempfile

    from tests.golden import make_pertinax  # forked processes find functions by their module
    from tests.hosts import processes

    root = HERE / "pertinax-2"
    if not root.exists():
        with tempfile.TemporaryDirectory() as folder:
            processes.run(make_pertinax.save_part, 2, str(root), folder=Path(folder) / "job")
        print("wrote", root)


if __name__ == "__main__":
    main()
    write_parts()
