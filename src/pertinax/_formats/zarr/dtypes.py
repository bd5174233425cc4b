# SPDX-License-Identifier: Apache-2.0
"""Data types: their names, in memory and on disk.

Knows which names Zarr and TensorStore have for numpy's and ml_dtypes' types, and what to store for
the others. Names come from files, so they are looked up in a fixed table and never evaluated. Knows
nothing of arrays or chunks.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np

_PLAIN: Mapping[str, str] = {
    "bool": "|b1",
    "int8": "|i1",
    "uint8": "|u1",
    "int16": "<i2",
    "uint16": "<u2",
    "int32": "<i4",
    "uint32": "<u4",
    "int64": "<i8",
    "uint64": "<u8",
    "float16": "<f2",
    "float32": "<f4",
    "float64": "<f8",
    "complex64": "<c8",
    "complex128": "<c16",
}
# TensorStore 0.1.67 can name these; both Zarr versions spell them as numpy does, one byte per
# element for `int4`.
_KNOWN_EXTENSIONS = (
    "bfloat16",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e4m3b11fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
    "int4",
)
# These it cannot: their bytes are stored under the name on the right, and our ledger remembers the
# name on the left. (0.1.86 knows some of them, so files of others may name them.)
_STORED_AS: Mapping[str, str] = {
    "int1": "uint8",
    "uint1": "uint8",
    "int2": "uint8",
    "uint2": "uint8",
    "uint4": "uint8",
    "float4_e2m1fn": "uint8",
    "float6_e2m3fn": "uint8",
    "float6_e3m2fn": "uint8",
    "float8_e3m4": "uint8",
    "float8_e4m3": "uint8",
    "float8_e8m0fnu": "uint8",
    "complex32": "uint32",
    "bcomplex32": "uint32",
}
_TIME = re.compile(r"(datetime64|timedelta64)(\[(\d{1,9})?(Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])?")


def _table() -> Mapping[str, np.dtype[Any]]:
    found = {name: np.dtype(name) for name in _PLAIN}
    for name in (*_KNOWN_EXTENSIONS, *_STORED_AS):
        kind = getattr(ml_dtypes, name, None)  # older ml_dtypes have fewer
        if kind is not None:
            found[name] = np.dtype(kind)
    for text in _PLAIN.values():
        if text[0] == "<":
            found[">" + text[1:]] = np.dtype(">" + text[1:])
    return MappingProxyType(found)


_DTYPES = _table()
_NAME_OF_V2: Mapping[str, str] = MappingProxyType(
    {text: name for name, text in _PLAIN.items()}
    | {"=" + text[1:]: name for name, text in _PLAIN.items()}
    | {mark + text[1:]: name for name, text in _PLAIN.items() if text[0] == "|" for mark in "<>"}
    | {">" + text[1:]: ">" + text[1:] for text in _PLAIN.values() if text[0] == "<"}
    | {name: name for name in (*_KNOWN_EXTENSIONS, *_STORED_AS) if name in _DTYPES}
)


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The numpy dtype called `name`; of big-endian ones `name` is as in Zarr v2 (`>f4`).
    `ValueError` if unknown.
    """
    found = _DTYPES.get(name)
    if found is not None:
        return found
    if _TIME.fullmatch(name):
        return np.dtype(name)
    raise ValueError(f"no such dtype: {name!r:.60}")


def native_name(name: str) -> str:
    """The name of the dtype in memory, whatever its byte order in the file: `float32` for `>f4`."""
    return numpy_dtype(name).newbyteorder("=").name


def storage_dtype(name: str) -> str:
    """The name under which elements of dtype `name` are stored: itself wherever every reader knows
    it.

    Raises `ValueError` for dtypes that cannot be stored.
    """
    if name in _PLAIN or name in _KNOWN_EXTENSIONS:
        return name
    stored = _STORED_AS.get(name)
    if stored is not None:
        return stored
    if _TIME.fullmatch(name):
        return "int64"
    raise ValueError(f"dtype {name!r:.60} cannot be stored")


def to_v2(name: str) -> str:
    """The `dtype` of `.zarray` for a storage dtype."""
    return _PLAIN.get(name, name)


def from_v2(text: str) -> str | None:
    """The dtype that a `.zarray` names, or None if we have no word for it."""
    return _NAME_OF_V2.get(text)


def from_v3(data_type: str) -> str | None:
    """The dtype that a `zarr.json` names, or None if we have no word for it."""
    return data_type if data_type in _DTYPES and data_type[0] != ">" else None
