# SPDX-License-Identifier: Apache-2.0
"""Peak memory of saves and loads of 128 MiB, in a process of its own: one line of JSON for each.

`python -m tests.core.memory_cases DIRECTORY`. Knows the ways to save and load, and `bench.memory`.
"""

import gc
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from bench.memory import PeakMemory, resident

import pertinax
from pertinax import checkpoint as ocp

MIB = 1 << 20
STATE = 128 * MIB
BUDGET = 16 * MIB
ZSTD = {"compression": "zstd", "chunk_bytes": 8 * MIB, "budget_bytes": BUDGET}


def arrays(count: int) -> dict[str, jax.Array]:
    size = STATE // 4 // count
    return {f"w{i}": jnp.full((size // 1024, 1024), i, jnp.float32) + i for i in range(count)}


def small() -> dict[str, np.ndarray]:
    return {f"w{i}": np.full(4 << 10, i, np.float32) for i in range(STATE >> 14)}


def specs(state: Any, *, dtype: Any = np.float32, rows: int = 0, where: Any = None) -> Any:
    where = where or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return {
        name: jax.ShapeDtypeStruct((one.shape[0] + rows, one.shape[1]), dtype, sharding=where)
        for name, one in state.items()
    }


def columns() -> jax.sharding.Sharding:
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("x",))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "x"))


def tell(name: str, way: Callable[[], Any], *, leaves: int = 1) -> None:
    """Print what `way` needs beyond what it returns."""
    gc.collect()
    with PeakMemory() as peak:
        kept = jax.block_until_ready(way())
        gc.collect()
        after = peak.before if kept is None else max(peak.before, resident("self"))
    found = {"name": name, "extra": peak.peak - after, "leaves": leaves}
    print(json.dumps(found), flush=True)
    del kept


def door_save(path: str, state: Any) -> None:
    with ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        checkpointer.save(path, args=ocp.args.StandardSave(state))


def door_restore(path: str, wanted: Any) -> Any:
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        return checkpointer.restore(path, args=ocp.args.StandardRestore(wanted))


def held(copy: np.ndarray) -> None:
    """Use it until even a watcher who waits for a processor has looked."""
    until_s = time.monotonic() + 1.0
    while time.monotonic() < until_s:
        copy.sum()


def saves(root: str) -> Any:
    """All saves; returns what the state was like."""
    one = arrays(1)
    tell("a copy", lambda: held(np.asarray(one["w0"]).copy()))
    tell("save", lambda: pertinax.save(f"{root}/one", one))
    tell("save_async", lambda: pertinax.save_async(f"{root}/async", one).result())
    tell("save zstd", lambda: pertinax.save(f"{root}/zstd", one, **ZSTD))
    tell("save through the door", lambda: door_save(f"{root}/door", one))
    like = specs(one)
    host = {name: np.asarray(value).copy() for name, value in arrays(4).items()}
    tell("save of numpy arrays", lambda: pertinax.save(f"{root}/host", host))
    many = small()
    tell("save of small arrays", lambda: pertinax.save(f"{root}/small", many), leaves=len(many))
    return like


def loads(root: str, like: Any) -> None:
    """All loads, of mapped files and of files that are read."""
    spread = specs(like, where=columns())
    for name, target, more in [
        ("load", like, {}),
        ("load cast", specs(like, dtype=jnp.bfloat16), {"cast": "lossy"}),
        ("load padded", specs(like, rows=8), {"shapes": "pad"}),
        ("load resharded", spread, {}),
    ]:
        load = partial(pertinax.load, f"{root}/one", target, budget_bytes=BUDGET, **more)
        tell(name, load)
        tell(f"{name}, read", partial(load, mmap=False))
    load = partial(pertinax.load, f"{root}/zstd", budget_bytes=BUDGET, mmap=False)
    tell("load zstd", lambda: load(like))
    tell("load zstd resharded", lambda: load(spread))
    tell("restore through the door", lambda: door_restore(f"{root}/door", like))


if __name__ == "__main__":
    pertinax.save(f"{sys.argv[1]}/warm", {"w": np.zeros(MIB)})  # brings in what is imported late
    pertinax.load(f"{sys.argv[1]}/warm")
    loads(sys.argv[1], saves(sys.argv[1]))
