# SPDX-License-Identifier: Apache-2.0
"""Fill values: the element that absent chunks stand for.

Knows how both Zarr versions spell elements in JSON. Knows nothing of chunks.
"""

import math
from collections.abc import Mapping
from typing import Any, Final, cast

from pertinax._formats.zarr.dtypes import numpy_dtype

UNKNOWN_FILL: Final = object()
"""A fill value that may well be valid, but not one that we can spell."""
_WORDS: Mapping[str, float] = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def parse_fill(value: Any, dtype: str) -> Any:
    """`value` as an element of `dtype`, None if it is null, `UNKNOWN_FILL` if it is no such
    element.
    """
    if value is None:
        return None
    # Names of ml_dtypes tell their kind, numpy's `kind` of them does not.
    native = numpy_dtype(dtype).newbyteorder("=").name
    if native == "bool":
        return value if isinstance(value, bool) else UNKNOWN_FILL
    if isinstance(value, bool):
        return UNKNOWN_FILL
    if "complex" in native:
        parts = cast("list[Any]", value) if isinstance(value, list) else []
        numbers = [_real(part) for part in parts]
        if len(numbers) != 2 or None in numbers:
            return UNKNOWN_FILL
        return complex(*cast("list[float]", numbers))
    if "float" in native:
        number = _real(value)
        return UNKNOWN_FILL if number is None else number
    return value if isinstance(value, int) and _fits(value, native) else UNKNOWN_FILL


def _fits(value: int, native: str) -> bool:
    bits = int(native.lstrip("uint"))
    low, high = (0, 2**bits) if native.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1))
    return low <= value < high


def _real(value: Any) -> float | None:
    if isinstance(value, str):
        return _WORDS.get(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def zero(dtype: str) -> Any:
    """The zero of a storage dtype, as `zarr.json` spells it."""
    if dtype == "bool":
        return False
    if "complex" in dtype:
        return [0.0, 0.0]
    return 0.0 if "float" in dtype else 0
