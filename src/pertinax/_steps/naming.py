# SPDX-License-Identifier: Apache-2.0
"""Naming: what a step is, which directory it lives in, and which step a directory is.

Knows numbers and names. Knows nothing of directories. Prefixes are compared as they
are, never as patterns.
"""

import operator
from dataclasses import dataclass
from typing import Any, Final, Protocol, final

import numpy as np

from pertinax._formats.detect import UNPUBLISHED_MARK
from pertinax.errors import InvalidOption

# No file system has longer names, and Python refuses to read very long numbers.
_MAX_DIGITS: Final = 255


def step_number(step: Any) -> int:
    """`step` as a Python int; whole numbers of Python, numpy and JAX are steps, unless negative.

    Raises `InvalidOption`.
    """
    try:
        number = operator.index(step)
    except TypeError as error:
        raise InvalidOption(f"step={step!r} is no whole number") from error
    if isinstance(step, bool | np.bool_) or number < 0:
        raise InvalidOption(f"step={step!r} is no step: a whole number, at least 0")
    return number


class Naming(Protocol):
    """How steps and directory names belong together."""

    def name(self, step: int) -> str:
        """The name that `step` is written under."""
        ...

    def step(self, name: str) -> int | None:
        """The step that a directory of this name holds, or None if the name is not one of ours."""
        ...


@final
@dataclass(frozen=True, slots=True)
class PlainNaming:
    """`12`, `00012`, `run_12`: a number, padded with zeros to `width`, behind `prefix` and `_`.

    A name belongs to a step only if that step is written so: without a width there are no leading
    zeros, with one there are as many as it takes and no more. A prefix of `""` gives `_12`.
    """

    prefix: str | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        if self.prefix is not None and not _is_name_part(self.prefix):
            raise InvalidOption(f"prefix={self.prefix!r} cannot begin the name of a directory")
        width = self.width
        if width is not None and not (type(width) is int and 1 <= width <= _MAX_DIGITS):
            raise InvalidOption(
                f"width={width!r} means nothing: 1 to {_MAX_DIGITS} digits, or None"
            )

    def name(self, step: int) -> str:
        """The directory name of `step`, which is not negative. Wide numbers are not cut."""
        if step < 0:
            raise ValueError(f"a step is not negative: {step}")
        return f"{self._front}{step:0{self.width or 1}d}"

    def step(self, name: str) -> int | None:
        """The step of a directory name, or None if no step is written so."""
        digits = name
        if self.prefix is not None:
            front = self._front
            if not name.startswith(front):
                return None
            digits = name[len(front) :]
        # Asked for each of ten thousand names: no pattern. `isdecimal` knows other scripts, too.
        if not (digits.isdecimal() and digits.isascii()) or len(digits) > _MAX_DIGITS:
            return None
        if self.width is None:
            return int(digits) if digits[0] != "0" or digits == "0" else None
        step = int(digits)
        return step if self.name(step) == name else None

    @property
    def _front(self) -> str:
        return "" if self.prefix is None else f"{self.prefix}_"


def _is_name_part(text: object) -> bool:
    return isinstance(text, str) and not set(text) & {"/", "\0"} and UNPUBLISHED_MARK not in text
