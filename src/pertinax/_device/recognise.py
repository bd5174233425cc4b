# SPDX-License-Identifier: Apache-2.0
"""Recognising: leaves of which all is known but the bytes, for they were saved before.

Knows what of a live leaf decides how it is stored. Knows nothing of plans. Whatever is not plainly
the same is not recognised, and looked at anew.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from pertinax._device.inspect import INT64, LiveLeaf

_SCALARS = frozenset({bool, float, complex})


class Known(NamedTuple):
    """A leaf as it was understood, without its bytes; and what it must look like to be it again."""

    looks: Any
    leaf: LiveLeaf


def looks_of(value: Any) -> Any:
    """All of a leaf that decides how it is stored, or None for what is better looked at closely."""
    if isinstance(value, jax.Array):
        return (type(value), value.shape, value.dtype, value.sharding)
    kind = type(value)
    if kind is np.ndarray:
        return (kind, value.shape, value.dtype)
    if kind is str or kind in _SCALARS:
        return kind
    if kind is int:
        return (kind, INT64.min <= value <= INT64.max)
    if kind is bytes:
        return (kind, len(value))
    return (kind, value.dtype) if isinstance(value, np.generic) else None


def remember(value: Any, leaf: LiveLeaf) -> Known:
    """`leaf` is what `value` was understood as; nothing of it is kept alive."""
    held = "" if leaf.value is not None else None
    looks = looks_of(value)
    if leaf.boxes and not leaf.positions and not _is_source(value):
        looks = None
    return Known(looks, leaf._replace(sources=(), value=held))


def _is_source(value: Any) -> bool:
    """Whether a value without positions is what its bytes are read from."""
    return not isinstance(value, jax.Array) or len(value.sharding.device_set) == 1


def recognise(value: Any, known: Known) -> LiveLeaf | None:
    """`value` as a leaf, if it looks as it did; None if it does not, or cannot be read."""
    looks = looks_of(value)
    if looks is None or looks != known.looks:
        return None
    leaf = known.leaf
    if leaf.value is not None:
        return leaf._replace(value=value)
    if isinstance(value, jax.Array) and value.is_deleted():
        return None
    if not leaf.boxes:
        return leaf
    return LiveLeaf(*leaf[:4], _sources(value, leaf), *leaf[5:])


def _sources(value: Any, leaf: LiveLeaf) -> tuple[Any, ...]:
    if isinstance(value, jax.Array):
        array = jax.random.key_data(value) if leaf.kind == "key" else value
        if not leaf.positions:
            return (array,)
        return tuple([array.addressable_data(i) for i in leaf.positions])
    if type(value) is bytes:
        return (np.frombuffer(value, np.uint8),)
    return (np.asarray(value, np.int64) if type(value) is int else np.asarray(value),)
