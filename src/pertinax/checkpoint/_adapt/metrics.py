"""Metrics: from what a training loop has at hand to what JSON can hold, before anything is written.

Knows numbers of Python, numpy and JAX. Knows nothing of files or of what is good.
"""

import json
from collections.abc import Mapping
from typing import Any, cast

import jax
import numpy as np


def plain_metrics(metrics: Any) -> Any:
    """A copy of `metrics` that JSON holds exactly: numbers of any kind become Python's own.

    The copy is also ours: a loop may reuse its dictionary for the next step. Raises `TypeError`,
    naming the entry, for what JSON cannot hold.
    """
    plain = _plain(metrics, "metrics")
    json.dumps(plain)  # whatever is left, such as keys that are no text: now, not while we write
    return plain


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, np.generic | np.ndarray | jax.Array):
        return _plain_array(value, where)
    if isinstance(value, Mapping):
        entries = cast("Mapping[Any, Any]", value).items()
        return {_plain_key(key): _plain(item, f"{where}[{key!r}]") for key, item in entries}
    if isinstance(value, list | tuple):
        items = cast("list[Any]", value)
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(items)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"{where} is of type {type(value).__name__}, which metrics cannot hold: "
        "pass numbers, text, or dictionaries and lists of them"
    )


def _plain_array(value: Any, where: str) -> Any:
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        raise TypeError(f"{where} is spread over several processes: pass a number")
    array = np.asarray(value)
    if array.dtype.kind in "biufUS":
        return array.tolist()
    if array.dtype.kind == "V" and jax.numpy.issubdtype(array.dtype, np.number):
        # bfloat16 and its smaller kin, which numpy does not know as numbers
        return array.astype(np.float64).tolist()
    raise TypeError(f"{where} is of dtype {array.dtype}, which metrics cannot hold: pass a number")


def _plain_key(key: Any) -> Any:
    return key.item() if isinstance(key, np.generic) else key
