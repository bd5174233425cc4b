# SPDX-License-Identifier: Apache-2.0
"""Bytes that each process of a job moves: `PYTHONPATH=src:. python bench/hosts_bytes.py`.

Knows the states of `tests/hosts/counting.py` and real jobs of 2 and 4 processes. Prints the table
of docs/multihost.md.
"""

import shutil
import tempfile
from pathlib import Path

import jax

import pertinax
from tests.hosts import counting, processes


def main() -> None:
    """Print the table, a row as soon as it is known."""
    print("| state | processes | bytes | each writes | through the Orbax door | reads / needs |")
    print("| :-- | --: | --: | :-- | :-- | --: |")
    folder = Path(tempfile.mkdtemp())
    for name, layout in counting.LAYOUTS.items():
        size = sum(counting.host_of(shape, dtype).nbytes for shape, dtype, _ in layout.values())
        for count in (2, 4):
            path = folder / f"{name}-{count}"
            how = {"folder": folder / "job", "devices": 4 // count}
            moved = processes.run(counting.save_and_load, count, str(path), name, **how)
            door = processes.run(counting.save_by_orbax_door, count, f"{path}-door", name, **how)
            assert all(right for *_, right in moved)
            written = ", ".join(_share(one[0], size) for one in moved)
            through = ", ".join(_share(one, size) for one in door)
            most = max(read / needed for _, read, needed, _ in moved)
            print(
                f"| {name} | {count} | {size:,} | {written} | {through} | {most:.2f} |", flush=True
            )
    _single_replica(folder)
    shutil.rmtree(folder)


def _single_replica(folder: Path) -> None:
    pertinax.save(folder / "one", jax.tree.map(jax.numpy.asarray, counting.odd_state(0)))
    for axis in (0, 1):
        answers = processes.run(
            counting.restore_by_one_replica, 4, str(folder / "one"), axis, folder=folder / "job"
        )
        assert all(wrong == [] for *_, wrong in answers), answers
        print(f"one replica of two reads, axis {axis}:", end=" ")
        print(", ".join(_share(read, needed) for read, needed, _ in answers), "of what it needs")


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %"


if __name__ == "__main__":
    main()
