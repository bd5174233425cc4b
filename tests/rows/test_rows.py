# SPDX-License-Identifier: Apache-2.0
"""Every requirement of a finished area is proved by a test that says so."""

import pytest

from tests.rows import parity
from tests.rows.markers import Mark, all_marks, marks_of
from tests.rows.table import AREAS_DONE, all_rows, last_of, read_rows

ROWS = all_rows()


def test_every_row_of_a_finished_area_has_its_test():
    tests = parity.proofs(ROWS, all_marks("row"))
    bare = [
        f"{row.id} ({row.area}): {row.requirement} -> {row.check}"
        for row in ROWS.values()
        if row.area in AREAS_DONE and last_of(row, ROWS).area in AREAS_DONE and not tests[row.id]
    ]
    assert not bare, f"{len(bare)} rows without a test:\n" + "\n".join(bare)


def test_no_mark_names_a_row_that_is_not_there():
    strays = [mark for mark in all_marks("row") if mark.value not in ROWS]
    assert not strays


def test_finished_areas_are_areas():
    assert {row.area for row in ROWS.values()} >= set(AREAS_DONE)


def test_the_page_of_parity_is_up_to_date():
    page = parity.PAGE.read_text("utf-8")
    assert page == parity.current_page(), "docs/parity.md is old: run `make parity`"


# ----------------------------------------------------------------------------- the reader of marks

SOURCE = """
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.row("R001")]
CASES = [1, pytest.param(2, marks=pytest.mark.row("R002"))]

@pytest.mark.row("R003", "R004")
@pytest.mark.row("R005")
def test_one(): ...

@pytest.mark.parametrize("case", [*CASES, pytest.param(3, marks=[pytest.mark.row("R006")])])
async def test_two(case): ...

@pytest.mark.row("R007")
class TestThree:
    pytestmark = pytest.mark.row("R008")

    @pytest.mark.row("R009")
    def test_four(self): ...

def test_bare(): ...
"""


def test_marks_are_found_wherever_they_can_stand():
    found = {(mark.value, mark.test) for mark in marks_of(SOURCE, "row")}
    assert found == {
        ("R001", ""),
        *(("R003", "test_one"), ("R004", "test_one"), ("R005", "test_one")),
        *(("R002", "test_two"), ("R006", "test_two")),
        *(("R007", "TestThree"), ("R008", "TestThree"), ("R009", "TestThree::test_four")),
    }
    assert marks_of(SOURCE, "wd") == []


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("@pytest.mark.row(NAME)\ndef test_a(): ...", "literal"),
        ("@pytest.mark.row('R001')\ndef helper(): ...", "marks no test"),
        ("CASES = [pytest.param(1, marks=pytest.mark.row('R001'))]", "marks no test"),
    ],
)
def test_a_mark_that_proves_nothing_is_an_error(source: str, error: str):
    with pytest.raises(ValueError, match=error):
        marks_of(source, "row")


# ------------------------------------------------------------------------------ the table, the page

TEXT = """\
id	version	kind	requirement	superseded_by	spec	area	check
R1	0.1	added	Old | news.	R2	x	format	a
R2	0.2	added	Says "more".		x	format	b
R3	0.3	added	Else.		x	paths	c
# a comment
"""


def test_a_row_that_gave_way_is_proved_by_its_successor():
    rows = read_rows(TEXT)
    marks = [Mark("R2", "tests/a/test_a.py", "test_x"), Mark("R2", "tests/a/test_a.py", "test_y")]
    assert parity.proofs(rows, marks) == {"R1": marks, "R2": marks, "R3": []}
    text = parity.page(rows, marks, ["format"])
    link = "[a/test_a.py](../tests/a/test_a.py) `test_x`, `test_y`"
    assert f"| R1 | 0.1 | Old \\| news. | superseded by R2 | {link} |" in text
    assert f'| R2 | 0.2 | Says "more". | proved | {link} |' in text
    assert "| R3 | 0.3 | Else. | later |  |" in text
    assert "| R1 | 0.1 | Old \\| news. | open |  |" in parity.page(rows, [], ["format"])


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("R2\t0.2", "R4\t0.2", "R1"),
        ("R3\t0.3", "R1\t0.3", "one id"),
        ('more".\t', 'more".\tR1', "itself"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(old: str, new: str, error: str):
    with pytest.raises(ValueError, match=error):
        parity.proofs(read_rows(TEXT.replace(old, new)), [])
