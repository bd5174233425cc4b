# SPDX-License-Identifier: Apache-2.0
"""Metrics: from what a training loop has at hand to what JSON can hold, before anything is written.

Knows numbers of Python, numpy and JAX. Knows nothing of files, nor itself what is good.
"""

import json
import logging
from collections.abc import Mapping
from typing import Any, Final, cast

import jax
import numpy as np

from pertinax.checkpoint._adapt.retention import Quality

_LOG: Final = logging.getLogger(__name__)


def plain_metrics(metrics: Any) -> Any:
    """A copy of `metrics` that JSON holds exactly: numbers of any kind become Python's own.

    The copy is also ours: a loop may reuse its dictionary for the next step. Raises `TypeError`,
    naming the entry, for what JSON cannot hold.
    """
    plain = _plain(metrics, "metrics")
    json.dumps(plain)  # whatever is left, such as keys that are no text: now, not while we write
    return plain


def checked_metrics(metrics: Any, quality: Quality | None) -> Any:
    """The metrics as they will be stored, or None; `quality` is tried on them.

    Raises what is wrong with them, before anything is written.
    """
    if quality is None:
        if metrics is not None:
            _LOG.warning("metrics are not stored: best_fn is not set")
        return metrics
    if metrics is None:
        _LOG.warning("best_fn is set, but no metrics were given")
        return None
    plain = plain_metrics(metrics)
    quality.of(plain)
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
