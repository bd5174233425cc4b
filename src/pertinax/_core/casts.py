# SPDX-License-Identifier: Apache-2.0
"""Casts: what becomes of values when one dtype is read as another.

Knows which numbers each dtype can hold. Knows nothing of leaves or targets.
"""

from typing import Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from pertinax._device.snapshot import fresh_array
from pertinax._formats.zarr.dtypes import native_name, numpy_dtype
from pertinax._plan.write import SMALL_BYTES

Family = Literal["bool", "int", "float", "complex", "time"]

_FULL_FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})
"""They have zeros of both signs, infinities and NaN; smaller ones lack some of these."""


def family(dtype: str) -> Family:
    """What kind of number a dtype holds, by its name: numpy calls those of `ml_dtypes` void."""
    name = native_name(dtype)
    if name == "bool":
        return "bool"
    if name.lstrip("u").startswith("int"):
        return "int"
    if "complex" in name:
        return "complex"
    return "float" if "float" in name else "time"


def is_lossless(stored: str, wanted: str) -> bool:
    """Whether every value of dtype `stored` has an equal one of dtype `wanted`.

    Numpy's own word for it, a `safe` cast, lets 64-bit integers become floats, which rounds them.
    """
    stored, wanted = native_name(stored), native_name(wanted)
    if stored == wanted:
        return True
    before, after = family(stored), family(wanted)
    if "time" in (before, after):
        return False
    if after == "complex":
        part = _part_of(wanted)
        return part is not None and is_lossless(_part_of(stored) or stored, part)
    if before in ("bool", "int"):
        low, high = (0, 1) if before == "bool" else _range_of(stored)
        if after == "int":
            least, most = _range_of(wanted)
            return least <= low and high <= most
        return after == "float" and _holds_integers(wanted, low, high)
    return before == after == "float" and _holds_floats(wanted, stored)


def cast_array(array: NDArray[Any], wanted: str) -> NDArray[Any]:
    """The elements as dtype `wanted`, at the price of whatever does not fit."""
    target = numpy_dtype(wanted)
    try:
        if array.nbytes < SMALL_BYTES:
            return array.astype(target)
        # In memory that JAX uses as it is, or there would be two of it.
        out = fresh_array(array.shape, target)
        np.copyto(out, array, casting="unsafe")
        return out
    except TypeError:
        # numpy knows no way between some dtypes of `ml_dtypes`, and between them and times.
        middle = "int64" if family(array.dtype.name) in ("bool", "int", "time") else "float64"
        return (
            array.astype(middle)
            .astype("int64" if family(wanted) == "time" else middle)
            .astype(target)
        )


def _part_of(dtype: str) -> str | None:
    return {"complex64": "float32", "complex128": "float64"}.get(dtype)


def _range_of(dtype: str) -> tuple[int, int]:
    info = ml_dtypes.iinfo(numpy_dtype(dtype))
    return int(info.min), int(info.max)


def _holds_integers(dtype: str, low: int, high: int) -> bool:
    if dtype not in _FULL_FLOATS:
        return False
    info = ml_dtypes.finfo(numpy_dtype(dtype))
    # The least one is a power of two, or zero, and needs no digits.
    return high.bit_length() <= info.nmant + 1 and -low <= float(info.max)


def _holds_floats(wanted: str, stored: str) -> bool:
    if wanted not in _FULL_FLOATS:
        return False
    small, large = ml_dtypes.finfo(numpy_dtype(stored)), ml_dtypes.finfo(numpy_dtype(wanted))
    return (
        small.nmant <= large.nmant
        and float(small.max) <= float(large.max)
        and float(large.smallest_subnormal) <= float(small.smallest_subnormal)
    )
