# SPDX-License-Identifier: Apache-2.0
"""Saving to and restoring from a bucket behind a slow link: requests have to be parallel.

    python bench/objects.py [--rounds 5] [--latency-ms 20] [--mb-per-s 200] [--json FILE]

A GCS server of the tests, and before it a proxy that makes each request wait and limits each
stream, both in processes of their own. Ours and Orbax take turns, in an order that changes with the
round; the proxy counts requests, and how many are under way at once. What is printed are medians.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
sys.path.insert(0, ROOT)

MIB = 1 << 20
WORKLOADS: dict[str, tuple[int, int]] = {
    "8 x 16 MiB": (8, 16 * MIB),
    "500 x 4 KiB": (500, 4096),
}

Save = Callable[[str, Any], None]
Restore = Callable[[str, Any], Any]


def main() -> int:
    """Measure, then print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--latency-ms", type=float, default=20.0)
    parser.add_argument("--mb-per-s", type=float, default=200.0)
    parser.add_argument("--json", help="also write what was measured to this file")
    args = parser.parse_args()
    from tests.objects.servers import running

    with running("gs") as server, link(server.port, args) as (port, count):
        os.environ.update(server.behind(port).environment)
        measured = {
            name: measure(server, count, *sizes, rounds=args.rounds)
            for name, sizes in WORKLOADS.items()
        }
    print(
        f"{args.latency_ms:g} ms a request, {args.mb_per_s:g} MB/s a stream, {args.rounds} rounds"
    )
    print(*table(measured), sep="\n")
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"arguments": vars(args), "measured": measured}, file, indent=1)
    return 0


@contextmanager
def link(port: int, args: argparse.Namespace) -> Iterator[tuple[int, Callable[[], dict[str, int]]]]:
    """The slow link; its port, and what passed since the last question."""
    command = [sys.executable, "-m", "tests.objects.faults", str(port)]
    command += ["--latency-s", str(args.latency_ms / 1e3)]
    command += ["--bytes-per-s", str(args.mb_per_s * 1e6)]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    child = subprocess.Popen(command, cwd=ROOT, text=True, **pipes)
    assert child.stdin
    assert child.stdout

    def count() -> dict[str, int]:
        print("?", file=child.stdin, flush=True)
        return json.loads(child.stdout.readline())

    try:
        yield int(child.stdout.readline()), count
    finally:
        child.kill()
        child.wait()


def measure(server: Any, count: Any, leaves: int, size: int, *, rounds: int) -> dict[str, Any]:
    """Seconds and requests by contestant and act. The first round is not counted."""
    import jax
    import numpy as np

    rng = np.random.default_rng(0)
    tree = {
        f"leaf{i:04d}": jax.device_put(rng.random(size // 4, np.float32)) for i in range(leaves)
    }
    target = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree
    )
    found: dict[str, Any] = {}
    contestants = {"pertinax": ours(), "Orbax": orbax()}
    for turn in range(rounds + 1):
        for name in sorted(contestants, reverse=bool(turn % 2)):
            save, restore = contestants[name]
            url = f"{server.new_root()}/run/{turn}"
            for act, run in (
                ("save", lambda save=save, url=url: save(url, tree)),
                ("restore", lambda restore=restore, url=url: restore(url, target)),
            ):
                count()
                begin_s = time.perf_counter()
                back = run()
                seconds = time.perf_counter() - begin_s
                if turn:
                    told = found.setdefault(name, {}).setdefault(act, [])
                    told.append({"seconds": seconds, **count()})
            jax.tree.map(np.testing.assert_array_equal, back, tree)
    return found


def ours() -> tuple[Save, Restore]:
    import jax

    import pertinax

    return pertinax.save, lambda url, target: jax.block_until_ready(pertinax.load(url, target))


def orbax() -> tuple[Save, Restore]:
    import jax
    import orbax.checkpoint as ocp

    checkpointer = ocp.Checkpointer(ocp.StandardCheckpointHandler())

    def save(url: str, tree: Any) -> None:
        checkpointer.save(url, args=ocp.args.StandardSave(tree))

    def restore(url: str, target: Any) -> Any:
        args = ocp.args.StandardRestore(target)
        return jax.block_until_ready(checkpointer.restore(url, args=args))

    return save, restore


def table(measured: dict[str, Any]) -> Iterator[str]:
    """Markdown."""
    yield "| | | seconds | requests | in flight | Orbax / ours, paired |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for workload, found in measured.items():
        for act in ("save", "restore"):
            pairs = zip(found["Orbax"][act], found["pertinax"][act], strict=True)
            paired = statistics.median(a["seconds"] / b["seconds"] for a, b in pairs)
            for who, times in (("pertinax", f"{paired:.1f}"), ("Orbax", "")):
                seconds, requests, flying = (
                    statistics.median(one[what] for one in found[who][act])
                    for what in ("seconds", "requests", "in flight")
                )
                yield (
                    f"| {workload}, {act} | {who} | {seconds:.2f} | {requests:.0f} | {flying:.0f} "
                    f"| {times} |"
                )


if __name__ == "__main__":
    sys.exit(main())
