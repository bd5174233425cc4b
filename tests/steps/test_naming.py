# SPDX-License-Identifier: Apache-2.0
"""Names and steps belong together one to one."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pertinax._steps.naming import PlainNaming, step_number
from pertinax.errors import InvalidOption

DIRECTORIES = ["0", "00", "1", "01", "10", "100"]


@pytest.mark.parametrize(
    ("naming", "name"),
    [
        (PlainNaming(), "23"),
        (PlainNaming(width=4), "0023"),
        (PlainNaming("step"), "step_23"),
        (PlainNaming("step", 4), "step_0023"),
        (PlainNaming(""), "_23"),
        (PlainNaming(width=1), "23"),
    ],
)
def test_a_step_has_a_name(naming: PlainNaming, name: str) -> None:
    assert naming.name(23) == name
    assert naming.step(name) == 23


@pytest.mark.parametrize(
    ("width", "found"),
    [
        (None, ["0", "1", "10", "100"]),
        (1, ["0", "1", "10", "100"]),
        (2, ["00", "01", "10", "100"]),
        (3, ["100"]),
    ],
)
def test_zeros_in_front_are_as_many_as_the_width_asks(width: int | None, found: list[str]) -> None:
    naming = PlainNaming(width=width)
    assert [name for name in DIRECTORIES if naming.step(name) is not None] == found


@pytest.mark.parametrize(
    "name",
    [
        *["", "a", "-1", "+1", "1.0", "1_0", "١", "²", " 1", "1\n", "1e3", "step_1", "_1", "0x10"],
        *["1.orbax-checkpoint-tmp-0", "1.orbax-checkpoint-tmp", "metadata", "9" * 300],
    ],
)
def test_other_names_are_no_steps(name: str) -> None:
    assert PlainNaming().step(name) is None


@pytest.mark.parametrize("name", ["1", "a.c_1", "abc_1x", "abc_", "abc_01", "xabc_1", "abc__1"])
def test_a_prefix_is_no_pattern(name: str) -> None:
    assert PlainNaming("a.c" if name == "1" else "abc").step(name) is None
    assert PlainNaming("a*c").step("abc_1") is None
    assert PlainNaming("a.c").step("abc_1") is None
    assert PlainNaming("[a]c").step("[a]c_7") == 7


@given(
    st.integers(0, 10**12),
    st.none() | st.text("abc_.1-", max_size=5),
    st.none() | st.integers(1, 15),
)
def test_every_step_comes_back(step: int, prefix: str | None, width: int | None) -> None:
    naming = PlainNaming(prefix, width)
    assert naming.step(naming.name(step)) == step


@given(st.text("0123456789ab_", max_size=8), st.none() | st.integers(1, 4))
def test_a_name_that_is_a_step_is_the_name_of_that_step(name: str, width: int | None) -> None:
    naming = PlainNaming("ab", width)
    step = naming.step(name)
    assert step is None or naming.name(step) == name


@pytest.mark.parametrize("prefix", ["a/b", "a\0", "x.orbax-checkpoint-tmp-", 3])
def test_a_prefix_that_no_name_can_have_is_refused(prefix: str) -> None:
    with pytest.raises(InvalidOption, match="prefix"):
        PlainNaming(prefix)


@pytest.mark.parametrize("width", [0, -1, 256, True, 2.0])
def test_a_width_without_meaning_is_refused(width: int) -> None:
    with pytest.raises(InvalidOption, match="width"):
        PlainNaming(width=width)


@pytest.mark.parametrize("kind", [int, np.int64, np.uint8, np.array, jnp.int32])
def test_whole_numbers_of_any_kind_are_steps(kind: Any) -> None:
    assert step_number(kind(7)) == 7
    assert type(step_number(kind(7))) is int


@pytest.mark.parametrize(
    "step", [-1, True, 1.0, np.float32(1), "1", None, np.array([1]), jnp.float32, np.True_]
)
def test_anything_else_is_none(step: Any) -> None:
    step = step(1) if step is jnp.float32 else step
    with pytest.raises(InvalidOption, match="step"):
        step_number(step)
