# SPDX-License-Identifier: Apache-2.0
"""The table of sabotages fits the sources of today; `make sabotage` runs it."""

import ast

import pytest

from tests.mutation.sabotage import ROOT, Sabotage, read_table

TABLE = read_table()


def test_nearly_all_changes_can_be_made_and_the_results_are_programs() -> None:
    """Whoever changes the sources need not look here each time; `make sabotage` names the rest."""
    stale: list[str] = []
    for one in TABLE:
        source = (ROOT / "src" / "pertinax" / one.file).read_text("utf-8")
        try:
            changed = one.spoil(source)
        except ValueError as error:
            stale.append(str(error))
            continue
        assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source)), one.name
    assert len(stale) <= len(TABLE) // 20, stale


def test_names_say_which_change_it_is_and_tests_are_there() -> None:
    names = [f"{one.area}: {one.name}" for one in TABLE]
    assert len(set(names)) == len(names) > 100
    assert [test for one in TABLE for test in one.tests if not (ROOT / test).exists()] == []


def test_a_text_that_is_not_there_once_is_an_error() -> None:
    one = Sabotage("x", "y", "z.py", "a", "b", ())
    assert one.spoil("-a-") == "-b-"
    for source in ("-", "aa"):
        with pytest.raises(ValueError, match=r"z\.py has its text \d times"):
            one.spoil(source)
