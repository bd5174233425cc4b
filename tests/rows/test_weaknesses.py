# SPDX-License-Identifier: Apache-2.0
"""For each known weakness of Orbax, a line says what we do instead, and a test shows it."""

import re

from tests.rows.markers import TESTS, all_marks

PAGE = TESTS.parent / "docs" / "coming-from-orbax.md"
DATA = {f"WD-{number:02d}" for number in range(1, 34)}
MANAGER = {f"W-{number:02d}" for number in range(1, 37)}
HOSTS = {f"Kw-{number:02d}" for number in range(1, 23)}
WEAKNESSES = DATA | MANAGER | HOSTS


def test_each_weakness_has_its_line():
    line = r"^\| ((?:WD?|Kw)-\d\d) \| \S.* \| \S.* \|$"
    told = re.findall(line, PAGE.read_text("utf-8"), re.MULTILINE)
    assert sorted(told) == sorted(WEAKNESSES)


def test_each_weakness_has_its_test():
    shown = {mark.value for mark in all_marks("wd")}
    assert not sorted(WEAKNESSES - shown), "no test shows what we do instead"
    assert shown <= WEAKNESSES
