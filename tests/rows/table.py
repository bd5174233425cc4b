# SPDX-License-Identifier: Apache-2.0
"""The table of requirements: what Orbax's changelogs announced up to 0.8.0, a row for each.

Knows `rows.tsv` and which areas are finished. Knows nothing of tests.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).with_name("rows.tsv")

# Every row of these must be tied to a test. Who finishes another area adds it here.
AREAS_DONE = (
    "handlers",
    "types",
    "format",
    "transforms",
    "tree",
    "metadata",
    "async",
    "multihost",
    "performance",
    "docs",
    "manager",
    "path",
    "utils",
    "logging",
    "packaging",
    "emergency",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One requirement; `successor` is the row that takes its place, or empty."""

    id: str
    version: str
    kind: str
    requirement: str
    successor: str
    area: str
    check: str


def read_rows(text: str) -> dict[str, Row]:
    """All rows by id, in order. Raises `ValueError` for a row that contradicts the others."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    found = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    rows = [
        Row(
            *(line[key] for key in ("id", "version", "kind", "requirement")),
            *(line[key] or "" for key in ("superseded_by", "area", "check")),
        )
        for line in found
    ]
    table = {row.id: row for row in rows}
    if len(table) != len(rows):
        raise ValueError("the table has two rows with one id")
    strays = [row.id for row in rows if row.successor and row.successor not in table]
    if strays:
        raise ValueError(f"rows that give way to rows that are not there: {strays}")
    return table


def last_of(row: Row, table: Mapping[str, Row]) -> Row:
    """The row that stands at the end of the successors of `row`; itself when it has none."""
    seen = {row.id}
    while row.successor:
        row = table[row.successor]
        if row.id in seen:
            raise ValueError(f"{row.id} gives way to itself")
        seen.add(row.id)
    return row


def all_rows() -> dict[str, Row]:
    return read_rows(TABLE.read_text("utf-8"))
