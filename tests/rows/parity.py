# SPDX-License-Identifier: Apache-2.0
"""`docs/parity.md`: each requirement, and the tests that prove it. `make parity` writes it.

Knows the table and the marks of the tests, and how the page looks. Knows nothing of checkpoints.
"""

import itertools
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from tests.rows.markers import TESTS, Mark, all_marks
from tests.rows.table import AREAS_DONE, Row, all_rows, last_of

PAGE = TESTS.parent / "docs" / "parity.md"

HEAD = """\
# What Orbax announced, and which test proves it here

<!-- Written by `make parity`. -->

Every release note of Orbax up to 0.8.0, and those that followed it unreleased, has been read and
put into our own words: a row for each thing that a program can rely on. A test is tied to a row by
`@pytest.mark.row("R012")`, and a test of the tests fails when a row of a finished area has none.
*Superseded*: a later row says otherwise or says more, and its tests count. *Later*: the area is not
finished; what is tied to it already is shown.
"""


def proofs(rows: Mapping[str, Row], marks: Iterable[Mark]) -> dict[str, list[Mark]]:
    """The tests of each row: its own, or those of the row that took its place."""
    own: dict[str, list[Mark]] = {row: [] for row in rows}
    for mark in marks:
        own.setdefault(mark.value, []).append(mark)
    return {
        row.id: sorted({*own[row.id], *own[last_of(row, rows).id]}, key=lambda m: (m.file, m.test))
        for row in rows.values()
    }


def state_of(row: Row, rows: Mapping[str, Row], proved: bool, areas: Sequence[str]) -> str:
    last = last_of(row, rows)
    if not proved:
        return "open" if last.area in areas and row.area in areas else "later"
    return "proved" if last == row else f"superseded by {last.id}"


def page(
    rows: Mapping[str, Row],
    marks: Iterable[Mark],
    areas: Sequence[str],
    weaknesses: Sequence[Mark] = (),
) -> str:
    """The text of the page: finished areas first, rows in the order of the releases."""
    tests = proofs(rows, marks)
    by_area = {
        row.area: [one for one in rows.values() if one.area == row.area] for row in rows.values()
    }
    order = [*areas, *(area for area in by_area if area not in areas)]
    parts = [HEAD, _summary(by_area, order, rows, tests, areas)]
    for area in order:
        parts.append(f"\n## {area.capitalize()}\n")
        parts.append(
            "| row | version | requirement | state | tests |\n| --- | --- | --- | --- | --- |"
        )
        for row in by_area[area]:
            state = state_of(row, rows, bool(tests[row.id]), areas)
            cells = (row.id, row.version, _cell(row.requirement), state, _links(tests[row.id]))
            parts.append(f"| {' | '.join(cells)} |")
    if weaknesses:
        parts.append(_weaknesses(weaknesses))
    return "\n".join(parts) + "\n"


def current_page() -> str:
    return page(all_rows(), all_marks("row"), AREAS_DONE, all_marks("wd"))


def _weaknesses(marks: Sequence[Mark]) -> str:
    lines = [
        "\n## Weaknesses\n",
        "What we do about each is said in [Coming from Orbax](coming-from-orbax.md).\n",
        "| weakness | tests |\n| --- | --- |",
    ]
    for weakness, group in itertools.groupby(marks, key=lambda mark: mark.value):
        lines.append(f"| {weakness} | {_links(list(group))} |")
    return "\n".join(lines)


def _summary(
    by_area: Mapping[str, Sequence[Row]],
    order: Sequence[str],
    rows: Mapping[str, Row],
    tests: Mapping[str, Sequence[Mark]],
    areas: Sequence[str],
) -> str:
    lines = [
        "| area | rows | proved | superseded | open or later |",
        "| --- | --: | --: | --: | --: |",
    ]
    for area in order:
        states = Counter(
            state_of(row, rows, bool(tests[row.id]), areas).split()[0] for row in by_area[area]
        )
        rest = states["open"] + states["later"]
        counts = (len(by_area[area]), states["proved"], states["superseded"], rest)
        lines.append(f"| [{area}](#{area}) | {' | '.join(map(str, counts))} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _links(marks: Sequence[Mark]) -> str:
    """One link for each file, followed by its tests."""
    files = itertools.groupby(marks, key=lambda mark: mark.file)
    return "<br>".join(
        f"[{file.removeprefix('tests/')}](../{file}) "
        + ", ".join(f"`{mark.test}`" for mark in group if mark.test)
        for file, group in files
    ).strip()


def main() -> int:
    PAGE.write_text(current_page(), "utf-8")
    print(f"wrote {PAGE.relative_to(TESTS.parent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
