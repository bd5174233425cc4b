# SPDX-License-Identifier: Apache-2.0
"""Jobs of up to 4,096 processes, played by one: `PYTHONPATH=src python bench/simulate_hosts.py`.

Knows a model of 70 billion parameters as shapes and layouts, and plans its save as each process
would, with the pure planner; then does what the primary does with what the others hand over. No
array exists, no byte of one is written. Prints the table of docs/multihost.md.
"""

import argparse
import itertools
import json
import statistics
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pertinax._formats.crc import file_crc
from pertinax._formats.data_file import Receipt, chunk_table
from pertinax._formats.database import array_entries, encode_arrays
from pertinax._formats.ledger import block_counts, encode_chunks, encode_ledger
from pertinax._formats.manifest import ChunkTable, Manifest, StoredLeaf
from pertinax._formats.parts import Exchange, digest_of, join_tables
from pertinax._hosts import Topology
from pertinax._plan.grids import Grid, grid_of
from pertinax._plan.shares import Seating, Sharing, Spread, seating_of
from pertinax._plan.write import ArrayPieces, WritePlan, plan_write
from pertinax._store.memory import MemoryStore
from pertinax._store.workers import Workers
from pertinax._tree.flatten import flatten
from pertinax._tree.paths import path_text
from pertinax._tree.quiet import collector_paused

DEVICES_EACH = 4
BLOCKS = 16
"""Five layers of a model of eighty are stacked in each leaf, as `scan` over layers wants them."""
_WIDE, _THIN = ("fsdp",), ("tensor",)
KINDS: Mapping[str, tuple[tuple[int, ...], tuple[tuple[str, ...], ...]]] = {
    "attn/q": ((5, 8192, 8192), ((), _WIDE, _THIN)),
    "attn/k": ((5, 8192, 1024), ((), _WIDE, _THIN)),
    "attn/v": ((5, 8192, 1024), ((), _WIDE, _THIN)),
    "attn/o": ((5, 8192, 8192), ((), _THIN, _WIDE)),
    "mlp/gate": ((5, 8192, 28672), ((), _WIDE, _THIN)),
    "mlp/up": ((5, 8192, 28672), ((), _WIDE, _THIN)),
    "mlp/down": ((5, 28672, 8192), ((), _THIN, _WIDE)),
    "norm/attn": ((5, 8192), ((), ())),
    "norm/mlp": ((5, 8192), ((), ())),
}
ENDS: Mapping[str, tuple[tuple[int, ...], tuple[tuple[str, ...], ...]]] = {
    "embed": ((128256, 8192), (_THIN, _WIDE)),
    "unembed": ((8192, 128256), (_WIDE, _THIN)),
    "norm": ((8192,), ((),)),
}


@dataclass(frozen=True)
class Part:
    """One array of the state."""

    shape: tuple[int, ...]
    along: tuple[tuple[str, ...], ...]
    dtype: str


def state() -> Any:
    """Parameters in bfloat16, two moments in float32, and as many counters as make 450 leaves."""

    def copy(dtype: str) -> Any:
        blocks = [
            {name: Part(shape, along, dtype) for name, (shape, along) in KINDS.items()}
            for _ in range(BLOCKS)
        ]
        return {"blocks": blocks, **{name: Part(*end, dtype) for name, end in ENDS.items()}}

    counters = [Part((), (), "int32")] * (450 - 3 * (len(KINDS) * BLOCKS + len(ENDS)))
    return {
        "params": copy("bfloat16"),
        "mu": copy("float32"),
        "nu": copy("float32"),
        "counters": counters,
    }


class Job:
    """The processes of a job, and what all of them know."""

    def __init__(self, fsdp: int, tensor: int, replicas: int) -> None:
        self.mesh = {"replica": replicas, "fsdp": fsdp, "tensor": tensor}
        devices = fsdp * tensor * replicas
        self.count = max(1, devices // DEVICES_EACH)
        self.processes = np.arange(devices) // max(1, devices // self.count)
        self.members = tuple(range(self.count))
        self.flat = flatten(state())
        self.itemsizes = {"bfloat16": 2, "float32": 4, "int32": 4}
        # Worked out once here for all processes. In life each does so for itself: `plan` counts it.
        self._grids: dict[tuple[Any, ...], Grid] = {}

    def grid(self, part: Part) -> Grid:
        key = (part.along, part.shape)
        if key not in self._grids:
            found = grid_of(self.mesh, part.along, part.shape)
            assert found is not None
            self._grids[key] = found
        return self._grids[key]

    def plan(self, process: int, *, afresh: bool = True) -> tuple[WritePlan, list[tuple[int, ...]]]:
        """What a process writes, and the chunk shape of each leaf."""
        if afresh:
            self._grids.clear()
        sharing = Sharing()
        seatings: dict[bytes, Seating] = {}
        spreads: dict[Part, Spread] = {}
        arrays: list[ArrayPieces] = []
        shapes: list[tuple[int, ...]] = []
        for leaf, part in enumerate(self.flat.leaves):
            if part not in spreads:
                grid = self.grid(part)
                key = grid.numbers.tobytes()
                if key not in seatings:
                    seatings[key] = seating_of(
                        grid.numbers, self.processes, members=self.members, process=process
                    )
                boxes = tuple(grid.box(seat.number, part.shape) for seat in seatings[key].own)
                spreads[part] = Spread(seatings[key], boxes, grid.box_shape(part.shape), True)
            itemsize = self.itemsizes[part.dtype]
            share = sharing.share(spreads[part], itemsize)
            shapes.append(share.piece)
            if share.boxes:
                arrays.append(ArrayPieces(leaf, part.shape, share.piece, itemsize, share.boxes))
        return plan_write(arrays), shapes

    def leaves(self, chunks: Sequence[tuple[int, ...]]) -> list[StoredLeaf]:
        """As stored; of their layouts only the kind is told, not the ids of all devices."""
        return [
            StoredLeaf(
                path,
                path_text(path).replace("/", "."),
                "jax",
                part.dtype,
                part.shape,
                part.dtype,
                tuple(max(1, n) for n in chunk),
            )
            for path, part, chunk in zip(self.flat.paths, self.flat.leaves, chunks, strict=True)
        ]


def table_of(plan: WritePlan, process: int) -> ChunkTable:
    """What a process hands over when it has written its plan."""
    blocks = block_counts(np.array([piece.length for piece in plan.pieces], np.int64)).tolist()
    receipts = [
        Receipt(piece, 0, offset, piece.length, (process,) * n)
        for piece, offset, n in zip(plan.pieces, plan.offsets.tolist(), blocks, strict=True)
    ]
    return chunk_table((f"d/{process:032x}",), receipts)


class Talk:
    """A round in which all others have said already what they had to say."""

    def __init__(self, count: int, said: Mapping[int, Any]) -> None:
        self.topology = Topology(0, tuple(range(count)), 0)
        self._said = said

    def collect(self, phase: str, value: Any, decide: Callable[[Any], Any]) -> Any:
        return decide({0: value, **self._said})


def measure(fsdp: int, tensor: int, replicas: int, *, sample: int = 9) -> dict[str, Any]:
    """One row of the table."""
    job = Job(fsdp, tensor, replicas)
    chosen = sorted({round(i * (job.count - 1) / (sample - 1)) for i in range(sample)})
    seconds: list[float] = []
    for process in chosen:
        began = time.process_time()
        job.plan(process)
        seconds.append(time.process_time() - began)
    tables: list[ChunkTable] = []
    loads: list[int] = []
    for process in range(job.count):
        plan, shapes = job.plan(process, afresh=False)
        tables.append(table_of(plan, process))
        loads.append(sum(piece.length for piece in plan.pieces))
    leaves = job.leaves(shapes)
    store = MemoryStore()
    store.make_dir("/c")
    said: dict[int, Any] = {}
    digest = digest_of(leaves)
    part_bytes = 0
    for process, table in enumerate(tables[1:], 1):
        data = json.dumps(encode_chunks(table)).encode()
        with store.create(f"/c/part.{process}") as writer:
            writer.write_at(0, [data])
        part_bytes += len(data)
        said[process] = [digest, f"part.{process}", len(data), file_crc(data)]
    exchange = Exchange(Talk(job.count, said))
    with Workers(3, "simulate") as workers, collector_paused(len(leaves) * 1000):
        took = Clock()
        parts = [tables[0], *exchange.give(store, "/c", tables[0], leaves, workers=workers)]
        took.lap("take")
        joined, ledger, database = join(job, leaves, parts, took)
        tracemalloc.start()
        join(job, leaves, parts, Clock())
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    chunks = len(joined)
    checksums = int(block_counts(joined.length).sum()) * 4 * 4 / 3
    return {
        "processes": job.count,
        "mesh": " x ".join(map(str, job.mesh.values())),
        "chunks": chunks,
        "chunks_each": max(len(table) for table in tables),
        "plan_ms": statistics.median(seconds) * 1000,
        "uneven": max(loads) / (sum(loads) / len(loads)),
        "join_s": sum(took.laps.values()),
        "peak_bytes": peak,
        "ledger_bytes": (len(ledger) - checksums) / chunks,
        "database_bytes": len(database) / chunks,
        "part_bytes": part_bytes / max(1, job.count - 1),
        "laps": {name: round(value, 3) for name, value in took.laps.items()},
    }


def join(
    job: Job, leaves: list[StoredLeaf], parts: list[ChunkTable], took: "Clock"
) -> tuple[ChunkTable, bytes, bytes]:
    """What the primary makes of all parts: the table of chunks, the ledger, the database."""
    joined = join_tables(parts)
    took.lap("join")
    database = encode_arrays(array_entries(leaves, joined, "zarr"), "d/0", 0)
    took.lap("database")
    ledger = encode_ledger(Manifest("pertinax", job.flat.root, tuple(leaves), joined))
    took.lap("ledger")
    return joined, ledger, database.nodes


class Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._since = time.process_time()

    def lap(self, name: str) -> None:
        now = time.process_time()
        self.laps[name] = now - self._since
        self._since = now


JOBS = ((1, 4, 4), (4, 8, 8), (16, 8, 16), (4, 8, 512), (16, 8, 128), (64, 8, 32))
"""Lengths of the axes `fsdp`, `tensor` and `replica`: 4 to 4,096 processes of four devices."""

_HEAD = """\
| processes | mesh | chunks | of one process | plan, ms | most / mean bytes | join, s \
| memory, MiB | ledger | database | part, KiB |
| --: | :-- | --: | --: | --: | --: | --: | --: | --: | --: | --: |"""


def main() -> None:
    """Print the table, a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=len(JOBS), help="only so many of the jobs")
    parser.add_argument("--laps", action="store_true", help="where the seconds of the join go")
    args = parser.parse_args()
    print(_HEAD)
    for job in itertools.islice(JOBS, args.jobs):
        row = measure(*job)
        print(
            f"| {row['processes']:,} | {row['mesh']} | {row['chunks']:,} | {row['chunks_each']:,} "
            f"| {row['plan_ms']:.0f} | {row['uneven']:.2f} | {row['join_s']:.2f} "
            f"| {row['peak_bytes'] / 2**20:.0f} | {row['ledger_bytes']:.0f} "
            f"| {row['database_bytes']:.0f} | {row['part_bytes'] / 1024:.0f} |",
            flush=True,
        )
        if args.laps:
            print(row["laps"])


if __name__ == "__main__":
    main()
