# SPDX-License-Identifier: Apache-2.0
"""Peak memory: what a save or a load needs beyond the state itself, measured from outside.

    python bench/peaks.py --gib 1 2 4 --dir bench/.scratch          all cases, one after the other
    python bench/peaks.py --gib 1 --case save/one --dir ...          one of them

Knows states, ways to save and load, and the bound each must keep. Knows nothing of clocks. Each
case runs in a process of its own: an allocator keeps what another case has freed.

Extra memory of a save is the peak of anonymous memory minus what there was before; of a load, minus
what there is afterwards as well, for that is the state that was asked for. Pages of mapped files
are the kernel's, who takes them back when somebody needs the room: they do not count.
"""

import argparse
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from memory import PeakMemory, resident

MIB = 1 << 20
DEVICES = 8


@dataclass(frozen=True)
class Case:
    """`run` saves or loads; `keep` is where it leaves what it has loaded."""

    state: str
    run: Callable[[str, Any], Any]
    saves: bool
    how: Mapping[str, Any] | None = None


def build(kind: str, total_bytes: int) -> Any:
    """A state of `total_bytes`, in memory that nothing else refers to."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    def filled(count: int, seed: int) -> Any:
        # Values that zstd can halve, and no two arrays alike.
        out = np.empty(count, np.float32)
        for start in range(0, count, MIB):
            part = out[start : start + MIB]
            part[...] = np.arange(start, start + len(part), dtype=np.uint32) * 7 + seed
        return out

    def device(count: int, seed: int, where: Any = None) -> Any:
        fill = jax.jit(
            lambda seed: jnp.arange(count, dtype=jnp.float32) * 1.5 + seed, out_shardings=where
        )
        return fill(np.float32(seed)).block_until_ready()

    if kind == "one":
        return {"w": device(total_bytes // 4, 1)}
    if kind == "matrix":
        return {"w": device(total_bytes // 4, 1).reshape(-1, 1024)}
    size = {"blocks": 64 * MIB, "numpy": 64 * MIB, "sharded": 256 * MIB, "small": 16 << 10}[kind]
    count = total_bytes // size
    if kind == "numpy":
        return {f"w{i}": filled(size // 4, i) for i in range(count)}
    if kind == "small":
        return {f"w{i}": np.full(size // 4, i, np.float32) for i in range(count)}
    where = None
    if kind == "sharded":
        mesh = jax.sharding.Mesh(np.array(jax.devices()), ("x",))
        where = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
        return {f"w{i}": device(size // 4, i, where).reshape(-1, 512) for i in range(count)}
    return {f"w{i}": device(size // 4, i) for i in range(count)}


def _specs(state: Any, **changes: Any) -> Any:
    import jax

    def spec(one: Any) -> Any:
        shape = changes.get("shape", lambda s: s)(one.shape)
        dtype = changes.get("dtype", one.dtype)
        where = changes.get("sharding", getattr(one, "sharding", None))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

    return jax.tree.map(spec, state)


# ---------------------------------------------------------------------------------------- the ways


def _save(path: str, state: Any, **how: Any) -> None:
    import pertinax

    pertinax.save(path, state, **how)


def _save_async(path: str, state: Any, **how: Any) -> None:
    import pertinax

    pertinax.save_async(path, state, **how).result()


def _manager(path: str, state: Any, **how: Any) -> None:
    import pertinax

    with pertinax.Manager(path, keep=1, **how) as manager:
        for step in range(3):
            manager.save(step, state)


def _door(path: str, state: Any, **how: Any) -> None:
    from pertinax import checkpoint as ocp

    with ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler(**how)) as checkpointer:
        checkpointer.save(path, args=ocp.args.PyTreeSave(state))


def _load(path: str, specs: Any, **how: Any) -> Any:
    import pertinax

    return pertinax.load(path, specs, **how)


def _plain(path: str, _: Any, **how: Any) -> Any:
    import pertinax

    return pertinax.load(path, **how)


def _reshard(path: str, specs: Any, **how: Any) -> Any:
    import jax
    import numpy as np

    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("x",))
    where = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "x"))
    return _load(path, _specs(specs, sharding=where), **how)


def _cast(path: str, specs: Any, **how: Any) -> Any:
    return _load(path, _specs(specs, dtype="bfloat16"), cast="lossy", **how)


def _pad(path: str, specs: Any, **how: Any) -> Any:
    import jax

    def one(spec: Any) -> Any:
        longer = (spec.shape[0] + 8, *spec.shape[1:])
        where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        return jax.ShapeDtypeStruct(longer, spec.dtype, sharding=where)

    return _load(path, jax.tree.map(one, specs), shapes="pad", **how)


def _verify(path: str, _: Any, **how: Any) -> Any:
    import pertinax

    report = pertinax.verify(path, **how)
    assert not report.damage if hasattr(report, "damage") else True
    return None


def _restore(path: str, specs: Any, **how: Any) -> Any:
    from pertinax import checkpoint as ocp

    handler = ocp.PyTreeCheckpointHandler(**how)
    with ocp.Checkpointer(handler) as checkpointer:
        args = ocp.args.PyTreeRestore(
            specs, restore_args=ocp.checkpoint_utils.construct_restore_args(specs)
        )
        return checkpointer.restore(path, args=args)


ZSTD = {"compression": "zstd"}
CUT = {"chunk_bytes": 16 * MIB}


def cases() -> dict[str, Case]:
    """All cases by name."""
    out: dict[str, Case] = {}
    for state in ("one", "blocks", "small", "sharded", "numpy"):
        out[f"save/{state}"] = Case(state, _save, saves=True)
        out[f"save_async/{state}"] = Case(state, _save_async, saves=True)
    for state in ("one", "blocks"):
        out[f"Manager/{state}"] = Case(state, _manager, saves=True)
        out[f"save zstd/{state}"] = Case(state, lambda p, s: _save(p, s, **ZSTD), saves=True)
        out[f"door save/{state}"] = Case(state, _door, saves=True)
    out["save zstd chunks/one"] = Case("one", lambda p, s: _save(p, s, **ZSTD, **CUT), saves=True)
    out["save chunks/sharded"] = Case("sharded", lambda p, s: _save(p, s, **CUT), saves=True)
    out["door save budget/one"] = Case(
        "one", lambda p, s: _door(p, s, save_concurrent_gb=1), saves=True
    )
    for layout in ("directory+zarr2", "directory+zarr3"):
        out[f"save {layout}/blocks"] = Case(
            "blocks", lambda p, s, layout=layout: _save(p, s, layout=layout), saves=True
        )
        out[f"load {layout}/blocks"] = Case("blocks", _load, saves=False, how={"layout": layout})
    for state in ("one", "blocks", "small", "sharded"):
        out[f"load/{state}"] = Case(state, _load, saves=False)
        out[f"load mmap=False/{state}"] = Case(
            state, lambda p, s: _load(p, s, mmap=False), saves=False
        )
    out["load plain/blocks"] = Case("blocks", _plain, saves=False)
    for state in ("sharded", "matrix"):
        out[f"load resharded/{state}"] = Case(state, _reshard, saves=False)
        out[f"load resharded mmap=False/{state}"] = Case(
            state, lambda p, s: _reshard(p, s, mmap=False), saves=False
        )
    for state in ("one", "blocks"):
        for name, way in (("cast", _cast), ("pad", _pad)):
            out[f"load {name}/{state}"] = Case(state, way, saves=False)
            out[f"load {name} mmap=False/{state}"] = Case(
                state, lambda p, s, way=way: way(p, s, mmap=False), saves=False
            )
        out[f"load zstd/{state}"] = Case(state, _load, saves=False, how=ZSTD)
        out[f"door restore/{state}"] = Case(state, _restore, saves=False)
    out["load zstd chunks/one"] = Case("one", _load, saves=False, how={**ZSTD, **CUT})
    out["load zstd chunks mmap=False/one"] = Case(
        "one", lambda p, s: _load(p, s, mmap=False), saves=False, how={**ZSTD, **CUT}
    )
    out["load zstd chunks resharded/matrix"] = Case(
        "matrix", _reshard, saves=False, how={**ZSTD, **CUT}
    )
    out["load chunks/one"] = Case("one", _load, saves=False, how=CUT)
    out["load chunks cast/one"] = Case("one", _cast, saves=False, how=CUT)
    out["door restore budget/one"] = Case(
        "one", lambda p, s: _restore(p, s, restore_concurrent_gb=1), saves=False
    )
    out["verify/blocks"] = Case("blocks", _verify, saves=False)
    return out


# -------------------------------------------------------------------------------------------- run


def measure(name: str, total_bytes: int, directory: str) -> dict[str, Any]:
    """One case in this process."""
    import jax

    import pertinax

    case = cases()[name]
    state = build(case.state, total_bytes)
    path = os.path.join(directory, "c")
    if case.saves:
        pertinax.save(os.path.join(directory, "warm"), {"w": jax.numpy.zeros(1 << 20)})
    else:
        pertinax.save(path, state, **(case.how or {}))
        specs = _specs(state)
        state = None
    gc.collect()
    with PeakMemory() as peak:
        found = case.run(path, state if case.saves else specs)
        jax.block_until_ready(found)
        if not case.saves:
            gc.collect()
            after = resident("self")
    extra = peak.extra if case.saves else min(peak.extra, max(0, peak.peak - after))
    result = 0 if case.saves else max(0, after - peak.before)
    return {"case": name, "state": total_bytes, "extra": extra, "result": result}


def _alone(name: str, gib: float, directory: str) -> dict[str, Any]:
    """One case in a process of its own."""
    with tempfile.TemporaryDirectory(dir=directory) as place:
        command = [sys.executable, os.path.abspath(__file__), "--inside", place]
        command += ["--case", name, "--gib", str(gib)]
        flags = f"--xla_force_host_platform_device_count={DEVICES}"
        environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        return {"case": name, "state": int(gib * 1024) * MIB, "failed": done.returncode}
    return json.loads(done.stdout.splitlines()[-1])


def _all(names: list[str], sizes: list[float], directory: str) -> Iterator[dict[str, Any]]:
    os.makedirs(directory, exist_ok=True)
    for gib in sizes:
        for name in names:
            yield _alone(name, gib, directory)
    shutil.rmtree(directory, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, nargs="+", default=[1, 2, 4])
    parser.add_argument("--case", nargs="*")
    parser.add_argument("--dir", default=os.path.join(os.path.dirname(__file__), ".scratch"))
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        print(json.dumps(measure(args.case[0], int(args.gib[0] * 1024) * MIB, args.inside)))
        return
    for found in _all(args.case or list(cases()), args.gib, args.dir):
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
