# SPDX-License-Identifier: Apache-2.0
"""Metrics: what a caller measured, as the bytes of a step's `metrics/metrics`.

Knows numbers of all kinds and JSON as Orbax reads it (NaN and infinities are words there). Knows
nothing of steps. Everything is converted and checked before anything is written.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from pertinax.errors import InvalidOption


def encode_metrics(metrics: Mapping[str, Any]) -> bytes:
    """Metrics as JSON. Waits for those that a device is still computing.

    Raises `InvalidOption`, which lists everything that is no real number under a name.
    """
    if not isinstance(metrics, Mapping):
        raise InvalidOption(f"metrics={metrics!r}: give a mapping of names to numbers")
    numbers = {name: _number(value) for name, value in metrics.items()}
    wrong = [
        f"{name!r}: {_shown(metrics[name])}"
        for name, number in numbers.items()
        if number is None or not isinstance(name, str)
    ]
    if wrong:
        raise InvalidOption(
            f"{len(wrong)} of {len(metrics)} metrics are no real numbers under a text: "
            + ", ".join(wrong)
        )
    return json.dumps(numbers).encode()


def _number(value: Any) -> bool | int | float | None:
    """The number that `value` is, or None. A type that JSON keeps apart stays what it is."""
    if isinstance(value, bool | int | float):
        # Subclasses (np.float64, enums, ...) write themselves in their own way.
        return value if isinstance(value, bool) else _plain(value)
    try:
        array = np.asarray(value)
    except Exception:  # noqa: BLE001 - user types raise what they like, deleted and traced arrays too
        return None
    if array.ndim or array.dtype.kind not in "biufV" or array.dtype.names is not None:
        return None
    if array.dtype.kind == "b":
        return bool(array)
    if array.dtype.kind in "iu":
        return int(array)
    return _small_float(array)


def _plain(value: int | float) -> int | float:  # noqa: PYI041 - which of the two is the point
    return int(value) if isinstance(value, int) else float(value)


def _small_float(array: Any) -> int | float | None:
    """A float of numpy or of `ml_dtypes` (whose kind may be "V", like that of raw bytes)."""
    try:
        number = float(array.astype(np.float64))
    except (TypeError, ValueError):
        return None
    is_whole = "int" in array.dtype.name
    return int(number) if is_whole else number


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 40 else text[:37] + '...'}"
