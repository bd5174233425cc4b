# SPDX-License-Identifier: Apache-2.0
"""What goes wrong in a `with` block comes before what goes wrong when it is closed."""

import pytest

from pertinax._core.closing import close_after


def fail() -> None:
    raise OSError("no room")


def test_a_failure_to_close_is_raised_if_nothing_else_went_wrong() -> None:
    with pytest.raises(OSError, match="no room"):
        close_after(fail, None)


def test_a_failure_to_close_is_a_note_on_what_went_wrong_before() -> None:
    before = ValueError("the block")
    close_after(fail, before)
    assert before.__notes__ == ["closing failed, too: OSError: no room"]


def test_whoever_closes_well_adds_nothing() -> None:
    closed: list[bool] = []
    before = ValueError("the block")
    close_after(lambda: closed.append(True), before)
    close_after(lambda: closed.append(True), None)
    assert closed == [True, True]
    assert not hasattr(before, "__notes__")
