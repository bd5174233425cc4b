# SPDX-License-Identifier: Apache-2.0
"""One tree with everything that a layout must carry, for this Orbax and for the old one.

Knows jax, numpy and ml_dtypes, of any age: the old environment runs it as well. Knows nothing of
checkpoints.
"""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

LAYOUTS = [(True, False), (True, True), (False, False), (False, True)]
"""`use_ocdbt` and `use_zarr3`."""
LIMITS = [(None, None), (96, None), (None, 700), (64, 0)]
"""The bytes of a chunk and of a data file."""
CASES = [
    *(
        (f"{use_ocdbt}-{use_zarr3}", use_ocdbt, use_zarr3, (96, None))
        for use_ocdbt, use_zarr3 in LAYOUTS
    ),
    ("files", True, True, (None, 700)),
    ("one", True, False, (64, 0)),
    ("whole", False, True, (None, None)),
]
"""Name, layout and limits of what is exchanged with the old one."""
DTYPES = (
    "bool int8 uint8 int16 uint16 int32 uint32 int64 uint64 float16 float32 float64 complex64 "
    "complex128 bfloat16 float8_e4m3fn float8_e4m3fnuz float8_e4m3b11fnuz float8_e5m2 "
    "float8_e5m2fnuz int4"
).split()
NEW_DTYPES = ["int2", "float4_e2m1fn", "float8_e3m4", "float8_e8m0fnu"]
"""What Orbax 0.12 can store beside these."""
WIDE = ("int64", "uint64", "float64", "complex128")


def values(name, shape, seed):
    """Elements that every dtype has, in an order of their own."""
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    numbers = (np.arange(int(np.prod(shape))) * 7 + seed) % (2 if dtype.itemsize == 1 else 101)
    numbers = numbers + (name == "float8_e8m0fnu")
    return numbers.reshape(shape).astype(dtype)


def laid_out(shape, *spec, name="float32"):
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("x", "y"))
    return jax.device_put(values(name, shape, 3), NamedSharding(mesh, PartitionSpec(*spec)))


def tree(dtypes=DTYPES):
    """The tree; the same each time."""
    return {
        "jax": {n: jnp.asarray(values(n, (6, 4), 1)) for n in dtypes if n not in WIDE},
        "numpy": {n: values(n, (3, 8), 2) for n in dtypes},
        "sharded": {
            "both": laid_out((8, 16), "x", "y"),
            "flat": laid_out((64,), ("x", "y"), name="bfloat16"),
            "columns": laid_out((6, 8, 2), None, "y", name="int32"),
            "everywhere": laid_out((5, 3)),
            "rows": laid_out((12, 40), "x", name="int8"),
        },
        "scalars": {"i": -3, "f": 0.1, "t": True, "n": np.float32(2.5), "j": jnp.int32(7)},
        "texts": {"plain": "words", "wide": "Wörter ✓", "none": ""},
        "empties": {"d": {}, "l": [], "t": (), "n": None},
        "lists": [np.arange(i + 1) for i in range(11)],
        "a/b": {"c.d": np.arange(4), "e": jnp.zeros((2, 2))},
    }


def arrays():
    """Values that the handler of single arrays takes."""
    return {
        "jax": jnp.arange(8.0),
        "sharded": laid_out((16, 3), "x"),
        "numpy": np.arange(6).reshape(2, 3),
        "half": values("bfloat16", (5,), 0),
        "number": np.float32(2.5),
        "int": 5,
        "float": 0.25,
    }


def jax_keys():
    """Keys of `jax.random` that every release can hold."""
    return {
        "typed": jax.random.key(3),
        # not split: releases of jax do that differently
        "several": jax.random.wrap_key_data(jnp.arange(8, dtype=jnp.uint32).reshape(4, 2)),
        "untyped": jax.random.PRNGKey(5),
    }


def numpy_keys():
    """States of numpy's random numbers, in both forms."""
    state = np.random.RandomState(7)
    state.normal()
    return {"tuple": state.get_state(), "dict": state.get_state(legacy=False)}
