# SPDX-License-Identifier: Apache-2.0
"""Recasting: live leaves that shall be stored in another dtype than they have.

Knows how each kind of leaf changes with its dtype. Knows nothing of files. The converted elements
are new memory on the host, made box by box, so that layouts stay what they were.
"""

from typing import Any

import numpy as np

from pertinax._device.inspect import LiveLeaf

_SCALARS = frozenset({"bool", "int", "float", "complex"})


def recast(leaf: LiveLeaf, dtype: "np.dtype[Any]") -> LiveLeaf:
    """The leaf as if it had been of `dtype`. Text, integers too large for an array, and PRNG keys
    stay as they are.
    """
    if leaf.value is not None or leaf.kind in ("key", "bytes") or leaf.dtype == dtype.name:
        return leaf
    kind = _scalar_kind(dtype) if leaf.kind in _SCALARS else leaf.kind
    sources = tuple(np.asarray(source).astype(dtype) for source in leaf.sources)
    return LiveLeaf(
        kind,
        dtype.name,
        leaf.shape,
        leaf.boxes,
        sources,
        leaf.write_shape,
        leaf.sharding,
        held=leaf.held,
    )


def _scalar_kind(dtype: "np.dtype[Any]") -> str:
    """What a Python number becomes when it is stored in `dtype`."""
    if "int" in dtype.name:  # by name: numpy calls the kind of `int4` void
        return "int"
    return {"b": "bool", "c": "complex"}.get(dtype.kind, "float")
