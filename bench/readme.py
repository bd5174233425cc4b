# SPDX-License-Identifier: Apache-2.0
"""The table of the README, computed from `bench/results.json`: `python bench/readme.py`.

Knows the markers between which the table stands, and which rows a first look needs. Knows nothing
of how results came about.
"""

import json
import os
import statistics
from collections.abc import Mapping
from typing import Any

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_START, _END = "<!-- bench:start -->", "<!-- bench:end -->"
_TITLES = {
    "f32": "8 arrays of 128 MiB, float32",
    "bf16": "the same bytes, bfloat16",
    "gpt": "GPT-like state, 450 leaves, 1 GiB",
    "small5k": "5,000 leaves of 1 KiB",
    "small10k": "10,000 leaves of 1 KiB",
    "sharded": "4 x 256 MiB over 8 devices",
}
_HEAD = "| | save | | | blocks training | | | restore | | |\n"
_HEAD += "| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |\n"
_HEAD += "| | Orbax | Pertinax | | Orbax | Pertinax | | Orbax | Pertinax | |\n"


def table(results: Mapping[str, Any]) -> str:
    """Medians in milliseconds, and how many times less (median of the ratios within a round)."""
    rows = [_row(title, results["workloads"][name]) for name, title in _TITLES.items()]
    machine = results["machine"]
    note = f"\n{machine['CPU']}, {machine['disk']}; milliseconds, medians; "
    note += "Orbax 0.12 `StandardCheckpointer` with its defaults.\n"
    return _HEAD + "".join(rows) + note


def _row(title: str, workload: Mapping[str, Any]) -> str:
    seconds = workload["seconds"]
    cells: list[str] = []
    for measure, ours in (
        ("save", "pertinax"),
        ("blocking", "pertinax (async)"),
        ("restore", "pertinax"),
    ):
        orbax, mine = seconds["Orbax Standard"][measure], seconds[ours][measure]
        ratios = [a / b for a, b in _shared(orbax, mine)]
        cells += [_ms(orbax), _ms(mine), f"**{statistics.median(ratios):.1f}x**"]
    return f"| {title} | " + " | ".join(cells) + " |\n"


def _shared(one: Mapping[str, float], other: Mapping[str, float]) -> list[tuple[float, float]]:
    """The times of both in the rounds that both took part in."""
    return [(one[i], other[i]) for i in one if i in other]


def _ms(seconds: Mapping[str, float]) -> str:
    value = statistics.median(seconds.values()) * 1000
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def main() -> None:
    """Put the table between the markers of the README."""
    with open(os.path.join(ROOT, "bench", "results.json")) as file:
        results = json.load(file)
    path = os.path.join(ROOT, "README.md")
    with open(path) as file:
        text = file.read()
    before, _, rest = text.partition(_START)
    _, _, after = rest.partition(_END)
    with open(path, "w") as file:
        file.write(f"{before}{_START}\n{table(results)}{_END}{after}")


if __name__ == "__main__":
    main()
