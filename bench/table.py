# SPDX-License-Identifier: Apache-2.0
"""The document: method, machine, targets and tables, all computed from the results.

Knows Markdown. Knows nothing of clocks; what a result means for the design is `targets`' business.
"""

import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import targets
from workloads import WORKLOADS

_HEAD = """\
# Benchmarks

Written by `make bench` (`bench/run.py`); do not edit. The numbers are in `bench/results.json`.

## Method

- One fresh process for each workload; in it all contestants take turns, round by round, in an
  order that changes with the round. The first round is not counted.
- Equal durability: a save is over when every file and directory that it made has been synced
  (`fsync`). For those that do not do so themselves (numpy, safetensors, Orbax) this is done
  for them, and counted.
- Restores end with `jax.block_until_ready` on all arrays, on CPU devices. The page cache is
  warm: the files were written just before. Every restored bit is compared, outside the clock.
- Times are medians. *Paired* ratios are medians of the ratios within a round, so that a slow
  minute of the machine touches both sides.
- *floor* writes the bytes to one file, and reads them into fresh memory; *floor (map)* maps that
  file, brings its pages in, and runs one CRC-32C over it. Both then use one `jax.device_put`.
- Memory is the peak of anonymous memory beyond what there was before, in a round of its own,
  watched from another process (every 2 ms). Pages of mapped files do not count.
- `pertinax (async)` is `save_async`, timed until durable; its restores are without a target.
  *blocking* is the time until `save_async`, or Orbax's `save`, returns.
"""
_PROFILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "profile.md")
_MEASURES = ("save", "blocking", "restore", "reshard")


def write_document(results: Mapping[str, Any], path: str) -> None:
    """Write everything that is known to `path`."""
    lines = [_HEAD]
    if results.get("quick"):
        lines.append("**A quick run: sizes are too small to mean anything.**\n")
    lines += ["## Machine\n", *_table(("", ""), results["machine"].items()), ""]
    lines += ["## Targets\n", *_targets(results), ""]
    for name, workload in WORKLOADS.items():
        if name in results["workloads"]:
            lines += [f"## {workload.title}\n", *_workload(results["workloads"][name]), ""]
    lines += _manager(results.get("manager"))
    lines += _scripts(results["scripts"])
    with open(_PROFILE) as file:
        lines += ["", file.read()]
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path, "w") as file:
        file.write("\n".join(lines).rstrip() + "\n")


def _table(head: Sequence[str], rows: Any) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + " --- |" * len(head)
    for row in rows:
        yield "| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |"


def _targets(results: Mapping[str, Any]) -> Iterator[str]:
    found = targets.verdicts(results)
    met = sum(verdict.met for verdict in found)
    yield f"{met} of {len(found)} targets are met.\n"
    yield from _table(
        ("workload", "target", "limit", "measured", "", "by"),
        [
            (
                verdict.workload,
                verdict.what,
                f"{'>=' if verdict.least else '<='} {verdict.limit:g} {verdict.unit}",
                f"{verdict.found:.4g} {verdict.unit}",
                "met" if verdict.met else "**missed**",
                verdict.distance,
            )
            for verdict in found
        ],
    )


def _workload(workload: Mapping[str, Any]) -> Iterator[str]:
    size = workload["bytes"] / targets.MIB
    rounds = max((len(r) for m in workload["seconds"].values() for r in m.values()), default=0)
    yield f"{workload['leaves']:,} leaves, {size:,.0f} MiB, {rounds} rounds.\n"
    shown = [m for m in _MEASURES if any(m in found for found in workload["seconds"].values())]
    head = [
        "",
        *(f"{what}, ms" for what in shown),
        "save, paired / floor",
        "restore, paired / floor",
    ]
    head += ["on disk, MiB", *(f"memory, {what}, MiB" for what in shown if what != "blocking")]
    rows = [_row(workload, who, shown) for who in workload["seconds"]]
    yield from _table(head, rows)
    for who, why in {**workload["absent"], **workload["failed"]}.items():
        yield f"\n{who} did not take part: `{why[:200]}`"


def _row(workload: Mapping[str, Any], who: str, shown: Sequence[str]) -> list[str]:
    cells = [who]
    cells += [_number(targets.median_of(workload, who, what), 1e3, ".1f") for what in shown]
    for what in ("save", "restore"):
        floor = targets.better_floor(workload, what)
        cells.append(_number(targets.ratio_of(workload, who, floor, what), 1, ".2f"))
    cells.append(_number(workload["disk"].get(who), 1 / targets.MIB, ",.1f"))
    memory = workload["memory"].get(who, {})
    for what in shown:
        if what != "blocking":
            cells.append(_number(memory.get(what), 1 / targets.MIB, ",.0f"))
    return cells


def _number(value: float | None, factor: float, form: str) -> str:
    return "" if value is None else format(value * factor, form)


def _manager(found: Mapping[str, Any] | None) -> list[str]:
    """What a root of many steps costs."""
    if found is None:
        return []
    ours, others = found["seconds"]["pertinax"], found["seconds"].get("Orbax", {})
    titles = {
        "open": "open a manager (Orbax reads all notes here)",
        "list": "list the steps",
        "latest": "the latest step",
        "best": "the best step, in a new process",
        "changed best": "the same, in a root that changed this very moment",
        "first best": "the same, before there is an index",
        "save": "`save` returns",
    }
    rows = [
        (
            title,
            _number(statistics.median(ours[name]), 1e3, ".1f"),
            _number(min(ours[name]), 1e3, ".1f"),
            _number(statistics.median(others[name]) if others.get(name) else None, 1e3, ",.1f"),
            "" if name == "first best" else 100 if name != "save" else "5 beyond `save_async`",
        )
        for name, title in titles.items()
        if ours.get(name)
    ]
    bare = found["seconds"]["save_async"]["save"]
    beyond = [one - other for one, other in zip(ours["save"], bare, strict=True)]
    median_ms, bare_ms = statistics.median(beyond) * 1e3, statistics.median(bare) * 1e3
    told = (
        f"\nA bare `save_async` of the same tree returns after {bare_ms:.1f} ms; the manager's "
        f"`save` takes {median_ms:.1f} ms more (median of {len(beyond)} pairs). Orbax keeps what "
        "it read when it was opened; we look at the disk each time."
    )
    return [
        f"## A root of {found['steps']:,} steps\n",
        f"Load of the machine: {found['load']}.\n",
        *_table(("", "pertinax, ms", "least, ms", "Orbax, ms", "limit, ms"), rows),
        told,
        "",
    ]


def _scripts(scripts: Mapping[str, Sequence[float]]) -> list[str]:
    titles = {
        "import": "`import pertinax`, beyond `import jax`",
        "describe": "`pertinax.describe` of 10,000 leaves",
    }
    rows = [
        (titles[name], f"{statistics.median(s) * 1e3:.1f}", f"{min(s) * 1e3:.1f}", len(s))
        for name, s in scripts.items()
    ]
    return (
        ["## Small things\n", *_table(("", "median, ms", "least, ms", "times"), rows)]
        if rows
        else []
    )
